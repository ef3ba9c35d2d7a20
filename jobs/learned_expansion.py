"""Opens a learned query expansion for a snapshot: the file that ``train-expansion`` wrote."""

from pathlib import Path

from jobs.output import say
from pipeline.errors import StoreMismatch, UsageError
from pipeline.model.expansion import ExpansionCard, ExpansionSession
from pipeline.rerank.learned import LearnedExpansion
from pipeline.snapshot.open import OpenSnapshot


def open_learned(snapshot: OpenSnapshot, where: str) -> LearnedExpansion:
    """The re-ranker in the file ``where``.

    Raises:
        UsageError: the file cannot be read.
        ModelError: it is no learned expansion.
        StoreMismatch: it weighs vectors of another model.
    """
    return _opened(snapshot, where)[0]


def open_to_judge(snapshot: OpenSnapshot, label: str, seed: int, where: str) -> LearnedExpansion:
    """The same, for `evaluate reranking`, which must not ask with identities that it was trained on.

    Raises:
        UsageError: it was trained on other halves of this very snapshot than ``label`` and ``seed`` draw.
    """
    found, card = _opened(snapshot, where)
    if card.digest != snapshot.manifest.digest:
        say(
            f"bitsieve: warning: {where} was trained on another snapshot: identities that it has seen "
            "may be among those that judge it"
        )
    elif (card.label, card.seed) != (label, seed):
        raise UsageError(
            f"{where} was trained with --label {card.label} --seed {card.seed}: other halves than those of "
            f"--label {label} --seed {seed}, so it has seen images that would judge it",
            fix=f"pass --label {card.label} --seed {card.seed}",
        )
    return found


def _opened(snapshot: OpenSnapshot, where: str) -> tuple[LearnedExpansion, ExpansionCard]:
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
    return LearnedExpansion(n=session.card.n, weigh=session.weigh, where=where), session.card
