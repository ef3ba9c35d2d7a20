"""How many known images a run would embed again, and the limit on that: a mistake must not cost a backfill.

Another model makes all of them again. A changed version mostly means changed bytes, but not always: a folder
that was copied has new times on old bytes. Where the count is above the limit, a few of the images are read
before it is believed.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.look import Listed
from jobs.run import Run
from pipeline.catalog.change import contains
from pipeline.catalog.read import read_images
from pipeline.errors import UsageError
from pipeline.index.sample import seeded_order
from pipeline.model.described import Model

_LOOKED_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Again:
    """Known images that are to be embedded again; of those in ``untold`` only the bytes can tell."""

    count: int
    why: str
    untold: pa.Table


def embedded_again(listed: Listed, model: Model) -> Again:
    """What the listing says of known images, and which part of their key changed."""
    manifest, fresh = listed.parent.manifest, listed.change.fresh
    none = fresh.slice(0, 0)
    if manifest is None:
        return Again(count=0, why="", untold=none)
    old = manifest.content.model
    if old.id != model.model_id:
        now, before = f"{model.card.name} ({model.model_id[:12]})", f"{old.name} ({old.id[:12]})"
        return Again(
            count=manifest.content.live_rows, why=f"the model is {now}, it was {before}", untold=none
        )
    is_known = contains(fresh["image_id"], listed.parent.live["image_id"])
    again = fresh.filter(pa.array(is_known & ~listed.known.surely(fresh)))
    return Again(
        count=again.num_rows,
        why="their versions in the catalog changed" if again.num_rows else "",
        untold=again.filter(pa.array(listed.known.maybe(again))),
    )


def check_reembed(run: Run, listed: Listed, model: Model) -> None:
    """Refuses to embed more known images again than the configuration allows.

    Raises:
        UsageError: says how many, and which part of their key changed.
    """
    manifest = listed.parent.manifest
    known = 0 if manifest is None else manifest.content.live_rows
    again = embedded_again(listed, model)
    limit = run.config.max_reembed * known
    if again.count <= limit:
        return
    share = _share_of_old_bytes(run, listed, again.untold)
    if again.count - share * again.untold.num_rows <= limit:
        run.events.record("bytes_found_unchanged", images=again.untold.num_rows, share=share)
        return
    raise UsageError(
        f"this run would embed {again.count} of {known} known images again: {again.why}",
        fix="pass --max-reembed 1 to do so, or --collection for a collection of its own",
    )


def _share_of_old_bytes(run: Run, listed: Listed, rows: pa.Table) -> float:
    """Of some of these images (rows of the listing), the share whose bytes are those that have a vector."""
    if rows.num_rows == 0:
        return 0.0
    chosen = np.sort(np.argsort(seeded_order(rows["image_id"], 0), kind="stable")[:_LOOKED_AT])
    some = rows.take(pa.array(chosen))
    known = listed.known.rows
    theirs = known.filter(pa.array(contains(known["image_id"], some["image_id"])))
    digests: dict[str, str] = dict(
        zip(theirs["image_id"].to_pylist(), theirs["content_digest"].to_pylist(), strict=True)
    )
    images = read_images(run.source, run.source_spec, some)
    n_old = sum(int(image.content_digest == digests[image.image_id]) for image in images)
    return n_old / len(digests)
