"""The independent checker finds nothing in a sound store, and each violation that is planted in one."""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.fingerprint import sealed, unsealed
from pipeline.snapshot.manifest import Content
from tests.support.invariants import differences, folder_state, violations, violations_between
from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

State = dict[str, bytes]
_SETTINGS = {
    "gates": {"max_rejected_share": 1.0, "max_shrink_share": 1.0},
    "index": {"compact_share": 1.0},
    "max_reembed": 1,
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, State]:
    """A store after two nights and after three; with rejects, dead rows, two parts and a candidate."""
    shop = Collection(tmp_path_factory.mktemp("shop"), settings=_SETTINGS)
    write_folder(shop.source, {f"{number}.jpg": jpeg(number) for number in range(9)} | {"bad.jpg": GARBAGE})
    shop.night()
    write_folder(shop.source, {"3.jpg": jpeg(103)})
    shop.night()
    before = folder_state(shop.folder / "store")
    write_folder(shop.source, {"4.jpg": jpeg(104), "new.jpg": jpeg(200)})
    (shop.source / "5.jpg").unlink()
    shop.night()
    write_folder(shop.source, {"late.jpg": jpeg(300)})
    shop.night(gates={"max_rejected_share": 0.0})
    return before, folder_state(shop.folder / "store")


def key_of(state: State, begin: str) -> str:
    """The only object that begins so."""
    (key,) = (key for key in state if key.startswith(begin))
    return key


def first_part(state: State) -> dict[str, Any]:
    """The part of the first night."""
    part: dict[str, Any] = document(state, manifest_key(1))["content"]["parts"][0]
    return part


def manifest_key(sequence: int) -> str:
    return f"collections/main/snapshots/{sequence:020d}.json"


def document(state: State, key: str) -> dict[str, Any]:
    return unsealed(json.loads(state[key]))


def rewrite(state: State, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest and seals it again, with the digest of its content: an honest-looking forgery."""
    changed = document(state, key)
    change(changed)
    changed["digest"] = Content.model_validate(changed["content"]).digest()
    state[key] = sealed(changed)


def replace_file(state: State, file: dict[str, Any], data: bytes) -> dict[str, Any]:
    key = file["key"].replace("-", "-0", 1)
    state[key] = data
    return {"key": key, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def test_sound_store_shows_no_violation(states: tuple[State, State]) -> None:
    before, after = states
    assert len([key for key in after if "/snapshots/" in key]) == 3
    assert any("/candidates/" in key for key in after)
    assert any(key.startswith("deletes/") for key in after)
    assert violations(before) == violations(after) == violations_between(before, after) == []
    assert differences(after, after) == []


def broken_seal(state: State) -> None:
    key = manifest_key(3)
    state[key] = state[key].replace(b'"listed":10', b'"listed":11')


def truncated_manifest(state: State) -> None:
    state[manifest_key(2)] = state[manifest_key(2)][:-9]


def wrong_digest(state: State) -> None:
    state[manifest_key(3)] = sealed(document(state, manifest_key(3)) | {"digest": "0" * 64})


def index_of_other_vectors(state: State) -> None:
    def change(manifest: dict[str, Any]) -> None:
        shard = manifest["content"]["index_shards"][0]
        x_ND = np.load(io.BytesIO(state[shard["vectors"]["key"]]))
        out = io.BytesIO()
        np.save(out, x_ND[::-1])
        shard["vectors"] = replace_file(state, shard["vectors"], out.getvalue())

    rewrite(state, manifest_key(3), change)


def index_of_other_codes(state: State) -> None:
    def change(manifest: dict[str, Any]) -> None:
        shard = manifest["content"]["index_shards"][0]
        data = bytearray(state[shard["codes"]["key"]])
        data[-1] ^= 1
        shard["codes"] = replace_file(state, shard["codes"], bytes(data))

    rewrite(state, manifest_key(3), change)


def part_without_index(state: State) -> None:
    rewrite(state, manifest_key(3), lambda manifest: manifest["content"]["index_shards"].pop())


def gap(state: State) -> None:
    del state[manifest_key(2)]


def wrong_parent(state: State) -> None:
    rewrite(state, manifest_key(3), lambda manifest: manifest.update(parent=1))


def lost_file(state: State) -> None:
    del state[first_part(state)["embeddings"]["key"]]


def flipped_bit(state: State) -> None:
    key = document(state, manifest_key(1))["content"]["index_shards"][0]["codes"]["key"]
    state[key] = bytes([state[key][0] ^ 1]) + state[key][1:]


def lost_model(state: State) -> None:
    del state[key_of(state, "models/")]


def run_twice(state: State) -> None:
    rewrite(state, manifest_key(3), lambda manifest: manifest.update(run_id="run-001"))


def lost_image(state: State) -> None:
    rewrite(state, manifest_key(3), lambda manifest: manifest["coverage"].update(listed=11))


def other_count_of_refusals(state: State) -> None:
    rewrite(state, manifest_key(3), lambda manifest: manifest["content"].update(rejected={"corrupt": 2}))


def image_twice(state: State) -> None:
    """The bitmap of the first part is forgotten, so that the images that were replaced live again."""
    rewrite(state, manifest_key(2), lambda manifest: manifest["content"]["dead_rows"].clear())


def infrastructure_blamed_on_an_image(state: State) -> None:
    key = key_of(state, "rejects/")
    table = pq.read_table(io.BytesIO(state[key]))
    column = table.schema.get_field_index("reason")
    out = io.BytesIO()
    pq.write_table(table.set_column(column, "reason", pa.array(["storage_busy"] * table.num_rows)), out)
    state[key] = out.getvalue()


def candidate_without_its_part(state: State) -> None:
    parts = document(state, key_of(state, "collections/main/candidates/"))["content"]["parts"]
    del state[parts[-1]["embeddings"]["key"]]


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (broken_seal, {"I1"}),
        (truncated_manifest, {"I1"}),
        (wrong_digest, {"I1"}),
        (index_of_other_vectors, {"I1"}),
        (index_of_other_codes, {"I1"}),
        (part_without_index, {"I1"}),
        (gap, {"I2"}),
        (wrong_parent, {"I2"}),
        (lost_file, {"I3", "I10"}),
        (flipped_bit, {"I3"}),
        (lost_model, {"I3"}),
        (run_twice, {"I4"}),
        (lost_image, {"I5"}),
        (other_count_of_refusals, {"I5"}),
        (image_twice, {"I1", "I5"}),
        (infrastructure_blamed_on_an_image, {"I3", "I9"}),
        (candidate_without_its_part, {"I10"}),
    ],
)
def test_planted_violation_in_one_state_is_reported(
    states: tuple[State, State], plant: Callable[[State], None], found: set[str]
) -> None:
    state = dict(states[1])
    plant(state)
    assert {line.split()[0] for line in violations(state)} == found


def lost_commit(state: State) -> None:
    del state[manifest_key(2)]


def zombie_writes_a_manifest(state: State) -> None:
    rewrite(state, manifest_key(1), lambda manifest: manifest.update(created="2030-01-01T00:00:00+00:00"))


def zombie_writes_a_receipt(state: State) -> None:
    key = f"receipts/embed/{first_part(state)['key']}.json"
    state[key] = sealed(document(state, key) | {"facts": {}})


def garbage_collector_deletes_what_is_reached(state: State) -> None:
    del state[first_part(state)["embeddings"]["key"]]


def file_written_again(state: State) -> None:
    state[first_part(state)["embeddings"]["key"]] += b" "


def work_done_again(state: State) -> None:
    key = first_part(state)["embeddings"]["key"]
    state[key.replace("-", "-0", 1)] = state[key]


@pytest.mark.parametrize(
    ("do", "found"),
    [
        (lost_commit, {"I6"}),
        (zombie_writes_a_manifest, {"I8"}),
        (zombie_writes_a_receipt, {"I8"}),
        (garbage_collector_deletes_what_is_reached, {"I10"}),
        (file_written_again, {"I11"}),
        (work_done_again, {"I12"}),
    ],
)
def test_planted_violation_between_two_states_is_reported(
    states: tuple[State, State], do: Callable[[State], None], found: set[str]
) -> None:
    before, state = states[0], dict(states[1])
    do(state)
    assert {line.split()[0] for line in violations_between(before, state)} == found


def test_stores_that_differ_are_reported(states: tuple[State, State]) -> None:
    assert [line.split()[0] for line in differences(*states)] == ["I7"]
