"""What does a dead worker cost? The same night with and without a ``kill -9`` of one worker in its middle.

The worker kills itself half way into a task, so that it is in the middle whatever else the machine does. A
task is a commit unit: what is done twice are the tasks that were handed out more than once, counted where
they are handed out. Nothing is lost if all images are accounted for and the snapshot has the digest of the
undisturbed night's.
"""

import statistics
from typing import Any

from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.image_sets import ImageSet
from jobs.bench.overlap import OverlapPlan
from jobs.output import say

UNDISTURBED, CRASHED = "undisturbed", "crashed"


def crash(plan: OverlapPlan, images: ImageSet) -> dict[str, Any]:
    """Runs both in turns; how much was done twice or lost, and the ratio of their speeds."""
    runs: dict[str, list[Outcome]] = {UNDISTURBED: [], CRASHED: []}
    for number in range(1, plan.rounds + 1):
        for name, outcomes in runs.items():
            outcomes.append(run(_contender(plan, images, name), plan.work))
            rate = outcomes[-1].images_per_s
            shown = f"{rate:.0f} images/s" if rate is not None else f"failed: {outcomes[-1].failure}"
            say(f"bench: crash: round {number} of {plan.rounds}: {name}: {shown}")
    failures = sorted({one.failure for outcomes in runs.values() for one in outcomes if one.failure})
    reports = [one.report for one in runs[CRASHED]]
    if not failures and not all(report["tasks"]["killed"] for report in reports):
        failures = [f"no worker died: {reports[0]['tasks']['count']} tasks are too few, or too short"]
    if failures:
        return {"failures": failures}
    again = [report["tasks"]["begun_again"] for report in reports]
    ratios = [
        crashed.n_images / crashed.seconds / (whole.n_images / whole.seconds)
        for crashed, whole in zip(runs[CRASHED], runs[UNDISTURBED], strict=True)
    ]
    return {
        "images": runs[CRASHED][0].n_images,
        "tasks": reports[0]["tasks"]["count"],
        "killed": len(reports),
        "units_done_twice": max(len(one) for one in again),
        "images_done_twice": max(sum(one) for one in again),
        "images_lost": max(_lost(report["images"]) for report in reports),
        "same_snapshot": {one.report["digest"] for one in runs[UNDISTURBED]}
        == {report["digest"] for report in reports},
        "images_per_s": {name: _median(outcomes) for name, outcomes in runs.items()},
        "ratio_to_undisturbed": statistics.median(ratios),
        "failures": [],
    }


def _contender(plan: OverlapPlan, images: ImageSet, name: str) -> Contender:
    config = {"source": images.source, "model": str(plan.model.path), "read": images.read}
    return Contender(
        name=name,
        module="jobs.bench.ours",
        settings={"config": config, "crash": name == CRASHED},
        environment={"BITSIEVE_CACHE": str(plan.work / "cache")},
    )


def _lost(coverage: dict[str, int]) -> int:
    """Listed images that are neither rows nor rejects; those of tasks that were set aside are lost too."""
    accounted = ("embedded", "reused", "stale", "rejected")
    return coverage["listed"] - sum(coverage[name] for name in accounted)


def _median(outcomes: list[Outcome]) -> float:
    return statistics.median(one.n_images / one.seconds for one in outcomes)
