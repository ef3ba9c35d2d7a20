"""The catalog: names turn back, changes are what a plain model says, shards hold every row exactly once."""

import pickle
import random
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.change import diff
from pipeline.catalog.ids import original, printable, sample_name
from pipeline.catalog.plan import plan_shards
from pipeline.catalog.table import LISTING_SCHEMA, Catalog, ListedImage, ListingBuilder, refuse_duplicates
from pipeline.values import RejectReason
from tests.support.tiny_catalogs import listing

names = st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
awkward = st.text(alphabet=["\\", "x", "e", "9", "\udce9", "/", ".", "\u00e9"], max_size=12)


@given(names | awkward)
def test_printable_name_is_text_and_turns_back(name: str) -> None:
    text = printable(name)
    assert text.encode("utf-8").decode("utf-8") == text
    assert original(text) == name


@given(names | awkward, names | awkward)
def test_printable_of_different_names_differs(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@given(names)
def test_sample_name_and_extension_hold_the_whole_member_name(member: str) -> None:
    name, extension = sample_name(member)
    assert name.count("/") == member.count("/")
    assert "." not in name.rpartition("/")[2]
    assert member.lower() in {name.lower() + "." + extension, name.lower()}


ids = st.sampled_from([f"{letter}{number}" for letter in "ab\u00e9" for number in range(4)])
versions = st.sampled_from(["v1", "v2", "v3"])


@given(st.dictionaries(ids, versions), st.lists(st.tuples(ids, versions)), st.lists(st.tuples(ids, versions)))
def test_diff_of_random_catalogs_is_the_plain_models(
    live: dict[str, str], listed: list[tuple[str, str]], refused: list[tuple[str, str]]
) -> None:
    catalog = Catalog(table=refuse_duplicates(listing(listed)), format="prefix", skipped={})
    change = diff(catalog, _table(list(live.items())), _table(refused))

    first: dict[str, str] = {}
    for image_id, version in listed:
        first.setdefault(image_id, version)
    kept = {i for i, v in live.items() if first.get(i) == v}
    again = [(i, v) for i, v in first.items() if i not in kept and (i, v) in refused]
    fresh = [(i, v) for i, v in first.items() if i not in kept and (i, v) not in refused]
    assert catalog.n_listed == len(listed)
    assert catalog.refused().num_rows == len(listed) - len(first)
    assert _pairs(change.fresh) == fresh
    assert _pairs(change.refused_again) == again
    assert [i for i, mark in zip(live, change.kept, strict=True) if mark] == [i for i in live if i in kept]
    assert [i for i, mark in zip(live, change.gone, strict=True) if mark] == [
        i for i in live if i not in first
    ]
    changed = [i for i, v in live.items() if i in first and first[i] != v]
    assert [i for i, mark in zip(live, change.changed, strict=True) if mark] == changed


@given(st.lists(st.tuples(ids, st.booleans())))
def test_refuse_duplicates_keeps_the_first_usable_row_of_each_id(rows: list[tuple[str, bool]]) -> None:
    builder = ListingBuilder()
    for number, (image_id, usable) in enumerate(rows):
        reject = None if usable else RejectReason.NOT_REGULAR
        builder.add(
            ListedImage(
                image_id=image_id,
                version=str(number),
                size_bytes=1,
                locator=image_id,
                reject=reject,
                detail="d",
            )
        )
    table = refuse_duplicates(pa.concat_tables([builder.table().slice(0, 3), builder.table().slice(3)]))
    assert table.schema == LISTING_SCHEMA
    seen: set[str] = set()
    for (image_id, usable), row in zip(rows, table.to_pylist(), strict=True):
        if not usable:
            assert (row["reject"], row["detail"]) == ("not_regular", "d")
        else:
            assert row["reject"] == ("duplicate_id" if image_id in seen else None)
            seen.add(image_id)


containers = st.lists(
    st.tuples(st.sampled_from(["", "a.tar", "b.tar", "c.tar"]), st.integers(1, 30)), max_size=8
)


@given(containers, st.integers(1, 25))
def test_plan_shards_hold_every_row_once_in_order(runs: list[tuple[str, int]], max_images: int) -> None:
    rows = pa.concat_tables(
        [LISTING_SCHEMA.empty_table()]
        + [
            listing([(f"{number}/{row}", "v") for row in range(count)], container=container)
            for number, (container, count) in enumerate(runs)
        ]
    )
    shards = plan_shards(rows, max_images)
    assert [pair for shard in shards for pair in _pairs(shard.table)] == _pairs(rows)
    assert all(1 <= shard.n_images <= max_images for shard in shards)
    assert len({shard.digest for shard in shards}) == len(shards)
    assert [shard.digest for shard in plan_shards(rows, max_images)] == [shard.digest for shard in shards]


def test_shard_travels_to_its_worker_without_the_rows_of_other_shards() -> None:
    rows = listing([(f"{number:06d}", "v") for number in range(20_000)], container="a.tar")
    shard = replace(plan_shards(rows, 100)[7], redo=2)
    sent = pickle.dumps(shard)
    assert len(sent) < 300 * shard.n_images
    come = pickle.loads(sent)
    assert come.table.equals(shard.table)
    assert (come.digest, come.redo, come.hints) == (shard.digest, 2, None)


def test_plan_shards_digest_sees_ids_and_versions_not_where_they_lie() -> None:
    def digest(*rows: tuple[str, str], container: str = "") -> str:
        return plan_shards(listing(rows, container=container))[0].digest

    base = digest(("a", "1"), ("b", "2"))
    assert digest(("a", "1"), ("b", "2"), container="x.tar") == base
    assert digest(("a", "1"), ("b", "3")) != base
    assert digest(("b", "2"), ("a", "1")) != base
    assert digest(("a", "1b"), ("", "2")) != digest(("a", "1"), ("b", "2"))


@pytest.mark.parametrize("per_container", [0, 10, 70, 150], ids=lambda n: f"tars of {n}" if n else "prefix")
def test_plan_shards_one_row_more_or_less_changes_few_of_them(per_container: int) -> None:
    def table(ids: list[str]) -> pa.Table:
        if per_container == 0:
            return listing([(image_id, "v") for image_id in ids])
        by_tar: dict[str, list[tuple[str, str]]] = {}
        for image_id in ids:
            by_tar.setdefault(f"{int(image_id[:5]) // per_container}.tar", []).append((image_id, "v"))
        return pa.concat_tables([listing(rows, container=tar) for tar, rows in by_tar.items()])

    base = [f"{number:05d}" for number in range(4_000)]
    digests = {shard.digest for shard in plan_shards(table(base), 64)}
    rng = random.Random(5)
    changed = []
    for _ in range(10):
        where = rng.randrange(len(base))
        other = (
            base[:where] + base[where + 1 :]
            if rng.random() < 0.5
            else [*base[:where], base[where] + "+", *base[where:]]
        )
        changed.append(len({shard.digest for shard in plan_shards(table(other), 64)} - digests))
    assert len(digests) > 60
    assert sum(changed) / len(changed) <= 4
    assert max(changed) <= 15


@given(st.lists(st.integers(0, 900), min_size=1, max_size=200), st.integers(1, 2000))
def test_plan_shards_hold_no_more_bytes_than_allowed_unless_one_image_does(
    sizes: list[int], max_bytes: int
) -> None:
    shards = plan_shards(
        _sized(listing([(f"{n:04d}", "v") for n in range(len(sizes))]), sizes), 50, max_bytes
    )
    assert [size for shard in shards for size in shard.table["size_bytes"].to_pylist()] == sizes
    for shard in shards:
        assert shard.n_bytes == sum(shard.table["size_bytes"].to_pylist())
        assert shard.n_bytes <= max_bytes or shard.n_images == 1


def test_plan_shards_of_large_images_are_still_cut_by_content() -> None:
    """Where the bytes limit a shard, not the count, an insertion moves few cuts all the same."""
    rng = random.Random(6)
    base = [(f"{number:05d}", rng.randrange(500_000, 9_000_000)) for number in range(4_000)]

    def digests(images: list[tuple[str, int]]) -> set[str]:
        rows = listing([(image_id, "v") for image_id, _ in images])
        return {shard.digest for shard in plan_shards(_sized(rows, [size for _, size in images]))}

    before = digests(base)
    assert len(before) > 30
    changed = []
    for _ in range(10):
        where = rng.randrange(len(base))
        changed.append(len(digests([*base[:where], (base[where][0] + "+", 5), *base[where:]]) - before))
    assert sum(changed) / len(changed) <= 4
    assert max(changed) <= 15


@pytest.mark.parametrize(
    ("container", "row_group", "most"), [("a.tar", -1, 40), ("a.tar.gz", -1, 6), ("a.parquet", 0, 6)]
)
def test_plan_shards_cut_what_is_read_from_its_start_into_few(
    container: str, row_group: int, most: int
) -> None:
    rows = listing([(f"{number:05d}", "v") for number in range(3_000)], container=container)
    groups = pa.array([row_group] * rows.num_rows, type=pa.int32())
    rows = rows.set_column(rows.schema.get_field_index("row_group"), "row_group", groups)
    n_shards = len(plan_shards(rows))
    assert n_shards <= most
    assert n_shards >= 2
    assert (n_shards > 20) == (container == "a.tar")


def _sized(rows: pa.Table, sizes: list[int]) -> pa.Table:
    where = rows.schema.get_field_index("size_bytes")
    return rows.set_column(where, "size_bytes", pa.array(sizes, type=pa.int64()))


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([image_id for image_id, _ in rows], type=pa.string()),
            "version": pa.array([version for _, version in rows], type=pa.string()),
        }
    )


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["image_id"].to_pylist(), table["version"].to_pylist(), strict=True))
