"""How well do vectors retrieve while a network is trained? Leave-one-out on the validation images, exactly.

The figures are those of ``pipeline.evaluate`` (success@1, MAP@R), computed on tensors and in blocks. Legend:
N images, D dimensions.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pipeline.train.mining import squared_distances
from pipeline.train.relation import Relation, within

COLLAPSED_BELOW = 0.1
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Measures over the images that have a partner; ``mean_distance`` is not squared, over all pairs."""

    success_at_1: float
    map_at_r: float
    mean_distance: float
    n_queries: int

    def document(self) -> dict[str, float]:
        """The figures as JSON values."""
        return asdict(self)


def validate(e_ND: Tensor, labels_N: Tensor, at_least: int = 1, base_ND: Tensor | None = None) -> Validation:
    """Judges unit vectors by the labels of their nearest; ties go to the earlier row.

    With ``base_ND``, vectors of the same images by another model, the nearest are looked for among those.

    Raises:
        ValueError: no image has a partner.
    """
    relation = within(labels_N, at_least)
    base_ND = e_ND if base_ND is None else base_ND
    first, precision, distance, queries, pairs = 0.0, 0.0, 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(e_ND), _BLOCK):
            stop = min(start + _BLOCK, len(e_ND))
            hits_AP, d2_AP = _ranked(e_ND, base_ND, relation, start, stop)
            relevant_A = hits_AP.sum(dim=1)
            asking_A = relevant_A > 0
            ranks_P = torch.arange(1, hits_AP.shape[1] + 1, device=e_ND.device)
            within_r_AP = hits_AP & (ranks_P[None, :] <= relevant_A[:, None])
            share_AP = hits_AP.cumsum(dim=1) / ranks_P
            map_A = (share_AP * within_r_AP).sum(dim=1) / relevant_A.clamp(min=1)
            first += float(hits_AP[asking_A, 0].sum())
            precision += float(map_A[asking_A].sum())
            distance += float(d2_AP.sqrt().sum())
            queries += int(asking_A.sum())
            pairs += (stop - start) * (len(e_ND) - 1)
    if queries == 0:
        raise ValueError(f"none of {len(e_ND)} images has a partner with its label")
    return Validation(
        success_at_1=first / queries,
        map_at_r=precision / queries,
        mean_distance=distance / max(1, pairs),
        n_queries=queries,
    )


def _ranked(
    e_ND: Tensor, base_ND: Tensor, relation: Relation, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Whether the image at each rank is the same, the query itself last; and squared distances."""
    d2_AP = squared_distances(e_ND[start:stop], base_ND)
    same_AP, _ = relation.rows(start, stop)
    own_A = torch.arange(stop - start, device=e_ND.device)
    d2_AP[own_A, own_A + start] = torch.inf
    order_AP = d2_AP.argsort(dim=1, stable=True)
    d2_AP[own_A, own_A + start] = 0
    return same_AP.gather(1, order_AP), d2_AP
