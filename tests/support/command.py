"""Runs the command ``bitsieve`` as its users do: in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.storage.local import LocalStore
from pipeline.storage.store import ObjectStore

_PROGRAM = Path(sys.executable).with_name("bitsieve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """All of standard output as one JSON object; anything else there is an error."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


@dataclass(frozen=True, slots=True)
class Command:
    """``bitsieve`` with a cache folder of its own; ``more`` is added to its environment."""

    cache: Path
    more: dict[str, str] = field(default_factory=dict)

    def with_environment(self, **more: str) -> "Command":
        return Command(self.cache, {**self.more, **more})

    def run(self, *arguments: object) -> Outcome:
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate()
        return Outcome(code=process.returncode, stdout=stdout, stderr=stderr)

    def json(self, *arguments: object) -> dict[str, Any]:
        """The result of a command that has to succeed."""
        outcome = self.run(*arguments, "--json")
        assert outcome.code == 0, outcome.stderr
        return outcome.json

    def start(self, *arguments: object, own_group: bool = False) -> subprocess.Popen[str]:
        environment = {**os.environ, "BITSIEVE_CACHE": str(self.cache), **self.more}
        return subprocess.Popen(
            [_PROGRAM, *map(str, arguments)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0 if own_group else None,
        )


def events(store: ObjectStore | Path, run_id: str) -> list[dict[str, Any]]:
    """The events of a run, in order."""
    store = LocalStore(str(store)) if isinstance(store, Path) else store
    keys = sorted(stat.key for stat in store.list_objects(f"runs/{run_id}/events/"))
    return [json.loads(line) for key in keys for line in store.get(key).decode().splitlines()]


def named(found: Sequence[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """Those of the events that have this name."""
    return [one for one in found if one["event"] == event]
