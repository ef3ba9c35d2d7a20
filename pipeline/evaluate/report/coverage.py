"""The section on a run's coverage: every listed image ends in exactly one of five places."""

from collections.abc import Mapping
from typing import Final

from pipeline.evaluate.report.document import Block, Cell, Finding, Mark, Named, Section, Table
from pipeline.evaluate.report.facts import RunFacts
from pipeline.evaluate.report.words import count
from pipeline.values import RejectReason

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


def coverage_finding(run: RunFacts) -> Finding:
    """Whether every listed image is accounted for."""
    if run.accounted != run.listed:
        return Finding(
            mark=Mark.BAD,
            text=f"Coverage does not add up: {count(run.listed)} pictures were listed, and "
            f"{count(run.accounted)} are accounted for.",
        )
    return Finding(
        mark=Mark.BAD if run.set_aside else Mark.GOOD,
        text=f"All {count(run.listed)} listed pictures are accounted for: "
        f"{count(run.searchable)} searchable, {count(run.rejected)} rejected, "
        f"{count(run.set_aside)} set aside.",
    )


def coverage_section(run: RunFacts) -> Section:
    """The five places with their numbers, and the reasons of the rejects."""
    adds_up = run.accounted == run.listed
    deleted = f"{count(run.deleted)} pictures are no longer listed and cannot be found any more."
    places = Table(
        columns=("pictures", "number"),
        rows=(
            (Named(text="Embedded", meaning="a new vector was computed"), count(run.embedded)),
            (Named(text="Reused", meaning="unchanged since an earlier night"), count(run.reused)),
            (Named(text="Stale", meaning="changed for the worse; the old vector stays"), count(run.stale)),
            (Named(text="Rejected", meaning="refused, with a reason"), count(run.rejected)),
            (Named(text="Set aside", meaning="kept killing the worker"), count(run.set_aside)),
        ),
        total=(
            "= Listed" if adds_up else f"✗ Sum, but listed were {count(run.listed)}",
            count(run.accounted),
        ),
        note=deleted if run.deleted else "",
    )
    ordered = sorted(run.rejects.items(), key=lambda item: (-item[1], item[0]))
    rejects: tuple[Block, ...] = ()
    if ordered:
        rows = tuple((_reason(reason), count(number)) for reason, number in ordered)
        rejects = (Table(columns=("rejected because", "number"), rows=rows),)
    return Section(
        title="Coverage",
        note=f"Every listed picture ends in exactly one of five places. Source: {run.source}",
        blocks=(places, *rejects),
        side_by_side=True,
    )


def _reason(reason: str) -> Cell:
    return Named(text=reason, meaning=REASONS[reason]) if reason in REASONS else reason
