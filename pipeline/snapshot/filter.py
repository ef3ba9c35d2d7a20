"""Which images a search may return: an expression over their attributes, such as ``price < 10 and in_stock``.

::

    either     = both ("or" both)*
    both       = negation ("and" negation)*
    negation   = "not" negation | "(" either ")" | condition
    condition  = column                                  a true-or-false column
               | column ("==" | "!=" | "<" | "<=" | ">" | ">=") value
               | column ["not"] "in" "(" value ("," value)* ")"
               | column "is" ["not"] "null"
    column     = name | `any name`
    value      = 12 | -0.5 | 1e3 | 'text' | "text" | true | false

Quotes inside a text, and backticks inside a name, are doubled. Nothing is evaluated but what this grammar
says. NULL is SQL's: a comparison with an attribute that the image does not have is neither true nor false,
``not`` leaves it so, and only what is true is returned. Texts are ordered by their UTF-8 bytes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.snapshot.conditions import (
    SIGNS,
    Truth,
    Value,
    check_column,
    comparison,
    joined,
    membership,
    true_or_false,
)

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<quoted>`(?:[^`]|``)+`)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|,))""",
    re.VERBOSE,
)
_MEANT = {"=": "==", "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not", "<>": "!="}
_WORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


class Filter:
    """A parsed expression; ``mask`` applies it to a table."""

    def __init__(self, text: str) -> None:
        """Parses ``text``.

        Raises:
            UsageError: it is not an expression; the message shows where it stops being one.
        """
        self.text = text
        self._columns: list[str] = []
        self._truth = _Parser(text, self._columns).parse()

    @property
    def columns(self) -> tuple[str, ...]:
        """The attributes it speaks of, each once, in order."""
        return tuple(dict.fromkeys(self._columns))

    def mask(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of ``table`` it is true of; bool [N].

        Raises:
            UsageError: an attribute that the table does not have, or one of another type than it is
                compared with.
        """
        for name in self.columns:
            check_column(table, name)
        truth = pc.fill_null(self._truth(table), fill_value=False)
        return np.asarray(truth.to_numpy(), dtype=np.bool_)


class _Parser:
    """Recursive descent over the tokens; every rule returns a function from a table to true, false, null."""

    def __init__(self, text: str, columns: list[str]) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._columns = columns
        self._depth = 0

    def parse(self) -> Truth:
        truth = self._either()
        if self._peek().kind != "end":
            self._fail(self._peek(), "'and', 'or' or the end")
        return truth

    def _either(self) -> Truth:
        return joined(pc.or_kleene, self._several("or", self._both))

    def _both(self) -> Truth:
        return joined(pc.and_kleene, self._several("and", self._negation))

    def _several(self, word: str, rule: Callable[[], Truth]) -> list[Truth]:
        found = [rule()]
        while self._take_word(word):
            found.append(rule())
        return found

    def _negation(self) -> Truth:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError(f"the filter is nested more than {_MAX_DEPTH} deep", fix="write it flatter")
        try:
            if self._take_word("not"):
                inner = self._negation()
                return lambda table: pc.invert(inner(table))
            if self._take_sign("("):
                inside = self._either()
                self._need_sign(")")
                return inside
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Truth:
        name = self._column()
        token = self._peek()
        if token.kind == "sign" and token.text in SIGNS:
            self._next += 1
            return comparison(name, token.text, self._value())
        if self._take_word("is"):
            wanted = pc.is_valid if self._take_word("not") else pc.is_null
            if not self._take_word("null"):
                self._fail(self._peek(), "null")
            return lambda table: wanted(table[name])
        if token.is_word("not") and self._tokens[self._next + 1].is_word("in"):
            self._next += 2
            among = membership(name, self._values())
            return lambda table: pc.invert(among(table))
        if self._take_word("in"):
            return membership(name, self._values())
        return lambda table: true_or_false(table, name)

    def _column(self) -> str:
        token = self._peek()
        if token.kind == "quoted":
            name = token.text[1:-1].replace("``", "`")
        elif token.kind == "word" and token.text.lower() not in _WORDS:
            name = token.text
        else:
            self._fail(token, "the name of an attribute (on the left of a comparison)")
        self._next += 1
        self._columns.append(name)
        return name

    def _values(self) -> list[Value]:
        self._need_sign("(")
        values = [self._value()]
        while self._take_sign(","):
            values.append(self._value())
        self._need_sign(")")
        return values

    def _value(self) -> Value:
        token = self._peek()
        self._next += 1
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        if token.kind == "number":
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.is_word("true", "false"):
            return token.text.lower() == "true"
        if token.is_word("null"):
            raise UsageError("nothing equals null", fix="write `is null` or `is not null`")
        return self._fail(token, "a number, 'text', true or false")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take_word(self, word: str) -> bool:
        return self._take(self._peek().is_word(word))

    def _take_sign(self, sign: str) -> bool:
        return self._take(self._peek().kind == "sign" and self._peek().text == sign)

    def _take(self, it_is: bool) -> bool:  # noqa: FBT001
        self._next += it_is
        return it_is

    def _need_sign(self, sign: str) -> None:
        if not self._take_sign(sign):
            self._fail(self._peek(), repr(sign))

    def _fail(self, token: _Token, expected: str) -> NoReturn:
        _refuse(self._text, token.at, f"expected {expected}, got {token.text or 'the end'!r}")


def _tokens(text: str) -> Iterable[_Token]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            unknown = re.match(r"[=&|!<>]+|['\"`]|\S+", text[start:])
            bad = unknown.group() if unknown else text[start]
            hint = f"; write {_MEANT[bad]!r}" if bad in _MEANT else ""
            hint = "; the quote does not end" if bad in "'\"`" else hint
            _refuse(text, start, f"{bad!r} is not understood{hint}")
        yield _Token(found.lastgroup, found.group(found.lastgroup), found.start(found.lastgroup))
        at = found.end()
    yield _Token("end", "", len(text))


def _refuse(text: str, at: int, what: str) -> NoReturn:
    raise UsageError(
        f"the filter {text!r} is not an expression, at character {at + 1}: {what}",
        fix="as in --filter \"price < 10 and category == 'shoes'\"; `docs/commands.md` has the grammar",
    )
