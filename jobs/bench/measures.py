"""``bitsieve bench metrics``: the measures of many ready-made rankings, beside two libraries on the same.

1. Rankings over a labelled base are made by a seed: relevant ids at random places, or not found at all.
2. Ours: places of the relevant ids, all measures of each query, then their means with a bootstrap interval.
3. The peers get the first of the same rankings, because they need a hundred times as long and as much memory.
4. Every value that a peer has too must be equal, or the command fails.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from jobs.bench.machine import load, machine_facts
from jobs.bench.peers.measures import PeerMeasures, by_ir_measures, by_metric_learning
from jobs.output import AsJson, JsonFile, print_result, say
from pipeline.errors import DataCorrupt
from pipeline.evaluate.aggregate import RESAMPLES, bootstrap_interval
from pipeline.evaluate.metrics import Floats
from pipeline.evaluate.ranked_ids import Pairs, ranks_of_pairs
from pipeline.evaluate.retrieval import measures_of

EXAMPLE = "Example: bitsieve bench metrics --queries 100000 --depth 1000 --json"
_PER_LABEL = 10
_FOUND = 8
_GRADES = 3
_TOLERANCE = 1e-5  # the calculator has float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rankings:
    """Rankings of Q queries, K deep, over a base whose labels each have ten rows. P relevant pairs."""

    ids_QK: NDArray[np.int32]
    labels_Q: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    relevant: Pairs
    gain_P: Floats

    def first(self, n: int) -> "Rankings":
        """Of the first ``n`` queries."""
        n_pairs = n * _PER_LABEL
        pairs = Pairs(
            query_P=self.relevant.query_P[:n_pairs],
            id_P=self.relevant.id_P[:n_pairs],
            gain_P=self.gain_P[:n_pairs],
        )
        return Rankings(
            ids_QK=self.ids_QK[:n],
            labels_Q=self.labels_Q[:n],
            labels_N=self.labels_N,
            relevant=pairs,
            gain_P=self.gain_P[:n_pairs],
        )


def command(
    queries: Annotated[int, typer.Option(min=10, help="Rankings.")] = 100_000,
    depth: Annotated[int, typer.Option(min=10, help="Ids in each.")] = 1_000,
    peer_queries: Annotated[int, typer.Option(min=10, help="Rankings that the peers get.")] = 500,
    seed: Annotated[int, typer.Option(help="Makes other rankings.")] = 0,
    output: JsonFile = None,
    as_json: AsJson = False,
) -> None:
    """Retrieval measures of many rankings, beside ir-measures and pytorch-metric-learning: equal values."""
    busy = load()
    rankings = made_rankings(queries, depth, seed)
    ours, values = measured(rankings, seed)
    result: dict[str, Any] = {
        "queries": queries,
        "depth": depth,
        "ours": ours,
        "peers": {},
        "machine": machine_facts(),
        "load_at_start": busy,
    }
    some = rankings.first(min(peer_queries, queries))
    for name, ask in _PEERS.items():
        result["peers"][name] = _asked(name, ask, some, values, ours["queries_per_s"])
    result["ratio_to_ir_measures"] = result["peers"]["ir-measures"].get("ratio")
    result["ratio_to_metric_learning"] = result["peers"]["pytorch-metric-learning"].get("ratio")
    if output is not None:
        output.write_text(json.dumps(result, indent=1))
    print_result(result, _in_words(result), as_json=as_json)


def made_rankings(n_queries: int, depth: int, seed: int) -> Rankings:
    """Rankings that hold up to eight of their ten relevant ids, at random places; the same for a seed."""
    rng = np.random.default_rng(seed)
    n_labels = max(n_queries, 2 * depth)
    labels_Q = np.arange(n_queries) % n_labels
    steps_Q = 1 + rng.integers(0, n_labels // depth, size=n_queries)
    ids_QK = np.empty((n_queries, depth), dtype=np.int32)
    for start in range(0, n_queries, 4_096):
        block = slice(start, start + 4_096)
        others_BK = labels_Q[block, None] + 1 + np.arange(depth) * steps_Q[block, None]
        copies_BK = rng.integers(0, _PER_LABEL, size=others_BK.shape)
        ids_QK[block] = others_BK % n_labels + n_labels * copies_BK
    places_QF = ((np.arange(_FOUND) + rng.random((n_queries, _FOUND))) * depth / _FOUND).astype(np.int64)
    places_QF[rng.random(n_queries) < 0.3, 0] = 0
    relevant_QR = labels_Q[:, None] + n_labels * np.arange(_PER_LABEL)
    shuffled_QF = rng.permuted(relevant_QR, axis=1)[:, :_FOUND]
    found_QF = rng.random((n_queries, _FOUND)) < rng.random((n_queries, 1))
    ids_QK[np.nonzero(found_QF)[0], places_QF[found_QF]] = shuffled_QF[found_QF]
    gain_P = rng.integers(1, _GRADES + 1, size=relevant_QR.size).astype(np.float64)
    pairs = Pairs(
        query_P=np.repeat(np.arange(n_queries), _PER_LABEL), id_P=relevant_QR.ravel(), gain_P=gain_P
    )
    return Rankings(
        ids_QK=ids_QK,
        labels_Q=labels_Q,
        labels_N=np.tile(np.arange(n_labels), _PER_LABEL),
        relevant=pairs,
        gain_P=gain_P,
    )


def measured(rankings: Rankings, seed: int) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Ours: processor seconds of each part, and the values of each query."""
    began = time.process_time()
    graded = ranks_of_pairs(rankings.ids_QK, rankings.relevant)
    ranked = time.process_time()
    values = measures_of(graded)
    done = time.process_time()
    bootstrap_interval(np.stack(list(values.values()), axis=1), seed=seed)
    ended = time.process_time()
    n_queries = len(rankings.ids_QK)
    seconds = {
        "rank_s": round(ranked - began, 3),
        "measures_s": round(done - ranked, 3),
        "seconds": round(done - began, 3),
        "queries_per_s": round(n_queries / (done - began), 1),
        "bootstrap_s": round(ended - done, 3),
        "resamples": RESAMPLES,
    }
    return seconds, values


def _ir_measures(some: Rankings) -> PeerMeasures:
    n_queries = len(some.ids_QK)
    return by_ir_measures(
        some.ids_QK,
        list(some.relevant.id_P.astype(np.int64).reshape(n_queries, _PER_LABEL)),
        list(some.gain_P.reshape(n_queries, _PER_LABEL)),
    )


def _metric_learning(some: Rankings) -> PeerMeasures:
    return by_metric_learning(some.ids_QK, some.labels_Q, some.labels_N)


_PEERS: Mapping[str, Callable[[Rankings], PeerMeasures]] = {
    "ir-measures": _ir_measures,
    "pytorch-metric-learning": _metric_learning,
}


def _asked(
    name: str,
    ask: Callable[[Rankings], PeerMeasures],
    some: Rankings,
    values: Mapping[str, Floats],
    our_rate: float,
) -> dict[str, Any]:
    """What a peer answers; it must be the same."""
    try:
        theirs = ask(some)
    except ImportError as exc:
        say(f"bench: {name}: skipped, {exc}")
        return {"skipped": str(exc)}
    n_queries = len(some.ids_QK)
    largest = 0.0
    for measure, mean in theirs.means.items():
        ours_Q = values[measure][:n_queries]
        apart = np.abs(
            theirs.per_query.get(measure, np.array([mean]))
            - (ours_Q if measure in theirs.per_query else ours_Q.mean())
        )
        largest = max(largest, float(apart.max()))
        if not apart.max() <= _TOLERANCE:
            raise DataCorrupt(
                f"{name} measures {measure} as {mean:.6f} on average, ours is {ours_Q.mean():.6f}",
                "one of the two is wrong: compare them query by query",
            )
    rate = n_queries / max(theirs.seconds, 1e-9)
    return {
        "queries": n_queries,
        "seconds": round(theirs.seconds, 3),
        "queries_per_s": round(rate, 1),
        "ratio": round(our_rate / rate, 1),
        "equal": sorted(theirs.means),
        "largest_difference": largest,
    }


def _in_words(result: Mapping[str, Any]) -> str:
    ours = result["ours"]
    lines = [
        f"{result['queries']:,} rankings of {result['depth']:,}: {ours['seconds']} s of one core "
        f"({ours['rank_s']} s ranks, {ours['measures_s']} s measures); bootstrap {ours['bootstrap_s']} s",
    ]
    for name, peer in result["peers"].items():
        if "skipped" in peer:
            lines.append(f"  {name}: skipped, {peer['skipped']}")
            continue
        lines.append(
            f"  {name:<24} {peer['queries']:,} of them in {peer['seconds']} s; ours is {peer['ratio']} times "
            f"as fast, {len(peer['equal'])} measures equal to {peer['largest_difference']:.1g}"
        )
    return "\n".join(lines)
