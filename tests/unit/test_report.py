"""The page: its words, its accounts, and what hostile ids and labels become on it."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.coverage import REASONS
from pipeline.evaluate.report.document import Mark
from pipeline.evaluate.report.facts import RunFacts
from pipeline.evaluate.report.retrieval_page import retrieval_document, retrieval_findings
from pipeline.evaluate.report.words import percent, short, visible
from pipeline.values import RejectReason
from tests.support.report_samples import (
    sample_document,
    sample_index,
    sample_page,
    sample_report,
    sample_run,
    sample_thumbnails,
    thumbnail,
)

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
ALLOWED_TAGS = frozenset(
    """html head meta title style body main header p h1 h2 h3 ul ol li span bdi br section article div dl dt
    dd table thead tbody tfoot tr th td figure figcaption img strong code footer svg rect line text polyline
    polygon circle""".split()  # noqa: SIM905 - one word a line is a page of brackets
)
ALLOWED_ATTRIBUTES = frozenset(
    """charset http-equiv content name lang class aria-hidden aria-label aria-labelledby role id scope src alt
    viewbox preserveaspectratio x y x1 x2 y1 y2 cx cy r rx width height points
    text-anchor""".split()  # noqa: SIM905
)


class Page(HTMLParser):
    """Everything a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


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


@pytest.mark.parametrize("hostile", [False, True])
def test_page_holds_only_known_tags_and_loads_nothing(hostile: bool) -> None:
    page = Page(hostile_page() if hostile else sample_page())
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    assert {name for _, attrs in page.tags for name in attrs} <= ALLOWED_ATTRIBUTES
    assert page.values("src")
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    static_ids = {*(f"section-{number}" for number in range(1, 6)), "methods"}
    assert set(page.values("id")) == static_ids
    assert set(page.values("aria-labelledby")) == static_ids


def test_hostile_texts_are_shown_as_text_with_control_characters_spelled_out() -> None:
    html = hostile_page()
    text = Page(html).text
    for shown in (
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        r"\x1b[31mred\x1b[0m\x07",
        "{{ 7 * 7 }}",
    ):
        assert shown in text
    assert r"\u202egpj.exe\u2066" in text
    assert r"line\x0abreak\x00nul" in text
    assert "&lt;script&gt;" in text
    assert not any(char in html for char in "\x1b\x07\0\u202e\u2066")


def test_page_begins_with_the_security_policy_and_has_no_url() -> None:
    html = sample_page()
    policy = (
        '<meta http-equiv="Content-Security-Policy" content="'
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    )
    assert html.index(policy) < html.index("<style>")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html


def test_every_picture_has_an_alternative_text_and_absent_ones_are_counted() -> None:
    report = sample_report()
    thumbnails = sample_thumbnails(report)
    page = Page(sample_page())
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    absent = [attrs for _, attrs in page.tags if "absent" in (attrs.get("class") or "")]
    assert all(attrs["alt"] for attrs in images)
    assert all("no thumbnail" in (attrs["aria-label"] or "") for attrs in absent)
    assert len(images) + len(absent) == sum(1 + len(query.neighbours) for query in report.gallery)
    shown = {query.image_id for query in report.gallery}
    shown |= {item.image_id for query in report.gallery for item in query.neighbours}
    assert f"{len(shown - set(thumbnails))} of {len(shown)} thumbnails are not at hand" in page.text


def test_page_without_index_run_or_thumbnails_is_whole() -> None:
    text = Page(render_html(retrieval_document(sample_report()))).text
    assert "The figures" in text
    assert "Coverage" not in text
    assert "Candidates C" not in text


def test_same_arguments_give_the_same_page() -> None:
    assert sample_page() == sample_page()


@pytest.mark.parametrize(
    "uri", ["https://evil.example/a.png", "data:image/svg+xml;base64,AAAA", 'data:image/png;base64,"']
)
def test_thumbnail_that_is_not_a_picture_inside_the_page_is_refused(uri: str) -> None:
    report = sample_report()
    with pytest.raises(ValueError, match="not a data: URI"):
        render_html(sample_document(report), {report.gallery[0].image_id: uri})


def test_verdict_says_the_figures_in_plain_words() -> None:
    report = sample_report()
    sentences = retrieval_findings(report, sample_index(), sample_run())
    right = round(100 * report.metrics["success@1"].macro)
    assert (
        sentences[0].text == f"For {right} of 100 pictures, the closest other picture shows the same product."
    )
    assert [sentence.mark for sentence in sentences[2:4]] == [Mark.GOOD, Mark.GOOD]
    assert "All 13,233 listed pictures are accounted for" in sentences[3].text
    assert sentences[-1].text == f"Not judged: {report.n_without_label} without a product."


def test_verdict_on_bad_index_and_coverage_that_does_not_add_up_is_bad() -> None:
    run: RunFacts = replace(sample_run(), rejected=40)
    index = replace(sample_index(), recall_asked=0.999)
    sentences = retrieval_findings(sample_report(), index, run)
    assert [sentence.mark for sentence in sentences[2:4]] == [Mark.BAD, Mark.BAD]
    assert "13,233 pictures were listed, and 13,230 are accounted for" in sentences[3].text
    assert (
        "Sum, but listed were 13,233" in Page(render_html(retrieval_document(sample_report(), run=run))).text
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100"), (0.9999, "99.9"), (0.0, "0"), (0.0001, "0.1"), (0.5, "50"), (0.123, "12.3")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, shown: str) -> None:
    assert percent(share) == f"{shown}\u00a0%"


def test_visible_keeps_ordinary_text_of_any_script() -> None:
    assert visible("Überraschung שלום 図 🙂 a\u00a0b") == "Überraschung שלום 図 🙂 a\u00a0b"
    assert visible("\ud800") == r"\ud800"
    assert short("a" * 100 + "end", 21) == "a" * 10 + "…" + "a" * 7 + "end"


def test_every_reject_reason_has_plain_words() -> None:
    assert set(REASONS) == set(RejectReason)
