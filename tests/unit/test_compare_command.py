"""``bitsieve evaluate compare`` over small collections of two models: verdict, exit code, page, sheet."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from jobs.cli import run
from pipeline.model.file import wrap_model
from tests.support.models import PLAIN, card, graph_bytes, pool_nodes
from tests.support.nights import Collection
from tests.support.tiny_catalogs import write_parquet

N_PRODUCTS, PER_PRODUCT = 30, 3
HOSTILE = "<script>alert(1)</script>"


def red_model() -> bytes:
    """Sees how red a picture is and nothing else: worse than all three colours."""
    nodes = [
        *pool_nodes(target="means"),
        helper.make_node("Mul", ["means", "red"], ["reds"]),
        helper.make_node("Add", ["reds", "blue"], ["embedding"]),
    ]
    weights = {"red": np.array([1, 0, 0], np.float32), "blue": np.array([0, 0, 90], np.float32)}
    return wrap_model(graph_bytes(nodes, weights=weights), card(name="red"), PLAIN)


def picture(product: int, view: int) -> bytes:
    colour_C = np.random.default_rng(product).integers(40, 216, 3)
    noise_HWC = np.random.default_rng(1000 * product + view).integers(-20, 21, (8, 8, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(colour_C + noise_HWC, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def shop(path: Path, *, more: int = 0) -> None:
    numbers = range(N_PRODUCTS * PER_PRODUCT + more)
    names = [f"p{n // PER_PRODUCT:02d}" if n // PER_PRODUCT else HOSTILE for n in numbers]
    columns = {
        "image_id": [f"=i{n:03d}" for n in numbers],
        "image": [picture(n // PER_PRODUCT, n % PER_PRODUCT) for n in numbers],
        "product": names,
        "season": ["summer" if n // PER_PRODUCT % 2 else "winter" for n in numbers],
    }
    write_parquet(path, columns)


def photos(path: Path, *, n: int) -> None:
    """Two more views of each product under the ids of the catalog's first images."""
    columns = {
        "image_id": [f"=i{one:03d}" for one in range(n)],
        "image": [picture(one // 2, 10 + one % 2) for one in range(n)],
        "product": [f"p{one // 2:02d}" if one // 2 else HOSTILE for one in range(n)],
    }
    write_parquet(path, columns)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """All three colours in `main`, one of them in `canary`, which has two images less.

    `asks` and `canary-asks` are photos of the same products, of which the latter has one less.
    """
    collection = Collection(tmp_path_factory.mktemp("compare"))
    shop(collection.source / "shop.parquet", more=2)
    collection.night(label="product")
    asking = collection.folder / "photos"
    asking.mkdir()
    photos(asking / "photos.parquet", n=2 * N_PRODUCTS)
    collection.night(label="product", collection="asks", source=str(asking))
    shop(collection.source / "shop.parquet")
    collection.use(red_model())
    collection.night(label="product", collection="canary")
    photos(asking / "photos.parquet", n=2 * N_PRODUCTS - 1)
    collection.night(label="product", collection="canary-asks", source=str(asking))
    return collection


@pytest.fixture
def compare(made: Collection, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; its exit code, its JSON, and what was wrong."""

    def carry_out(*arguments: object) -> tuple[int, dict[str, Any]]:
        store = ("--store", made.folder / "store", "--json")
        code = run(["evaluate", "compare", *map(str, [*arguments, *store])])
        return code, json.loads(capfd.readouterr().out)

    return carry_out


def test_worse_model_is_refused_and_the_better_one_taken(compare: Any) -> None:
    code, worse = compare("--old", "main", "--new", "canary@1", "--margin", 0.05)
    assert (code, worse["verdict"], worse["passed"]) == (3, "worse", False)
    assert worse["excluded"] == {"only_old": 2, "only_new": 0, "other_bytes": 0, "not_sampled": 0}
    assert (worse["n_images"], worse["n_queries"], worse["n_groups"]) == (90, 90, 30)
    assert {one["value"] for one in worse["slices"]["worse"]} == {"summer", "winter", "3 to 5 images"}
    assert worse["cost"]["images_to_embed"] == 2
    assert worse["cost"]["embed_hours"] > 0
    code, better = compare("--old", "canary", "--new", "main")
    assert (code, better["verdict"]) == (0, "better")
    assert better["metrics"]["map"]["difference"] == -worse["metrics"]["map"]["difference"] > 0.1
    assert better["slices"]["worse"] == []


def test_query_set_asks_both_sides(
    compare: Any, made: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, sheet = tmp_path / "report.html", tmp_path / "sheet"
    asked = ("--old-queries", "asks", "--new-queries", "canary-asks")
    code, found = compare("--new", "canary", *asked, "-o", page, "--sheet", sheet)
    assert (code, found["verdict"], found["mode"]) == (3, "worse", "query_set")
    assert (found["n_images"], found["n_queries"], found["n_groups"], found["n_namesakes"]) == (
        90,
        59,
        30,
        59,
    )
    assert found["asked_by"]["excluded"] == {"only_old": 1, "only_new": 0, "other_bytes": 0, "not_sampled": 0}
    assert found["slices"]["lowest"][0]["value"] == "3 to 5 images"  # of the base
    assert any(one["old_threshold"] for one in found["thresholds"])
    store = ("--store", str(made.folder / "store"), "--json")
    run(["evaluate", "retrieval", "--collection", "canary", "--queries", "canary-asks", *store])
    alone = json.loads(capfd.readouterr().out)
    for name, one in found["metrics"].items():
        assert one["new"] == pytest.approx(alone["metrics"][name]["macro"])
    assert "Each query that asks@1 and canary-asks@1 both have" in page.read_text()
    leads = re.findall(r'src="(data:image[^"]+)" alt="query', (sheet / "sheet.html").read_text())
    assert leads
    assert not any(page.read_text().count(f'src="{one}" alt="old answer') for one in leads)
    code, single = compare("--new", "canary", *asked, "--group", "image_id", "--sample", 20)
    assert single["n_groups"] == single["n_queries"] == 59 - single["asked_by"]["excluded"]["not_sampled"]
    assert 20 <= single["n_queries"] <= 22


def test_itself_is_not_worse(compare: Any) -> None:
    code, found = compare("--new", "main@1", "--label", "product")
    assert (code, found["verdict"], found["identical"]) == (0, "not worse", True)
    assert found["cost"]["images_to_embed"] == 0


def test_model_is_judged_on_a_sample_before_anything_is_paid_for(
    compare: Any, made: Collection, tmp_path: Path
) -> None:
    (tmp_path / "red.onnx").write_bytes(red_model())
    code, found = compare("--model", tmp_path / "red.onnx", "--sample", 1000)
    _, whole = compare("--new", "canary")
    assert (code, found["verdict"], found["new"]) == (3, "worse", {"name": "red.onnx"})
    assert found["excluded"]["gone"] == 2  # the source has lost them since
    assert found["excluded"]["not_sampled"] == 0
    assert found["metrics"] == whole["metrics"]
    assert found["cost"]["images_to_embed"] == 92
    code, some = compare("--model", tmp_path / "red.onnx", "--sample", 40)
    assert 40 <= some["n_images"] + some["excluded"]["gone"] == 92 - some["excluded"]["not_sampled"] <= 42
    assert some["n_groups"] == 13
    assert (code, some["verdict"]) == (3, "inconclusive")  # so few products prove nothing


def test_page_and_sheet(compare: Any, tmp_path: Path) -> None:
    page, sheet = tmp_path / "report.html", tmp_path / "out" / "sheet"
    compare("--new", "canary", "-o", page, "--sheet", sheet, "--seed", 3)
    shown = page.read_text()
    assert HOSTILE not in shown
    assert "Worse where season is summer" in shown
    assert json.loads(page.with_suffix(".json").read_text())["verdict"] == "worse"
    with (sheet / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "out" / "sheet-key.csv").open(newline="") as file:
        key = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [row["number"] for row in key]
    assert all(row["query"].startswith("'=i") and row["better"] == "" for row in rows)
    assert {row["new_side"] for row in key} == {"left", "right"}
    assert sorted(path.name for path in sheet.iterdir()) == ["sheet.csv", "sheet.html"]
    blind = (sheet / "sheet.html").read_text()
    assert "canary" not in blind
    assert HOSTILE not in blind
    assert blind.count("data:image/") > len(rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected one of --new and --model"),
        (("--new", "a", "--model", "b"), "expected one of --new and --model"),
        (("--model", "b"), "its size is not given"),
        (("--new", "main@x"), "'main@x' names no snapshot"),
        (("--new", "main", "--metric", "speed"), "expected one of map"),
        (("--new", "main", "--label", "prodct"), "no attribute 'prodct'"),
        (("--new", "main", "--slice", "colour"), "no attribute 'colour'"),
        (("--new", "canary", "--old-queries", "asks"), "a query set asks both sides"),
        (("--new", "canary", "--new-queries", "canary-asks"), "a query set asks both sides"),
        (("--model", "b", "--old-queries", "asks", "--new-queries", "asks"), "a query set asks both sides"),
        (("--new", "canary", "--old-queries", "asks", "--new-queries", "asks"), "distances mean nothing"),
        (
            ("--new", "canary", "--old-queries", "asks", "--new-queries", "canary"),
            "asks@1 and canary@1 have no image in common",
        ),
    ],
)
def test_bad_usage(compare: Any, arguments: tuple[str, ...], said: str) -> None:
    code, answer = compare(*arguments)
    assert (code, answer["error"]["kind"]) == (2, "usage")
    assert said in answer["error"]["message"]
