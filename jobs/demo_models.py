"""Judges the built-in model beside others on the demo's photos: the fixed filters, and SIFT's visual words.

The built-in model was trained on another shop: none of these products was there. The filters learned nothing;
the words are fitted on photos of this very shop, without labels. All embed the same photos; differences are
of the same queries, with intervals over products (``comparison``).
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jobs.evaluate.benchmark import labels_for
from jobs.evaluate.embedded_sample import embed_sample
from jobs.evaluate.subject import label_column
from jobs.model_file import write_model
from jobs.models import FILTERS
from jobs.sift import sift_of
from pipeline.evaluate.comparison import Benchmark, Comparison, compare
from pipeline.evaluate.label_sample import sample_by_label
from pipeline.evaluate.report.document import Document, Section, Table
from pipeline.snapshot.open import OpenSnapshot

Comparisons = Mapping[str, Comparison]

_IMAGES = 1000


def compare_models(snapshot: OpenSnapshot, *, sift: Path | None) -> Comparisons:
    """The snapshot's model (new) beside others (old), by name; SIFT, if ``sift`` says where to keep it."""
    others = {"fixed filters": FILTERS}
    if sift is not None:
        images = min(600, snapshot.content.live_rows)
        data, _ = sift_of(snapshot, images=images, words=1000, dim=128, size=224, seed=0)
        write_model(sift, data)
        others["SIFT words"] = str(sift)
    return {name: _compared(snapshot, model) for name, model in others.items()}


def _compared(snapshot: OpenSnapshot, model: str) -> Comparison:
    column = label_column(snapshot, None)
    ids = snapshot.live["image_id"].to_pylist()
    drawn = sample_by_label(ids, labels_for(snapshot, ids, column), _IMAGES, seed=0)
    embedded = embed_sample(snapshot, [ids[row] for row in drawn.tolist()], model)
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    labels = labels_for(snapshot, embedded.ids, column)
    return compare(
        Benchmark(
            ids=embedded.ids,
            labels=labels,
            groups=[str(label) for label in labels],
            slices={},
            old_ND=embedded.x_ND,
            new_NE=snapshot.vectors[[row_of[image_id] for image_id in embedded.ids]],
        )
    )


def models_json(found: Comparisons) -> dict[str, Any]:
    """The comparisons as JSON values."""
    return {
        name: {
            "verdict": one.verdict.value,
            "n_queries": one.n_queries,
            "metrics": {metric: asdict(difference) for metric, difference in one.metrics.items()},
        }
        for name, one in found.items()
    }


def models_line(found: Comparisons) -> str:
    """The comparisons in one line."""
    first = next(iter(found.values()))
    said = [
        f"{name} {one.metrics['map'].old:.3f} (ours {one.metrics['map'].low:+.3f} to "
        f"{one.metrics['map'].high:+.3f}, {one.verdict})"
        for name, one in found.items()
    ]
    return f"on a sample of {first.n_queries} mAP {first.metrics['map'].new:.3f}; {'; '.join(said)}"


def with_models(document: Document, found: Comparisons) -> Document:
    """The report with a section about the models."""
    rows = []
    for name, one in found.items():
        first, ap = one.metrics["success@1"], one.metrics["map"]
        gain = f"{ap.difference:+.3f} ({ap.low:+.3f} to {ap.high:+.3f})"
        rows.append(
            (
                name,
                f"{first.old:.3f}",
                f"{first.new:.3f}",
                f"{ap.old:.3f}",
                f"{ap.new:.3f}",
                gain,
                one.verdict,
            )
        )
    section = Section(
        title="The model beside others",
        note="The model of this index learned from another shop; none of these products was in it. The "
        "others embed the same pictures of a sample. Intervals of 95 % over products.",
        blocks=(
            Table(
                columns=(
                    "other model",
                    "its success at 1",
                    "ours",
                    "its MAP",
                    "ours",
                    "ours is",
                    "verdict on ours",
                ),
                rows=tuple(rows),
            ),
        ),
    )
    return replace(document, sections=(*document.sections, section))
