"""The table of docs/scaling.md is what the planner's own model says of the constants above it."""

import math
import re
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.plan import count_requests, money
from pipeline.catalog.plan import plan_shards
from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.config import PricesConfig

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
ENOUGH = 300_000  # images; from here on a shard has the same number of images, however many there are


def constant(symbol: str) -> float:
    """The value of a constant in the page's first table."""
    (value,) = re.findall(rf"^\| `{re.escape(symbol)}` \| ([\d.,]+)", PAGE, re.M)
    return float(value.replace(",", ""))


@cache
def images_a_shard() -> float:
    """What the planner makes of tars such as the page assumes."""
    a_tar, size_bytes = int(constant("t")), int(constant("b"))
    builder = ListingBuilder()
    for number in range(ENOUGH):
        tar, member = divmod(number, a_tar)
        image_id = f"{tar:06d}/{member:05d}.jpg"
        builder.add(
            ListedImage(
                image_id=image_id,
                version=str(number),
                size_bytes=size_bytes,
                locator=image_id,
                container=f"{tar:06d}.tar",
                offset=member * size_bytes,
            )
        )
    rows: pa.Table = builder.table()
    return ENOUGH / len(plan_shards(rows))


def rows() -> list[list[str]]:
    (table,) = re.findall(r"^\| images N \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def expected(n_images: int) -> list[str]:
    n_shards = math.ceil(n_images / constant("s"))
    n_tars, n_bytes = math.ceil(n_images / constant("t")), n_images * constant("b")
    requests = count_requests(
        n_keys=n_tars, n_single=0, n_containers=n_tars, n_bytes=int(n_bytes), n_shards=n_shards
    )
    worker_hours = n_images / constant("r") / 3600
    prices = PricesConfig(worker_hour=constant("p_w"), get_1000=constant("p_get"), put_1000=constant("p_put"))
    cost = money(prices, requests, int(n_bytes), worker_hours)
    assert cost is not None
    return [
        f"{n_images:,}",
        f"{n_shards:,}",
        f"{requests['list']:,} / {requests['get']:,} / {requests['put']:,}",
        f"{n_bytes / 1e9:,.0f}",
        f"{worker_hours:,.1f}",
        f"{worker_hours / constant('W'):,.1f}",
        f"{n_images * (constant('e') + constant('x')) / 1e9:,.1f}",
        f"{n_shards * constant('m') / 1e6:,.1f}",
        f"{n_images * constant('d') / 1e9:,.1f}",
        f"{cost['total']:,.0f}",
    ]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_row_is_what_the_planner_says(row: list[str]) -> None:
    assert row == expected(int(row[0].replace(",", "")))


def test_table_goes_from_a_hundred_thousand_to_a_thousand_million() -> None:
    assert [int(row[0].replace(",", "")) for row in rows()] == [10**power for power in range(5, 10)]


def test_images_a_shard_are_those_the_planner_cuts() -> None:
    assert constant("s") == round(images_a_shard())
