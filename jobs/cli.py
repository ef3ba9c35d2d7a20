"""The command ``bitsieve``: flat verbs with examples, ``--json``, and exit codes to rely on.

0 done, 1 failed, 2 bad usage or configuration, 3 a gate refused, 75 outcome unknown (look, then run again).
"""

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from jobs.output import keep_stdout_for_results, print_error
from jobs.packages import check_packages
from pipeline.allocator import use_system_allocator
from pipeline.errors import BitsieveError, Terminated, UsageError, no_room

_COMMANDS = {
    "demo": "jobs.demo",
    "reindex": "jobs.reindex_command",
    "backfill": "jobs.backfill",
    "publish": "jobs.publish",
    "plan": "jobs.plan",
    "status": "jobs.status",
    "search": "jobs.search",
    "rejects": "jobs.rejects",
    "explain": "jobs.explain",
    "import": "jobs.import_command",
    "export": "jobs.export",
    "verify": "jobs.verify",
    "expire": "jobs.expire",
    "purge": "jobs.purge",
    "train": "jobs.train",
    "experiment": "jobs.experiment.command",
    "export-model": "jobs.export_model",
    "cluster-photos": "jobs.cluster_photos",
    "train-expansion": "jobs.train_expansion",
}
_GROUPS = {
    "snapshots": "jobs.snapshots",
    "evaluate": "jobs.evaluate.command",
    "model": "jobs.model",
    "adapter": "jobs.adapter",
    "bench": "jobs.bench.command",
}
_INTERRUPTED = 130  # what typer makes of KeyboardInterrupt


class _InternalError(BitsieveError):
    """Something that bitsieve did not expect: a bug."""

    kind = "internal"


def main() -> None:
    """The entry point of the console script."""
    arguments = sys.argv[1:]
    if arguments and "--help" not in arguments:  # help is a result
        keep_stdout_for_results()
    signal.signal(signal.SIGTERM, _stop)  # an eviction ends a run as Ctrl-C does
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Carries out one command line; its exit code. Never raises, shows a traceback only if asked."""
    logging.basicConfig(
        level=logging.WARNING, format="bitsieve: %(levelname)s: %(message)s", stream=sys.stderr
    )
    as_json = "--json" in arguments
    try:
        check_packages()
        code = command_line(next(iter(arguments), None))(list(arguments), standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except BitsieveError as exc:
        print_error(exc, as_json=as_json)
        return exc.exit_code
    except typer.TyperException as exc:
        print_error(
            UsageError(exc.format_message(), fix=f"see `{_command_path(exc)} --help`"), as_json=as_json
        )
        return 2
    except (typer.Abort, KeyboardInterrupt):
        fix = "what is done is kept: run the same command to go on"
        print_error(Terminated("stopped from outside", fix=fix), as_json=as_json)
        return Terminated.exit_code
    except Exception as exc:  # the outermost line: a bug becomes one line, its traceback is shown on demand
        if "BITSIEVE_DEBUG" in os.environ:
            traceback.print_exc()
        fix = "report this as a bug of bitsieve; BITSIEVE_DEBUG=1 shows where it happened"
        full = no_room(exc) if isinstance(exc, OSError) else None
        print_error(full or _InternalError(f"{type(exc).__name__}: {exc}", fix=fix), as_json=as_json)
        return 1
    return code if isinstance(code, int) else 0


def command_line(verb: str | None = None) -> typer.Typer:
    """The whole command line, or only ``verb``: a night must not hold the memory of what search needs."""
    app = typer.Typer(
        name="bitsieve",
        help="Turns a catalog of images into a searchable, verified index, and keeps it true every night.",
        callback=lambda: None,  # else a command line of one verb would be that verb
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    known = {**_COMMANDS, **_GROUPS}
    use_system_allocator()  # before a command imports Arrow
    for name in [verb] if verb in known else known:
        module = importlib.import_module(known[name])
        if name in _COMMANDS:
            app.command(name)(module.command)
        else:
            app.add_typer(module.app, name=name)
    return app


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _command_path(exc: typer.TyperException) -> str:
    context = getattr(exc, "ctx", None)
    return context.command_path if context is not None else "bitsieve"
