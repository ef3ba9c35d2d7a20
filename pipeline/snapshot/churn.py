"""How much the answers of a collection changed from one snapshot to the next: neighbours that are others now.

The probes are live images of both snapshots with the same bytes: of the oldest rows those with the smallest
seeded hash of their id, so that they are the same night after night until one is gone. A new image close to a
probe is churn that is right; a model or an encoder that went wrong shows as churn of nearly everything.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.change import contains
from pipeline.index.sample import seeded_order
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import live_vectors

N_PROBES = 50
K = 10
_SEED = 0
_OLDEST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """The share of the ``K`` nearest neighbours, the probe left out, that were not among them before."""

    share: float
    n_probes: int


def neighbour_churn(before: OpenSnapshot, after: OpenSnapshot, old: pa.Table, live: pa.Table) -> Churn:
    """Searches for the same probes in two snapshots of one model, with live rows ``old`` and ``live``."""
    oldest = old.slice(0, _OLDEST)
    order = np.argsort(seeded_order(oldest["image_id"], _SEED), kind="stable")
    likely = oldest.take(pa.array(order[: 2 * N_PROBES]))
    still = live.filter(pa.array(contains(live["image_id"], likely["image_id"])))
    still = still.filter(pa.array(contains(still["content_digest"], likely["content_digest"])))
    where = pc.drop_null(pc.index_in(likely["image_id"], value_set=still["image_id"].combine_chunks()))
    probes = still.take(where.slice(0, N_PROBES))
    if probes.num_rows == 0:
        return Churn(share=0.0, n_probes=0)
    xq_QD = live_vectors(after.store, probes, after.content.parts, after.content.model.dim, after.cache)
    ids = probes["image_id"].to_pylist()
    old_answers, answers = (
        [
            {name for name in names if name != probe}
            for names, probe in zip(one.searcher.search(xq_QD, K + 1).ids, ids, strict=True)
        ]
        for one in (before, after)
    )
    shares = [len(now - then) / max(1, len(now)) for then, now in zip(old_answers, answers, strict=True)]
    return Churn(share=float(np.mean(shares)), n_probes=len(ids))
