"""A report in two files: the page that people read, and beside it the JSON with the same figures."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from jobs.evaluate.pictures import thumbnails
from pipeline.errors import UsageError
from pipeline.evaluate.report import Document, render_html
from pipeline.exchange.aside import written_aside
from pipeline.snapshot.open import OpenSnapshot

Page = Annotated[Path | None, typer.Option("-o", "--output", help="HTML page; JSON beside it.")]


def write_page(
    output: Path,
    document: Document,
    result: Mapping[str, object],
    *snapshots: OpenSnapshot,
    others: Mapping[str, str] | None = None,
) -> None:
    """Writes the page to ``output``, with small pictures from the snapshots' sources, and the JSON beside it.

    Each has its name only when both are whole, the page last. A picture comes from the first of the snapshots
    that has its id; ``others`` are data URIs of pictures that have none.

    Raises:
        UsageError: ``output`` ends in ``.json``, the name of the file beside it, or cannot be written.
    """
    if output.suffix == ".json":
        raise UsageError(
            f"{output} is to be an HTML page; the JSON is written beside it", fix="-o report.html"
        )
    if snapshots and document.title == f"snapshot {snapshots[0].manifest.sequence}":
        document = replace(document, title=f"{snapshots[0].manifest.collection}, {document.title}")
    pictures = dict(others or {})
    for snapshot in snapshots:
        pictures |= thumbnails(snapshot, sorted(document.image_ids() - pictures.keys()))
    page = render_html(document, pictures)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    with written_aside(output) as whole_page, written_aside(output.with_suffix(".json")) as whole_json:
        whole_page.write_text(page, encoding="utf-8")
        whole_json.write_text(text, encoding="utf-8")
