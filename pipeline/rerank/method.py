"""Which re-ranker a name with settings means: ``alpha-qe:n=5,alpha=3``, ``lattqe:model=FILE``."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from pipeline.errors import UsageError
from pipeline.rerank.augmentation import Augmentation
from pipeline.rerank.base import Reranker
from pipeline.rerank.diffusion import Diffusion
from pipeline.rerank.expansion import (
    AlphaExpansion,
    AverageExpansion,
    DecayingExpansion,
    RecursiveExpansion,
)
from pipeline.rerank.learned import LearnedExpansion
from pipeline.rerank.reciprocal import LocalReciprocal

METHODS: Mapping[str, type[Any]] = {
    "aqe": AverageExpansion,
    "aqe-decay": DecayingExpansion,
    "alpha-qe": AlphaExpansion,
    "recursive-qe": RecursiveExpansion,
    "dba": Augmentation,
    "k-reciprocal": LocalReciprocal,
    "diffusion": Diffusion,
}
"""Name on the command line -> a re-ranker whose fields are its settings, numbers all of them."""
LEARNED = "lattqe"
"""The one that is a file: ``lattqe:model=FILE``."""


def parse_reranker(text: str, open_learned: Callable[[str], LearnedExpansion] | None = None) -> Reranker:
    """The re-ranker that ``NAME`` or ``NAME:setting=number,…`` means; what is not set has its default.

    >>> parse_reranker("alpha-qe:n=10")
    AlphaExpansion(n=10, alpha=3.0)

    Args:
        text: what was asked for.
        open_learned: opens the file of a learned expansion, where there may be one.

    Raises:
        UsageError: no such re-ranker or setting, or a number out of range.
    """
    name, _, settings = text.partition(":")
    if name == LEARNED and open_learned is not None:
        key, _, where = settings.partition("=")
        if key != "model" or not where:
            raise UsageError(f"--rerank {text}: which file?", fix=f"pass {LEARNED}:model=FILE.onnx")
        return open_learned(where)
    if name not in METHODS:
        known = [*METHODS, *([] if open_learned is None else [LEARNED])]
        raise UsageError(f"there is no re-ranker {name!r}", fix=f"choose one of {', '.join(known)}")
    method = METHODS[name]
    types: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(method)}
    chosen: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in types or key in chosen:
            raise UsageError(
                f"--rerank {text}: {'twice' if key in chosen else 'no such setting'}: {key!r}",
                fix=f"{name} has {', '.join(types)}",
            )
        try:
            chosen[key] = types[key](value)
        except ValueError as exc:
            kind = "a whole number" if types[key] is int else "a number"
            raise UsageError(f"--rerank {text}: {key} is {kind}, got {value!r}", fix=f"pass {key}=…") from exc
    reranker: Reranker = method(**chosen)
    return reranker


def spelled(reranker: Reranker) -> str:
    """How a re-ranker is asked for, all settings named.

    >>> spelled(parse_reranker("aqe"))
    'aqe:n=5'
    """
    if isinstance(reranker, LearnedExpansion):
        return f"{LEARNED}:model={reranker.where}"
    name = next(name for name, method in METHODS.items() if type(reranker) is method)
    settings = ",".join(f"{field.name}={getattr(reranker, field.name):g}" for field in fields(METHODS[name]))
    return f"{name}:{settings}"
