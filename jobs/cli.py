"""The command ``bitsieve``: flat verbs with examples, ``--json``, and exit codes to rely on.

0 done, 1 failed, 2 bad usage or configuration, 3 a gate refused, 75 outcome unknown (look, then run again).
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from jobs import demo, explain, model, plan, reindex_command, rejects, search, snapshots, status
from jobs.bench import command as bench
from jobs.evaluate import command as evaluate
from jobs.output import keep_stdout_for_results, print_error
from jobs.packages import check_packages
from pipeline.errors import BitsieveError, Terminated, UsageError

app = typer.Typer(
    name="bitsieve",
    help="Turns a catalog of images into a searchable, verified index, and keeps it true every night.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.command)
app.command("reindex")(reindex_command.command)
app.command("plan")(plan.command)
app.command("status")(status.command)
app.command("search")(search.command)
app.command("rejects")(rejects.command)
app.command("explain")(explain.command)
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(model.app, name="model")
app.add_typer(bench.app, name="bench")

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
        code = app(list(arguments), standalone_mode=False)
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
        print_error(_InternalError(f"{type(exc).__name__}: {exc}", fix=fix), as_json=as_json)
        return 1
    return code if isinstance(code, int) else 0


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _command_path(exc: typer.TyperException) -> str:
    context = getattr(exc, "ctx", None)
    return context.command_path if context is not None else "bitsieve"
