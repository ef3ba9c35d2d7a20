"""Errors, sorted by what the person or the caller should do next.

::

    BitsieveError                 exit  kind
    ├── UsageError                 2    usage       change the command line
    │   ├── ConfigError            2    config      change the configuration
    │   ├── SourceError            2    source      the catalog source is missing, empty or unreadable
    │   ├── ModelError             2    model       the model file is unreadable or does not say what it needs
    │   └── StoreMismatch          2    store       store, collection, model and source do not fit together
    ├── StorageError               1    storage     the object store failed; run again later
    │   ├── ObjectMissing          1    missing     an object that should exist does not
    │   ├── AccessDenied           1    access      credentials or permissions
    │   └── StorageBusy            1    busy        throttled or timed out after every retry; effect unknown
    ├── DataCorrupt                1    corrupt     bytes do not match what their receipt says
    ├── WorkerError                1    worker      a worker died or could not start
    ├── CommitConflict             1    conflict    somebody else published first, again and again
    ├── Terminated                 1    terminated  stopped from outside
    ├── GateRefused                3    gate        the candidate is not good enough to publish
    └── OutcomeUnknown            75    unknown     look, then run again; nothing was deleted
"""

import errno
from typing import ClassVar


class BitsieveError(Exception):
    """Base of all errors a person may see: what was expected, what came, and what to do (``fix``).

    Where nothing better is known, ``fix`` is what helps with most errors of the class.
    """

    kind: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    usual_fix: ClassVar[str] = "run again; if it fails again, report it with this message"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix or self.usual_fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}"


class UsageError(BitsieveError):
    """The command cannot be carried out as it was given."""

    kind = "usage"
    exit_code = 2
    usual_fix = "correct the command line, see `--help`"


class ConfigError(UsageError):
    """The configuration has an unknown key or an impossible value."""

    kind = "config"
    usual_fix = "correct the configuration, see docs/configuration.md"


class SourceError(UsageError):
    """The catalog source is missing, empty, or not readable as one."""

    kind = "source"
    usual_fix = "check the source and its objects"


class ModelError(UsageError):
    """The model file is unreadable, hostile, or does not say how it wants its input."""

    kind = "model"
    usual_fix = "use another model file, see docs/models.md for what is asked of one"


class StoreMismatch(UsageError):
    """The store, its collection, the model and the source do not belong together."""

    kind = "store"
    usual_fix = "check --store and --collection"


class StorageError(BitsieveError):
    """The object store failed in a way that running again later may mend."""

    kind = "storage"
    usual_fix = "see what the storage service says, then run again"


class ObjectMissing(StorageError):
    """An object that should exist does not."""

    kind = "missing"
    usual_fix = "`bitsieve verify` finds what else is missing, and `--repair` makes again what can be"


class AccessDenied(StorageError):
    """The store refused the credentials."""

    kind = "access"
    usual_fix = "check the credentials and what they may do"


class StorageBusy(StorageError):
    """Throttled, timed out or cut off after every retry: whether a write took effect is unknown."""

    kind = "busy"
    usual_fix = "run again later: what is done is kept"


class DataCorrupt(BitsieveError):
    """Stored bytes do not match the receipt or the format they claim."""

    kind = "corrupt"
    usual_fix = "`bitsieve verify` names what is damaged, and `--repair` makes again what can be"


class WorkerError(BitsieveError):
    """A worker process died or could not start."""

    kind = "worker"
    usual_fix = "run again: what is done is kept; the worker's log says more"


class CommitConflict(BitsieveError):
    """Another publication took the sequence number, more often than we try again."""

    kind = "conflict"
    usual_fix = "run again: what is done is kept"


class Terminated(BitsieveError):
    """The run was stopped from outside; its receipts stay."""

    kind = "terminated"
    usual_fix = "run again: what is done is kept"


class GateRefused(BitsieveError):
    """A gate refused the candidate; it stays in the store for a person to look at."""

    kind = "gate"
    exit_code = 3
    usual_fix = "mend the cause, or publish with --override GATE=REASON"


class OutcomeUnknown(BitsieveError):
    """A commit may or may not have taken effect and cannot be read back."""

    kind = "unknown"
    exit_code = 75
    usual_fix = "look, then run again: the next run looks first"


_NO_ROOM = {
    errno.ENOSPC: ("no space left on the device", "free some space"),
    errno.EDQUOT: ("no space left in this user's quota", "free some space"),
    errno.EFBIG: ("the file would be larger than this process may write", "raise its limit (ulimit -f)"),
}


def no_room(exc: OSError, name: str = "") -> StorageError | None:
    """The error of ours for a disk, a quota or a limit that is full; None for anything else."""
    if exc.errno not in _NO_ROOM:
        return None
    says, fix = _NO_ROOM[exc.errno]
    return StorageError(
        f"{name or exc.filename or 'a file of this machine'} could not be written: {says}",
        f"{fix}, then run again; nothing half-written is visible",
    )
