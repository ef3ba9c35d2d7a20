"""Nights that are refused: before any work, or by a gate, and what it takes to have them all the same."""

from pathlib import Path

import onnx
import pytest

from pipeline.errors import ModelError, SourceError, StoreMismatch, UsageError
from pipeline.model.card import to_metadata
from pipeline.model.graph import with_metadata
from pipeline.snapshot.gates import refusing
from pipeline.snapshot.publish import newest_sequence, rollback
from tests.support import models
from tests.support.nights import Collection, live, photo_shop, photos
from tests.support.tiny_catalogs import (
    GARBAGE,
    jpeg,
    write_folder,
)


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    """A folder of 30 photos, not yet indexed."""
    return photo_shop(tmp_path)


def test_reindex_source_that_fails_to_be_the_one_is_refused_unless_replaced(
    shop: Collection, tmp_path: Path
) -> None:
    first = shop.night()
    write_folder(tmp_path / "other", photos(*range(29), 60))
    with pytest.raises(StoreMismatch, match="made from") as caught:
        shop.night(source=str(tmp_path / "other"))
    assert "--replace-source" in caught.value.fix
    assert newest_sequence(shop.store, "main") == 1
    moved = shop.night(source=str(tmp_path / "other"), replace_source=True, max_reembed=1)
    assert moved.manifest.source.uri == str(tmp_path / "other")
    assert set(live(shop, moved)) == {*live(shop, first), "060.jpg"} - {"029.jpg"}


def test_reindex_other_model_is_refused_by_max_reembed(shop: Collection) -> None:
    first = shop.night()
    shop.use(models.projection_model("Gemm", side=4, dim=8))
    with pytest.raises(UsageError, match="30 of 30 known images again") as caught:
        shop.night()
    assert "--max-reembed" in caught.value.fix
    assert shop.pool.n_tasks == []
    night = shop.night(max_reembed=1)
    assert night.manifest.content.model.dim == 8
    assert night.manifest.coverage.embedded == 30
    assert live(shop, night) == live(shop, first)
    assert shop.open(night).vectors.shape == (30, 8)


def test_reindex_many_changed_images_are_refused_by_max_reembed(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {f"{number:03d}.jpg": jpeg(100 + number) for number in range(30)})
    with pytest.raises(UsageError, match="30 of 30 known images again: their versions in the catalog"):
        shop.night()
    assert shop.night(max_reembed=1).manifest.coverage.embedded == 30


def test_reindex_empty_catalog_is_a_source_error(shop: Collection) -> None:
    shop.night()
    for path in shop.source.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="lists no images"):
        shop.night()
    assert newest_sequence(shop.store, "main") == 1


def test_reindex_shrunk_catalog_is_refused_until_overridden_with_a_reason(shop: Collection) -> None:
    shop.night()
    for number in range(10):
        (shop.source / f"{number:03d}.jpg").unlink()
    refused = shop.night()
    assert [gate.name for gate in refusing(list(refused.manifest.gates))] == ["shrink"]
    assert newest_sequence(shop.store, "main") == 1
    night = shop.night(gates={"override": {"shrink": "season ended"}})
    assert night.published
    assert [gate.override for gate in night.manifest.gates if gate.name == "shrink"] == ["season ended"]
    assert night.manifest.coverage.deleted == 10


def test_reindex_unknown_override_is_refused_before_any_work(shop: Collection) -> None:
    with pytest.raises(UsageError, match="'shrnk'"):
        shop.night(gates={"override": {"shrnk": "typo"}})
    assert shop.pool.n_tasks == []


def test_reindex_label_that_no_image_has_is_refused_before_any_work(shop: Collection) -> None:
    with pytest.raises(UsageError, match="'product'") as caught:
        shop.night(label="product")
    assert "none" in caught.value.fix
    assert shop.pool.n_tasks == []


def test_reindex_model_whose_card_lies_about_its_dimension_is_refused(shop: Collection) -> None:
    honest = onnx.load_from_string(models.pool_model())
    honest.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "D"
    shop.use(with_metadata(honest, to_metadata(models.card(dim=5), models.PLAIN)))
    with pytest.raises(ModelError, match="5"):
        shop.night()
    assert newest_sequence(shop.store, "main") == 0


def test_reindex_without_model_uses_the_collections(shop: Collection) -> None:
    with pytest.raises(UsageError, match="no model yet"):
        shop.night(model=None)
    shop.night()
    write_folder(shop.source, photos(70))
    night = shop.night(model=None)
    assert night.published
    assert night.manifest.coverage.embedded == 1


def test_reindex_store_of_a_stranger_is_refused_and_left_alone(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_folder(shop.source, photos(1))
    write_folder(tmp_path / "strange", {"format.json": b'{"name": "my app"}', "data.txt": b"x"})
    with pytest.raises(StoreMismatch, match="bitsieve store"):
        shop.night(store=str(tmp_path / "strange"))
    assert sorted(path.name for path in (tmp_path / "strange").iterdir()) == ["data.txt", "format.json"]


def test_reindex_rolled_back_content_is_refused_until_it_differs(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, photos(90))
    second = shop.night()
    rollback(shop.store, "main", 1, reason="bad", run_id="back", created="2026-01-01T00:00:00+00:00")
    refused = shop.night()
    assert refused.refused
    assert [gate.name for gate in refusing(list(refused.manifest.gates))] == ["not_rolled_back"]
    assert refused.manifest.digest == second.manifest.digest
    write_folder(shop.source, photos(91))
    third = shop.night()
    assert third.published
    assert third.manifest.sequence == 4
    assert second.manifest.digest in third.manifest.refused_digests


def test_reindex_refused_candidate_published_next_night_embeds_nothing_twice(shop: Collection) -> None:
    write_folder(shop.source, {f"bad {n}": GARBAGE + bytes([n]) for n in range(10)})
    refused = shop.night()
    assert refused.refused
    night = shop.night(gates={"override": {"rejected_share": "known"}})
    assert night.published
    assert shop.pool.n_tasks == []
    assert night.manifest.digest == refused.manifest.digest


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"recall_at": 100, "max_candidates": 50}, "50 candidates"),
        ({"recipe": "sign"}, "3 dimensions"),
        ({"recipe": "itq", "bits": 64}, "at most one bit per dimension"),
        ({"bits": 512, "memory_budget": 63}, "63 bytes a vector, less than the 64 of a code"),
        ({"vector_dtype": "int8", "memory_budget": 7}, "less than the 1 of a code and 7 of an int8 vector"),
    ],
)
def test_reindex_impossible_index_settings_are_refused_before_any_work(
    index: dict[str, object], message: str, shop: Collection
) -> None:
    with pytest.raises(UsageError, match=message):
        shop.night(index=index)
    assert shop.pool.n_tasks == []
