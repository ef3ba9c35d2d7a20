"""The filter expression: what it means, row by row, and what is refused in words."""

import re

import pyarrow as pa
import pytest

from pipeline.errors import UsageError
from pipeline.snapshot.filter import Filter

TABLE = pa.table(
    {
        "image_id": ["a", "b", "c", "d"],
        "locator": ["a", "b", "c", "d"],
        "price": pa.array([5, 10, None, 20], pa.int64()),
        "weight": [0.5, None, 2.0, -1.0],
        "category": ["shoes", "it's", None, "hats"],
        "in_stock": [True, False, None, True],
        "shop `name`": ["x", "y", "x", None],
    }
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("price < 10", "a"),
        ("price <= 10 and category == 'shoes'", "a"),
        ("price >= 10", "bd"),
        ("price > 5.5", "bd"),
        ("price == 1e1", "b"),
        ("price < 100000000000000000000000", "abd"),
        ("weight < -.5", "d"),
        ('category == "it\'s"', "b"),
        ("category == 'it''s'", "b"),
        ("category != 'shoes'", "bd"),  # null is not unequal
        ("not category == 'shoes'", "bd"),
        ("category < 'j'", "bd"),
        ("category in ('hats', 'shoes')", "ad"),
        ("category not in ('hats')", "ab"),
        ("price in (5, 20.0)", "ad"),
        ("price not in (5, 6)", "bd"),
        ("category is null", "c"),
        ("category IS NOT NULL", "abd"),
        ("in_stock", "ad"),
        ("not in_stock", "b"),
        ("in_stock == false", "b"),
        ("in_stock or price is null", "acd"),
        ("in_stock and (price == 5 or weight < 0)", "ad"),
        ("price == 5 or price == 10 and weight == 1", "a"),  # and binds tighter
        ("price < 10 or weight == 2", "ac"),  # true or null is true
        ("not (price < 10 and weight == 7)", "abcd"),  # null and false is false
        ("`shop ``name``` == 'x'", "ac"),
        ("image_id in ('b', 'zz')", "b"),
        ("price > 1000", ""),
    ],
)
def test_filter_keeps_the_rows_that_it_is_true_of(text: str, found: str) -> None:
    mask = Filter(text).mask(TABLE)
    kept = "".join(image_id for image_id, keep in zip("abcd", mask, strict=True) if keep)
    assert kept == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at character 1: expected the name of an attribute"),
        ("price <", "at character 8: expected a number"),
        ("price = 5", "write '=='"),
        ("price < 5 & in_stock", "write 'and'"),
        ("5 < price", "on the left"),
        ("price < 5 in_stock", "at character 11: expected 'and', 'or' or the end"),
        ("(price < 5", r"expected '\)', got 'the end'"),
        ("category == 'shoes", "the quote does not end"),
        ("category == shoes", "expected a number, 'text', true or false, got 'shoes'"),
        ("category == null", "nothing equals null"),
        ("price.real < 5", "is not understood"),
        ("__import__('os')", "at character 11: expected 'and'"),
        ("price is 5", "expected null"),
        ("price in ()", "expected a number"),
        ("prize < 5", "no attribute 'prize'.*did you mean 'price'.*category"),
        ("price == '5'", "price is a number, it cannot be compared with '5', which is text"),
        ("category < 5", "category is text"),
        ("category in ('a', 5)", "category is text"),
        ("in_stock == 'yes'", "in_stock is true or false"),
        ("in_stock < true", "has no order"),
        ("price", "price alone is no condition: it is a number"),
        ("not " * 200 + "in_stock", "nested"),
    ],
)
def test_filter_that_makes_no_sense_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Filter(text).mask(TABLE)
    assert re.search(message, str(refused.value), re.S)


def test_filter_of_an_empty_table_keeps_nothing() -> None:
    assert Filter("price < 5 or not in_stock").mask(TABLE[:0]).tolist() == []
