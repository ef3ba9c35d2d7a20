"""Configuration: one TOML file with named catalogs; flags, ``--set`` and the environment override it.

Precedence, lowest first: built-in defaults, the file's ``[catalogs.<name>]``, ``BITSIEVE_<KEY>`` or
``BITSIEVE_<SECTION>__<KEY>``, ``--set section.key=value``, flags. An unknown key is an error that names the
nearest known one. Secrets have no place here: they come from the environment the usual AWS way.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from pipeline.errors import ConfigError
from pipeline.values import SearchDevice

_PREFIX = "BITSIEVE_"
COLLECTION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _split(value: object) -> object:
    """Patterns may be one text with commas, as ``--set`` and the environment give them."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _web_url(value: SecretStr) -> SecretStr:
    """A URL that may be posted to; it may hold a secret in its path, so it is never shown."""
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an http:// or https:// URL without credentials")
    return value


_Patterns = Annotated[tuple[str, ...], BeforeValidator(_split)]
_WebUrl = Annotated[SecretStr, AfterValidator(_web_url)]


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

    workers: int | None = Field(None, ge=1, le=10_000, description="actors; one per CPU or GPU if absent")
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
    few_images: int = Field(
        1_000, ge=0, description="images up to which one process beside the driver is enough, without Ray"
    )


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
    compact_share: float = Field(
        0.1, gt=0, le=1, description="share of dead or of delta rows above which index shards are built anew"
    )
    compact_deltas: int = Field(8, ge=0, description="the most small index shards beside the largest")
    max_candidates: int | None = Field(
        None, ge=1, description="the budget for C; from the catalog's size if absent"
    )
    calibrate_nights: int = Field(
        7, ge=1, description="C and probes are chosen anew by so many publications; 1 is every time"
    )
    device: SearchDevice = Field("cpu", description="of searches; auto takes the faster")
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
    min_variance: float = Field(0.001, ge=0, le=1, description="spread of the vectors of different images")
    min_distinct_codes: float = Field(0.1, ge=0, le=1, description="different codes / different images")
    override: dict[str, str] = Field({}, description="gate name = reason")


class HooksConfig(_Section):
    """Who is told what was published or refused; see ``jobs.hooks``."""

    on_publish: _Patterns = Field((), description="a command and its arguments, after a publication")
    on_refusal: _Patterns = Field((), description="a command and its arguments, after a gate refused")
    publish_url: _WebUrl | None = Field(None, description="gets a POST after a publication")
    refusal_url: _WebUrl | None = Field(None, description="gets a POST after a gate refused")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="time that a hook has")


def _sides(value: object) -> object:
    """A size may be one text, S or HEIGHTxWIDTH, as ``--set`` and the environment give it."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, str):
        sides = value.lower().split("x")
        return (sides[0], sides[-1]) if len(sides) <= 2 else value
    return value


_Side = Annotated[int, Field(ge=16, le=2048)]
_Probability = Annotated[float, Field(ge=0, le=1)]


class TrainConfig(_Section):
    """What a training is; all of it is part of its key but ``workers``, ``cpus`` and ``gpu``.

    In the place of ``compatible_with`` the key has the digest of the snapshot that it names.
    """

    network: str = Field("tiny", description="tiny, nn1 to nn4, vgg16, hf:NAME, timm:NAME, onnx:FILE …")
    pooling: Literal["average", "max", "gem", "rmac", "rmac-cirtorch", "combined", "batch-drop"] = Field(
        "gem", description="how the network's map becomes a vector"
    )
    dim: int = Field(128, ge=2, le=8192, description="length of the vectors")
    size: Annotated[tuple[_Side, _Side], BeforeValidator(_sides)] | None = Field(
        None, description="S or HEIGHTxWIDTH in pixels; the network's own if absent"
    )
    loss: Literal[
        "triplet",
        "contrastive",
        "n-pair",
        "n-tuple",
        "arcface",
        "multi-similarity",
        "proxy-anchor",
        "proxy-nca",
    ] = Field("triplet", description="what is minimised")
    miner: Literal[
        "semi-hard",
        "semi-hard-random",
        "semi-hard-all",
        "hard",
        "batch-all",
        "distance-weighted",
        "random",
    ] = Field("semi-hard", description="which triplets are learned from")
    margin: float | None = Field(None, gt=0, description="the loss's own if absent")
    scale: float | None = Field(None, gt=0, description="the loss's own if absent")
    classes: int = Field(16, ge=2, description="classes in a batch")
    images: int = Field(4, ge=2, description="images of each class in a batch")
    random_images: int = Field(0, ge=0, description="further images in a batch, of any class")
    separator: str | None = Field(None, min_length=1, description="splits a label into several")
    shared_labels: int = Field(1, ge=1, description="labels that two images share to be the same")
    memory: int = Field(0, ge=0, description="vectors of past batches that are remembered")
    steps: int = Field(1000, ge=1, description="batches, at most")
    validate_every: int = Field(100, ge=1, description="steps between validations and checkpoints")
    patience: int = Field(10, ge=1, description="validations without a better one that end a training")
    optimizer: Literal["adamw", "adagrad", "sgd"] = Field("adamw", description="how weights move")
    learning_rate: float = Field(1e-3, gt=0, description="of the head")
    trunk_factor: float = Field(1.0, gt=0, description="the trunk's learning rate beside the head's")
    weight_decay: float = Field(1e-4, ge=0, description="of weights; biases and norms have none")
    warmup_steps: int = Field(50, ge=0, description="steps in which the learning rate rises")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate after that")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the network's arithmetic")
    freeze_trunk: bool = Field(default=False, description="train the head alone")
    crop: _Probability = Field(0.5, description="probability of another crop")
    light: _Probability = Field(0.5, description="probability of other light")
    jpeg: _Probability = Field(0.3, description="probability of JPEG artefacts")
    rescale: _Probability = Field(0.3, description="probability of fewer pixels")
    watermark: _Probability = Field(0.1, description="probability of a watermark")
    flip: _Probability = Field(0.5, description="probability of a mirror image")
    views: int = Field(4, ge=1, le=64, description="onnx: views of each image, the plain one included")
    validation_share: float = Field(0.2, gt=0, lt=1, description="classes that are set apart")
    init: str = Field("", description="a training whose weights to begin with")
    compatible_with: str = Field("", description="STORE#COLLECTION of an older model to be compatible with")
    compatible_loss: Literal["harmonic", "influence"] = Field(
        "harmonic", description="what ties new vectors to the older model's"
    )
    compatible_weight: float = Field(4.0, gt=0, description="of that loss beside the other")
    seed: int = Field(0, ge=0, description="decides split, batches, changes and first weights")
    workers: int = Field(1, ge=1, le=1000, description="processes that train as one")
    cpus: float | None = Field(None, gt=0, description="processors for each; this machine's if absent")
    gpu: bool = Field(default=False, description="a GPU for each")


class S3Config(_Section):
    """How S3 is reached for a source or store; what is absent is what the AWS environment says."""

    profile: str | None = Field(None, description="of the AWS configuration files")
    endpoint: str | None = Field(None, description="another S3 service than AWS")
    region: str | None = Field(None, description="of the bucket")
    role_arn: str | None = Field(None, description="a role to assume")

    @field_validator("endpoint")
    @classmethod
    def _plain_endpoint(cls, endpoint: str | None) -> str | None:
        return endpoint if endpoint is None else _web_url(SecretStr(endpoint)).get_secret_value()


def _s3_uri(uri: str) -> str:
    if not re.fullmatch(r"s3://[^/@\s]+(/[^\s]*)?", uri):
        raise ValueError("not s3://bucket or s3://bucket/prefix")
    return uri


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
    train: TrainConfig = TrainConfig()
    prices: PricesConfig = PricesConfig()
    hooks: HooksConfig = HooksConfig()
    s3: dict[Annotated[str, AfterValidator(_s3_uri)], S3Config] = Field(
        {}, description="URI = how S3 is reached there; the longest URI counts"
    )


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
        if key not in ("catalogs", "s3"):
            raise ConfigError(
                f"{file} has an unknown table {key!r}",
                fix='there are tables [catalogs.<name>] and [s3."s3://bucket/prefix"]',
            )
    catalogs = document.get("catalogs", {})
    if not isinstance(catalogs, dict) or not all(isinstance(catalog, dict) for catalog in catalogs.values()):
        raise ConfigError(
            f"in {file} `catalogs` is not tables of settings, like 'shop'",
            fix="write [catalogs.shop] and the settings of the catalog shop below it",
        )
    if name not in catalogs:
        has = f"{file} has {', '.join(sorted(catalogs)) or 'none'}"
        if name is None:
            raise ConfigError("no catalog is named", fix=f"name one of the configuration: {has}")
        raise ConfigError(f"{file} has no catalog {name!r}", fix=has)
    return {**({"s3": document["s3"]} if "s3" in document else {}), **catalogs[name]}


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
        if key.endswith(".[key]"):  # not repeated: a URI may hold a password
            raise ConfigError(
                "a table of s3 has a name that is no URI of S3",
                fix='name it by s3://bucket or s3://bucket/prefix, as in [s3."s3://photos"]',
            ) from None
        if error["type"] == "extra_forbidden":
            raise ConfigError(f"unknown configuration key {key!r}", fix=_nearest(key)) from exc
        if error["type"] == "missing":
            how = "name a folder or s3:// prefix of images" if key == "source" else f"pass --{key}"
            raise ConfigError(
                f"{key} is not given", fix=f"{how}, or set it in the configuration file"
            ) from exc
        is_secret = key.endswith(("_url", ".endpoint"))
        got = "" if is_secret else f", got {error['input']!r}"
        cause = None if is_secret else exc
        raise ConfigError(f"{key}: {error['msg']}{got}", fix="see docs/configuration.md") from cause


def _nearest(key: str) -> str:
    if key.startswith("s3."):
        section, _, last = key.rpartition(".")
        near = difflib.get_close_matches(last, S3Config.model_fields, n=1, cutoff=0.5)
        return (
            f"did you mean {f'{section}.{near[0]}'!r}?"
            if near
            else f"it has {', '.join(S3Config.model_fields)}"
        )
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "see docs/configuration.md for all keys"
