"""Listing by key ranges on a real S3 service: the same objects in the same order as the plain listing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.storage.open import open_store
from pipeline.storage.parallel_listing import list_in_parallel

pytestmark = pytest.mark.integration


def test_three_thousand_keys_are_listed_in_ranges_as_in_order(
    s3_endpoint: str, make_bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    store = open_store(make_bucket(s3_endpoint) + "/shop")
    keys = {f"img_{number * 37 % 100_000:08d}.jpg" for number in range(2700)}
    keys |= {f"é/{number:x}/\U0001f600 a+b%20&.jpg" for number in range(280)}
    keys |= {"\U0010ffff", "\U0010ffffz", "img_", "img_00\U0010ffff.jpg", "x//y", "x/../y", "img_0000\tx"}
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda key: store.put(key, b"x"), keys))
    plain = list(store.list_objects())
    assert [stat.key for stat in plain] == sorted(keys, key=str.encode)
    for threshold, page_keys in ((1000, 1000), (100, 50)):
        assert list(list_in_parallel(store, threshold=threshold, page_keys=page_keys)) == plain
    below = [stat for stat in plain if stat.key.startswith("img_000")]
    assert list(list_in_parallel(store, "img_000", threshold=10, page_keys=20)) == below
