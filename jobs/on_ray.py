"""The flags of commands that answer in one process, or spread their work over Ray actors."""

from typing import Annotated

import typer

from pipeline.cluster.pool import ClusterOptions
from pipeline.errors import UsageError

RayAddress = Annotated[str | None, typer.Option(help="A Ray cluster; embedded Ray if absent. Implies --ray.")]
RayWorkers = Annotated[int | None, typer.Option(min=1, help="How many actors; one per core if absent.")]


def ray_options(ray: bool, address: str | None, workers: int | None) -> ClusterOptions | None:
    """What to ask of Ray; None if the work stays in this process.

    Raises:
        UsageError: actors are counted, and there are none.
    """
    if ray or address:
        return ClusterOptions(address=address, n_workers=workers)
    if workers is not None:
        raise UsageError("--workers counts Ray actors, and there are none", fix="add --ray")
    return None
