"""A search whose index shards lie with several holders: filters and collapse as in one process."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jobs.search import LocalSearch
from jobs.search_ray import Inquiry, RaySearch, ShardHolder, held_by
from pipeline.index.partial import PartialResult
from pipeline.snapshot.distinct import distinct
from pipeline.snapshot.filter import Filter
from pipeline.snapshot.open import OpenSnapshot
from tests.support.manifests import index_shard
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_parquet

N = 150


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> OpenSnapshot:
    """Four index shards with dead rows and copies, searched with candidates."""
    made = Collection(
        tmp_path_factory.mktemp("held"), settings={"embed": {"shard_images": 30}, "index": {"shard_rows": 40}}
    )
    for n in (N, N - 10):
        columns = {
            "image_id": [f"i{i:03d}" for i in range(n)],
            "image": [jpeg(i % 100) for i in range(n)],
            "group_id": [f"g{i % 9}" if i % 4 else None for i in range(n)],
            "price": list(range(n)),
        }
        for start in range(0, n, 30):
            part = {name: values[start : start + 30] for name, values in columns.items()}
            write_parquet(made.source / f"{start}.parquet", part)
        night = made.night()
    point = replace(night.manifest.content.operating_point(), method="hamming", candidates={10: 25, 40: 60})
    content = night.manifest.content.model_copy(update={"calibration": point.to_json()})
    assert len(content.index_shards) >= 4
    manifest = night.manifest.model_copy(update={"content": content})
    return OpenSnapshot(store=made.store, manifest=manifest, cache=made.folder / "cache")


class Inline:
    """Holders in this process; a question to all is a question to each."""

    def __init__(self, snapshot: OpenSnapshot, chosen: str | None, n_holders: int) -> None:
        self.holders = [
            ShardHolder(snapshot.store.uri, snapshot.content, chosen, snapshot.cache, number, n_holders)
            for number in range(n_holders)
        ]

    def ask(self, question: Inquiry) -> list[PartialResult | int]:
        return [holder.run(question) for holder in self.holders]


@pytest.mark.parametrize(("n_holders", "gathered_rows"), [(3, 65_536), (2, 60), (3, -1)])
@pytest.mark.parametrize(
    ("chosen", "collapse", "exact"),
    [
        (None, None, False),
        (None, None, True),
        (None, "group_id", False),
        ("price >= 20 and price < 90", None, False),
        ("price < 120", "group_id", False),
        ("price > 1000", "group_id", False),
    ],
)
def test_holders_give_the_answer_of_one_process(
    chosen: str | None,
    collapse: str | None,
    exact: bool,
    n_holders: int,
    gathered_rows: int,
    snapshot: OpenSnapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.snapshot.selection.GATHERED_ROWS", gathered_rows)
    monkeypatch.setattr("jobs.search_ray.GATHERED_ROWS", gathered_rows)
    monkeypatch.setattr("pipeline.snapshot.distinct._LEAVE_OUT_FROM", 30)
    here = LocalSearch.over(snapshot, None if chosen is None else Filter(chosen), exact=exact)
    holders: Any = Inline(snapshot, chosen, n_holders)
    point, dim = snapshot.content.operating_point(), snapshot.content.model.dim
    there = RaySearch(holders, point, dim, filtered=chosen is not None, exact=exact)
    xq_QD = np.ascontiguousarray(snapshot.vectors[::20])
    assert there.n_live == here.n_live
    for k in (1, 7, 40):
        if collapse is None:
            assert there.search(xq_QD, k) == here.search(xq_QD, k)
        else:
            found, wanted = (
                distinct(search, snapshot.attributes, collapse, xq_QD, k) for search in (there, here)
            )
            assert found == wanted


def test_index_shards_are_shared_out_by_rows_each_once() -> None:
    refs = [
        index_shard(name).model_copy(update={"rows": rows})
        for name, rows in zip("abcde", (9, 1, 5, 4, 1), strict=True)
    ]
    held = [held_by(refs, number, 2) for number in range(2)]
    assert sorted(ref.key for refs in held for ref in refs) == ["a", "b", "c", "d", "e"]
    assert sorted(sum(ref.rows for ref in refs) for refs in held) == [10, 10]
    assert held_by(refs[:1], 1, 2) == []
