"""What a command says, and where: its result on standard output, everything else on standard error.

With ``--json`` a command prints one JSON object, also when it fails. Exit codes: 0 done, 1 failed, 2 bad
usage or configuration, 3 a gate refused, 75 outcome unknown (look, then run again).
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from pipeline.errors import BitsieveError

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
JsonFile = Annotated[Path | None, typer.Option("-o", "--output", help="Also write the JSON here.")]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Results:
    """Where results go: standard output, kept apart from whatever libraries print."""

    stream: TextIO | None = None


def keep_stdout_for_results() -> None:
    """From now on only results reach standard output; what anything else writes there goes to standard error.

    Ray prints notices of dead workers to standard output, and C++ code does not ask either. Called once, by
    the console script: the process's own file descriptors change.
    """
    sys.stdout.flush()
    _Results.stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def print_result(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Prints the result of a command: the JSON object, or the text for people."""
    _write(json.dumps(result, ensure_ascii=False) if as_json else plain(text))


def print_error(error: BitsieveError, *, as_json: bool) -> None:
    """Says what went wrong and what to do: in words on standard error, as JSON on standard output too."""
    if as_json:
        payload = {"kind": error.kind, "message": error.message, "fix": error.fix}
        _write(json.dumps({"error": payload}, ensure_ascii=False))
    say(f"bitsieve: {error.kind}: {error}")


def say(text: str) -> None:
    """A line for people on standard error."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def visible(text: str) -> str:
    """An id or label as one unbroken piece of a line: what is not printable is written out."""
    return "".join(char if char.isprintable() else _written_out(char) for char in text)


def hours_in_words(hours: float) -> str:
    """In the unit in which it is no small fraction.

    >>> hours_in_words(26.0), hours_in_words(0.5), hours_in_words(0.0004)
    ('26.00 hours', '30.0 minutes', '1.4 seconds')
    """
    if hours >= 1:
        return f"{hours:.2f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.1f} seconds"


def _written_out(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _write(line: str) -> None:
    stream = _Results.stream or sys.stdout
    stream.write(line + "\n")
    stream.flush()


def plain(text: str) -> str:
    """``text`` without control characters, so that an id cannot repaint somebody's terminal."""
    return _CONTROL.sub("\ufffd", text)
