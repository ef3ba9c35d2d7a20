"""``cluster-photos``, ``search --rerank`` and ``evaluate reranking`` as commands over a small collection."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_parquet

PRODUCTS = 8


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """40 images: eight products, each with the same picture twice and three others."""
    made = Collection(tmp_path_factory.mktemp("clusters"))
    pictures = [p if shot < 2 else 100 + 5 * p + shot for p in range(PRODUCTS) for shot in range(5)]
    columns = {
        "image_id": [f"p{p}-{shot}" for p in range(PRODUCTS) for shot in range(5)],
        "image": [jpeg(number) for number in pictures],
        "product": [f"p{p}" for p in range(PRODUCTS) for shot in range(5)],
        "price": list(range(5 * PRODUCTS)),
    }
    write_parquet(made.source / "shop.parquet", columns)
    made.night(label="product")
    return made


@pytest.fixture
def bitsieve(collection: Collection, capfd: pytest.CaptureFixture[str]) -> Any:
    def carry_out(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = run([*map(str, arguments), "--store", str(collection.folder / "store"), "--json"])
        return code, json.loads(capfd.readouterr()[0])

    return carry_out


def test_near_duplicates_are_the_pictures_that_are_there_twice(bitsieve: Any, tmp_path: Path) -> None:
    out, page = tmp_path / "groups.parquet", tmp_path / "groups.html"
    code, found = bitsieve(
        "cluster-photos", "--near-duplicates", "--radius", 0, "--by", "product", "-o", out, "--page", page
    )
    assert (code, found["n_images"], found["n_in_groups"], found["largest"]) == (0, 40, 16, 2)
    assert found["sizes"] == [{"from": 1, "to": 1, "groups": 24}, {"from": 2, "to": 2, "groups": 8}]
    assert found["groups"] == [[f"p{p}-0", f"p{p}-1"] for p in range(PRODUCTS)]
    assert (found["by"]["n_groups_with_one_value"], found["by"]["n_groups_with_several"]) == (8, 0)
    table = pq.read_table(out)
    assert table.schema.names == ["image_id", "group"]
    assert len(set(table["group"].to_pylist())) == 32
    assert "p7-1" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["radius"] == 0


def test_clusters_by_a_threshold_with_quality_and_hubs(bitsieve: Any, tmp_path: Path) -> None:
    out, page = tmp_path / "clusters.parquet", tmp_path / "clusters.html"
    asked = ("--threshold", 0.0001, "-o", out, "--page", page)
    code, found = bitsieve("cluster-photos", *asked)
    assert (code, found["n_groups"], found["n_singletons"], found["largest"]) == (0, 32, 24, 2)
    assert found["quality"]["bcubed"]["precision"] == 1
    assert found["quality"]["bcubed"]["recall"] == pytest.approx((16 * 2 / 5 + 24 / 5) / 40)
    assert found["hubness"]["k"] == 10
    assert pq.read_table(out).schema.names == ["image_id", "cluster"]
    assert "BCubed" in page.read_text()


def test_threshold_comes_from_the_false_accept_rate(bitsieve: Any) -> None:
    _, strict = bitsieve("cluster-photos", "--label", "product", "--far", 0.02)
    _, loose = bitsieve("cluster-photos", "--label", "product", "--far", 0.3)
    assert 0 < strict["threshold"] < loose["threshold"]
    assert strict["n_groups"] > loose["n_groups"]
    code, refused = bitsieve("cluster-photos", "--far", 0.0001)
    assert (code, refused["error"]["kind"]) == (2, "usage")
    assert "--threshold" in refused["error"]["fix"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--radius", 3), "about near duplicates"),
        (("--linkage", "ward"), "there is no linkage 'ward'"),
        (("--near-duplicates", "--by", "colour"), "colour"),
        (("--label", "colour"), "colour"),
    ],
)
def test_what_makes_no_sense_is_refused(bitsieve: Any, asked: tuple[object, ...], said: str) -> None:
    code, found = bitsieve("cluster-photos", *asked)
    assert code == 2
    assert said in found["error"]["message"]


@pytest.mark.parametrize(
    "rerank", ["alpha-qe:n=3", "dba:n=2", "k-reciprocal:k1=4,k2=2", "diffusion:n=9,graph=9,damping=0.8"]
)
def test_search_in_another_order_keeps_the_distances_of_the_query(
    bitsieve: Any, tmp_path: Path, rerank: str
) -> None:
    (tmp_path / "q.jpg").write_bytes(jpeg(3))
    _, plain = bitsieve("search", tmp_path / "q.jpg", "-k", 40)
    code, found = bitsieve("search", tmp_path / "q.jpg", "-k", 40, "--rerank", rerank)
    distances = {match["id"]: match["distance"] for match in plain["results"][0]["matches"]}
    matches = found["results"][0]["matches"]
    assert (code, found["rerank"]) == (0, rerank)
    assert {match["id"]: match["distance"] for match in matches} == distances
    assert [match["id"] for match in matches] != list(distances)


def test_search_reranked_among_the_filtered(bitsieve: Any, tmp_path: Path) -> None:
    (tmp_path / "q.jpg").write_bytes(jpeg(3))
    _, found = bitsieve(
        "search", tmp_path / "q.jpg", "-k", 7, "--rerank", "aqe:n=3", "--filter", "price < 20"
    )
    matches = found["results"][0]["matches"]
    assert len(matches) == 7
    assert all(match["id"] < "p4" for match in matches)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--rerank", "nonsense"), "there is no re-ranker"),
        (("--rerank", "aqe", "--collapse", "product"), "not with --collapse"),
        (("--rerank", "aqe", "--ray"), "not with --ray"),
    ],
)
def test_rerank_that_cannot_be_is_refused(bitsieve: Any, tmp_path: Path, asked: Any, said: str) -> None:
    (tmp_path / "q.jpg").write_bytes(jpeg(3))
    code, found = bitsieve("search", tmp_path / "q.jpg", *asked)
    assert code == 2
    assert said in found["error"]["message"]


def test_evaluate_reranking_says_gain_cost_and_verdict(bitsieve: Any, tmp_path: Path) -> None:
    page = tmp_path / "rerank.html"
    code, found = bitsieve("evaluate", "reranking", "--rerank", "aqe:n=2", "--rerank", "aqe:n=9", "-o", page)
    assert (code, found["label"], found["n_images"], found["n_queries"]) == (0, "product", 40, 20)
    assert [row["settings"] for row in found["rerankers"]] == ["aqe:n=2", "aqe:n=9"]
    assert found["plain"]["cpu_ms_per_query"] > 0
    assert set(found["rerankers"][0]["map_gain"]) == {"mean", "low", "high", "p_corrected"}
    assert "aqe:n=9" in page.read_text()
