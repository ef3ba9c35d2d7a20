"""The same rows over any number of index shards give the same candidates, neighbours and results."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.encoder import fit_encoder
from pipeline.index.hamming import hamming_counts, nearest_codes
from pipeline.index.lists import assign_lists, probe_order
from pipeline.index.order import NOWHERE, ids_at, places_of
from pipeline.index.search import Searcher
from tests.support.index_shards import hamming_oracle, nearest_oracle, spread, unit_rows

D = 12
# Ids whose order as UTF-8 bytes is easy to get wrong, around numbered ones.
ODD_IDS = ["", "~", "é", "z", "Z", "￿", "😀", "a", "aa", "a/b", "a b"]


FORMS = st.sampled_from([None, 1, 3, 8])
"""Lists, None for the flat form."""


@st.composite
def _case(draw: st.DrawFn) -> tuple[Any, list[str], Any, list[str], Any]:
    """Rows with many exact duplicates, odd ids, dead ids, and a random split into 1 to 5 shards."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, distinct = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    x_ND = unit_rows(distinct, D, seed=draw(st.integers(0, 99)))[rng.integers(0, distinct, n)]
    ids = (ODD_IDS + [f"{i}" for i in range(n)])[:n]
    ids = [ids[i] for i in rng.permutation(n)]
    dead = [image_id for image_id in ids if rng.random() < 0.15]
    return x_ND, ids, rng.integers(0, draw(st.integers(1, 5)), n), dead, rng


@given(_case(), st.integers(1, 25), st.integers(1, 70), FORMS)
@settings(max_examples=40, deadline=None)
def test_any_split_finds_what_brute_force_finds(
    case: Any, k: int, n_candidates: int, n_lists: int | None
) -> None:
    x_ND, ids, shard_of_row, dead, _ = case
    encoder = fit_encoder(x_ND, bits=16, n_lists=n_lists)
    xq_QD = np.concatenate([x_ND[:5], unit_rows(3, D, seed=1)])
    alive_N = np.array([image_id not in set(dead) for image_id in ids])
    with tempfile.TemporaryDirectory() as folder:
        shards = spread(Path(folder), ids, x_ND, encoder, shard_of_row, dead=dead)
        codes_QW = encoder.encode(xq_QD)
        place_QC = nearest_codes(shards, codes_QW, n_candidates, threads=2)
        candidates = [set(ids_at(shards, row[row != NOWHERE]).to_pylist()) for row in place_QC]
        searcher = Searcher(encoder, shards, None, threads=2)
        exact = searcher.search(xq_QD, k, exact=True)
        sieved = searcher.search(xq_QD, k, candidates=n_candidates)
        counts_QH = hamming_counts(shards, codes_QW, threads=2)

    hamming_QN = hamming_oracle(encoder.encode(x_ND), codes_QW)
    expected = []
    for hamming_N in hamming_QN:
        live = sorted((int(hamming_N[row]), ids[row].encode()) for row in np.flatnonzero(alive_N))
        expected.append({image_id.decode() for _, image_id in live[:n_candidates]})
    assert candidates == expected
    assert [list(row) for row in exact.ids] == nearest_oracle(x_ND, ids, alive_N, xq_QD, k)
    assert counts_QH.sum(axis=1).tolist() == [alive_N.sum()] * len(xq_QD)
    wider = [{*row} for row in expected] if n_candidates >= k else None
    for query, row in enumerate(sieved.ids):
        if wider is not None:
            kept = np.array([image_id in wider[query] for image_id in ids], dtype=np.bool_)
            assert [list(row)] == nearest_oracle(x_ND, ids, kept, xq_QD[query : query + 1], k)
        shared = dict(zip(exact.ids[query], exact.distances[query], strict=True))
        for image_id, distance in zip(row, sieved.distances[query], strict=True):
            assert shared.get(image_id, distance) == distance  # the same bits in both stages


@given(_case(), st.integers(1, 8), FORMS)
@settings(max_examples=20, deadline=None)
def test_any_split_leaves_out_the_excluded_id(case: Any, k: int, n_lists: int | None) -> None:
    x_ND, ids, shard_of_row, dead, _ = case
    encoder = fit_encoder(x_ND, bits=16, n_lists=n_lists)
    with tempfile.TemporaryDirectory() as folder:
        searcher = Searcher(encoder, spread(Path(folder), ids, x_ND, encoder, shard_of_row, dead=dead), None)
        for options in ({"exact": True}, {"candidates": len(ids)}):
            result = searcher.search(x_ND, k, exclude_ids=ids, **options)
            for row, found in enumerate(result.ids):
                alive_N = np.array([i not in set(dead) and i != ids[row] for i in ids])
                assert [list(found)] == nearest_oracle(x_ND, ids, alive_N, x_ND[row : row + 1], k)


def test_place_of_an_id_is_found_in_whichever_shard_has_it(tmp_path: Path) -> None:
    x_ND = unit_rows(4, D, seed=0)
    encoder = fit_encoder(x_ND, bits=16)
    shards = spread(tmp_path, ["d", "b", "c", "a"], x_ND, encoder, [0, 1, 1, 0], dead=["b"])
    place_QE = places_of(shards, ["c", None, "b", "nowhere", "a"])
    assert (place_QE[:, 0] != NOWHERE).tolist() == [True, False, False, False, True]
    assert ids_at(shards, place_QE[[0, 4], 0]).to_pylist() == ["c", "a"]


@given(_case(), st.integers(1, 12), st.integers(1, 70), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_any_split_probes_the_same_lists(case: Any, k: int, n_candidates: int, n_probes: int) -> None:
    """The candidates are the first live rows by (Hamming, id) of the lists nearest to each query."""
    x_ND, ids, shard_of_row, dead, _ = case
    encoder = fit_encoder(x_ND, bits=16, n_lists=6)
    assert encoder.centroids_LD is not None
    xq_QD = np.concatenate([x_ND[:5], unit_rows(3, D, seed=1)])
    alive_N = np.array([image_id not in set(dead) for image_id in ids])
    with tempfile.TemporaryDirectory() as folder:
        many = spread(Path(folder) / "many", ids, x_ND, encoder, shard_of_row, dead=dead)
        one = spread(Path(folder) / "one", ids, x_ND, encoder, [0] * len(ids), dead=dead)
        found, expected = (
            Searcher(encoder, shards, None, threads=2).search(
                xq_QD, k, candidates=n_candidates, probes=n_probes
            )
            for shards in (many, one)
        )
    assert found == expected
    list_N = assign_lists(x_ND, encoder.centroids_LD)
    hamming_QN = hamming_oracle(encoder.encode(x_ND), encoder.encode(xq_QD))
    place_QL = probe_order(xq_QD, encoder.centroids_LD)
    c = min(max(n_candidates, k), int(alive_N.sum()))
    for query, row in enumerate(found.ids):
        probed_N = alive_N & (
            place_QL[query][list_N] < _probes_with(place_QL[query], list_N[alive_N], n_probes, c)
        )
        first = sorted((int(hamming_QN[query, i]), ids[i].encode(), i) for i in np.flatnonzero(probed_N))[:c]
        kept_N = np.isin(np.arange(len(ids)), [i for *_, i in first])
        assert [list(row)] == nearest_oracle(x_ND, ids, kept_N, xq_QD[query : query + 1], k)


def _probes_with(place_L: Any, live_list_M: Any, n_probes: int, n_candidates: int) -> int:
    """Probes until so many lists, and lists with so many live rows, were looked into."""
    reached = np.sort(place_L[live_list_M])
    return max(n_probes, int(reached[n_candidates - 1]) + 1) if n_candidates else n_probes
