"""The same measures by ir-measures and by pytorch-metric-learning's calculator, as their users call them.

Each takes a labelled ranking and gives its values with the processor time of its own call; making its dicts
or tensors is not counted.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMeasures:
    """Values by the names that bitsieve gives them: of each query, or their mean; and seconds."""

    per_query: Mapping[str, NDArray[np.float64]]
    means: Mapping[str, float]
    seconds: float


def by_ir_measures(
    ids_QK: NDArray[np.int32], relevant: list[NDArray[np.int64]], gains: list[NDArray[np.float64]]
) -> PeerMeasures:
    """trec_eval's measures; ids become text and places scores, as its users have to."""
    import ir_measures
    from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

    depth = ids_QK.shape[1]
    measures: dict[Any, str] = {
        AP: "map",
        AP @ 10: "map@10",
        Rprec: "r_precision",
        RR: "mrr",
        Success @ 1: "success@1",
        Success @ 10: "success@10",
        R @ 10: "recall@10",
        P @ 10: "precision@10",
        nDCG @ 10: "ndcg@10",
    }
    run = {
        f"q{q:07d}": {f"{one:09d}": float(depth - place) for place, one in enumerate(row)}
        for q, row in enumerate(ids_QK.tolist())
    }
    qrels = {
        f"q{q:07d}": {
            f"{one:09d}": int(gain) for one, gain in zip(ids.tolist(), gain_R.tolist(), strict=True)
        }
        for q, (ids, gain_R) in enumerate(zip(relevant, gains, strict=True))
    }
    found = {name: np.full(len(run), np.nan) for name in measures.values()}
    began = time.process_time()
    results = list(ir_measures.iter_calc(list(measures), qrels, run))
    seconds = time.process_time() - began
    for one in results:
        found[measures[one.measure]][int(one.query_id[1:])] = one.value
    means = {name: float(values.mean()) for name, values in found.items()}
    return PeerMeasures(per_query=found, means=means, seconds=seconds)


def by_metric_learning(
    ids_QK: NDArray[np.int32], labels_Q: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> PeerMeasures:
    """The calculator's own measures, with neighbours that are there already and one thread."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = {
        "precision_at_1": "success@1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map_at_r",
        "mean_average_precision": "map",
        "mean_reciprocal_rank": "mrr",
    }
    torch.set_num_threads(1)
    indices = torch.from_numpy(ids_QK.astype(np.int64))
    calculator = AccuracyCalculator(
        include=tuple(names),
        k=ids_QK.shape[1],
        device=torch.device("cpu"),
        knn_func=lambda *_: (torch.zeros(indices.shape), indices),
    )
    queries, base = torch.from_numpy(labels_Q), torch.from_numpy(labels_N)
    nothing = torch.zeros
    began = time.process_time()
    found = calculator.get_accuracy(nothing(len(queries), 1), queries, nothing(len(base), 1), base)
    seconds = time.process_time() - began
    means = {names[name]: float(value) for name, value in found.items()}
    return PeerMeasures(per_query={}, means=means, seconds=seconds)
