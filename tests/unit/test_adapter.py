"""Adapters between models: known rotations come back, useless ones are refused, search takes a named one."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from jobs.cli import run
from pipeline.errors import DataCorrupt, StoreMismatch, UsageError
from pipeline.evaluate.adaptation import Fitted, Pairs, fit_adapter, judge_unmapped
from pipeline.model.adapter import fit_procrustes, fit_ridge
from pipeline.model.adapter_file import named_adapter, read_adapters
from pipeline.model.card import SetApart
from pipeline.model.file import read_model, wrap_model
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from tests.support.index_shards import unit_rows
from tests.support.models import PLAIN, card, graph_bytes, pool_model, pool_nodes
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_parquet

TURN = np.array([[np.cos(0.5), np.sin(0.5), 0], [-np.sin(0.5), np.cos(0.5), 0], [0, 0, 1]])
N_PRODUCTS = 130


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def unit(x_ND: np.ndarray) -> np.ndarray:
    return np.asarray(x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True), dtype=np.float32)


def pairs(new_NS: np.ndarray, old_NT: np.ndarray, code_N: np.ndarray | None) -> Pairs:
    labels = None if code_N is None else [f"p{code}" for code in code_N]
    ids = [f"{row:05d}" for row in range(len(new_NS))]
    return Pairs(ids=ids, new_NS=new_NS, old_NT=old_NT, groups=labels or ids, labels=labels)


def identities(n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Four images of each identity."""
    code_N = np.repeat(np.arange(n), 4)
    noise_ND = np.random.default_rng(5).standard_normal((4 * n, dim))
    return unit(unit_rows(n, dim, 3)[code_N] + 0.1 * noise_ND), code_N


def test_procrustes_finds_a_known_rotation() -> None:
    a_NS = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    half, root = 0.5, np.sqrt(0.75)
    expected = np.array([[root, half], [-half, root]])
    found = fit_procrustes(a_NS, (a_NS @ expected).astype(np.float32), centred=False)
    np.testing.assert_allclose(found.weight_ST, expected, atol=1e-6)


def test_adapter_of_a_model_to_itself_changes_nothing() -> None:
    x_ND = unit_rows(400, 16, 1)
    for found in (
        fit_procrustes(x_ND, x_ND, centred=False),
        fit_procrustes(x_ND, x_ND, centred=True),
        fit_ridge(x_ND, x_ND, 1e-6),
    ):
        np.testing.assert_allclose(found.apply(x_ND), x_ND, atol=1e-6)


def test_ridge_is_least_squares_with_rows_for_the_penalty() -> None:
    a_NS, b_NT = unit_rows(300, 12, 1).astype(np.float64), unit_rows(300, 7, 2).astype(np.float64)
    a, b = a_NS - a_NS.mean(axis=0), b_NT - b_NT.mean(axis=0)
    rows, zeros = np.vstack([a, np.sqrt(0.7) * np.eye(12)]), np.vstack([b, np.zeros((12, 7))])
    expected = unit(a @ np.linalg.lstsq(rows, zeros, rcond=None)[0] + b_NT.mean(axis=0))
    found = fit_ridge(a_NS.astype(np.float32), b_NT.astype(np.float32), 0.7)
    np.testing.assert_allclose(found.apply(a_NS.astype(np.float32)), expected, atol=1e-5)


def test_adapter_between_other_dimensions_keeps_what_the_smaller_can_hold() -> None:
    old_NT, code_N = identities(100, 12)
    new_NS = (old_NT @ rotation(20, 4)[:12]).astype(np.float32)
    fitted = fit_adapter(pairs(new_NS, old_NT, code_N), 0.8, 0)
    assert fitted.accepted
    assert [(row.query, row.base) for row in fitted.matrix] == [
        ("old", "old"),
        ("new", "new"),
        ("adapted", "old"),
    ]
    np.testing.assert_allclose(fitted.map.apply(new_NS), old_NT, atol=1e-4)


def test_rotated_model_is_accepted_and_as_it_is_finds_nothing() -> None:
    old_NT, code_N = identities(150, 16)
    noise_ND = np.random.default_rng(7).standard_normal(old_NT.shape)
    new_NS = unit(old_NT @ rotation(16, 4) + 0.01 * noise_ND)
    fitted = fit_adapter(pairs(new_NS, old_NT, code_N), 0.9, 0)
    old, new, adapted, naive = fitted.matrix
    assert fitted.accepted
    assert (old.recall_at_1.mean, new.recall_at_1.mean) == (1, 1)
    assert old.neighbours_at_10 is not None
    assert old.neighbours_at_10.mean == 1
    assert adapted.recall_at_10.mean == 1
    assert naive.recall_at_10.mean < 0.2
    assert old.success_at_1 is not None
    assert adapted.success_at_1 is not None
    assert adapted.success_at_1.mean > 0.9 * old.success_at_1.mean
    assert fitted.n_fitted + fitted.n_judged == len(old_NT)


def test_ridge_is_chosen_where_no_rotation_fits() -> None:
    old_NT, _ = identities(200, 8)
    stretched = unit(old_NT * np.array([4, 4, 2, 2, 1, 1, 0.5, 0.5]) @ rotation(8, 2))
    fitted = fit_adapter(pairs(stretched, old_NT, None), 0.5, 0)
    assert fitted.method == "ridge"
    assert fitted.compatible is None
    assert fitted.matrix[0].success_at_1 is None


def test_model_that_has_nothing_to_do_with_the_old_one_is_refused() -> None:
    fitted = fit_adapter(pairs(unit_rows(600, 16, 1), unit_rows(600, 16, 2), None), 0.9, 0)
    assert not fitted.accepted
    assert fitted.matrix[2].recall_at_10.mean < 0.3


def judged(new_NS: np.ndarray, old_NT: np.ndarray, code_N: np.ndarray) -> Fitted:
    return judge_unmapped(pairs(new_NS, old_NT, code_N), np.flatnonzero(code_N < 60), 0.9, 0)


def test_model_that_finds_more_in_the_old_space_needs_no_map_and_one_that_finds_less_is_refused() -> None:
    clear_ND, code_N = identities(100, 8)
    noise_ND = np.random.default_rng(9).standard_normal((2, *clear_ND.shape))
    old_NT = unit(clear_ND + 0.35 * noise_ND[0])
    better = judged(unit(clear_ND + 0.1 * noise_ND[1]), old_NT, code_N)
    assert [(row.query, row.base) for row in better.matrix] == [
        ("old", "old"),
        ("new", "new"),
        ("new", "old"),
    ]
    assert (better.accepted, better.compatible, better.method, better.n_judged) == (True, True, "none", 240)
    np.testing.assert_allclose(better.map.apply(old_NT), old_NT, atol=1e-6)
    worse = judged(unit(clear_ND + 0.6 * noise_ND[1]), old_NT, code_N)
    assert (worse.accepted, worse.compatible) == (False, False)
    turned = judged(unit(clear_ND @ rotation(8, 4)), old_NT, code_N)
    assert not turned.accepted
    with pytest.raises(UsageError, match="the new model has 8 dimensions, the old one 7"):
        judged(clear_ND, unit(clear_ND[:, :7]), code_N)
    with pytest.raises(UsageError, match="0 images of 0 classes can judge"):
        judge_unmapped(pairs(old_NT, old_NT, None), np.arange(30), 0.9, 0)


def test_few_classes_that_all_agree_prove_nothing() -> None:
    old_NT, code_N = identities(30, 8)
    with pytest.raises(UsageError, match="76 images of 19 classes can judge"):
        judge_unmapped(pairs(old_NT, old_NT, code_N), np.flatnonzero(code_N < 19), 0.9, 0)
    few, enough = (
        judge_unmapped(pairs(old_NT, old_NT, code_N), np.arange(len(code_N)), share, 0)
        for share in (0.9, 0.8)
    )
    assert "+0.0000 (-0.1157 to +0.1157)" in few.verdict
    assert (few.accepted, enough.accepted) == (False, True)


def test_images_that_are_known_by_heart_do_not_judge() -> None:
    """Vectors of the new model are noise but for the identity: who sees a twin of a judged image knows it."""
    code_N = np.repeat(np.arange(60), 10)
    one_hot, old_NT = np.eye(60, dtype=np.float32)[code_N], unit_rows(60, 16, 8)[code_N]
    fitted = fit_adapter(pairs(one_hot, old_NT, code_N), 0.9, 0)
    assert not fitted.accepted


def test_too_few_images_are_refused() -> None:
    x_ND = unit_rows(50, 8, 1)
    with pytest.raises(UsageError, match="50 images are embedded by both models"):
        fit_adapter(pairs(x_ND, x_ND, None), 0.9, 0)


def test_vectors_of_other_dimensions_are_refused() -> None:
    x_ND = unit_rows(50, 8, 1)
    with pytest.raises(UsageError, match=r"takes vectors \[N, 8\], got \[3, 5\]"):
        fit_procrustes(x_ND, x_ND, centred=False).apply(unit_rows(3, 5, 1))


def turned_model(turn: np.ndarray = TURN, **facts: Any) -> bytes:
    """The plain model, its vectors turned: what a second training may well give; ``facts`` for its card."""
    nodes = [*pool_nodes(target="flat"), helper.make_node("MatMul", ["flat", "turn"], ["embedding"])]
    weights = {"turn": turn.astype(np.float32)}
    own = card(name="turned").model_copy(update=facts)
    return wrap_model(graph_bytes(nodes, weights=weights), own, PLAIN)


def tint(number: int) -> str:
    """A class that the plain model can know: where the mean colour points to, roughly."""
    with Image.open(io.BytesIO(jpeg(number))) as image:
        colour_C = np.asarray(image, dtype=np.float64).mean(axis=(0, 1))
    return str(np.round(10 * colour_C / np.linalg.norm(colour_C)).astype(int).tolist())


class Shop:
    """Two photos of each product, in `main` by the plain model and in `canary` by the turned one."""

    def __init__(self, folder: Path) -> None:
        self.made = Collection(folder)
        self.store = str(folder / "store")
        numbers = range(2 * N_PRODUCTS)
        columns = {
            "image_id": [f"i{n:03d}" for n in numbers],
            "image": [jpeg(n) for n in numbers],
            "product": [f"p{n // 2}" for n in numbers],
            "tint": [tint(n) for n in numbers],
        }
        write_parquet(self.made.source / "shop.parquet", columns)
        self.made.night(label="product")
        self.embed("canary", turned_model())
        (folder / "canary.onnx").write_bytes(turned_model())
        self.new = str(folder / "canary.onnx")
        self.query = folder / "q.jpg"
        self.query.write_bytes(jpeg(3))

    def embed(self, collection: str, model: bytes) -> None:
        self.made.use(model)
        self.made.night(collection=collection)

    def fit(self, *more: str, new: str = "canary") -> int:
        return run(["adapter", "fit", "--store", self.store, "--from", new, "--to", "main", "--json", *more])

    def search(self, query: object, *more: object) -> int:
        asked = ["search", str(query), "--store", self.store, "-k", "1", "--exact", "--json"]
        return run([*asked, *map(str, more)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("adapter"))


def said(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capfd.readouterr()[0])
    return found


def test_new_queries_search_an_old_snapshot_through_a_named_adapter_only(
    shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shop.search(shop.query, "--model", shop.new) == 2
    assert "bitsieve adapter fit" in said(capfd)["error"]["fix"]

    assert shop.fit("--least-share", "0.8") == 0
    adapter = said(capfd)["adapter"]
    assert shop.fit("--least-share", "0.8") == 0  # the same again: nothing new
    assert said(capfd)["adapter"] == adapter

    assert shop.search(shop.query, "--model", shop.new) == 2
    assert f"--adapter {adapter[:12]}" in said(capfd)["error"]["fix"]
    for flags in (["--model", shop.new], []):
        assert shop.search(shop.query, "--adapter", adapter[:12], *flags) == 0
        found = said(capfd)
        assert found["adapter"] == adapter[:12]
        assert found["results"][0]["matches"][0]["id"] == "i003"
        assert found["results"][0]["matches"][0]["distance"] < 1e-6

    vectors = tmp_path / "new.parquet"
    export = ["export", "--store", shop.store, "--collection", "canary", "-o", str(vectors), "--json"]
    assert run(export) == 0
    capfd.readouterr()
    assert shop.search(vectors) == 2
    assert f"--adapter {adapter[:12]}" in said(capfd)["error"]["fix"]
    assert shop.search(vectors, "--adapter", adapter) == 0
    results = said(capfd)["results"]
    assert all(one["matches"][0]["distance"] < 1e-6 for one in results)

    again = ["adapter", "fit", "--store", shop.store, "--from", str(vectors), "--to", "main", "--json"]
    assert run([*again, "--least-share", "0.8"]) == 0
    assert said(capfd)["matrix"][2]["recall_at_10"]["mean"] == 1


def test_model_that_was_trained_beside_the_old_one_searches_its_snapshot_once_it_is_judged(
    shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unmapped = ("--method", "none", "--label", "tint", "--least-share", "0.6")  # of some thirty classes
    facts: dict[str, Any] = {
        "compatible_with": (read_model(pool_model(), "plain").model_id,),
        "set_apart": SetApart(label="tint", seed=0, up_to="d" * 64),  # most of the classes
    }
    assert shop.fit(*unmapped) == 2
    assert "was not trained to be comparable" in said(capfd)["error"]["message"]

    shop.embed("claims", turned_model(**facts))
    assert shop.fit(*unmapped, new="claims") == 3
    assert said(capfd)["error"]["kind"] == "gate"
    assert shop.fit("--method", "none", new="claims") == 2
    assert "trained by the label 'tint', this would judge it by 'product'" in said(capfd)["error"]["message"]

    like = turned_model(np.eye(3), **facts)
    shop.embed("like", like)
    file = tmp_path / "like.onnx"
    file.write_bytes(like)
    assert shop.search(shop.query, "--model", file) == 2
    assert "adapter fit" in said(capfd)["error"]["fix"]
    assert shop.fit(*unmapped, new="like") == 0
    made = said(capfd)
    assert (made["method"], made["n_fitted"]) == ("none", 0)
    assert 20 < made["n_judged"] < made["n_common"]
    assert shop.search(shop.query, "--model", file, "--adapter", made["adapter"]) == 0
    assert said(capfd)["results"][0]["matches"][0]["id"] == "i003"


def test_refused_adapter_is_listed_and_not_searched_with(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shop.fit("--least-share", "1") == 3
    assert said(capfd)["error"]["kind"] == "gate"
    assert run(["adapter", "list", "--store", shop.store, "--json"]) == 0
    refused = next(one for one in said(capfd)["adapters"] if not one["accepted"] and one["method"] != "none")
    assert shop.search(shop.query, "--adapter", refused["adapter"]) == 2
    assert "was refused: recall@10" in said(capfd)["error"]["message"]
    assert run(["adapter", "list", "--store", shop.store]) == 0
    assert "REFUSED" in capfd.readouterr()[0]


def test_adapter_leads_to_its_own_model_only(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    assert shop.fit("--least-share", "0.7") == 0
    adapter = said(capfd)["adapter"]
    assert shop.search(shop.query, "--collection", "canary", "--adapter", adapter) == 2
    assert "leads to model" in said(capfd)["error"]["message"]
    assert run(["adapter", "fit", "--store", shop.store, "--from", "main", "--to", "main", "--json"]) == 2
    assert "needs no adapter" in said(capfd)["error"]["message"]


def test_adapter_without_its_model_asks_for_the_file(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    assert shop.fit("--least-share", "0.75") == 0
    made = said(capfd)
    store = LocalStore(shop.store)
    key = layout.model(made["source"]["model_id"])
    data = store.get(key)
    store.delete(key)
    try:
        assert shop.search(shop.query, "--adapter", made["adapter"]) == 2
        assert "--model" in said(capfd)["error"]["fix"]
        assert shop.search(shop.query, "--adapter", made["adapter"], "--model", shop.new) == 0
    finally:
        store.put(key, data)


def test_damaged_adapter_is_found(shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert shop.fit("--least-share", "0.6") == 0
    key = said(capfd)["key"]
    data = LocalStore(shop.store).get(key)
    store = LocalStore(tmp_path)
    store.put(key, data)
    (adapter,) = read_adapters(store)
    verify = ["verify", "--store", shop.store, "--sample", "0", "--json"]
    assert run(verify) == 0
    capfd.readouterr()
    broken = layout.adapter("0" * 64)
    LocalStore(shop.store).put(broken, data)
    try:
        assert run(verify) == 1
        (finding,) = said(capfd)["findings"]
        assert (finding["key"], finding["flaw"]) == (broken, "unreadable")
    finally:
        LocalStore(shop.store).delete(broken)
    with pytest.raises(StoreMismatch, match="0 adapters of the store begin with 'zz'"):
        named_adapter([adapter], "zz")
    store.put(key, data.replace(b'"accepted":true', b'"accepted":null'))
    with pytest.raises(DataCorrupt, match="no sound adapter"):
        read_adapters(store)
    store.put(key.replace(adapter.digest, "0" * 64), data)
    store.put(key, data)
    with pytest.raises(DataCorrupt, match="holds another adapter"):
        read_adapters(store)
