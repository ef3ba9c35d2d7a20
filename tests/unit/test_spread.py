"""The alarm for a dead model: it sees one that makes everything alike, and only that."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from jobs.reindex import Night
from pipeline.fingerprint import sealed, unsealed
from pipeline.model.file import wrap_model
from pipeline.snapshot.gates import refusing
from pipeline.storage import layout
from tests.support.models import PLAIN, card, graph_bytes, pool_nodes
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder


def faint_model(strength: float) -> bytes:
    """A constant, and ``strength`` times the pooled colours: 0 is dead."""
    nodes = [
        *pool_nodes(target="means"),
        helper.make_node("Mul", ["means", "strength"], ["faint"]),
        helper.make_node("Add", ["faint", "constant"], ["embedding"]),
    ]
    weights = {
        "strength": np.array([strength], dtype=np.float32),
        "constant": np.array([1, 2, 3], dtype=np.float32),
    }
    return wrap_model(graph_bytes(nodes, weights=weights), card(), PLAIN)


def folder_of(tmp_path: Path, n_images: int, model: bytes) -> Collection:
    shop = Collection(tmp_path, model=model)
    write_folder(shop.source, {f"{number:03d}.jpg": jpeg(number) for number in range(n_images)})
    return shop


@pytest.mark.parametrize(
    ("strength", "refused"),
    [(0.0, {"variance", "distinct_codes"}), (1e-6, {"variance"}), (1.0, set())],
)
def test_a_model_that_makes_everything_alike_is_refused(
    strength: float, refused: set[str], tmp_path: Path
) -> None:
    night = folder_of(tmp_path, 120, faint_model(strength)).night()
    assert {gate.name for gate in refusing(night.manifest.gates)} >= refused
    assert night.refused == bool(refused)


def test_copies_of_one_picture_and_small_catalogs_are_no_alarm(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "small", 90, faint_model(0.0)).night().published
    copies = Collection(tmp_path / "copies")
    write_folder(copies.source, {f"{number:03d}.jpg": jpeg(number % 3) for number in range(300)})
    assert copies.night().published


def gate_values(night: Night, *names: str) -> dict[str, float]:
    return {gate.name: gate.value for gate in night.manifest.gates if gate.name in names}


def test_a_night_on_which_no_row_moved_keeps_the_figures(tmp_path: Path) -> None:
    shop = folder_of(tmp_path, 120, faint_model(1.0))
    first = shop.night()
    second = shop.night(index={"recall_at": 1})
    kept = ("variance", "distinct_codes")
    assert gate_values(second, *kept) == gate_values(first, *kept)


def test_a_night_of_deletions_only_is_judged_by_what_is_left(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    alike = {f"alike-{number}.jpg": jpeg(1) + bytes([number]) for number in range(120)}
    different = {f"{number:03d}.jpg": jpeg(number) for number in range(200)}
    write_folder(shop.source, alike | different)
    first = shop.night()
    assert first.published
    for name in different:
        (shop.source / name).unlink()
    second = shop.night(gates={"max_shrink_share": 1.0}, index={"compact_share": 1.0})
    assert second.manifest.content.index_shards == first.manifest.content.index_shards
    assert {gate.name for gate in refusing(second.manifest.gates)} == {"variance", "distinct_codes"}


def test_a_norm_that_was_let_through_is_measured_again_not_handed_on_for_ever(tmp_path: Path) -> None:
    shop = folder_of(tmp_path, 5, faint_model(1.0))
    first = shop.night()
    key = layout.snapshot("main", 1)
    document = unsealed(json.loads(shop.store.get(key)))
    for gate in document["gates"]:
        if gate["name"] == "unit_norm":
            gate |= {"passed": False, "value": 0.5, "override": "imported so"}
    shop.store.put(key, sealed(document))
    write_folder(shop.source, {"new.jpg": jpeg(9)})
    second = shop.night()
    assert second.published
    (found,) = gate_values(second, "unit_norm").values()
    assert 0 <= found < 1e-6
    assert second.manifest.content.parts[0] == first.manifest.content.parts[0]
