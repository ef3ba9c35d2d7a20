"""What a run counts for Prometheus, and the one place that hands it to Ray's metrics.

Ray exports it under ``ray_<name>`` from the node of the driver, once every ten seconds, where Ray's metrics
agent runs: that needs the extra ``metrics``. Without the agent the counts go nowhere and cost nothing. All of
it is counted by the driver when a task's receipt has come, so that a task that is done twice counts once.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A counter, or a gauge that holds its last value. Every metric has the label ``collection`` too."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    is_gauge: bool = False


IMAGES = Metric(
    name="bitsieve_images_total",
    description="Images by outcome: embedded, set_aside, or the reason of their reject",
    labels=("outcome",),
)
BYTES = Metric(
    name="bitsieve_bytes_total",
    description="Bytes by direction: read (of the source), written (to the store)",
    labels=("direction",),
)
STAGE_SECONDS = Metric(
    name="bitsieve_stage_seconds_total",
    description="Seconds of the embedding workers by stage; wall is all of their time",
    labels=("stage",),
)
LIMITING = Metric(
    name="bitsieve_limiting_stage",
    description="1 for the stage in which the embedding workers have spent most of their time, else 0",
    labels=("stage",),
    is_gauge=True,
)
TASKS = Metric(
    name="bitsieve_tasks_total",
    description="Tasks by stage (embed, reduce) and outcome (succeeded, set_aside)",
    labels=("stage", "outcome"),
)
WORKERS = Metric(name="bitsieve_workers", description="Workers of the present stage", is_gauge=True)
IMAGES_LEFT = Metric(
    name="bitsieve_images_left", description="Images of this run that have no outcome yet", is_gauge=True
)
METRICS = (IMAGES, BYTES, STAGE_SECONDS, LIMITING, TASKS, WORKERS, IMAGES_LEFT)


class Meters:
    """The metrics of this process in Ray, each made when it is first used. Ray must be connected."""

    def __init__(self) -> None:
        self._meters: dict[str, Any] = {}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Adds ``value`` to a counter, or sets a gauge to it."""
        from ray.util import metrics  # Ray reads its environment when it is first imported

        if metric.name not in self._meters:
            kind = metrics.Gauge if metric.is_gauge else metrics.Counter
            tags = ("collection", *metric.labels)
            self._meters[metric.name] = kind(metric.name, description=metric.description, tag_keys=tags)
        meter = self._meters[metric.name]
        if metric.is_gauge:
            meter.set(value, labels)
        elif value > 0:  # Ray refuses to add nothing
            meter.inc(value, labels)
