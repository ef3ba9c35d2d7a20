"""Opens a learned query expansion for a snapshot: the file that ``train-expansion`` wrote."""

from pathlib import Path

from pipeline.errors import StoreMismatch, UsageError
from pipeline.model.expansion import ExpansionSession
from pipeline.rerank.learned import LearnedExpansion
from pipeline.snapshot.open import OpenSnapshot


def open_learned(snapshot: OpenSnapshot, where: str) -> LearnedExpansion:
    """The re-ranker in the file ``where``.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is no learned expansion.
        StoreMismatch: it weighs vectors of another model.
    """
    try:
        data = Path(where).read_bytes()
    except OSError as exc:
        raise UsageError(f"{where} cannot be read: {exc.strerror}", fix="check --rerank") from exc
    session = ExpansionSession(data, where)
    model = snapshot.content.model
    if session.card.model_id != model.id:
        raise StoreMismatch(
            f"{where} weighs vectors of model {session.card.model_id[:12]}, the snapshot's are of "
            f"{model.id[:12]}",
            fix="train another with `bitsieve train-expansion` on this collection",
        )
    return LearnedExpansion(n=session.card.n, weigh=session.weigh, where=where)
