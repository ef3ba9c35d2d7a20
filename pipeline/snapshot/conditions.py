"""The conditions of a filter: functions from a table of attributes to a column of true, false or null."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError

Value: TypeAlias = str | int | float | bool
Truth: TypeAlias = Callable[[pa.Table], pa.ChunkedArray]

SIGNS = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def check_column(table: pa.Table, name: str) -> None:
    """Refuses the name of an attribute that the catalog does not have, and says which one may be meant."""
    if name in table.schema.names:
        return
    known = [known for known in table.schema.names if known not in ("image_id", "locator")]
    close = get_close_matches(name, table.schema.names, n=1)
    fix = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"the catalog has no attribute {name!r}", fix=f"{fix}its attributes are: {', '.join(known) or 'none'}"
    )


def joined(operation: Any, parts: Sequence[Truth]) -> Truth:
    """All parts joined by a Kleene operation of two columns."""

    def truth(table: pa.Table) -> pa.ChunkedArray:
        whole = parts[0](table)
        for part in parts[1:]:
            whole = operation(whole, part(table))
        return whole

    return truth


def comparison(name: str, sign: str, value: Value) -> Truth:
    """``name sign value``; null where the attribute is."""

    def truth(table: pa.Table) -> pa.ChunkedArray:
        kind = _check_types(table, name, value)
        if kind == "true or false" and sign not in ("==", "!="):
            raise UsageError(f"{name} is true or false and has no order", fix="compare it with == or !=")
        return SIGNS[sign](table[name], _scalar(value))

    return truth


def membership(name: str, values: Sequence[Value]) -> Truth:
    """Whether the attribute is one of the values; null where the attribute is."""
    if not all(isinstance(value, str) for value in values):
        return joined(pc.or_kleene, [comparison(name, "==", value) for value in values])

    def truth(table: pa.Table) -> pa.ChunkedArray:
        _check_types(table, name, values[0])
        found = pc.is_in(table[name], value_set=pa.array(values, type=table.schema.field(name).type))
        return pc.if_else(pc.is_valid(table[name]), found, pa.scalar(None, pa.bool_()))

    return truth


def true_or_false(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column that is a condition by itself."""
    kind = _kind(table.schema.field(name).type)
    if kind != "true or false":
        raise UsageError(f"{name} alone is no condition: it is {kind}", fix=f"compare it: {name} == …")
    return table[name]


def _check_types(table: pa.Table, name: str, value: Value) -> str:
    column = _kind(table.schema.field(name).type)
    given = _kind(_scalar(value).type)
    if column != given:
        raise UsageError(
            f"{name} is {column}, it cannot be compared with {value!r}, which is {given}",
            fix="texts are written in quotes, numbers without",
        )
    return column


def _kind(of: pa.DataType) -> str:
    if pa.types.is_boolean(of):
        return "true or false"
    if pa.types.is_integer(of) or pa.types.is_floating(of):
        return "a number"
    return "text" if pa.types.is_string(of) or pa.types.is_large_string(of) else str(of)


def _scalar(value: Value) -> pa.Scalar:
    """A whole number beyond int64 is compared as a double."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return pa.scalar(float(value))
    return pa.scalar(value)
