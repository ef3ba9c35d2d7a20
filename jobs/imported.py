"""Vectors that a night gets from elsewhere: parts made before anything is embedded, and what is left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa

from jobs.embedding import Embedded
from jobs.look import Listed
from jobs.run import Run
from pipeline.model.described import Model
from pipeline.snapshot.manifest import PartRef


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imported:
    """Parts with the vectors of fresh images; ``left`` are the rows of the fresh listing without one."""

    parts: Sequence[PartRef]
    norm_error: float
    left: pa.Table

    def without_imported(self, listed: Listed) -> Listed:
        """What the source lists, with only ``left`` to be embedded."""
        return replace(listed, change=replace(listed.change, fresh=self.left))

    def and_embedded(self, embedded: Embedded) -> Embedded:
        """All new parts of the night; imported vectors count as reused, nothing was computed for them."""
        return replace(
            embedded,
            parts=[*self.parts, *embedded.parts],
            reused=embedded.reused + sum(part.rows for part in self.parts),
            norm_error=max(embedded.norm_error, self.norm_error),
        )


Importer: TypeAlias = Callable[[Run, Model, Listed], Imported]
