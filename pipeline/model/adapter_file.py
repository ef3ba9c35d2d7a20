"""Adapters as a store keeps them: one sealed JSON object each, named by its digest, created once.

The object holds the map itself (float32, little-endian, base64), which models and snapshots it joins, how it
was fitted, and what it reached on images kept back. One that was refused is kept too: it says so.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataCorrupt, StoreMismatch
from pipeline.fingerprint import digest, sealed, unsealed
from pipeline.model.adapter import AffineMap, Vectors
from pipeline.storage import layout
from pipeline.storage.commit import commit
from pipeline.storage.store import ObjectStat, ObjectStore

_FLOAT32 = np.dtype("<f4")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Value):
    """One of the two models: its id, its name where it is known, and where its vectors came from."""

    model_id: str
    name: str
    dim: Annotated[int, Field(ge=1)]
    vectors: str
    """The digest of the snapshot, or the sha256 of the Parquet file."""


class Figure(_Value):
    """A mean over the images kept back, with its two-sided 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class MatrixRow(_Value):
    """What queries of one kind reach on a base of one kind; shares of the images kept back.

    ``recall@k`` (self-retrieval): the image's own row is among the first k. ``neighbours@10``: of the ten
    others that v1 finds with its own query, those found. ``success@1``: the first other image has its label.
    """

    query: str
    base: str
    recall_at_1: Figure
    recall_at_10: Figure
    neighbours_at_10: Figure | None
    success_at_1: Figure | None


class Adapter(_Value):
    """The whole of an adapter; ``weights`` is shift [S], map [S, T] and offset [T], one after the other."""

    schema_version: Literal[1] = 1
    source: Side
    target: Side
    method: str
    penalty: float | None
    seed: int
    label: str | None
    n_common: int
    n_fitted: int
    n_judged: int
    least_share: float
    accepted: bool
    verdict: str
    compatible: bool | None
    matrix: list[MatrixRow]
    weights: str

    @property
    def digest(self) -> str:
        """Its name in the store."""
        return digest(self.model_dump(mode="json"))

    def map(self) -> AffineMap:
        """The map.

        Raises:
            DataCorrupt: the weights are not those of its dimensions.
        """
        s, t = self.source.dim, self.target.dim
        try:
            flat = np.frombuffer(base64.b64decode(self.weights, validate=True), dtype=_FLOAT32)
        except (binascii.Error, ValueError) as exc:
            raise DataCorrupt(f"the weights of adapter {self.digest[:12]} cannot be read: {exc}") from exc
        if len(flat) != s + s * t + t or not np.isfinite(flat).all():
            raise DataCorrupt(
                f"adapter {self.digest[:12]} maps {s} to {t} dimensions with {s + s * t + t} finite weights, "
                f"it has {len(flat)}, {int(np.isfinite(flat).sum())} of them finite",
                fix="delete the object and run `bitsieve adapter fit` again",
            )
        x: Vectors = flat.astype(np.float32)
        return AffineMap(shift_S=x[:s], weight_ST=x[s : s + s * t].reshape(s, t), offset_T=x[s + s * t :])


def packed(one: AffineMap) -> str:
    """The weights of a map, as ``Adapter.weights`` has them."""
    flat = np.concatenate([one.shift_S, one.weight_ST.ravel(), one.offset_T]).astype(_FLOAT32)
    return base64.b64encode(flat.tobytes()).decode()


def write_adapter(store: ObjectStore, adapter: Adapter) -> str:
    """Puts it into the store, once; its key."""
    key = layout.adapter(adapter.digest)
    if not commit(store, key, sealed(adapter.model_dump(mode="json"))):
        raise DataCorrupt(f"{key} holds other bytes than its name says", fix="delete the object, fit again")
    return key


def read_adapters(store: ObjectStore) -> list[Adapter]:
    """All adapters of a store, in the order of their digests.

    Raises:
        DataCorrupt: one is not what was written.
    """
    return [_read(store, stat.key) for stat in sorted(store.list_objects(layout.ADAPTERS), key=_by_key)]


def damaged_adapters(store: ObjectStore) -> Iterator[tuple[str, str]]:
    """Key and trouble of each adapter that is not what was written."""
    for stat in sorted(store.list_objects(layout.ADAPTERS), key=_by_key):
        try:
            _read(store, stat.key).map()
        except DataCorrupt as exc:
            yield stat.key, exc.message


def named_adapter(adapters: Sequence[Adapter], begins: str) -> Adapter:
    """The one whose digest begins so.

    Raises:
        StoreMismatch: none does, or several.
    """
    found = [one for one in adapters if begins and one.digest.startswith(begins)]
    if len(found) != 1:
        known = ", ".join(one.digest[:12] for one in found or adapters) or "none"
        raise StoreMismatch(
            f"{len(found)} adapters of the store begin with {begins!r}, expected 1",
            fix=f"there are: {known}; see `bitsieve adapter list`",
        )
    return found[0]


def _by_key(stat: ObjectStat) -> str:
    return stat.key


def _read(store: ObjectStore, key: str) -> Adapter:
    try:
        adapter = Adapter.model_validate(unsealed(json.loads(store.get(key))))
    except (ValueError, ValidationError) as exc:
        raise DataCorrupt(
            f"{key} in {store.uri} is no sound adapter: {exc}",
            fix="delete the object and run `bitsieve adapter fit` again",
        ) from exc
    if layout.adapter(adapter.digest) != key:
        raise DataCorrupt(
            f"{key} in {store.uri} holds another adapter: {adapter.digest}",
            fix="delete the object and run `bitsieve adapter fit` again",
        )
    return adapter
