"""Carries out an experiment: every way with every seed, one training after the other, in this process.

What a training leaves in the store is found again under its key: the same command goes on where a killed one
was, at the latest checkpoint of the training that it was at.
"""

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.experiment.ways import SCALED, Experiment, Way, ways_of
from jobs.run import Run, software_versions
from jobs.train import train_job
from pipeline.evaluate.experiment import METRIC, Answers, Tried, answers_of, compare_ways
from pipeline.storage.probe import prepare_store
from pipeline.train.settings import ONNX, document

if TYPE_CHECKING:
    from pipeline.train.trial import SharedImages, Trial

UNTRAINED = "untrained"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Done:
    """What the trials of one way gave."""

    tried: Tried
    facts: dict[str, Any]


def run_experiment(
    run: Run, label: str, experiment: Experiment, *, n_seeds: int, full: bool
) -> dict[str, Any]:
    """The result of an experiment, as JSON values."""
    from pipeline.train.trial import SharedImages

    started = time.monotonic()
    prepare_store(run.store, single_writer=run.config.single_writer)
    job = train_job(run, label)
    ways = ways_of(experiment, run.config.train, full=full)
    seeds = range(job.settings.seed, job.settings.seed + n_seeds)
    shared = SharedImages(job, _stages(run))
    ids, classes = shared.judged()

    def judge(trial: "Trial", *, trained: bool) -> Answers:
        return answers_of(trial.vectors() if trained else trial.untrained(), ids, classes)

    def trial(way: Way, seed: int) -> "Trial":
        from pipeline.train.trial import Trial

        settings = job.settings.model_copy(update={**way.settings, "seed": seed})
        return Trial(job=replace(job, settings=settings), shared=shared, share=way.share)

    steps = job.settings.steps
    run.progress.stage("train", len(ways) * n_seeds * steps, "steps")
    done = []
    for number, way in enumerate(ways):
        trials = [trial(way, seed) for seed in seeds]
        results = []
        for place, one in enumerate(trials):
            before = (number * n_seeds + place) * steps
            run.events.record("training_started", training=one.key, images=len(shared.ids))
            found = one.run(_watch(run, before, f"{way.name}, seed {one.job.settings.seed}"))
            run.events.record(
                "training_ended", training=one.key, steps=found["steps"], stopped=found["stopped"]
            )
            run.progress.advance(before + steps)
            results.append(found)
        done.append(
            _done(experiment, shared, way, trials, results, [judge(one, trained=True) for one in trials])
        )
    firsts = [trial(ways[0], seed) for seed in seeds[: 1 if job.trunk is not None else n_seeds]]
    answers = [judge(one, trained=False) for one in firsts]
    untrained = Tried(name=UNTRAINED, answers_S=answers if len(answers) == n_seeds else answers * n_seeds)
    outcome = compare_ways([*(one.tried for one in done), untrained], seed=job.settings.seed)
    facts = [*(one.facts for one in done), _untrained(job.settings.network, ways[0])]
    return {
        "experiment": experiment.value,
        "source": run.config.source,
        "label": label,
        "images": {
            "usable": len(shared.ids),
            "judged": len(ids),
            "without_label": job.images.n_without_label,
            "rejected": shared.packed.rejected,
        },
        "seeds": list(seeds),
        "metric": METRIC,
        "reference": outcome.reference,
        "concludes": outcome.concludes,
        "n_queries": outcome.n_queries,
        "n_classes": outcome.n_classes,
        "val_reason": outcome.val_reason,
        "ways": [{**known, **way.to_json()} for known, way in zip(facts, outcome.ways, strict=True)],
        "scaled": SCALED if experiment is Experiment.FLOPS and not full else "",
        "settings": document(job.settings),
        "software": {**software_versions(), "torch": importlib.metadata.version("torch")},
        "seconds": round(time.monotonic() - started, 1),
    }


def _done(
    experiment: Experiment,
    shared: "SharedImages",
    way: Way,
    trials: Sequence["Trial"],
    results: Sequence[dict[str, Any]],
    answers: Sequence[Answers],
) -> _Done:
    from pipeline.train.trial import cost_of
    from pipeline.train.validate import COLLAPSED_BELOW

    settings = trials[0].job.settings
    n_images = [len(shared.roles(one.job.settings, way.share).train) for one in trials]
    cost = cost_of(settings)
    x = {
        Experiment.DIMENSION: settings.dim,
        Experiment.DATA: float(np.mean(n_images)),
        Experiment.FLOPS: cost[1],
    }.get(experiment)
    return _Done(
        tried=Tried(
            name=way.name,
            answers_S=answers,
            validation_S=[float(found["validation"][METRIC]) for found in results],
        ),
        facts={
            "meaning": way.meaning,
            "x": x,
            "train_images": n_images,
            "parameters": cost[0],
            "mult_adds": cost[1],
            "trainings": [one.key for one in trials],
            "steps": [found["steps"] for found in results],
            "best_steps": [found["best_step"] for found in results],
            "n_collapsed": sum(found["last"]["mean_distance"] < COLLAPSED_BELOW for found in results),
        },
    )


def _untrained(network: str, first: Way) -> dict[str, Any]:
    """What is known of the way that is none."""
    trunk = network.startswith(ONNX)
    return {
        "meaning": "the trunk's own vectors"
        if trunk
        else f"the network of {first.name} before its first step",
        **dict.fromkeys(("x", "parameters", "mult_adds")),
        **{name: [] for name in ("train_images", "trainings", "steps", "best_steps")},
        "n_collapsed": 0,
    }


def _watch(run: Run, before: int, note: str) -> Callable[[int], None]:
    return lambda step: run.progress.advance(before + step, note)


def _stages(run: Run) -> Callable[[str, int, int], None]:
    """Shows what is prepared, one stage after the other."""
    begun: list[str] = []

    def advance(what: str, done: int, total: int) -> None:
        if begun[-1:] != [what]:
            begun.append(what)
            run.progress.stage(what, total, "images")
        run.progress.advance(done)

    return advance
