"""Reports with everything on them, made of small coloured pictures: to test the pages and to look at them."""

import base64
import struct
import zlib
from dataclasses import replace

import numpy as np

from pipeline.evaluate import verification
from pipeline.evaluate.enrolment import evaluate_enrolment
from pipeline.evaluate.evaluation import Estimate, EvaluationReport
from pipeline.evaluate.pairs_file import PairList
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report import Document, render_html
from pipeline.evaluate.report.clusters_page import clusters_document, near_duplicates_document
from pipeline.evaluate.report.document import (
    Axis,
    Bar,
    Bars,
    Fact,
    Facts,
    Finding,
    Gallery,
    Mark,
    Named,
    Picture,
    PictureRow,
    Plot,
    Point,
    Rule,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.enrolment_page import enrolment_document
from pipeline.evaluate.report.facts import CurvePoint, IndexFacts, RunFacts
from pipeline.evaluate.report.index_page import index_document
from pipeline.evaluate.report.reranking_page import reranking_document
from pipeline.evaluate.report.retrieval_page import retrieval_document
from pipeline.evaluate.report.verification_page import verification_document
from pipeline.evaluate.reranking import Options as RerankingOptions
from pipeline.evaluate.reranking import evaluate_reranking
from pipeline.evaluate.retrieval import Options, Subject, evaluate_retrieval
from pipeline.evaluate.verification_report import VerificationReport
from pipeline.rerank.method import parse_reranker
from tests.support.change_samples import change_documents

# texts that act where they are not shown as text
HOSTILE = (
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)//",
    "</style><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m\x07",
    "\u202egpj.exe\u2066",
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}{% raw %}",
    "https://evil.example/x.png",
    "line\nbreak\0nul",
    "&lt;script&gt;",
)

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


def hostile_page() -> str:
    """Every hostile text as id, label, label name, collection, source, reason, version and class at once."""
    report = sample_report(n_classes=12, per_class=4)
    spell = {f"product {i:03d}": HOSTILE[i % len(HOSTILE)] for i in range(12)}
    gallery = tuple(
        replace(
            query,
            image_id=f"{HOSTILE[i % len(HOSTILE)]}{query.image_id}",
            label=spell[query.label],
            neighbours=tuple(
                replace(
                    item,
                    image_id=f"{HOSTILE[j % len(HOSTILE)]}{item.image_id}",
                    label=spell.get(item.label or ""),
                )
                for j, item in enumerate(query.neighbours)
            ),
        )
        for i, query in enumerate(report.gallery)
    )
    everything = "".join(HOSTILE)
    report = replace(
        report,
        gallery=gallery,
        label=everything,
        model_id=everything,
        digest=everything,
        software={everything: everything},
        worst_classes=tuple(replace(score, label=spell[score.label]) for score in report.worst_classes),
    )
    run = replace(
        sample_run(),
        collection=everything,
        source=everything,
        finished_at=everything,
        rejects={everything: 1},
    )
    index = replace(sample_index(), method=everything)
    document = retrieval_document(report, index=index, run=run)
    return render_html(document, {gallery[0].image_id: thumbnail((1, 2, 3))})


def sample_pages() -> dict[str, str]:
    """A page of each report that is known here, and one of every kind of block with hostile texts."""
    return {
        "retrieval": sample_page(),
        "hostile retrieval": hostile_page(),
        "verification": render_html(
            verification_document(sample_verification()), {"p021.jpg": thumbnail((30, 90, 30))}
        ),
        "enrolment": render_html(sample_enrolment()),
        "index": render_html(sample_index_document()),
        **{
            name: render_html(document, {"p021.jpg": thumbnail((30, 90, 30))})
            for name, document in change_documents(sample_vectors(), "".join(HOSTILE)).items()
        },
        "re-ranking": render_html(sample_reranking()),
        "clusters": render_html(sample_clusters("".join(HOSTILE)), {"there": thumbnail((20, 90, 160))}),
        "near duplicates": render_html(sample_near_duplicates("".join(HOSTILE))),
        "hostile blocks": render_html(every_block("".join(HOSTILE)), {"there": thumbnail((200, 30, 30))}),
    }


def sample_reranking() -> Document:
    """One re-ranker that helps, one that hurts, the exact one without a cost."""
    asked = {"aqe": "aqe:n=2", "aqe of strangers": "aqe:n=60", "k-reciprocal": "k-reciprocal:k1=5,k2=2"}
    methods = {name: [parse_reranker(text)] for name, text in asked.items()}
    few = RerankingOptions(n_queries=60, n_resamples=200)
    report = evaluate_reranking(sample_vectors(), methods, few, lambda one: 0.2 if one is None else 1.5)
    about = {"label": "product", "snapshot": 12, "digest": "9be2" * 16, "model_id": "3f1a" * 16}
    return reranking_document(report.to_json() | about)


def sample_clusters(text: str) -> Document:
    """Clusters with labels and hubs; ids are ``text``."""
    agreement = {"precision": 0.8, "recall": 0.9, "f": 0.847}
    return clusters_document(
        {
            "threshold": 1.1736,
            "linkage": "average",
            "neighbours": 32,
            "n_images": 13_233,
            "n_groups": 5_325,
            "n_singletons": 3_267,
            "largest": 530,
            "sizes": [{"from": 1, "to": 1, "groups": 3_267}, {"from": 257, "to": 512, "groups": 1}],
            "n_components_cut": 1,
            "n_crowded": 2,
            "quality": {
                "n_judged": 13_233,
                "n_labels": 5_749,
                "bcubed": agreement,
                "pairwise": agreement,
                "ari": 0.99,
                "nmi": 0.98,
            },
            "hubness": {
                "k": 10,
                "skewness": 2.2,
                "n_never": 68,
                "hubs": [{"image_id": text, "occurrences": 99}],
            },
            "clusters": [["there", text, *[f"{n}{text}" for n in range(10)]], ["there", "gone"]],
        },
        12,
        "9be2" * 16,
    )


def sample_near_duplicates(text: str) -> Document:
    """A census by an attribute, some groups with two of its values."""
    by = {
        "attribute": text,
        "n_groups_with_one_value": 3,
        "n_groups_with_several": 1,
        "values": [{"value": text, "images": 4, "groups": 2}],
    }
    return near_duplicates_document(
        {
            "bits": 512,
            "radius": 20,
            "n_images": 100,
            "n_groups": 96,
            "n_singletons": 92,
            "n_in_groups": 8,
            "sizes": [{"from": 1, "to": 1, "groups": 92}, {"from": 2, "to": 2, "groups": 4}],
            "by": by,
            "groups": [[text, "there"]],
        },
        12,
        "9be2" * 16,
    )


def sample_vectors(n_classes: int = 30, per_class: int = 6) -> LabelledVectors:
    """Noisy clusters of unit vectors, hard to tell apart."""
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(n_classes), per_class)
    x_ND = rng.normal(size=(n_classes, 16))[owner] + rng.normal(scale=0.8, size=(len(owner), 16))
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    return LabelledVectors(
        x_ND=x_ND, ids=[f"p{i:03d}.jpg" for i in range(len(owner))], labels=[f"class {c}" for c in owner]
    )


def sample_verification() -> VerificationReport:
    """A list of pairs with folds, one of its images missing, some pairs misjudged."""
    base, rng = sample_vectors(), np.random.default_rng(4)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, len(base.ids), size=(600, 2)) if a != b]
    pairs += [(6 * c + i, 6 * c + i + 1) for c in range(30) for i in range(5)]
    same = np.array([base.labels[a] == base.labels[b] for a, b in pairs])
    listed = PairList(
        left=("gone.jpg", *(base.ids[a] for a, _ in pairs)),
        right=(base.ids[0], *(base.ids[b] for _, b in pairs)),
        same_N=np.append(True, same),
        fold_N=np.arange(len(pairs) + 1) % 10,
    )
    subject = verification.Subject(model_id="3f1a" * 16, snapshot=12, digest="9be2" * 16)
    return verification.verify_pairs(listed, base.ids, base.x_ND, subject)


def sample_enrolment() -> Document:
    """With two rates that the strangers can show, and one that they cannot."""
    report = evaluate_enrolment(sample_vectors(), false_alarm_rates=(0.5, 0.3, 0.001))
    return enrolment_document(report, model_id="3f1a" * 16, snapshot=12, digest="9be2" * 16, software={})


def sample_index_document() -> Document:
    """Lists, filters, a loss and a warning."""
    share = {"mean": 0.9938, "low": 0.9921, "high": 0.9952}
    result = {
        "snapshot": 12,
        "digest": "9be2" * 16,
        "n_vectors": 13_190,
        "n_queries": 1000,
        "method": "hamming",
        "seed": 0,
        "ann_recall@1": share,
        "ann_recall@10": share,
        "lost": [{"k": 10, "code": 0.0052, "lists": 0.001}],
        "filters": [{"selectivity": 0.05, "n_matching": 660, "method": "exact", "ann_recall@10": share}],
        "probe_curve": [{"probes": n, "ann_recall@10": 1 - 0.1 / n} for n in (1, 2, 4, 8)],
        "speed": {
            "batch_size": 1000,
            "batch_per_s": 9120.5,
            "single_per_s": 811.0,
            "single_p50_ms": 1.2,
            "single_p99_ms": 2.9,
        },
        "bits": {
            "bits": 256,
            "balance_mean": 0.02,
            "balance_max": 0.1,
            "correlation_mean": 0.1,
            "correlation_max": 0.6,
        },
        "lists": {"n_lists": 512, "imbalance": 1.3, "smallest": 3, "largest": 90, "empty": 0},
        "memory": {
            "hot_bytes_per_vector": 36.1,
            "cold_bytes_per_vector": 540.2,
            "float32_bytes_per_vector": 512,
        },
        "staleness": {"dead_share": 0.005, "rows": 13_300, "delta_shards": 1, "index_shards": 2},
        "warnings": ["index shard 1: 1 of 64 rows do not find themselves"],
    }
    return index_document(result, sample_index())


def every_block(text: str) -> Document:
    """Every kind of block, and ``text`` wherever a text may stand."""
    points = tuple(Point(x=10.0**i, y=0.2 + 0.1 * i, low=0.1 + 0.1 * i, high=0.3 + 0.1 * i) for i in range(5))
    series = tuple(
        Series(
            name=f"{number} {text}",
            points=tuple(replace(point, y=point.y + 0.05 * number) for point in points),
            kind="scatter" if number == 3 else "line",
        )
        for number in range(6)
    )
    axis = Axis(title=text, scale="log")
    plot = Plot(
        title=text,
        alt=text,
        note=text,
        x=axis,
        y=Axis(title=text, as_percent=True),
        series=series,
        rules=(Rule(axis="x", value=500, text=text), Rule(axis="y", value=0.5, text=text)),
    )
    bars = Bars(
        title=text,
        alt=text,
        bars=(Bar(name=text, value=3, low=2, high=4, text=text), Bar(name="nothing", value=0)),
    )
    share = Share(value=0.5, low=0.4, high=0.6)
    table = Table(
        title=text,
        note=text,
        columns=(text, *(f"{i} {text}" for i in range(4))),
        rows=((Named(text=text, meaning=text), share, text, "1,000", "0.5"),),
        total=(text, "1", "2", "3", "4"),
    )
    picture = Picture(image_id=text, alt=text, mark=Mark.BAD, word=text, figure=text, caption=text)
    pictures = (picture, replace(picture, image_id="there", mark=Mark.GOOD), replace(picture, mark=Mark.NOTE))
    gallery = Gallery(
        title=text,
        note=text,
        rows=(
            PictureRow(pictures=pictures, title=text, subtitle=text, text=text, lead=picture),
            PictureRow(pictures=pictures * 8, title=text),
        ),
    )
    facts = Facts(items=(Fact(term=text, text=text, code=text),))
    found = [Finding(mark=mark, text=text, detail=text) for mark in Mark]
    return Document(
        kind=text,
        title=text,
        subtitle=text,
        verdict=found[1],
        findings=tuple(found),
        sections=(
            Section(title=text, note=text, blocks=(table, gallery)),
            Section(title=text, note=text, blocks=(facts, plot, bars), side_by_side=True),
        ),
        methods=facts.items,
    )
