"""Ranks queries in this process, and shows how many are ranked."""

from collections.abc import Iterator

from jobs.progress import TerminalProgress
from pipeline.evaluate.ranking import Contest, Ranked, Ranking


def rank_shown(contest: Contest) -> Ranking:
    """As ``rank_here``, with a bar on a terminal and a line every ten seconds elsewhere."""
    with TerminalProgress() as progress:
        progress.stage("rank", len(contest.query_rows_Q), "queries")

        def answers() -> Iterator[Ranked]:
            for block in contest.blocks():
                yield contest.rank(block)
                progress.advance(block.stop)

        return contest.ranking(answers())
