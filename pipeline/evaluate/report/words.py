"""How a report writes: texts that cannot act, numbers with their thousands, shares with their intervals."""

import unicodedata

_NBSP = "\u00a0"  # a number and its unit stay on one line
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """``text`` with every control, direction and unassigned character spelled out, so that it cannot act."""
    return "".join(_spelled(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def short(text: str, limit: int = 40) -> str:
    """``text`` with its middle left out where it is longer than ``limit``; both ends tell ids apart."""
    keep = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:keep]}…{text[-keep:]}"


def count(n: int) -> str:
    """A number of things, with thousands set apart."""
    return f"{n:,}"


def percent(share: float) -> str:
    """A share with one decimal, never rounded up to 100 % nor down to 0 %."""
    shown = min(max(share, 0.001), 0.999) if 0 < share < 1 else share
    return f"{100 * shown:.1f}".removesuffix(".0") + f"{_NBSP}%"


def percent_with_interval(value: float, low: float, high: float) -> str:
    """A share and its interval, as in ``98.1 % (97.2 % to 98.8 %)``."""
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def out_of(share: float, n: int) -> str:
    """A share of ``n`` things in words: out of all of them if they are few, otherwise out of 100."""
    if n < 100:
        return f"{round(share * n)} of {n}"
    if 0.995 <= share < 1:
        return "more than 99 of 100"
    if 0 < share < 0.005:
        return "fewer than 1 of 100"
    return f"{round(share * 100)} of 100"


def attribute_name(column: str) -> str:
    """The name of a label as a noun: ``@folder`` and ``@cls`` are spelled out."""
    return {"@folder": "folder", "@cls": "class"}.get(column, column)


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
