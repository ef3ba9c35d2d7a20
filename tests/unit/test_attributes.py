"""The attributes table: typed columns, small layers, and always the latest value of every image."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.snapshot.attributes import MAX_LAYERS, add_layer, attributes_table, read_attributes
from pipeline.snapshot.manifest import AttributesRef
from pipeline.storage.local import LocalStore

Rows = Mapping[str, Mapping[str, object]]


def table_of(rows: Rows) -> pa.Table:
    builder = ListingBuilder()
    for image_id, fields in rows.items():
        builder.add(
            ListedImage(
                image_id=image_id, version="v", size_bytes=1, locator=f"at {image_id}", attributes=fields
            )
        )
    return attributes_table(builder.table())


def values_of(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Id -> attributes that are there."""
    found = {}
    for row in table.to_pylist():
        image_id = row.pop("image_id")
        assert row.pop("locator") == f"at {image_id}"
        found[image_id] = {name: value for name, value in row.items() if value is not None}
    assert len(found) == table.num_rows
    return found


class Nights:
    """Layers in a store, night by night."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder)
        self.cache = folder / "cache"
        self.layers: list[AttributesRef] = []

    def add(self, rows: Rows) -> Sequence[AttributesRef]:
        self.layers = add_layer(self.store, self.layers, table_of(rows), self.cache)
        return self.layers

    def read(self) -> pa.Table:
        return read_attributes(self.store, self.layers, self.cache)


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2, None], pa.int64(), [1, 2, None]),
        ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
        ([True, False, None], pa.bool_(), [True, False, None]),
        (["a", "", None], pa.string(), ["a", "", None]),
        (["a", 1, True], pa.string(), ["a", "1", "true"]),
        ([True, 1, 1.5], pa.string(), ["true", "1", "1.5"]),
        ([2**63 - 1, -(2**63) + 1, 0], pa.int64(), [2**63 - 1, -(2**63) + 1, 0]),
        ([2**63, 1, None], pa.string(), [str(2**63), "1", None]),
        ([10**400, 1.5, None], pa.string(), [str(10**400), "1.5", None]),
    ],
)
def test_attributes_column_has_the_type_of_its_values(
    values: list[object], kind: pa.DataType, stored: list[object]
) -> None:
    rows: Rows = {str(n): {} if value is None else {"x": value} for n, value in enumerate(values)}
    table = table_of(rows)
    assert table.schema.field("x").type == kind
    assert table["x"].to_pylist() == stored


def test_attributes_nested_infinite_and_reserved_fields_are_left_out() -> None:
    fields = {
        "image_id": "other",
        "locator": "other",
        "tags": [1],
        "of": {"a": 1},
        "nan": float("nan"),
        "ok": 1,
    }
    table = table_of({"a": fields})
    assert table.schema.names == ["image_id", "locator", "ok"]
    assert table.to_pylist() == [{"image_id": "a", "locator": "at a", "ok": 1}]


def test_attributes_of_an_empty_listing_have_their_keys(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.add({})
    assert nights.read().schema.names == ["image_id", "locator"]
    nights.add({"a": {"x": 1}})
    assert values_of(nights.read()) == {"a": {"x": 1}}


def test_attributes_second_night_writes_only_what_differs(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    first = nights.add({f"{n}": {"price": n} for n in range(50)})
    assert [layer.rows for layer in first] == [50]
    assert nights.add({f"{n}": {"price": n} for n in range(50)}) == first
    second = nights.add({f"{n}": {"price": 99 if n == 7 else n} for n in range(51)})
    assert [layer.rows for layer in second] == [50, 2]
    assert values_of(nights.read()) == {f"{n}": {"price": 99 if n == 7 else n} for n in range(51)}


def test_attributes_lost_by_one_image_or_by_all_are_gone(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.add({"a": {"x": 1, "y": 2}, "b": {"x": 3}})
    nights.add({"a": {"y": 2}, "b": {"x": 3}})
    assert values_of(nights.read()) == {"a": {"y": 2}, "b": {"x": 3}}
    nights.add({"a": {"y": 2}, "b": {}})
    assert values_of(nights.read()) == {"a": {"y": 2}, "b": {}}
    assert len(nights.add({"a": {"y": 2}, "b": {}})) == 3


def test_attributes_moved_image_has_its_new_locator(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.add({"a": {"x": 1}})
    moved = table_of({"a": {"x": 1}}).set_column(1, "locator", pa.array(["elsewhere"]))
    layers = add_layer(nights.store, nights.layers, moved, nights.cache)
    assert read_attributes(nights.store, layers, nights.cache)["locator"].to_pylist() == ["elsewhere"]


def test_attributes_column_that_changes_type_keeps_every_value(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.add({"a": {"x": 2**53 + 1}, "b": {"x": 2}, "c": {"x": True}, "d": {"y": 2**60 + 1}})
    nights.add({"a": {"x": 1.5}, "b": {"x": 2}, "c": {"x": 0.5}, "d": {"y": 2.5}, "e": {"y": 3}})
    found = values_of(nights.read())
    assert {name: {k: float(v) for k, v in fields.items()} for name, fields in found.items()} == {
        "a": {"x": 1.5},
        "b": {"x": 2},
        "c": {"x": 0.5},
        "d": {"y": 2.5},
        "e": {"y": 3},
    }


def test_attributes_more_than_eight_layers_become_one(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    counts = [len(nights.add({"a": {"x": night}, "b": {"x": 0}})) for night in range(12)]
    assert counts == [*range(1, MAX_LAYERS + 1), 1, 2, 3, 4]
    assert values_of(nights.read()) == {"a": {"x": 11}, "b": {"x": 0}}


def test_attributes_same_rows_from_two_runs_are_one_file(tmp_path: Path) -> None:
    one, other = Nights(tmp_path), Nights(tmp_path)
    assert one.add({"a": {"x": 1}}) == other.add({"a": {"x": 1}})
    assert len(list(one.store.list_objects("attributes/"))) == 1


scalars = st.one_of(
    st.integers(-(2**70), 2**70), st.booleans(), st.sampled_from(["", "a", "1", "true"]), st.just(0.5)
)
catalogs = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(st.sampled_from("xyz"), scalars, max_size=3), max_size=4
)


@settings(max_examples=15, deadline=None)
@given(st.lists(catalogs, min_size=1, max_size=12))
def test_attributes_after_any_nights_are_the_last_listing(
    tmp_path_factory: pytest.TempPathFactory, listings: list[Rows]
) -> None:
    """As text, since a column that was ever mixed is text from then on."""
    nights = Nights(tmp_path_factory.mktemp("nights"))
    for rows in listings:
        nights.add(rows)
        found = values_of(nights.read())
        for image_id, fields in rows.items():
            assert _texts(found[image_id]) == _texts(fields)
        again = len(nights.layers)
        nights.add(rows)
        assert len(nights.layers) in (again, again + 1)  # a column that became text may settle once more
        settled = nights.layers
        assert nights.add(rows) == settled


def _texts(fields: Mapping[str, object]) -> dict[str, object]:
    """Values as text, numbers as numbers: ``1``, ``1.0`` and ``"1"`` are one value here."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> object:
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return float(text)
    except ValueError:
        return text
