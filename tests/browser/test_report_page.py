"""The pages in a real browser: no wider than the screen, readable in light and dark, words for pictures.

The pages have no scripts, so a wrapper page measures them: it holds each page in frames of the wanted widths
and colour schemes, and writes down what it sees. Chromium then prints the wrapper's document.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.report_samples import sample_pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
)
DESKTOP_PX, PHONE_PX = 1280, 375
FRAME = (
    '<iframe data-page="{page}" src="{page}.html" '
    'style="border:0;width:{width}px;height:3000px;color-scheme:{scheme}"></iframe>'
)
MEASURE = """<!doctype html><body style="margin:0">{frames}<pre id="seen"></pre><script>
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
const contrast = (a, b) => {{
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + .05) / (low + .05);
}};
function background(element, style) {{
  for (let at = element; at; at = at.parentElement) {{
    const color = numbers(style(at).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color.slice(0, 3);
  }}
  return null;
}}
function measured(frame) {{
  const page = frame.contentDocument, style = one => frame.contentWindow.getComputedStyle(one);
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  let worst = {{ratio: 99}}, n_texts = 0;
  while (texts.nextNode()) {{
    const element = texts.currentNode.parentElement, css = style(element);
    if (!texts.currentNode.textContent.trim() || element.getClientRects().length === 0) continue;
    n_texts += 1;
    const svg = element.namespaceURI.endsWith('svg');
    const ratio = contrast(numbers(svg ? css.fill : css.color), background(element, style));
    if (ratio < worst.ratio) worst = {{ratio, text: texts.currentNode.textContent.trim().slice(0, 40)}};
  }}
  const unnamed = [...page.querySelectorAll('img:not([alt]), img[alt=""], [role=img]:not([aria-label])')];
  return {{
    page: frame.dataset.page, width: frame.clientWidth, scheme: frame.style.colorScheme, n_texts, worst,
    paper: style(page.body).backgroundColor, wide: page.documentElement.scrollWidth,
    high: page.documentElement.scrollHeight, n_unnamed: unnamed.length,
    overflowing: [...page.querySelectorAll('td')].filter(
      one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.trim().slice(0, 40)),
    n_pictures: page.querySelectorAll('img, [role=img]').length,
    smallest_px: Math.min(...[...page.querySelectorAll('svg.drawing text')].map(
      one => parseFloat(style(one).fontSize) * one.getScreenCTM().a)),
  }};
}}
onload = () => {{
  seen.textContent = JSON.stringify([...document.querySelectorAll('iframe')].map(measured));
}};
</script>"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def chromium(folder: Path, *arguments: str) -> str:
    profile = folder / "profile"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every page in a file."""
    folder = tmp_path_factory.mktemp("pages")
    for name, page in sample_pages().items():
        (folder / f"{name}.html").write_text(page)
    return folder


def frames(folder: Path, widths: tuple[int, ...], schemes: tuple[str, ...]) -> str:
    return "".join(
        FRAME.format(page=page.stem, width=width, scheme=scheme)
        for page in sorted(folder.glob("*.html"))
        if page.stem != "wrapper"
        for width in widths
        for scheme in schemes
    )


def test_pages_fit_every_screen_and_can_be_read_in_both_colour_schemes(folder: Path) -> None:
    wrapper = folder / "wrapper.html"
    wrapper.write_text(MEASURE.format(frames=frames(folder, (DESKTOP_PX, PHONE_PX), ("light", "dark"))))
    document = chromium(folder, "--dump-dom", wrapper.as_uri())
    found = re.search(r'<pre id="seen">(.*?)</pre>', document, re.DOTALL)
    assert found, document[-2000:]
    seen: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert len(seen) == 4 * len(sample_pages())
    for one in seen:
        assert one["wide"] == one["width"], one
        assert one["n_texts"] > 20, one
        assert one["worst"]["ratio"] >= 4.5, one
        assert one["n_unnamed"] == 0, one
        assert one["overflowing"] == [], one
        assert one["n_pictures"] > 0, one
        assert one["smallest_px"] is None or one["smallest_px"] >= 9.5, one  # of texts in drawings
        dark = sum(int(part) for part in re.findall(r"\d+", one["paper"])) < 200
        assert dark == (one["scheme"] == "dark"), one


@pytest.mark.parametrize(("width_px", "scheme"), [(DESKTOP_PX, "light"), (PHONE_PX, "dark")])
def test_a_page_is_drawn(folder: Path, width_px: int, scheme: str) -> None:
    wrapper, shot = folder / "wrapper.html", folder / f"{width_px}.png"
    frame = FRAME.format(page="retrieval", width=width_px, scheme=scheme)
    wrapper.write_text(f'<!doctype html><body style="margin:0">{frame}')
    chromium(folder, f"--screenshot={shot}", f"--window-size={max(width_px, 500)},3000", wrapper.as_uri())
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert shot.stat().st_size > 20_000
