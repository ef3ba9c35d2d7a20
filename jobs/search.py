"""``bitsieve search``: the images of a snapshot that are nearest to given images or vectors."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import typer

from jobs.on_ray import RayAddress, RayWorkers, ray_options
from jobs.output import AsJson, print_result, say, visible
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.progress import TerminalProgress
from jobs.search_answers import Answer, Question, answer_schema, answers, as_json, question
from jobs.search_file import AnswerFile
from jobs.search_model import query_model
from jobs.search_queries import ParquetColumns, QueryModel, Source, count_queries, query_sources, read_queries
from jobs.search_ray import ray_search
from pipeline.errors import UsageError
from pipeline.index.search import SearchResult
from pipeline.snapshot.distinct import Search
from pipeline.snapshot.filter import Filter
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.reranking import IndexBase, reranked
from pipeline.snapshot.selection import LeftOut, Selection

if TYPE_CHECKING:
    from pipeline.rerank.base import Reranker

_SHOW_PROGRESS_FROM = 1_000


def command(
    queries: Annotated[
        list[Path],
        typer.Argument(help="Query images, folders of them, or Parquet files of images or vectors."),
    ],
    store: Store,
    k: Annotated[int, typer.Option("-k", min=1, help="How many matches for each query.")] = 10,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every vector instead of candidates.")
    ] = False,
    chosen: Annotated[
        str | None,
        typer.Option("--filter", help="Only images of which this is true: price < 10 and in_stock."),
    ] = None,
    collapse: Annotated[
        str | None, typer.Option(help="k distinct values of this attribute; the best image of each.")
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(help="Order the answer anew: aqe, alpha-qe:n=5,alpha=3, k-reciprocal … (see the docs)."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="ONNX file that embeds the queries; the snapshot's if absent.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Of `bitsieve adapter list`: takes queries of another model.")
    ] = None,
    columns: Annotated[str, typer.Option(help="Attributes to show with each match, with commas.")] = "",
    query_column: Annotated[
        str | None, typer.Option(help="Column of a Parquet file with the vectors or images.")
    ] = None,
    query_id: Annotated[
        str | None, typer.Option(help="Column of a Parquet file with the names of the queries.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a Parquet file.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the index shards over Ray actors.")] = False,
    ray_address: RayAddress = None,
    workers: RayWorkers = None,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    as_json: AsJson = False,
) -> None:
    """The images nearest to the given ones; the model comes from the store.

    Example: bitsieve search query.jpg --store index/ -k 5 --filter "price < 10"
    """
    sources = query_sources(queries, ParquetColumns(query=query_column, name=query_id))
    snapshot = find_place(store, collection, config).snapshot(sequence)
    asked = question(snapshot, k, collapse, [name.strip() for name in columns.split(",") if name.strip()])
    asking = query_model(snapshot, model, adapter)
    if chosen is not None:
        Filter(chosen).mask(snapshot.attributes[:0])  # refused here, not by an actor
    cluster = ray_options(ray, ray_address, workers)
    if rerank is not None and (cluster or collapse):
        raise UsageError(
            f"--rerank works in one process and on images, not with --{'collapse' if collapse else 'ray'}",
            fix="leave one of the two out",
        )
    if cluster is not None and snapshot.device == "cuda":
        raise UsageError(
            "--ray searches on processors, and index.device = cuda was asked for",
            fix="leave one of the two out",
        )
    if cluster is not None:
        opened: AbstractContextManager[FoundImages] = ray_search(snapshot, chosen, cluster, exact=exact)
    else:
        search_here = LocalSearch.over(snapshot, None if chosen is None else Filter(chosen), exact=exact)
        opened = nullcontext(search_here if rerank is None else _reranked(snapshot, search_here, rerank))
    with opened as search:
        result = search_sources(snapshot, search, Queries(sources, asking), asked, output)
        if adapter is not None:
            result |= {"model": asking.model_id, "adapter": adapter}
        if rerank is not None:
            result["rerank"] = rerank
        notice = _notice(search.n_live, chosen)
    for warning in filter(None, (result["warning"], notice, _broken(result))):
        say(f"bitsieve: warning: {warning}")
    print_result(result, _in_words(result), as_json=as_json)


class FoundImages(Search, Protocol):
    """A search that knows among how many images it looks."""

    @property
    def n_live(self) -> int:
        """How many images can be found."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearch:
    """A search in this process."""

    selection: Selection
    exact: bool

    @classmethod
    def over(cls, snapshot: OpenSnapshot, chosen: Filter | None, *, exact: bool) -> "LocalSearch":
        """A search over the images of a snapshot that the filter is true of."""
        selection = Selection(snapshot.searcher, lambda: snapshot.attributes, chosen)
        return cls(selection=selection, exact=exact)

    @property
    def n_live(self) -> int:
        """How many images can be found."""
        return self.selection.n_live()

    def search(self, xq_QD: npt.NDArray[np.float32], k: int, left_out: LeftOut | None = None) -> SearchResult:
        """The ``k`` nearest images of each query that are not left out."""
        return self.selection.searcher(left_out).search(xq_QD, k, exact=self.exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedSearch:
    """A search in this process whose answers are ordered anew."""

    plain: LocalSearch
    reranker: "Reranker"

    @property
    def n_live(self) -> int:
        """How many images can be found."""
        return self.plain.n_live

    def search(self, xq_QD: npt.NDArray[np.float32], k: int, left_out: LeftOut | None = None) -> SearchResult:
        """The first ``k`` images of each query in the new order, with their distances to the query."""
        searcher = self.plain.selection.searcher(left_out)
        return reranked(IndexBase(searcher=searcher, exact=self.plain.exact), self.reranker, xq_QD, k)


def _reranked(snapshot: OpenSnapshot, plain: LocalSearch, asked: str) -> RerankedSearch:
    """The search whose answers the re-ranker that ``asked`` spells orders anew.

    Raises:
        UsageError: no such re-ranker, or settings that it does not have.
    """
    from jobs.learned_expansion import open_learned
    from pipeline.rerank.method import parse_reranker  # scipy: loaded where it is asked for

    return RerankedSearch(plain=plain, reranker=parse_reranker(asked, partial(open_learned, snapshot)))


def search_images(snapshot: OpenSnapshot, files: Sequence[Path], k: int, *, exact: bool) -> dict[str, Any]:
    """Embeds ``files`` with the snapshot's model and searches; the JSON that scripts rely on."""
    search = LocalSearch.over(snapshot, None, exact=exact)
    queries = Queries([tuple(files)], query_model(snapshot, None, None))
    return search_sources(snapshot, search, queries, question(snapshot, k, None, ()), None)


class Queries(NamedTuple):
    """Where queries come from, and of which model they are."""

    sources: Sequence[Source]
    model: QueryModel


def search_sources(
    snapshot: OpenSnapshot, search: Search, queries: Queries, asked: Question, output: Path | None
) -> dict[str, Any]:
    """All answers as JSON; where there is an ``output``, they go there and the JSON has the counts only.

    Raises:
        UsageError: not one query could be searched.
    """
    n_queries = count_queries(queries.sources)
    results: list[dict[str, Any]] = []
    reasons: list[str] = []
    last: Answer | None = None
    with (
        TerminalProgress(quiet=n_queries < _SHOW_PROGRESS_FROM) as progress,
        AnswerFile(output, answer_schema(snapshot, asked)) as file,
    ):
        progress.stage("search", n_queries, "queries")
        n_done = 0
        for answer in answers(search, snapshot, read_queries(*queries), asked):
            if output is None:
                results.extend(as_json(answer))
            file.write(answer)
            last = answer
            n_done += len(answer.batch.names)
            reasons += [
                f"{n}: {why}" for n, why in zip(answer.batch.names, answer.batch.reasons, strict=True) if why
            ]
            progress.advance(n_done)
        if n_done and len(reasons) == n_done:
            raise UsageError(
                f"none of {n_done} queries can be searched, the first is {reasons[0]}",
                fix="check the queries",
            )
    found = None if last is None else last.result
    return {
        "snapshot": snapshot.manifest.sequence,
        "method": "exact" if found is None else found.method,
        "candidates": None if found is None else found.candidates,
        "warning": "" if found is None else found.warning,
        "queries": n_queries,
        "failed": len(reasons),
        **({"results": results} if output is None else {"output": str(output)}),
    }


def _notice(n_live: int, chosen: str | None) -> str:
    if n_live:
        return ""
    return "the snapshot is empty" if chosen is None else f"no image matches the filter {chosen!r}"


def _broken(result: dict[str, Any]) -> str:
    failed = result["failed"]
    return (
        f"{failed} of {result['queries']} queries could not be searched; their answers say why"
        if failed
        else ""
    )


def _in_words(result: dict[str, Any]) -> str:
    if "output" in result:
        how = f"snapshot {result['snapshot']}, {result['method']}"
        return f"{result['queries']} queries ({how}): {result['output']}"
    lines = []
    for query in result["results"]:
        lines.append(f"{visible(query['query'])}  (snapshot {result['snapshot']}, {result['method']})")
        if "error" in query:
            lines.append(f"       {visible(query['error'])}")
        for rank, match in enumerate(query["matches"], start=1):
            more = match.get("attributes", {}).items()
            shown = [match["label"], *(f"{name}={value}" for name, value in more)]
            label = "".join(f"  {visible(str(one))}" for one in shown if one is not None)
            lines.append(f"  {rank:>3}  {match['distance']:.4f}  {visible(match['id'])}{label}")
    return "\n".join(lines)
