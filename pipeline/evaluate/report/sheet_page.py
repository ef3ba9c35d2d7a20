"""The page of a labelling sheet: two answers to each query, and nothing that says which is new."""

from collections.abc import Sequence

from pipeline.evaluate.evaluation import Mode
from pipeline.evaluate.labelling_sheet import SheetRow
from pipeline.evaluate.report.document import (
    Document,
    Fact,
    Finding,
    Gallery,
    Mark,
    Picture,
    PictureRow,
    Section,
    query_picture,
)
from pipeline.evaluate.report.words import count


def sheet_document(sheet: Sequence[SheetRow], mode: Mode = Mode.LEAVE_ONE_OUT) -> Document:
    """The sheet, to be looked at beside the table in which the answers are written."""
    rows = tuple(row for one in sheet for row in (_side(one, "left", mode), _side(one, "right", mode)))
    said = (
        "Which of the two answers is better? Write left, right or same into the column better of sheet.csv."
    )
    return Document(
        kind="labelling sheet",
        title="two answers side by side",
        subtitle=f"{count(len(sheet))} queries",
        verdict=Finding(mark=Mark.NOTE, text=said if sheet else "The shown answers do not differ anywhere."),
        sections=(Section(title="The queries", blocks=(Gallery(rows=rows),)),) if rows else (),
        methods=(
            Fact(
                term="Blind",
                text="Queries are shuffled and sides are drawn for each by a seed; the key that tells "
                "which side "
                "is which is not part of the sheet.",
            ),
        ),
    )


def _side(row: SheetRow, side: str, mode: Mode) -> PictureRow:
    ids = row.left if side == "left" else row.right
    shown = row.query if mode is Mode.LEAVE_ONE_OUT else query_picture(row.query)
    return PictureRow(
        title=f"{row.number}, {side}",
        lead=Picture(image_id=shown, alt=f"query {row.number}", word="query"),
        pictures=tuple(
            Picture(image_id=image_id, alt=f"answer {rank} of the {side} side", figure=str(rank))
            for rank, image_id in enumerate(ids, start=1)
        ),
    )
