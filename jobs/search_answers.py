"""The answers of a search, batch by batch: for each query its matches with their attributes, or a reason."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.search_queries import QueryBatch
from pipeline.errors import UsageError
from pipeline.index.search import SearchResult
from pipeline.snapshot.conditions import check_column
from pipeline.snapshot.distinct import Search, distinct
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.selection import values_of

FIXED_COLUMNS = ("query", "rank", "image_id", "distance", "label", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every query."""

    k: int
    label: str | None
    """The attribute shown as ``label``; None where the collection has none."""
    collapse: str | None = None
    """The attribute of which every match has another value."""
    columns: tuple[str, ...] = ()
    """More attributes to show with each match."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The answers to one batch; a query with a reason has no matches."""

    batch: QueryBatch
    result: SearchResult
    """Of all queries of the batch, in their order."""
    attributes: pa.Table
    """A row for each match, one query after the other: ``label`` as text, then the columns asked for."""


def question(snapshot: OpenSnapshot, k: int, collapse: str | None, columns: Sequence[str]) -> Question:
    """Checks what is asked against the attributes that there are.

    Raises:
        UsageError: no such attribute, or one that has the name of a column every answer has.
    """
    if collapse == "group" and "group" not in snapshot.attributes.schema.names:
        collapse = "group_id"
    for name in (*columns, *([collapse] if collapse else [])):
        check_column(snapshot.attributes, name)
    taken = [name for name in columns if name in FIXED_COLUMNS]
    if taken or len(set(columns)) < len(columns):
        raise UsageError(
            f"--columns names {taken[0] if taken else 'a column twice'}, which every answer has already",
            fix="leave it out",
        )
    return Question(k=k, label=snapshot.manifest.source.label, collapse=collapse, columns=tuple(columns))


def answers(
    search: Search, snapshot: OpenSnapshot, batches: Iterable[QueryBatch], asked: Question
) -> Iterator[Answer]:
    """Searches every batch as it comes; no more than one is held."""
    for batch in batches:
        searchable_Q = batch.searchable_Q
        xq_QD = batch.xq_QD[searchable_Q]
        if asked.collapse is None:
            result = search.search(xq_QD, asked.k)
        else:
            result = distinct(search, snapshot.attributes, asked.collapse, xq_QD, asked.k)
        result = _spread(result, np.flatnonzero(searchable_Q).tolist(), len(searchable_Q))
        yield Answer(batch=batch, result=result, attributes=_attributes(snapshot, result, asked))


def labels_of(snapshot: OpenSnapshot, ids: Sequence[str], label: str | None = None) -> dict[str, str]:
    """The label of each image that has one, as text.

    Raises:
        UsageError: the catalog has no such attribute.
    """
    column = label or snapshot.manifest.source.label
    if column is None:
        return {}
    check_column(snapshot.attributes, column)
    values = values_of(snapshot.attributes, column, pa.array(ids, type=pa.string())).to_pylist()
    return {image_id: str(value) for image_id, value in zip(ids, values, strict=True) if value is not None}


def answer_schema(snapshot: OpenSnapshot, asked: Question) -> pa.Schema:
    """The columns of an answer in Parquet."""
    types = (pa.string(), pa.int32(), pa.string(), pa.float32(), pa.string(), pa.string())
    fixed = [pa.field(name, of) for name, of in zip(FIXED_COLUMNS, types, strict=True)]
    return pa.schema([*fixed, *(snapshot.attributes.schema.field(name) for name in asked.columns)])


def as_table(answer: Answer, schema: pa.Schema) -> pa.Table:
    """A row for each match, ranks from 1; a query without a vector has one row, with its ``error``."""
    counts_Q = np.array([len(ids) for ids in answer.result.ids])
    failed_Q = ~answer.batch.searchable_Q
    query_M = np.repeat(np.arange(len(counts_Q)), counts_Q + failed_Q)
    is_match_M = ~failed_Q[query_M]
    match_M = pa.array(np.where(is_match_M, np.cumsum(is_match_M) - 1, 0), mask=~is_match_M)
    starts_Q = np.cumsum(counts_Q) - counts_Q
    rank_N = np.arange(counts_Q.sum()) - np.repeat(starts_Q, counts_Q) + 1
    columns = {
        "query": pa.array(answer.batch.names, pa.string()).take(pa.array(query_M)),
        "rank": pa.array(rank_N, pa.int32()).take(match_M),
        "image_id": pa.array([one for ids in answer.result.ids for one in ids], pa.string()).take(match_M),
        "distance": pa.array([one for row in answer.result.distances for one in row], pa.float32()).take(
            match_M
        ),
        "error": pa.array(answer.batch.reasons, pa.string()).take(pa.array(query_M)),
        **{name: answer.attributes[name].take(match_M) for name in answer.attributes.schema.names},
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def as_json(answer: Answer) -> list[dict[str, Any]]:
    """One object for each query; ``error`` says why a query has no matches, ``attributes`` what was asked."""
    labels = answer.attributes["label"].to_pylist()
    more = answer.attributes.drop_columns(["label"])
    rows = more.to_pylist() if more.num_columns else [None] * len(labels)
    found, at = [], 0
    parts = zip(
        answer.batch.names, answer.batch.reasons, answer.result.ids, answer.result.distances, strict=True
    )
    for name, reason, ids, distances in parts:
        matches: list[dict[str, Any]] = []
        for image_id, distance in zip(ids, distances, strict=True):
            match = {"id": image_id, "distance": distance, "label": labels[at]}
            matches.append(match if rows[at] is None else match | {"attributes": rows[at]})
            at += 1
        query: dict[str, Any] = {"query": name, "matches": matches}
        found.append(query if reason is None else query | {"error": reason})
    return found


def _spread(result: SearchResult, places: Sequence[int], n: int) -> SearchResult:
    """The result of some queries as that of all ``n``; the others have no matches."""
    if len(places) == n:
        return result
    ids: list[tuple[str, ...]] = [()] * n
    distances: list[tuple[float, ...]] = [()] * n
    for place, some, far in zip(places, result.ids, result.distances, strict=True):
        ids[place], distances[place] = some, far
    return SearchResult(
        ids=tuple(ids),
        distances=tuple(distances),
        method=result.method,
        candidates=result.candidates,
        warning=result.warning,
    )


def _attributes(snapshot: OpenSnapshot, result: SearchResult, asked: Question) -> pa.Table:
    ids = pa.array([image_id for row in result.ids for image_id in row], type=pa.string())
    table = snapshot.attributes
    label: list[str | None] = [None] * len(ids)
    if asked.label is not None and asked.label in table.schema.names:
        label = [None if one is None else str(one) for one in values_of(table, asked.label, ids).to_pylist()]
    columns = {name: values_of(table, name, ids) for name in asked.columns}
    return pa.table({"label": pa.array(label, type=pa.string())} | columns)
