"""The evaluations as commands: what they read, what they refuse, and the files they leave."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import run
from jobs.evaluate.subject import labelled_vectors, searched_vectors
from jobs.place import find_place
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder

Evaluate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Four folders of five images with three products each, from a listing with attributes."""
    shop = Collection(tmp_path_factory.mktemp("shop"))
    keys = [f"{folder}/{number}.jpg" for folder in "abcd" for number in range(5)]
    write_folder(shop.source, {key: jpeg(seed) for seed, key in enumerate(keys)})
    rows = [
        f"{key},r1,{key[0]},{key[0]}{number % 3},{number * 10}" for key in keys for number in [int(key[2])]
    ]
    listing = shop.folder / "list.csv"
    listing.write_text("\n".join(["key,version,category,group_id,price", *rows]) + "\n")
    shop.night(source=str(listing), read={"format": "listing", "root": str(shop.source)})
    return shop


@pytest.fixture
def evaluate(shop: Collection, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs an evaluation; its exit code and its JSON."""

    def carry_out(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = run(["evaluate", *arguments, "--store", str(shop.folder / "store"), "--json"])
        return code, json.loads(capfd.readouterr().out)

    return carry_out


def test_products_and_slices_of_a_catalog_with_groups(evaluate: Evaluate, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "report.html"
    more = ("--collapse", "group", "--slice", "price", "--slice", "category", "-k", "2,3", "-o", str(page))
    code, found = evaluate("retrieval", "--label", "category", *more)
    assert code == 0
    assert (found["collapse"], found["resampled_by"], found["n_resampled"]) == ("group_id", "group_id", 12)
    assert {"success@2", "recall@3", "ndcg@3", "map@2"} <= set(found["metrics"])
    assert {one["value"] for one in found["slices"] if one["column"] == "category"} == set("abcd")
    assert sum(one["n_queries"] for one in found["slices"] if one["column"] == "price") == 20
    assert json.loads(page.with_suffix(".json").read_text()) == found
    html = page.read_text()
    assert "By price" in html
    assert "each group_id drawn whole" in html
    assert html.count("<img ") > 20


def test_judged_queries_of_the_catalog_itself(evaluate: Evaluate, tmp_path: Path) -> None:
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("a/0.jpg\ta/1.jpg\t2\na/0.jpg\tb/0.jpg\t-1\na/0.jpg\tgone.jpg\t1\nnobody\ta/0.jpg\t1\n")
    code, found = evaluate("retrieval", "--qrels", str(qrels), "-o", str(tmp_path / "report.html"))
    assert code == 0
    assert found["judged"]
    assert (found["n_queries"], found["n_unknown_queries"], found["n_unknown_images"]) == (1, 1, 1)
    assert found["unjudged@10"]["mean"] >= 0.9
    page = (tmp_path / "report.html").read_text()
    assert "count as wrong" in page
    assert "Right means: graded above 0 by somebody." in page
    assert "Right means: same" not in page


def test_a_sample_with_junk_is_counted(evaluate: Evaluate, tmp_path: Path) -> None:
    junk = tmp_path / "junk.txt"
    junk.write_text("a/0.jpg\nnever/there.jpg\n")
    code, found = evaluate(
        "retrieval", "--label", "category", "--junk", str(junk), "--sample", "7", "--seed", "3"
    )
    assert code == 0
    assert (found["n_queries"], found["n_not_drawn"], found["n_junk"], found["seed"]) == (7, 12, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "nothing"), "no attribute 'nothing'"),
        (("--label", "category", "--collapse", "nothing"), "no attribute 'nothing'"),
        (("--label", "category", "--slice", "nothing"), "no attribute 'nothing'"),
        (("--label", "category", "-k", "20"), "1 to 19 others"),
        (("--label", "category", "-k", "ten"), "-k takes whole numbers"),
        (("--label", "category", "--workers", "2"), "there are none"),
        (("--label", "category", "--queries", "main@x"), "names no snapshot"),
        (("--label", "category", "--qrels", "nowhere.tsv"), "cannot read nowhere.tsv"),
        (("--label", "category", "-o", "report.json"), "to be an HTML page"),
        (
            (
                "--label",
                "version",
            ),
            "no attribute 'version'",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(
    evaluate: Evaluate, arguments: tuple[str, ...], message: str
) -> None:
    code, found = evaluate("retrieval", *arguments)
    assert code == 2
    assert message in found["error"]["message"]


def test_searched_vectors_are_those_of_the_snapshot_in_the_order_of_ids(shop: Collection) -> None:
    snapshot = find_place(str(shop.folder / "store"), None, None).snapshot(None)
    before = set(snapshot.cache.iterdir()) if snapshot.cache.exists() else set()
    searched = searched_vectors(snapshot, "category", "group_id")
    plain = labelled_vectors(snapshot, "category", "group_id")
    order = sorted(range(len(plain.ids)), key=plain.ids.__getitem__)
    assert list(searched.ids) == sorted(plain.ids)
    assert (searched.x_ND == plain.x_ND[order]).all()
    assert searched.labels == [plain.labels[row] for row in order]
    assert searched.groups == [(plain.groups or [])[row] for row in order]
    assert set(snapshot.cache.iterdir()) == before  # the file has no name
    assert not searched.x_ND.flags.writeable


def test_another_collection_asks(evaluate: Evaluate) -> None:
    code, found = evaluate("retrieval", "--label", "category", "--queries", "main@1", "--sample", "4")
    assert code == 0
    assert (found["mode"], found["n_queries"], found["n_namesakes"]) == ("query_set", 4, 0)


def test_other_pictures_under_the_same_names_ask(
    shop: Collection, evaluate: Evaluate, tmp_path: Path
) -> None:
    """Photos of users are numbered as those of the catalog are: each asks all, and is shown as it is."""
    photos = tmp_path / "photos"
    write_folder(
        photos, {f"{folder}/{number}.jpg": jpeg(99 + number) for folder in "ab" for number in (0, 1)}
    )
    shop.night(source=str(photos), collection="photos", label="@folder")
    shop.night(source=str(shop.source), collection="plain", label="@folder")
    page = tmp_path / "report.html"
    code, found = evaluate("retrieval", "--collection", "plain", "--queries", "photos", "-o", str(page))
    assert code == 0
    assert (found["n_queries"], found["n_namesakes"]) == (4, 4)
    assert {query["n_relevant"] for query in found["gallery"]} == {5}
    html = page.read_text()
    shown = set(re.findall(r'src="(data:image[^"]+)" alt="Query', html))
    assert len(shown) == 2  # of each number one picture, and none of the catalog's
    assert not any(html.count(f'src="{one}"') > html.count(f'src="{one}" alt="Query') for one in shown)
    assert "4 queries have the id of another picture" in html


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("enrolment", "--label", "group_id", "--false-alarms", "0.5"), "From one image each"),
        (("verification", "--label", "category", "--far", "0.1"), "VAL at false accept rates"),
        (
            ("verification", "--label", "category", "--video", "group_id", "--few-different"),
            "first frames of two videos",
        ),
        (("index", "--queries", "10"), "Search is exact"),
    ],
)
def test_every_evaluation_leaves_a_page_and_its_json(
    evaluate: Evaluate, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    page = tmp_path / "report.html"
    code, found = evaluate(*arguments, "-o", str(page))
    assert code == 0
    assert words in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text()) == found
