"""Listing by key ranges gives what the plain listing gives, in the same order, whatever the keys."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StorageBusy
from pipeline.storage.local import LocalStore
from pipeline.storage.parallel_listing import list_in_parallel
from pipeline.storage.store import ObjectStat

_ALPHABET = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
_RANDOM = st.text(_ALPHABET, min_size=1, max_size=6)
_CROWDED = st.text("ab01/é\U0001f600\U0010ffff", min_size=1, max_size=8)
_NUMBERED = st.integers(0, 10**7).map("img_{:08d}.jpg".format)
_KEYS = st.one_of(*(st.sets(kind, max_size=300) for kind in (_RANDOM, _CROWDED, _NUMBERED)))


@dataclass
class Shelf:
    """Keys in memory that are listed in pages, as S3 lists them; counts the pages that were asked for."""

    keys: list[str]
    page_keys: int = 10
    requests: list[str] = field(default_factory=list)
    fails_after: int = 10**9

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        start = max(start_after.encode(), prefix.encode())
        first = bisect.bisect_left(self.keys, start, key=str.encode)
        after = first + (first < len(self.keys) and self.keys[first] == start_after)
        matching = takewhile(lambda key: key.startswith(prefix), islice(self.keys, after, None))
        is_first = True
        while (page := list(islice(matching, self.page_keys))) or is_first:
            is_first = False
            self.requests.append(start_after)
            if len(self.requests) > self.fails_after:
                raise StorageBusy("the shelf is busy")
            for key in page:
                yield ObjectStat(key=key, size_bytes=1, etag="e", modified_s=0)
            if len(page) < self.page_keys:
                return


def shelf(keys: set[str] | list[str], **more: int) -> Shelf:
    return Shelf(sorted(keys, key=str.encode), **more)


def listed(store: Shelf, prefix: str = "", threshold: int = 20, threads: int = 4) -> list[str]:
    found = list_in_parallel(store, prefix, threads=threads, threshold=threshold, page_keys=store.page_keys)  # type: ignore[arg-type]
    return [stat.key for stat in found]


@settings(max_examples=150, deadline=None)
@given(keys=_KEYS, threshold=st.integers(1, 40), page_keys=st.integers(1, 12), threads=st.integers(1, 6))
def test_parallel_listing_gives_every_key_once_in_byte_order(
    keys: set[str], threshold: int, page_keys: int, threads: int
) -> None:
    store = shelf(keys, page_keys=page_keys)
    assert listed(store, threshold=threshold, threads=threads) == store.keys


@settings(max_examples=60, deadline=None)
@given(keys=_KEYS, prefix=st.sampled_from(["a", "img_", "img_000", "é", "x"]))
def test_parallel_listing_below_a_prefix_stays_below_it(keys: set[str], prefix: str) -> None:
    store = shelf(keys)
    assert listed(store, prefix) == [key for key in store.keys if key.startswith(prefix)]


def test_parallel_listing_of_a_folder_is_the_plain_one(tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / f"{number % 7}" / f"caf\udce9-{number:03d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    store = LocalStore(tmp_path)
    assert list(list_in_parallel(store, threshold=20, page_keys=10)) == list(store.list_objects())


def test_small_prefix_costs_one_request() -> None:
    store = shelf([f"{number:02d}" for number in range(9)])
    assert len(listed(store)) == 9
    assert len(store.requests) == 1


@pytest.mark.parametrize("style", ["img_{:08d}.jpg", "{:x}", "shop/product-{:06d}/front.jpg", "{:03d}/x.jpg"])
def test_requests_are_few_and_the_longest_chain_is_short(style: str) -> None:
    keys = {style.format(number * 7919 % 99_991) for number in range(20_000)}
    store = shelf(keys, page_keys=100)
    assert listed(store, threshold=200, threads=8) == store.keys
    n_pages = len(keys) / 100
    assert len(store.requests) < 1.5 * n_pages + 100
    assert len(set(store.requests)) > 8, "the listing was not cut"


def test_error_of_one_span_is_the_error_of_all() -> None:
    store = shelf([f"{number:05d}" for number in range(5000)], fails_after=50)
    with pytest.raises(StorageBusy):
        listed(store)
