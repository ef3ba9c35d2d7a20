"""Names derived things by what they were derived from: sha256 over canonical JSON.

``key = sha256(stage name, stage version, stage config, digests of its inputs)``. The encoder refuses values
whose text is not stable (NaN, sets, objects), so that a key cannot silently depend on the weather.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def sha256_hex(data: bytes | memoryview) -> str:
    """The sha256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """``value`` as JSON with sorted keys, no spaces and UTF-8 bytes; the same value gives the same bytes.

    Raises:
        TypeError: for anything but None, bool, int, float, str, lists, tuples and mappings with string keys.
        ValueError: for NaN and infinities.
    """
    return json.dumps(
        _stable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: object) -> str:
    """The sha256 of the canonical JSON of ``value``."""
    return sha256_hex(canonical_json(value))


def task_key(stage: str, version: int, config: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """The key of a task: what stage, in which version and configuration, over which inputs, in which order.

    ``version`` is raised by hand when the stage's output changes; it is never the package version.
    """
    return digest({"stage": stage, "version": version, "config": dict(config), "inputs": list(inputs)})


def sealed(document: Mapping[str, object]) -> bytes:
    """``document`` as canonical JSON with one more field, ``seal``: the digest of all the others."""
    return canonical_json({**document, "seal": digest(document)})


def unsealed(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` without its seal, which must be right; one that was never sealed is returned as it is.

    Raises:
        ValueError: some field is not what was sealed.
    """
    plain = {name: value for name, value in document.items() if name != "seal"}
    if "seal" in document and document["seal"] != digest(plain):
        raise ValueError("its seal is not that of its fields: a byte of it has changed")
    return plain


def _stable(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a fingerprint needs finite numbers, got {value!r}")
        return value
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a fingerprint needs string keys, got {key!r}")
        return {key: _stable(item) for key, item in value.items()}
    raise TypeError(f"a fingerprint cannot depend on a {type(value).__name__}: {value!r}")
