"""Searching among some of the images, and for distinct products: against brute force over what is left."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.index.arrays import Float32Array
from pipeline.index.encoder import fit_encoder
from pipeline.index.search import Searcher, SearchResult
from pipeline.snapshot.distinct import distinct
from pipeline.snapshot.filter import Filter
from pipeline.snapshot.selection import LeftOut, Selection, narrowed, rows_with, values_of
from tests.support.index_shards import nearest_oracle, spread, unit_rows

D, N = 16, 1_200
X_ND = unit_rows(N, D, seed=1, n_clusters=9)
IDS = [f"img{(i * 7919) % N:04d}" for i in range(N)]
DEAD = IDS[5:60:5]
GROUPS = [None if i % 11 == 0 else "hub" if i % 2 else f"g{i % 40}" for i in range(N)]
TABLE = pa.table({"image_id": IDS, "price": list(range(N)), "group_id": GROUPS})
XQ_QD = unit_rows(12, D, seed=9, n_clusters=9)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    encoder = fit_encoder(X_ND, bits=128)
    folder = tmp_path_factory.mktemp("shards")
    shards = spread(folder, IDS, X_ND, encoder, (np.arange(N) % 3).tolist(), dead=DEAD)
    return Searcher(encoder, shards, None)


class Exact:
    """A search by brute force over a selection, as the command makes it."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.asked: list[tuple[int, int]] = []

    def search(self, xq_QD: Float32Array, k: int, left_out: LeftOut | None = None) -> SearchResult:
        self.asked.append((len(xq_QD), k))
        return self.selection.searcher(left_out).search(xq_QD, k, exact=True)


def _ranking(chosen: Any = lambda price: True) -> list[list[str]]:
    alive_N = np.array([image_id not in DEAD and chosen(price) for price, image_id in enumerate(IDS)])
    return nearest_oracle(X_ND, IDS, alive_N, XQ_QD, N)


@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("price < 6", lambda price: price < 6),
        ("price >= 100 and price < 800", lambda price: 100 <= price < 800),
        ("price > 10000", lambda price: False),
    ],
)
def test_filtered_search_finds_the_k_nearest_of_what_matches(
    gathered: bool, text: str, chosen: Any, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not gathered:
        monkeypatch.setattr("pipeline.snapshot.selection.GATHERED_ROWS", -1)
    some = Selection(searcher, lambda: TABLE, Filter(text)).searcher()
    wanted = [row[:20] for row in _ranking(chosen)]
    assert [list(row) for row in some.search(XQ_QD, 20, exact=True).ids] == wanted
    if not gathered:
        assert [list(row) for row in some.search(XQ_QD, 20, candidates=N).ids] == wanted
        assert [len(row) for row in some.search(XQ_QD, 20, candidates=25).ids] == [len(row) for row in wanted]


def test_image_without_attributes_matches_what_is_null(searcher: Searcher) -> None:
    table = TABLE.filter(pa.array(np.arange(N) >= 4))
    some = Selection(searcher, lambda: table, Filter("price is null or price == 7")).searcher()
    found = some.search(XQ_QD[:1], 10)
    assert sorted(found.ids[0]) == sorted([*IDS[:4], IDS[7]])


def test_narrowing_twice_leaves_what_both_leave(searcher: Searcher) -> None:
    once = narrowed(searcher, lambda shard: rows_with(shard, pa.array(IDS[60:70])))
    twice = narrowed(once, lambda shard: ~rows_with(shard, pa.array(IDS[60:63])))
    assert sorted(twice.search(XQ_QD[:1], 50).ids[0]) == sorted(IDS[63:70])


def test_values_follow_the_ids_and_are_null_where_there_is_no_row() -> None:
    ids = pa.array([IDS[3], "nobody", IDS[0], IDS[3]])
    assert values_of(TABLE, "price", ids).to_pylist() == [3, None, 0, 3]


@pytest.mark.parametrize("leave_out_from", [1_024, 40])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_distinct_is_the_full_ranking_without_repeated_groups(
    k: int, leave_out_from: int, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.snapshot.distinct._LEAVE_OUT_FROM", leave_out_from)
    group_of = dict(zip(IDS, GROUPS, strict=True))
    wanted = []
    for ranking in _ranking():
        seen: set[str] = set()
        best = []
        for image_id in ranking:
            group = group_of[image_id] or image_id
            if group not in seen:
                seen.add(group)
                best.append(image_id)
        wanted.append(best[:k])
    search = Exact(Selection(searcher, lambda: TABLE, None))
    assert [list(row) for row in distinct(search, TABLE, "group_id", XQ_QD, k).ids] == wanted


def test_distinct_ends_where_there_are_fewer_groups_than_asked(searcher: Searcher) -> None:
    search = Exact(Selection(searcher, lambda: TABLE, Filter("group_id in ('hub', 'g2')")))
    found = distinct(search, TABLE, "group_id", XQ_QD, 10)
    group_of = dict(zip(IDS, GROUPS, strict=True))
    assert [sorted(str(group_of[i]) for i in row) for row in found.ids] == [["g2", "hub"]] * len(XQ_QD)
    assert len(search.asked) < 8
