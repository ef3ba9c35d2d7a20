"""Configuration: one TOML file with named catalogs; flags, ``--set`` and the environment override it.

Precedence, lowest first: built-in defaults, the file's ``[catalogs.<name>]``, ``BITSIEVE_<KEY>`` or
``BITSIEVE_<SECTION>__<KEY>``, ``--set section.key=value``, flags. An unknown key is an error that names the
nearest known one. Secrets have no place here: they come from the environment the usual AWS way.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError

_PREFIX = "BITSIEVE_"
COLLECTION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _split(value: object) -> object:
    """Patterns may be one text with commas, as ``--set`` and the environment give them."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


_Patterns = Annotated[tuple[str, ...], BeforeValidator(_split)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReadConfig(_Section):
    """How the source is read."""

    format: Literal["prefix", "webdataset", "parquet", "listing", "inventory"] | None = Field(
        None, description="told from the objects if absent"
    )
    root: str | None = Field(None, description="where the images of a listing file are")
    include: _Patterns = Field((), description="only keys that match one of these patterns")
    exclude: _Patterns = Field((), description="no keys that match one of these patterns")
    id_template: str = Field("{name}", description="how a tar member's id is made of {name} and {tar}")
    id_column: str | None = Field(None, description="Parquet: the column with ids")
    image_column: str | None = Field(None, description="Parquet: the column with image bytes")


class EmbedConfig(_Section):
    """How embedding is computed; ``provider``, ``precision`` and ``dtype`` are part of a vector's key."""

    workers: int | None = Field(None, ge=1, description="actors; one per CPU or GPU if absent")
    threads: int | None = Field(None, ge=1, description="inference threads per actor, 1 if absent")
    batch_size: int = Field(8, ge=1, le=4096, description="images that go through the model at once")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field("cpu", description="execution provider")
    precision: Literal["float32", "tf32", "float16"] = Field("float32", description="of arithmetic on a GPU")
    dtype: Literal["float32", "float16"] = Field("float32", description="vectors in the embedding table")
    ray_address: str | None = Field(None, description="a running Ray cluster; Ray is started here if absent")
    memory_budget: int | None = Field(
        None, ge=64 << 20, description="bytes an actor may hold beside its model; from the machine if absent"
    )
    shard_images: int = Field(10_000, ge=1, description="the most images in one image shard")


class DecodeConfig(_Section):
    """What an image may be at most; part of what a vector is known by, so another value embeds again."""

    max_bytes: int = Field(64 << 20, ge=1, description="encoded bytes of an image")
    max_side_px: int = Field(16_384, ge=1, description="longer side")
    max_pixels: int = Field(80_000_000, ge=1, description="width times height")
    min_side_px: int = Field(1, ge=1, description="shorter side, at least")
    max_seconds: float = Field(20.0, gt=0, description="time to decode one image")
    max_memory_bytes: int = Field(3 << 30, ge=64 << 20, description="address space of a careful decoder")


class IndexConfig(_Section):
    """What the index has to achieve, and its form."""

    recall: float = Field(0.99, gt=0, lt=1, description="the ann_recall that is asked for")
    recall_at: Literal[1, 10, 100] = Field(10, description="the k at which it is asked for")
    bits: int | None = Field(
        None, ge=8, multiple_of=8, description="bits of a code; chosen by the dimension if absent"
    )
    recipe: Literal["centred-rotated", "itq", "sign"] = Field(
        "centred-rotated", description="how bits are made; sign is the textbook recipe"
    )
    thresholds: Literal["zero", "median"] = Field("zero", description="a bit is 1 above this")
    form: Literal["auto", "flat", "lists"] = Field("auto", description="of the first stage")
    lists: int | None = Field(None, ge=1, description="of the lists form; from the catalog's size if absent")
    vector_dtype: Literal["float32", "float16", "int8"] = Field("float32", description="second-stage vectors")
    memory_budget: int | None = Field(
        None, ge=1, description="bytes a vector may keep in memory: its code and its int8 vector"
    )
    shard_rows: int = Field(5_000_000, ge=1, description="the most rows in one index shard")
    max_candidates: int | None = Field(
        None, ge=1, description="the budget for C; from the catalog's size if absent"
    )
    seed: int = Field(0, description="chooses the fit sample, the rotation and the calibration queries")
    refit: bool = Field(default=False, description="fit a new encoder, rebuild all index shards")


class PricesConfig(_Section):
    """What things cost, in any one currency; without prices `plan` names no money."""

    worker_hour: float = Field(0.0, ge=0, description="one worker for one hour")
    get_1000: float = Field(0.0, ge=0, description="1,000 GET requests")
    put_1000: float = Field(0.0, ge=0, description="1,000 PUT or LIST requests")
    transfer_gb: float = Field(0.0, ge=0, description="1 GB through NAT or between regions")
    retrieval_gb: float = Field(0.0, ge=0, description="1 GB read from a cold storage class")
    kms_1000: float = Field(0.0, ge=0, description="1,000 requests that use a KMS key")


class GatesConfig(_Section):
    """Limits of the gates, and which may be overridden for what reason."""

    max_rejected_share: float = Field(0.05, ge=0, le=1, description="rejected / listed")
    max_shrink_share: float = Field(0.2, ge=0, le=1, description="images lost since the last snapshot")
    max_bit_imbalance: float = Field(0.1, ge=0, le=0.5, description="mean |share of ones - .5|")
    override: dict[str, str] = Field({}, description="gate name = reason")


class CatalogConfig(_Section):
    """A catalog and how it becomes a collection of a store."""

    source: str = Field(description="folder or s3:// prefix of the catalog")
    store: str = Field(description="folder or s3:// prefix of the store")
    model: str | None = Field(None, description="ONNX file with a card; the collection's model if absent")
    collection: str = Field("main", pattern=COLLECTION_PATTERN, description="collection of the store")
    label: str | None = Field(None, description="the attribute that says what an image shows; @folder, @cls")
    replace_source: bool = Field(
        default=False, description="let this source take the place of the collection's source"
    )
    max_reembed: float = Field(
        0.5, ge=0, le=1, description="most of the known rows that may be embedded again"
    )
    stale_nights: int = Field(
        7, ge=0, description="how long an old vector stays when its new bytes are rejected"
    )
    single_writer: bool = Field(
        default=False, description="for a store without atomic creation: only one run at a time"
    )
    read: ReadConfig = ReadConfig()
    decode: DecodeConfig = DecodeConfig()
    embed: EmbedConfig = EmbedConfig()
    index: IndexConfig = IndexConfig()
    gates: GatesConfig = GatesConfig()
    prices: PricesConfig = PricesConfig()


def load_catalog(
    file: Path | None,
    name: str | None,
    *,
    environ: Mapping[str, str],
    settings: list[str],
    flags: Mapping[str, Any],
) -> CatalogConfig:
    """The resolved configuration of one catalog.

    Args:
        file: the TOML file, None without one.
        name: the catalog in it.
        environ: the environment.
        settings: ``section.key=value`` as given to ``--set``.
        flags: dotted keys with the values of flags that were given.

    Raises:
        ConfigError: no such file or catalog, an unknown key, or an impossible value.
    """
    document = _from_file(file, name) if file is not None else {}
    for key, value in _from_environment(environ):
        _put(document, key, value)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {setting!r} is not key=value", fix="for example --set index.recall=0.98"
            )
        _put(document, key.strip(), value)
    for key, value in flags.items():
        if value is not None:
            _put(document, key, value)
    return _validated(document)


def known_keys() -> list[str]:
    """Every configuration key of a catalog, dotted."""
    keys: list[str] = []
    for name, field in CatalogConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.extend(f"{name}.{inner}" for inner in kind.model_fields)
        else:
            keys.append(name)
    return keys


def _from_file(file: Path, name: str | None) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"the configuration {file} cannot be read: {exc.strerror}", fix="check -c") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{file} is not TOML: {exc}", fix="see docs/configuration.md for an example"
        ) from exc
    for key in document:
        if key != "catalogs":
            raise ConfigError(
                f"{file} has an unknown table {key!r}", fix="catalogs are tables [catalogs.<name>]"
            )
    catalogs = document.get("catalogs", {})
    if not isinstance(catalogs, dict) or not all(isinstance(catalog, dict) for catalog in catalogs.values()):
        raise ConfigError(
            f"in {file} `catalogs` is not tables of settings, like 'shop'",
            fix="write [catalogs.shop] and the settings of the catalog shop below it",
        )
    if name not in catalogs:
        raise ConfigError(
            f"{file} has no catalog {name!r}", fix=f"it has {', '.join(sorted(catalogs)) or 'none'}"
        )
    return dict(catalogs[name])


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in known_keys():
        variable = _PREFIX + key.replace(".", "__").upper()
        if variable in environ:
            yield key, environ[variable]


def _put(document: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        inner = document.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{section!r} is not a section", fix=_nearest(dotted))
        document[section] = dict(inner)
        document = document[section]
    document[last] = value


def _validated(document: dict[str, Any]) -> CatalogConfig:
    try:
        return CatalogConfig.model_validate(document)
    except ValidationError as exc:
        error = exc.errors()[0]
        key = ".".join(str(part) for part in error["loc"])
        if isinstance(error["input"], dict) and error["type"] == "extra_forbidden":
            key = f"{key}.{next(iter(error['input']), '')}"
        if error["type"] == "extra_forbidden":
            raise ConfigError(f"unknown configuration key {key!r}", fix=_nearest(key)) from exc
        if error["type"] == "missing":
            raise ConfigError(
                f"{key} is not given", fix=f"pass --{key}, or set it in the configuration file"
            ) from exc
        raise ConfigError(
            f"{key}: {error['msg']}, got {error['input']!r}", fix="see docs/configuration.md"
        ) from exc


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "see docs/configuration.md for all keys"
