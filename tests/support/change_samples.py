"""Pages of comparisons, labelling sheets, robustness and history, from small vectors and any texts."""

from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.evaluate.coded_vectors import code_qualities, projected_qualities
from pipeline.evaluate.comparison import Benchmark, Options, compare
from pipeline.evaluate.history import Night
from pipeline.evaluate.labelling_sheet import labelling_sheet
from pipeline.evaluate.published import published_val
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report import Document
from pipeline.evaluate.report.comparison_page import comparison_document
from pipeline.evaluate.report.history_page import history_document
from pipeline.evaluate.report.robustness_page import robustness_document
from pipeline.evaluate.report.sheet_page import sheet_document
from pipeline.evaluate.robustness import CleanImages
from pipeline.images.damage import DamageKind, usual_damages

_FAR = 0.01
_DIGEST = "9be2" * 16


def change_documents(base: LabelledVectors, text: str) -> dict[str, Document]:
    """Documents by name; ``text`` is part of names and values."""
    found, result = _comparison(base, text)
    sheet, _ = labelling_sheet(found.changed, seed=1)
    return {
        "comparison": comparison_document(found, result),
        "labelling sheet": sheet_document(sheet[:6]),
        "robustness": robustness_document(robustness_result(base)),
        "history": history_document(text, [_night(number, text) for number in range(1, 31)]),
    }


def _comparison(base: LabelledVectors, text: str) -> tuple[Any, dict[str, Any]]:
    labels = [None if label is None else f"{label}{text}" for label in base.labels]
    seasons = [f"summer{text}" if n % 2 else "winter" for n in range(len(base.ids))]
    old_ND, new_ND = base.x_ND, _noisy(base.x_ND, 0.2)
    groups = [label or image_id for label, image_id in zip(labels, base.ids, strict=True)]
    found = compare(
        Benchmark(
            ids=base.ids, labels=labels, groups=groups, slices={text: seasons}, old_ND=old_ND, new_NE=new_ND
        ),
        Options(n_resamples=200, n_permutations=499),
    )
    side = {
        "images": 60_000_000,
        "dim": 128,
        "method": "hamming",
        "hot_bytes_per_vector": 64.5,
        "cold_bytes_per_vector": 541.25,
        "single_p50_ms": 1.25,
    }
    about = {"name": f"main{text}@12", "snapshot": 12, "digest": _DIGEST, "model_id": "3f1a" * 16}
    result = {
        **found.to_json(),
        "label": "product",
        "old": about,
        "new": about | {"name": "canary@3"},
        "excluded": {"only_old": 2, "only_new": 0, "other_bytes": 1, "not_sampled": 0},
        "cost": {
            "old": side,
            "new": side,
            "images_to_embed": 12_000,
            "images_per_s": 150.0,
            "embed_hours": 0.02,
        },
        "software": {"bitsieve": "0.1.0"},
    }
    return found, result


def robustness_result(base: LabelledVectors) -> dict[str, Any]:
    """Every level of damage as noise, the more the further down it stands."""
    rows = [row for row, label in enumerate(base.labels) if label is not None]
    x_ND, everything = base.x_ND[rows], np.arange(len(rows))
    clean = CleanImages(x_ND, [base.labels[row] or "" for row in rows], far=_FAR, n_resamples=50)
    levels = [
        {
            **asdict(damage),
            "name": damage.name,
            "n_rejected": 0,
            **asdict(clean.damaged(_noisy(x_ND, 0.01 * number), everything)),
            "finds_itself@1": 0.987,
            "median_place": 1.0,
            "published_val": published_val(damage.kind.value, damage.level),
        }
        for number, damage in enumerate(usual_damages(frozenset(DamageKind), 112))
    ]
    codes = [*code_qualities(clean, x_ND, None), *projected_qualities(clean, x_ND, x_ND, (4, 8))]
    return {
        "label": "product",
        "snapshot": 12,
        "digest": _DIGEST,
        "model_id": "3f1a" * 16,
        "far": _FAR,
        "n_images": len(rows),
        "n_labels": 30,
        "n_lost": 3,
        "clean": asdict(clean.quality()),
        "levels": levels,
        "codes": [one.to_json() for one in codes],
        "projection_fitted_on_sample": True,
        "seed": 0,
        "n_resamples": 50,
        "software": {"bitsieve": "0.1.0"},
    }


def _night(number: int, text: str) -> Night:
    """A month of nights; the 20th re-embeds everything, the last one is refused and rolled back."""
    return Night(
        snapshot=number,
        created=f"2026-01-{number:02d}T02:00:00+00:00",
        model_id="a" if number < 20 else "b",
        method="hamming",
        images=1_200_000 + 350 * number,
        embedded=1_207_000 if number == 20 else 900 + 7 * (number % 5),
        reused=1_200_000,
        stale=number % 4,
        rejected=40 + number % 3 if number < 30 else 61_000,
        deleted=550,
        k=10,
        recall=0.9935 - 0.0001 * number,
        recall_low=0.992 - 0.0001 * number,
        recall_high=0.995 - 0.0002 * number,
        target=0.99,
        candidates=640,
        seconds={"list": 12.0, "embed": 4_000.0 if number == 20 else 31.0 + number % 2, "reduce": 8.5},
        mean_shift=0.01 + 0.001 * number,
        bit_imbalance=0.02,
        churn=None if number == 1 else 0.9 if number == 20 else 0.01,
        overridden=("rejected_share",) if number == 30 else (),
        note=text if number == 30 else "",
    )


def _noisy(x_ND: np.ndarray, noise: float) -> np.ndarray:
    moved_ND = x_ND + noise * np.random.default_rng(2).standard_normal(x_ND.shape)
    unit_ND: np.ndarray = (moved_ND / np.linalg.norm(moved_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND
