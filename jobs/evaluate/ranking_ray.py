"""Ranks queries on Ray: each actor maps the vectors and ranks blocks of queries; the same answers."""

from collections.abc import Callable
from functools import partial

from jobs.evaluate.retrieval_question import RetrievalQuestion
from jobs.progress import TerminalProgress
from pipeline.cluster.pool import ClusterOptions, SetAside
from pipeline.cluster.ray_pool import RayPool
from pipeline.errors import StorageError, WorkerError
from pipeline.evaluate.ranking import Contest, Ranked, Ranking


class RankingWorker:
    """Opens the snapshot once and ranks blocks of queries; a plain class that Ray makes an actor of."""

    def __init__(self, question: RetrievalQuestion) -> None:
        try:
            self._contest = question.posed().contest()
        except StorageError as exc:
            raise type(exc)(exc.message, f"{exc.fix}; where a disk is full, or use fewer workers") from exc

    def run(self, task: range) -> Ranked:
        """The answer to one block."""
        return self._contest.rank(task)


def rank_on_ray(question: RetrievalQuestion, options: ClusterOptions) -> Callable[[Contest], Ranking]:
    """Ranks all blocks of a contest on Ray.

    Raises:
        WorkerError: a block killed its worker again and again.
    """

    def rank(contest: Contest) -> Ranking:
        blocks = contest.blocks()
        answers: dict[int, Ranked] = {}
        with RayPool(options) as pool, TerminalProgress() as progress:
            progress.stage("rank", len(contest.query_rows_Q), "queries")
            for outcome in pool.run(partial(RankingWorker, question), blocks):
                if isinstance(outcome, SetAside):
                    raise WorkerError(
                        f"ranking {len(blocks[outcome.index])} queries killed {outcome.attempts} workers: "
                        f"{outcome.reason}",
                        fix="give them more memory, or use fewer workers: each holds all ids and labels",
                    )
                answers[outcome.index] = outcome.result
                progress.advance(sum(len(blocks[number]) for number in answers))
        return contest.ranking(answers[number] for number in range(len(blocks)))

    return rank
