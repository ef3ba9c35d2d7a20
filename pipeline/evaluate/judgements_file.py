"""Reads judgements of pairs of a query and an image, as retrieval benchmarks keep them (qrels).

A line is ``query 0 image grade`` as trec_eval reads it, or ``query image grade``; fields are separated by
tabs, or by blanks where a line has no tab. A grade above 0 is right, 0 wrong, below 0 junk.
"""

import math

from pipeline.errors import UsageError
from pipeline.evaluate.relevance import Judgements


def read_judgements(text: str, where: str) -> Judgements:
    """The judgements that ``text`` holds.

    Args:
        text: The file.
        where: Its name, for messages.

    Raises:
        UsageError: a line has another form, a pair is judged twice with two grades, or there is no line.
    """
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        query_id, image_id, grade = _judgement(fields, f"{where}, line {number}")
        images = grades.setdefault(query_id, {})
        if images.setdefault(image_id, grade) != grade:
            raise UsageError(
                f"{where}, line {number}: {image_id!r} was graded {images[image_id]:g} for {query_id!r} "
                f"before, and {grade:g} here",
                fix="leave one of the two lines",
            )
    if not grades:
        raise UsageError(f"{where} holds no judgement", fix="a line is: query, image, grade")
    return Judgements(grades=grades)


def read_ids(text: str, where: str) -> frozenset[str]:
    """Image ids, one a line.

    Raises:
        UsageError: there is none.
    """
    ids = frozenset(line for line in text.splitlines() if line)
    if not ids:
        raise UsageError(f"{where} holds no image id", fix="write one id a line")
    return ids


def _judgement(fields: list[str], where: str) -> tuple[str, str, float]:
    try:
        if len(fields) not in (3, 4):
            raise ValueError
        grade = float(fields[-1])
        if not math.isfinite(grade):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{where}: expected query, image and grade, or query, 0, image and grade, got {fields!r}"[:300],
            fix="separate the fields by tabs; a grade is a number",
        ) from None
    return fields[0], fields[-2], grade
