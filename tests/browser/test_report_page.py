"""The page in a real browser: it renders, and it is never wider than the screen.

The page has no scripts, so a wrapper page measures it: it holds the page in a frame of the wanted width and
writes down how wide the frame's content is. Chromium then prints the wrapper's document.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.report_samples import sample_page
from tests.unit.test_report import hostile_page

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
DESKTOP_PX, PHONE_PX = 1280, 390
WRAPPER = """<!doctype html><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:3000px" onload="
  const page = this.contentDocument.documentElement;
  document.title = page.scrollWidth + 'x' + page.scrollHeight"></iframe>"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def chromium(tmp_path: Path, *arguments: str) -> str:
    profile = tmp_path / "profile"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    return done.stdout


@pytest.mark.parametrize("width_px", [DESKTOP_PX, PHONE_PX])
@pytest.mark.parametrize("page", ["ordinary", "hostile"])
def test_page_is_not_wider_than_the_screen_and_renders(tmp_path: Path, width_px: int, page: str) -> None:
    (tmp_path / "page.html").write_text(sample_page() if page == "ordinary" else hostile_page())
    wrapper, shot = tmp_path / "wrapper.html", tmp_path / f"{page}-{width_px}.png"
    wrapper.write_text(WRAPPER.format(width=width_px))
    document = chromium(
        tmp_path,
        f"--screenshot={shot}",
        "--dump-dom",
        f"--window-size={max(width_px, 500)},3000",
        wrapper.as_uri(),
    )
    measured = re.search(r"<title>(\d+)x(\d+)</title>", document)
    assert measured, document
    assert int(measured[1]) == width_px
    assert int(measured[2]) > 3000
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert shot.stat().st_size > 20_000
