"""The page's plain sentences: what the figures mean for somebody who knows the pictures, not the measures."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.evaluate.evaluation import EvaluationReport, GalleryKind, Mode
from pipeline.evaluate.report.facts import IndexFacts, RunFacts
from pipeline.values import RejectReason

_NBSP = "\u00a0"  # a number and its unit stay on one line
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Mark(StrEnum):
    """How a sentence is meant; shown as a sign and a word, never by colour alone."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One finding; ``detail`` says how sure it is."""

    mark: Mark
    text: str
    detail: str = ""


MEASURES: Final[Mapping[str, tuple[str, str]]] = {
    "success@1": ("Success at 1", "the closest picture is right"),
    "success@5": ("Success at 5", "at least one of the 5 closest is right"),
    "success@10": ("Success at 10", "at least one of the 10 closest is right"),
    "map": ("Mean average precision", "how early all the right ones come"),
    "r_precision": ("R-precision", "right ones among as many places as there are right ones"),
    "map_at_r": ("MAP@R", "the same places, early ones counting more"),
    "mrr": ("Mean reciprocal rank", "1 divided by the place of the first right one"),
    "recall@10": ("Recall at 10", "share of all right ones that are among the 10 closest"),
    "precision@10": ("Precision at 10", "share of the 10 closest that is right"),
    "ndcg@10": ("nDCG at 10", "the 10 closest against a perfect order"),
}

GALLERY: Final[Mapping[GalleryKind, tuple[str, str]]] = {
    GalleryKind.CONFUSED: (
        "Most confused",
        "The closest picture carries another label; the smallest distances first. Look here for wrong labels "
        "and for one thing under two names.",
    ),
    GalleryKind.WORST: ("Worst", "The right pictures come late. What do these have in common?"),
    GalleryKind.BEST: ("Best", "The right pictures come first; the largest groups first."),
}

REASONS: Final[Mapping[str, str]] = {
    RejectReason.EMPTY: "zero bytes",
    RejectReason.TOO_LARGE: "more bytes than the limit",
    RejectReason.UNIDENTIFIED: "no known image format",
    RejectReason.FORMAT_NOT_ALLOWED: "an image format that is not opened",
    RejectReason.DECODE_TIMEOUT: "decoding took longer than the limit",
    RejectReason.DECODE_MEMORY: "decoding needs more memory than the limit",
    RejectReason.DECODER_CRASH: "the decoder killed its process",
    RejectReason.TRUNCATED: "the data ends before the image does",
    RejectReason.CORRUPT: "the decoder gave up",
    RejectReason.TOO_MANY_PIXELS: "refused before decoding",
    RejectReason.BAD_DIMENSIONS: "a side is zero or above the limit",
    RejectReason.MODE_UNSUPPORTED: "a pixel layout that cannot become RGB",
    RejectReason.NONFINITE_EMBEDDING: "the model answered no usable vector",
    RejectReason.DUPLICATE_ID: "the id was seen before; the first one stays",
    RejectReason.AMBIGUOUS_SAMPLE: "two images in one tar sample",
    RejectReason.NOT_REGULAR: "a link or device, not a file",
    RejectReason.BAD_ID: "no usable id",
    RejectReason.SOURCE_NOT_ALLOWED: "named by a key that leads out of the source",
    RejectReason.SOURCE_MISSING: "listed, but gone when it was to be read",
    RejectReason.SOURCE_CHANGED: "other bytes than were listed",
}


def verdict(report: EvaluationReport, index: IndexFacts | None, run: RunFacts | None) -> list[Sentence]:
    """The findings, the most important first."""
    found = [_closest(report), _among_ten(report)]
    if index is not None:
        found.append(_index(index))
    if run is not None:
        found.append(_coverage(run))
    left_out = _left_out(report)
    return [*found, left_out] if left_out else found


def label_name(report: EvaluationReport) -> str:
    """The label's name as a noun: ``@folder`` and ``@cls`` are spelled out."""
    return {"@folder": "folder", "@cls": "class"}.get(report.label, report.label)


def visible(text: str) -> str:
    """``text`` with every control, direction and unassigned character spelled out, so that it cannot act."""
    return "".join(_spelled(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def short(text: str, limit: int = 40) -> str:
    """``text`` with its middle left out where it is longer than ``limit``; both ends tell ids apart."""
    keep = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:keep]}…{text[-keep:]}"


def count(n: int) -> str:
    """A number of things, with thousands set apart."""
    return f"{n:,}"


def percent(share: float) -> str:
    """A share with one decimal, never rounded up to 100 % nor down to 0 %."""
    shown = min(max(share, 0.001), 0.999) if 0 < share < 1 else share
    return f"{100 * shown:.1f}".removesuffix(".0") + f"{_NBSP}%"


def _closest(report: EvaluationReport) -> Sentence:
    score = report.metrics["success@1"]
    other = "closest other picture" if report.mode is Mode.LEAVE_ONE_OUT else "closest catalog picture"
    return Sentence(
        mark=Mark.NOTE,
        text=f"For {_of_queries(score.macro, report.n_queries)} pictures, "
        f"the {other} shows the same {label_name(report)}.",
        detail=f"Measured {percent(score.macro)} on {count(report.n_queries)} queries; "
        f"with 95{_NBSP}% confidence between {percent(score.low)} and {percent(score.high)}.",
    )


def _among_ten(report: EvaluationReport) -> Sentence:
    share = _of_queries(report.metrics["success@10"].macro, report.n_queries)
    return Sentence(
        mark=Mark.NOTE,
        text=f"For {share} pictures, at least one of the ten closest shows the same {label_name(report)}.",
    )


def _index(index: IndexFacts) -> Sentence:
    if index.candidates == 0:
        return Sentence(mark=Mark.GOOD, text="Search is exact: the index misses nothing.")
    met = index.recall.low >= index.recall_asked  # as the gate judges it
    return Sentence(
        mark=Mark.GOOD if met else Mark.BAD,
        text=f"The index returns {percent(index.recall.mean)} of the {index.k} truly nearest pictures "
        f"({percent(index.recall.low)} to {percent(index.recall.high)}); "
        f"{percent(index.recall_asked)} was asked for.",
    )


def _coverage(run: RunFacts) -> Sentence:
    if run.accounted != run.listed:
        return Sentence(
            mark=Mark.BAD,
            text=f"Coverage does not add up: {count(run.listed)} pictures were listed, and "
            f"{count(run.accounted)} are accounted for.",
        )
    return Sentence(
        mark=Mark.BAD if run.set_aside else Mark.GOOD,
        text=f"All {count(run.listed)} listed pictures are accounted for: "
        f"{count(run.searchable)} searchable, {count(run.rejected)} rejected, "
        f"{count(run.set_aside)} set aside.",
    )


def _left_out(report: EvaluationReport) -> Sentence | None:
    name = label_name(report)
    parts = [
        (report.n_without_label, f"without a {name}"),
        (report.n_queries_without_relevants, f"whose {name} no other shows"),
    ]
    said = [f"{count(n)} {what}" for n, what in parts if n]
    return Sentence(mark=Mark.NOTE, text=f"Not judged: {' and '.join(said)}.") if said else None


def _of_queries(share: float, n_queries: int) -> str:
    if n_queries < 100:
        return f"{round(share * n_queries)} of {n_queries}"
    if 0.995 <= share < 1:
        return "more than 99 of 100"
    if 0 < share < 0.005:
        return "fewer than 1 of 100"
    return f"{round(share * 100)} of 100"


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
