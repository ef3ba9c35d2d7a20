"""A report with everything on it, made of small coloured pictures: to test the page and to look at it."""

import base64
import struct
import zlib

import numpy as np

from pipeline.evaluate.evaluation import Estimate, EvaluationReport
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report import Document, render_html
from pipeline.evaluate.report.facts import CurvePoint, IndexFacts, RunFacts
from pipeline.evaluate.report.retrieval_page import retrieval_document
from pipeline.evaluate.retrieval import Options, Subject, evaluate_retrieval

CURVE = ((50, 0.771), (100, 0.848), (200, 0.92), (500, 0.975), (1000, 0.994), (2000, 0.9985))


def thumbnail(color: tuple[int, int, int], side_px: int = 8) -> str:
    """A data: URI of a PNG of one colour, written by hand."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + bytes(color) * side_px) * side_px
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def sample_report(
    *, n_classes: int = 40, per_class: int = 8, id_prefix: str = "shop/", label_prefix: str = "product "
) -> EvaluationReport:
    """Noisy clusters in 16 dimensions, some rows without a label; the same every time."""
    rng = np.random.default_rng(20)
    centres = rng.normal(size=(n_classes, 16))
    owner = np.repeat(np.arange(n_classes), per_class)
    x_ND = centres[owner] + rng.normal(scale=0.75, size=(len(owner), 16)) * rng.uniform(
        0.4, 1.6, (len(owner), 1)
    )
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    base = LabelledVectors(
        x_ND=x_ND,
        ids=[f"{id_prefix}{c:03d}/front-{i:05d}.jpg" for i, c in enumerate(owner)],
        labels=[None if i % 37 == 5 else f"{label_prefix}{c:03d}" for i, c in enumerate(owner)],
    )
    subject = Subject(
        label="product",
        model_id="3f1a" * 16,
        snapshot=12,
        digest="9be2" * 16,
        software={"bitsieve": "0.1.0", "numpy": np.__version__},
    )
    recall = Estimate(mean=0.9938, low=0.9921, high=0.9952)
    return evaluate_retrieval(base, subject, ann_recall=recall, options=Options(gallery_per_kind=4))


def sample_thumbnails(report: EvaluationReport) -> dict[str, str]:
    """A colour for every picture in the gallery except each seventh."""
    shown = {query.image_id: query.label for query in report.gallery}
    shown |= {item.image_id: item.label or "" for query in report.gallery for item in query.neighbours}
    colors = {label: zlib.crc32(label.encode()) for label in shown.values()}
    return {
        image_id: thumbnail((colors[label] & 255, colors[label] >> 8 & 255, colors[label] >> 16 & 255))
        for i, (image_id, label) in enumerate(sorted(shown.items()))
        if i % 7
    }


def sample_index() -> IndexFacts:
    """A calibration like the one measured on LFW with 256 bits."""
    return IndexFacts(
        method="hamming flat",
        n_vectors=13_190,
        bits=256,
        candidates=1000,
        recall_asked=0.99,
        recall=Estimate(mean=0.9938, low=0.9921, high=0.9952),
        n_calibration_queries=1000,
        curve=tuple(CurvePoint(candidates=c, recall=recall) for c, recall in CURVE),
    )


def sample_run() -> RunFacts:
    """A night that adds up."""
    return RunFacts(
        collection="shop",
        source="s3://catalog-images/shop/",
        finished_at="2026-11-22 03:14 UTC",
        listed=13_233,
        embedded=412,
        reused=12_775,
        stale=3,
        rejected=43,
        set_aside=0,
        deleted=57,
        rejects={"truncated": 21, "unidentified": 14, "too_many_pixels": 5, "duplicate_id": 3},
    )


def sample_document(report: EvaluationReport) -> Document:
    """With everything that a retrieval page can have on it."""
    return retrieval_document(report, index=sample_index(), run=sample_run())


def sample_page() -> str:
    """An ordinary retrieval page."""
    report = sample_report()
    return render_html(sample_document(report), sample_thumbnails(report))
