"""``--ray`` of search and evaluate: real actors, the answer of one process, and a holder that dies."""

from functools import partial
from pathlib import Path

import pytest

from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from pipeline.errors import SourceError, WorkerError
from tests.support.command import Command
from tests.support.nights import Collection
from tests.support.pool_workers import Resident
from tests.support.processes import ray_processes_left
from tests.support.tiny_catalogs import jpeg, write_parquet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_answers_over_ray_are_those_of_one_process(command: Command, mark: str, tmp_path: Path) -> None:
    made = Collection(tmp_path, settings={"embed": {"shard_images": 15}, "index": {"shard_rows": 20}})
    for start in range(0, 60, 15):
        numbers = range(start, start + 15)
        columns = {"image_id": [f"i{i}" for i in numbers], "image": [jpeg(i) for i in numbers],
                   "group_id": [f"g{i % 8}" for i in numbers]}  # fmt: skip
        write_parquet(made.source / f"{start}.parquet", columns)
    night = made.night()
    assert len(night.manifest.content.index_shards) > 2
    (tmp_path / "q.jpg").write_bytes(jpeg(3))
    flags = ("-k", 6, "--collapse", "group", "--filter", "group_id != 'g5'", "--columns", "group_id")
    search = (
        "search",
        tmp_path / "q.jpg",
        made.source / "30.parquet",
        "--store",
        made.folder / "store",
        *flags,
    )
    here = command.json(*search)
    assert command.json(*search, "--ray", "--workers", 2) == here
    assert here["queries"] == 16
    refused = command.run(*search, "--ray", "--filter", "grp == 1", "--json")
    assert (refused.code, refused.json["error"]["kind"]) == (2, "usage")
    evaluate = ("evaluate", "retrieval", "--store", made.folder / "store", "--label", "group_id", "--seed", 4)
    judged = command.json(*evaluate, "--sample", 50)
    assert judged["n_queries"] == 50
    assert command.json(*evaluate, "--sample", 50, "--ray", "--workers", 2) == judged


def test_resident_that_dies_is_made_again_and_its_error_arrives_as_itself(mark: str, tmp_path: Path) -> None:
    def answers(question: str) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = residents.ask(question)
        return found

    with (
        RayPool(ClusterOptions(n_workers=2)) as pool,
        pool.residents(5, partial(Resident, tmp_path)) as residents,
    ):
        assert answers("hello") == [(0, "hello"), (1, "hello")]
        assert answers("die once") == [(0, "die once"), (1, "die once")]
        with pytest.raises(SourceError, match="asked to fail"):
            answers("fail")
        assert answers("hello") == [(0, "hello"), (1, "hello")]
        with pytest.raises(WorkerError, match="died 3 times"):
            answers("die always")
    assert ray_processes_left(mark) == []
