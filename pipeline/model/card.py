"""What a model file says about itself: two JSON texts in the ONNX metadata, read strictly, one spelling.

``bitsieve.preprocess`` says how the model wants its input (``pipeline.values.Preprocess``), and
``bitsieve.model`` what it is. Unknown keys and other schemas are refused: a key we do not know may change
what the pixels mean.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.errors import ModelError
from pipeline.fingerprint import canonical_json, sha256_hex
from pipeline.values import Preprocess

PREPROCESS_KEY = "bitsieve.preprocess"
MODEL_KEY = "bitsieve.model"

T = TypeVar("T")


def class_draw(name: str, seed: int) -> str:
    """What decides whether a class is set apart from a training, smaller ones first: 64 hex digits."""
    return sha256_hex(f"{seed}\0{name}".encode())


class SetApart(BaseModel):
    """Which classes, values of ``label``, had no part in a training: those with draws not above ``up_to``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    label: str
    seed: int
    up_to: str

    def has(self, name: str) -> bool:
        """Whether the class is one of them."""
        return class_draw(name, self.seed) <= self.up_to


class ModelCard(BaseModel):
    """The metadata key ``bitsieve.model``, schema 1.

    ``output`` names the graph output to use, ``dim`` its length. ``normalised`` says that the graph already
    gives unit length; otherwise the pipeline normalises. ``license`` is never guessed. ``source_sha256`` is
    the file before wrapping; ``compatible_with`` names model ids whose vectors it was trained to be compared
    with, and ``set_apart`` the classes to judge that by; ``created`` is a date, as text, or empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(min_length=1, max_length=200)
    version: str = "1"
    dim: int = Field(ge=1, le=65_536)
    normalised: bool
    metric: Literal["l2"] = "l2"
    license: str = Field(min_length=1)
    output: str = Field(min_length=1)
    train_data: str = ""
    source_sha256: str = ""
    compatible_with: tuple[str, ...] = ()
    set_apart: SetApart | None = None
    created: str = ""


_CARD: TypeAdapter[ModelCard] = TypeAdapter(ModelCard)
_PREPROCESS: TypeAdapter[Preprocess] = TypeAdapter(Preprocess)


def to_metadata(card: ModelCard, preprocess: Preprocess) -> dict[str, str]:
    """Both values as metadata texts; equal values give equal texts."""
    return {
        PREPROCESS_KEY: canonical_json(asdict(preprocess)).decode(),
        MODEL_KEY: canonical_json(card.model_dump(by_alias=True, exclude_none=True)).decode(),
    }


def card_from_metadata(metadata: Mapping[str, str], where: str) -> tuple[ModelCard, Preprocess]:
    """Both values from metadata texts; ``where`` names the file in errors.

    Raises:
        ModelError: if a key is missing, is not JSON, or says something this version does not know.
    """
    missing = [key for key in (PREPROCESS_KEY, MODEL_KEY) if key not in metadata]
    if missing:
        raise ModelError(f"{where} does not say how it wants its input: no metadata {' and '.join(missing)}")
    card = _read(_CARD, metadata[MODEL_KEY], f"{where}: metadata {MODEL_KEY}")
    preprocess = _read(_PREPROCESS, metadata[PREPROCESS_KEY], f"{where}: metadata {PREPROCESS_KEY}")
    return card, preprocess


def preprocess_from_values(values: Mapping[str, Any]) -> Preprocess:
    """A ``Preprocess`` from loose values, such as the options of a command line.

    Raises:
        ModelError: if they describe no input.
    """
    try:
        return _PREPROCESS.validate_python(dict(values))
    except ValidationError as exc:
        raise ModelError(f"the preprocessing makes no sense: {_in_words(exc)}") from exc


def card_from_values(values: Mapping[str, Any]) -> ModelCard:
    """A ``ModelCard`` from loose values, such as the options of a command line.

    Raises:
        ModelError: if they describe no model.
    """
    try:
        return _CARD.validate_python(dict(values))
    except ValidationError as exc:
        raise ModelError(f"the model card makes no sense: {_in_words(exc)}") from exc


def _read(adapter: TypeAdapter[T], text: str, what: str) -> T:
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as exc:
        fix = "wrap the model again with this version: bitsieve model wrap --help"
        raise ModelError(f"{what} is not understood: {_in_words(exc)}", fix) from exc


def _in_words(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_context=False):
        at = ".".join(str(part) for part in error["loc"])
        lines.append(f"{at}: {error['msg']}" if at else error["msg"])
    return "; ".join(lines)
