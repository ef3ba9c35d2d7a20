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

from typing import ClassVar


class BitsieveError(Exception):
    """Base of all errors a person may see: what was expected, what came, and what to do (``fix``)."""

    kind: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class UsageError(BitsieveError):
    """The command cannot be carried out as it was given."""

    kind = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """The configuration has an unknown key or an impossible value."""

    kind = "config"


class SourceError(UsageError):
    """The catalog source is missing, empty, or not readable as one."""

    kind = "source"


class ModelError(UsageError):
    """The model file is unreadable, hostile, or does not say how it wants its input."""

    kind = "model"


class StoreMismatch(UsageError):
    """The store, its collection, the model and the source do not belong together."""

    kind = "store"


class StorageError(BitsieveError):
    """The object store failed in a way that running again later may mend."""

    kind = "storage"


class ObjectMissing(StorageError):
    """An object that should exist does not."""

    kind = "missing"


class AccessDenied(StorageError):
    """The store refused the credentials."""

    kind = "access"


class StorageBusy(StorageError):
    """Throttled, timed out or cut off after every retry: whether a write took effect is unknown."""

    kind = "busy"


class DataCorrupt(BitsieveError):
    """Stored bytes do not match the receipt or the format they claim."""

    kind = "corrupt"


class WorkerError(BitsieveError):
    """A worker process died or could not start."""

    kind = "worker"


class CommitConflict(BitsieveError):
    """Another publication took the sequence number, more often than we try again."""

    kind = "conflict"


class Terminated(BitsieveError):
    """The run was stopped from outside; its receipts stay."""

    kind = "terminated"


class GateRefused(BitsieveError):
    """A gate refused the candidate; it stays in the store for a person to look at."""

    kind = "gate"
    exit_code = 3


class OutcomeUnknown(BitsieveError):
    """A commit may or may not have taken effect and cannot be read back."""

    kind = "unknown"
    exit_code = 75
