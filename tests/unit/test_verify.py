"""Whatever is broken in a store, verify finds it, names the object, and says what depends on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli import run
from pipeline.index.encoder import fit_encoder
from pipeline.snapshot.manifest import Content
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import snapshot
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.receipts import upload
from tests.support import damage
from tests.support.index_shards import unit_rows
from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

LISTS_AND_INT8 = {"form": "lists", "lists": 3, "vector_dtype": "int8"}
NO_COMPACTION = {"compact_share": 1, "compact_deltas": 99}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two nights with something of everything: rejects, dead rows, attributes, lists, int8 vectors."""
    settings = {
        "gates": {"max_rejected_share": 1.0},
        "index": LISTS_AND_INT8 | NO_COMPACTION,
        "max_reembed": 1,
    }
    shop = Collection(tmp_path_factory.mktemp("shop"), settings=settings)
    write_folder(shop.source, {f"a/{number:03d}.jpg": jpeg(number) for number in range(12)})
    write_folder(shop.source, {"bad.jpg": GARBAGE})
    shop.night()
    (shop.source / "a/000.jpg").unlink()
    write_folder(shop.source, {"a/001.jpg": jpeg(101), "a/new.jpg": jpeg(50)})
    shop.night()
    return shop


@pytest.fixture
def store(pristine: Collection, tmp_path: Path) -> LocalStore:
    """A copy of it that may be broken; a store can be copied as a whole."""
    shutil.copytree(pristine.folder / "store", tmp_path / "store")
    return LocalStore(tmp_path / "store")


def verify(
    capsys: pytest.CaptureFixture[str], store: LocalStore, *arguments: str, expected: int = 1
) -> dict[str, Any]:
    capsys.readouterr()
    code = run(["verify", "--store", store.uri, "--json", *arguments])
    result = json.loads(capsys.readouterr().out)
    assert code == expected, json.dumps(result, indent=1)
    assert isinstance(result, dict)
    return result


def flaws(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(finding["flaw"], finding["key"]) for finding in result["findings"]}


def content_of(store: LocalStore) -> Content:
    return snapshot(store, "main").content


def test_verify_of_a_sound_store_finds_nothing(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = {item.key: item.etag for item in store.list_objects()}
    result = verify(capsys, store, "--all", "--deep", expected=0)
    assert result["findings"] == []
    assert "error" not in result
    assert (result["snapshots"], result["rows"]) == ([1, 2], 14)
    assert result["sample"]["compared"] == result["sample"]["asked"] == 12
    assert result["sample"]["least_cosine"] > 0.99999
    assert {item.key: item.etag for item in store.list_objects()} == before, "it only reads"
    assert run(["verify", "--store", store.uri]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


KINDS = ("embeddings", "rejects", "deletes", "attributes", "encoder", "index codes", "index vectors",
         "index row_ids", "index offsets", "index order", "index int8", "index scales")  # fmt: skip


def test_verify_finds_every_kind_of_file_flipped_truncated_and_deleted(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    files = damage.files_by_kind(store, content_of(store))
    assert sorted(files) == sorted(KINDS)
    for path in files.values():
        whole = path.read_bytes()
        key = str(path.relative_to(store.uri))
        for break_it, flaw in (
            (damage.flip, "checksum"),
            (damage.truncate, "size"),
            (Path.unlink, "missing"),
        ):
            break_it(path)
            result = verify(capsys, store)
            assert (flaw, key) in flaws(result)
            finding = next(one for one in result["findings"] if one["key"] == key)
            assert "snapshot 2 of main" in finding["needed_by"]
            path.write_bytes(whole)
    assert verify(capsys, store, expected=0)["findings"] == []


def test_verify_says_which_index_shard_a_part_is_in(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    content = content_of(store)
    file = content.parts[0].embeddings
    assert file is not None
    damage.flip(Path(store.uri) / file.key)
    (finding,) = verify(capsys, store, "--all")["findings"]
    shard = next(shard for shard in content.index_shards if content.parts[0].key in shard.parts)
    assert finding["needed_by"] == [
        "snapshot 1 of main", f"index shard {shard.key}", "snapshot 2 of main"
    ]  # fmt: skip


@pytest.mark.parametrize("break_it", [damage.flip, damage.truncate, Path.unlink])
def test_verify_finds_broken_manifests_receipts_and_models(
    store: LocalStore, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], None]
) -> None:
    root = Path(store.uri)
    names = [
        layout.snapshot("main", 1),
        layout.receipt("reduce", content_of(store).index_shards[0].key),
        layout.model(content_of(store).model.id),
    ]
    for key in names:
        whole = (root / key).read_bytes()
        break_it(root / key)
        if key.startswith("models/") and break_it is damage.flip:  # names and licence are in no model id
            (root / key).write_bytes(whole.replace(b"AveragePool", b"AveragePooh"))
        assert key in {found for _, found in flaws(verify(capsys, store))}
        (root / key).write_bytes(whole)


def test_verify_finds_two_files_that_were_swapped(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (Path(store.uri) / shard.vectors.key for shard in content_of(store).index_shards)
    damage.swap(one, other)
    found = {key for _, key in flaws(verify(capsys, store))}
    assert found >= {str(path.relative_to(store.uri)) for path in (one, other)}


def test_verify_finds_a_row_dropped_by_a_careless_writer(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = snapshot(store, "main")
    part = manifest.content.parts[0]
    assert part.embeddings is not None
    shorter = part.model_copy(
        update={"embeddings": damage.without_last_row(store, part.embeddings, part.key)}
    )
    parts = [shorter, *manifest.content.parts[1:]]
    damage.publish_anyway(store, manifest, manifest.content.model_copy(update={"parts": parts}))
    assert ("count", shorter.embeddings.key) in flaws(verify(capsys, store))
    lying = shorter.model_copy(update={"rows": part.rows - 1})
    parts = [lying, *manifest.content.parts[1:]]
    damage.publish_anyway(store, manifest, manifest.content.model_copy(update={"parts": parts}))
    assert {"count", "rows"} <= {flaw for flaw, _ in flaws(verify(capsys, store))}


def test_verify_finds_another_encoder_and_codes_of_another_encoder(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = snapshot(store, "main")
    content = manifest.content
    d, bits = content.model.dim, content.encoder.bits
    stranger = fit_encoder(unit_rows(20, d, seed=9), bits=bits, seed=9, n_lists=3)
    file = upload(store, "encoders", "e" * 64, ".npz", stranger.to_bytes())
    swapped = content.encoder.model_copy(update={"file": file})
    damage.publish_anyway(store, manifest, content.model_copy(update={"encoder": swapped}))
    assert ("encoder", file.key) in flaws(verify(capsys, store))
    claimed = swapped.model_copy(update={"digest": stranger.digest})
    damage.publish_anyway(store, manifest, content.model_copy(update={"encoder": claimed}))
    assert ("encoder", content.index_shards[0].codes.key) in flaws(verify(capsys, store))


def test_verify_finds_an_index_shard_with_other_vectors_than_its_parts(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = snapshot(store, "main")
    first, *others = manifest.content.index_shards
    another = first.model_copy(
        update={"vectors": damage.with_another_vector(store, first.vectors, first.key)}
    )
    content = manifest.content.model_copy(update={"index_shards": [another, *others]})
    damage.publish_anyway(store, manifest, content)
    assert ("rows", first.row_ids.key) in flaws(verify(capsys, store))
    damage.publish_anyway(store, manifest, manifest.content.model_copy(update={"index_shards": [first]}))
    assert {flaw for flaw, _ in flaws(verify(capsys, store))} == {"rows"}


def test_verify_finds_a_gap_a_wrong_parent_and_a_row_alive_twice(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = snapshot(store, "main")
    second = layout.snapshot("main", 2)
    damage.publish_anyway(
        store, manifest, manifest.content.model_copy(update={"dead_rows": [], "live_rows": 14})
    )
    assert ("duplicate_id", second) in flaws(verify(capsys, store))
    damage.publish_anyway(store, manifest.model_copy(update={"parent": 7}), manifest.content)
    assert ("chain", second) in flaws(verify(capsys, store))
    (Path(store.uri) / layout.snapshot("main", 1)).unlink()
    assert ("chain", layout.snapshot("main", 1)) in flaws(verify(capsys, store))


def test_verify_counts_sampled_images_that_changed_or_went_and_finds_another_vector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, {f"{number}.jpg": jpeg(number) for number in range(8)})
    shop.night()
    write_folder(shop.source, {"0.jpg": jpeg(100), "1.jpg": jpeg(101)})
    (shop.source / "2.jpg").unlink()
    sample = verify(capsys, shop.store, expected=0)["sample"]
    assert (sample["asked"], sample["compared"], sample["changed"], sample["gone"]) == (8, 5, 2, 1)
    assert verify(capsys, shop.store, "--sample", "0", expected=0)["sample"] is None
    damage.swap_vectors(shop.store, snapshot(shop.store, "main"), tmp_path / "cache")
    (finding,) = verify(capsys, shop.store)["findings"]
    assert finding["flaw"] == "embedding"
    assert "snapshot 1 of main" in finding["needed_by"]


def test_verify_of_what_is_not_there_is_bad_usage(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "error" in verify(capsys, store, "--snapshot", "9", expected=2)
    assert "error" in verify(capsys, store, "--collection", "other", expected=2)
    assert "error" in verify(capsys, store, "--all", "--snapshot", "1", expected=2)


def answers(shop: Collection) -> list[tuple[str, ...]]:
    """The three nearest of every image, in the order of their ids."""
    opened = OpenSnapshot(store=shop.store, manifest=snapshot(shop.store, "main"), cache=shop.folder / "c")
    by_id = np.argsort(np.array(opened.live["image_id"].to_pylist()))
    return list(opened.searcher.search(opened.vectors[by_id], 3).ids)


def damaged_copy(pristine: Collection, folder: Path) -> Collection:
    """The shop with a store of its own."""
    shutil.copytree(pristine.folder / "store", folder / "store")
    settings = {**pristine.settings, "source": str(pristine.source)}
    return Collection(folder, settings=settings, n_runs=pristine.n_runs)


def test_repair_then_a_night_make_everything_whole_with_the_same_answers(
    pristine: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answers(pristine)
    for kind in KINDS:
        shop = damaged_copy(pristine, tmp_path / kind)
        path = damage.files_by_kind(shop.store, content_of(shop.store))[kind]
        damage.flip(path)
        done = verify(capsys, shop.store, "--repair", "--sample", "0", expected=0)["repair"]
        assert done["hopeless"] == []
        if kind.startswith("index") or kind == "encoder":
            assert done["expired"] == [] or kind == "encoder"
            assert done["images_missing"] == 0
            assert answers(shop) == before, "at once"
        else:
            assert done["published"] == 3
            assert 2 in done["expired"]
        shop.night()
        result = verify(capsys, shop.store, "--all", expected=0)
        assert result["snapshots"], kind
        assert result["expired"] == done["expired"], kind
        assert answers(shop) == before, kind


def test_repair_puts_an_index_shard_back_under_its_name_for_all_snapshots(
    pristine: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = damaged_copy(pristine, tmp_path)
    shard = content_of(shop.store).index_shards[0]
    for file in (shard.codes, shard.vectors):
        (Path(shop.store.uri) / file.key).unlink()
    (Path(shop.store.uri) / layout.receipt("reduce", shard.key)).write_bytes(b"{")
    done = verify(capsys, shop.store, "--repair", expected=0)["repair"]
    assert done["put_back"] == sorted([shard.codes.key, shard.vectors.key])
    assert (done["published"], done["expired"]) == (None, [])
    assert verify(capsys, shop.store, "--all", expected=0)["snapshots"] == [1, 2]
    assert not shop.night().published


def test_repair_of_a_broken_chain_is_left_to_a_copy_of_the_store(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    damage.flip(Path(store.uri) / layout.snapshot("main", 1))
    before = {item.key for item in store.list_objects()}
    for arguments, says in (([], "then verify again"), (["--repair"], "nothing was repaired")):
        found = verify(capsys, store, *arguments)
        assert found["error"]["fix"].startswith("restore")
        assert says in found["error"]["fix"]
        assert "--repair" not in found["error"]["fix"]  # it would only say the same again
        assert ("unreadable", layout.snapshot("main", 1)) in flaws(found)
    assert {item.key for item in store.list_objects()} == before
