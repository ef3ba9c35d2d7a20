"""The page: its words, its accounts, and what hostile ids and labels become on it."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.coverage import REASONS
from pipeline.evaluate.report.document import (
    Axis,
    Bar,
    Bars,
    Document,
    Finding,
    Gallery,
    Mark,
    Picture,
    PictureRow,
    Plot,
    Point,
    Section,
    Series,
    Share,
    Table,
)
from pipeline.evaluate.report.facts import RunFacts
from pipeline.evaluate.report.retrieval_page import retrieval_document, retrieval_findings
from pipeline.evaluate.report.scale import Ruler
from pipeline.evaluate.report.words import percent, short, visible
from pipeline.images.thumbnail import thumbnail_data_uri
from pipeline.values import RejectReason
from tests.support.report_samples import (
    every_block,
    hostile_page,
    sample_document,
    sample_index,
    sample_page,
    sample_pages,
    sample_report,
    sample_run,
    sample_thumbnails,
)

ALLOWED_TAGS = frozenset(
    """html head meta title style body main header p h1 h2 h3 ul ol li span bdi br section article div dl dt
    dd table thead tbody tfoot tr th td figure figcaption img strong code footer svg rect line text polyline
    polygon circle wbr""".split()  # noqa: SIM905 - one word a line is a page of brackets
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


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return sample_pages()


def test_every_page_holds_only_known_tags_and_loads_nothing(pages: dict[str, str]) -> None:
    for html in pages.values():
        page = Page(html)
        assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
        assert {name for _, attrs in page.tags for name in attrs} <= ALLOWED_ATTRIBUTES
        assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
        ids = page.values("id")
        assert all(re.fullmatch(r"section-\d|methods", one) for one in ids)
        assert page.values("aria-labelledby") == ids
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert page.values("content")[0] == policy
        assert not any(char in html for char in "\x1b\x07\0\u202e\u2066")


def test_every_text_of_every_block_is_shown_as_text() -> None:
    shown = Page(render_html(every_block("a<b>&'\u202e\""))).text
    as_text = shown.count("a<b>&'\\u202e\"")
    assert as_text == Page(render_html(every_block("QQQ"))).text.count("QQQ") > 60


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


def test_names_may_break_after_their_parts_and_are_copied_whole() -> None:
    name = "shop/Red_Bell-Pepper_0001.jpg"
    row = PictureRow(pictures=(Picture(image_id="a", alt="one", caption=name),))
    document = Document(
        kind="test",
        title="t",
        verdict=Finding(mark=Mark.NOTE, text="v"),
        sections=(Section(title="s", blocks=(Gallery(rows=(row,)),)),),
    )
    html = render_html(document)
    assert "shop/<wbr>Red_<wbr>Bell-Pepper_<wbr>0001.<wbr>jpg" in html
    assert name in Page(html).text


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


def test_a_thousand_pictures_full_of_detail_stay_under_five_megabytes() -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8) for seed in range(4)]
    small = [thumbnail_data_uri(png(pixels), 112) for pixels in noise]
    ids = [f"catalog/2026/autumn/{number:07d}-front.jpg" for number in range(1_000)]
    pictures = [
        Picture(image_id=one, alt=f"Place 3: {one}, same", word="same", figure="0.123") for one in ids
    ]
    rows = [
        PictureRow(
            lead=pictures[at], pictures=tuple(pictures[at + 1 : at + 8]), title="a title", text="a text"
        )
        for at in range(0, 1_000, 8)
    ]
    document = Document(
        kind="retrieval",
        title="shop",
        verdict=Finding(mark=Mark.NOTE, text="All is shown."),
        sections=(Section(title="Pictures", blocks=(Gallery(rows=tuple(rows)),)),),
    )
    html = render_html(document, {one: small[number % 4] for number, one in enumerate(ids)})
    assert html.count("<img ") == 1_000
    assert len(html.encode()) < 5_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Share(value=float("nan"), low=0, high=1),
        lambda: Table(columns=("a", "b"), rows=(("one cell",),)),
        lambda: plot_of(Axis(title="x", scale="log"), 0.0),
        lambda: plot_of(Axis(title="x"), float("inf")),
        lambda: Bars(title="b", alt="b", bars=()),
        lambda: Bars(title="b", alt="b", bars=(Bar(name="n", value=-1),)),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"finite|cells|drawn|bars"):
        wrong()


def plot_of(axis: Axis, *numbers: float) -> Plot:
    points = tuple(Point(x=number, y=1.0) for number in numbers)
    return Plot(title="p", alt="p", x=axis, y=Axis(title="y"), series=(Series(name="s", points=points),))


@pytest.mark.parametrize(
    ("axis", "numbers", "ticks"),
    [
        (Axis(title="", scale="log"), (1e-4, 1.0), ["1e-4", "0.001", "0.01", "0.1", "1"]),
        (Axis(title="", scale="log"), (50, 2000), ["50", "100", "200", "500", "1,000", "2,000"]),
        (
            Axis(title="", as_percent=True),
            (0.71, 0.99),
            ["70\u00a0%", "80\u00a0%", "90\u00a0%", "100\u00a0%"],
        ),
        (Axis(title=""), (5.0, 5.0), ["2", "4", "6", "8"]),
        (Axis(title="", low=0.9, high=1.0), (0.95,), ["0.9", "0.92", "0.94", "0.96", "0.98", "1"]),
    ],
)
def test_axes_are_numbered_roundly(axis: Axis, numbers: tuple[float, ...], ticks: list[str]) -> None:
    ruler = Ruler.over(axis, numbers, 0.0, 400.0)
    assert [ruler.text(tick) for tick in ruler.ticks(40)] == ticks
    places = [ruler.place(number) for number in (*ruler.ticks(40), ruler.high * 2)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] == 400


def png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()
