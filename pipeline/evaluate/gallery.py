"""Chooses which queries a person should look at: the confused, the worst and the best.

A page of numbers tells how much is wrong; these pictures tell what. At most one query per class and kind
(per pair of labels among the confused), so that one hard class does not fill the page. All is ordered by
figures and then by id: the same vectors give the same gallery.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from pipeline.evaluate.evaluation import GalleryKind, GalleryQuery, Neighbour
from pipeline.evaluate.metrics import Floats
from pipeline.evaluate.ranking import LabelledVectors, Ranking


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Queries, base, ranking and average precision; ``n_neighbours`` of each query are shown."""

    queries: LabelledVectors
    base: LabelledVectors
    ranking: Ranking
    average_precision_Q: Floats
    n_neighbours: int


def choose_gallery(judged: Judged, *, per_kind: int) -> tuple[GalleryQuery, ...]:
    """Up to ``per_kind`` queries of each kind; no query appears twice."""
    everybody = range(judged.ranking.found.n_queries)
    confused = _pick(
        (q for q in everybody if _is_confused(judged, q)),
        order=lambda q: (float(judged.ranking.distances_QK[q, 0]), _image_id(judged, q)),
        group=lambda q: frozenset((_label(judged, q), _first_label(judged, q))),
        limit=per_kind,
    )
    ap_Q, r_Q = judged.average_precision_Q, judged.ranking.found.n_relevant_Q
    worst = _pick(
        (q for q in everybody if ap_Q[q] < 1 and q not in set(confused)),
        order=lambda q: (float(ap_Q[q]), -int(r_Q[q]), _image_id(judged, q)),
        group=lambda q: _label(judged, q),
        limit=per_kind,
    )
    best = _pick(
        (q for q in everybody if q not in {*confused, *worst}),
        order=lambda q: (-float(ap_Q[q]), -int(r_Q[q]), _image_id(judged, q)),
        group=lambda q: _label(judged, q),
        limit=per_kind,
    )
    kinds = ((GalleryKind.CONFUSED, confused), (GalleryKind.WORST, worst), (GalleryKind.BEST, best))
    return tuple(_gallery_query(judged, q, kind) for kind, chosen in kinds for q in chosen)


def _pick(
    candidates: Iterable[int],
    *,
    order: Callable[[int], tuple[float | str, ...]],
    group: Callable[[int], Hashable],
    limit: int,
) -> list[int]:
    chosen: dict[Hashable, int] = {}
    for q in sorted(candidates, key=order):
        if len(chosen) >= limit:
            break
        chosen.setdefault(group(q), q)
    return list(chosen.values())


def _is_confused(judged: Judged, q: int) -> bool:
    return _first_label(judged, q) is not None and not judged.ranking.right_QK[q, 0]


def _first_label(judged: Judged, q: int) -> str | None:
    return judged.base.labels[int(judged.ranking.neighbours_QK[q, 0])]


def _row(judged: Judged, q: int) -> int:
    return int(judged.ranking.query_rows_Q[q])


def _label(judged: Judged, q: int) -> str:
    return judged.queries.labels[_row(judged, q)] or ""


def _image_id(judged: Judged, q: int) -> str:
    return judged.queries.ids[_row(judged, q)]


def _gallery_query(judged: Judged, q: int, kind: GalleryKind) -> GalleryQuery:
    ranking, found, n = judged.ranking, judged.ranking.found, judged.n_neighbours
    columns = (ranking.neighbours_QK, ranking.distances_QK, ranking.right_QK)
    rows = zip(*(column_QK[q, :n].tolist() for column_QK in columns), strict=True)
    label = _label(judged, q)
    return GalleryQuery(
        kind=kind,
        image_id=_image_id(judged, q),
        label=label,
        n_relevant=int(found.n_relevant_Q[q]),
        average_precision=float(judged.average_precision_Q[q]),
        first_relevant_rank=int(found.ranks_H[found.offsets_Q1[q]]),
        neighbours=tuple(
            Neighbour(
                image_id=judged.base.ids[row],
                label=judged.base.labels[row],
                distance=distance,
                relevant=right,
            )
            for row, distance, right in rows
            if row >= 0
        ),
    )
