"""Chooses which triplets of a batch to learn from; for 1,800 images at once in little memory.

FaceNet (1503.03832, section 3.2) takes all anchor-positive pairs and for each a *semi-hard* negative: farther
than the positive, by less than the margin. For each block of anchors:

1. Squared distances to all others, and those to negatives in ascending order.
2. For each anchor-positive pair, binary search for where its semi-hard negatives begin and end in that order.
3. Take one of them: the nearest, or one at random. Taking all is the expansion of the same ranges.

So the work is A·P·log P and the memory one block of rows, where listing all triplets takes A·K·P. Negatives
of other kinds are other ranges of the same order. Legend: A anchors, P images they are compared with, K
positives of an anchor, T triplets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from pipeline.train.relation import Relation

MAX_TRIPLETS = 20_000_000
_BLOCK_BYTES = 16 << 20
_NEAREST, _FARTHEST_WITH_LOSS = 0.5, 1.4  # distances, not squared: Wu et al., 1706.07567, section 4


class Miner(StrEnum):
    """Which triplets are mined."""

    SEMI_HARD = "semi-hard"  # one semi-hard negative for each anchor-positive pair, the nearest
    SEMI_HARD_RANDOM = "semi-hard-random"  # one of its semi-hard negatives, any
    SEMI_HARD_ALL = "semi-hard-all"  # each of its semi-hard negatives
    HARD = "hard"  # for each anchor the farthest positive and the nearest negative
    ALL = "batch-all"  # every triplet with a loss
    DISTANCE_WEIGHTED = "distance-weighted"  # one negative, evenly over distances (1706.07567)
    RANDOM = "random"  # one negative, any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Triplets:
    """T triplets as int64 places: of anchors among the anchors, of the two others among the others."""

    anchor_T: Tensor
    positive_T: Tensor
    negative_T: Tensor

    def __len__(self) -> int:
        return len(self.anchor_T)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Some anchors: their pairs, and their negatives from near to far (inf where there is none)."""

    start: int
    dim: int
    d2_AP: Tensor
    different_AP: Tensor
    near_AP: Tensor
    order_AP: Tensor
    anchor_R: Tensor
    positive_R: Tensor
    n_negatives_A: Tensor

    @property
    def d2_pairs(self) -> Tensor:
        return self.d2_AP[self.anchor_R, self.positive_R]


def mine(
    e_AD: Tensor,
    e_PD: Tensor,
    relation: Relation,
    miner: Miner,
    *,
    margin: float = 0.2,
    generator: torch.Generator | None = None,
) -> Triplets:
    """The triplets to learn from; no gradient passes here.

    Args:
        e_AD: unit vectors of the anchors.
        e_PD: unit vectors of all they are compared with.
        relation: which of them are the same and different.
        miner: what to take.
        margin: in squared distance.
        generator: for the miners that draw; the same state gives the same triplets.

    Raises:
        ValueError: the vectors do not fit the relation, or ``batch-all`` finds more than 20 million.
    """
    n_anchors, n_others = len(e_AD), len(e_PD)
    if (n_anchors, n_others) != (len(relation.labels_A), len(relation.labels_P)):
        raise ValueError(
            f"expected vectors of {len(relation.labels_A)} anchors and {len(relation.labels_P)} others, "
            f"got {n_anchors} and {n_others}"
        )
    choose = _CHOICES[miner]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    n_found = 0
    with torch.no_grad():
        for block in _blocks(e_AD, e_PD, relation):
            if len(block.anchor_R) == 0:
                continue
            anchor_T, positive_T, negative_T = choose(block, margin, generator)
            found.append((anchor_T + block.start, positive_T, negative_T))
            n_found += len(anchor_T)
            _check_count(n_found)
    if not found:
        empty = torch.empty(0, dtype=torch.int64, device=e_AD.device)
        return Triplets(anchor_T=empty, positive_T=empty, negative_T=empty)
    anchor_T, positive_T, negative_T = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Triplets(anchor_T=anchor_T, positive_T=positive_T, negative_T=negative_T)


def squared_distances(e_AD: Tensor, e_PD: Tensor) -> Tensor:
    """Squared L2 distances of unit vectors, ``2 - 2 cos``, never negative: [A, P]."""
    return (2 - 2 * (e_AD @ e_PD.T)).clamp_(min=0)


def _blocks(e_AD: Tensor, e_PD: Tensor, relation: Relation) -> Iterator[_Block]:
    rows = max(1, _BLOCK_BYTES // (e_AD.element_size() * max(1, len(e_PD))))
    for start in range(0, len(e_AD), rows):
        stop = min(start + rows, len(e_AD))
        same_AP, different_AP = relation.rows(start, stop)
        d2_AP = squared_distances(e_AD[start:stop], e_PD)
        near_AP, order_AP = d2_AP.masked_fill(~different_AP, torch.inf).sort(dim=1, stable=True)
        anchor_R, positive_R = torch.nonzero(same_AP, as_tuple=True)
        yield _Block(
            start=start,
            dim=int(e_AD.shape[1]),
            d2_AP=d2_AP,
            different_AP=different_AP,
            near_AP=near_AP,
            order_AP=order_AP,
            anchor_R=anchor_R,
            positive_R=positive_R,
            n_negatives_A=different_AP.sum(dim=1),
        )


def _places(block: _Block, d2_R: Tensor, *, after_equals: bool) -> Tensor:
    """For each pair, how many negatives of its anchor are nearer than ``d2_R``, equal ones counted or not."""
    found_R = _search(block.near_AP, block, d2_R, after_equals=after_equals)
    return torch.minimum(found_R, block.n_negatives_A[block.anchor_R])


def _search(ascending_AP: Tensor, block: _Block, wanted_R: Tensor, *, after_equals: bool) -> Tensor:
    """For each pair, where its value belongs in its anchor's row."""
    counts_A = torch.bincount(block.anchor_R, minlength=len(ascending_AP))
    first_A = counts_A.cumsum(0) - counts_A
    column_R = torch.arange(len(wanted_R), device=wanted_R.device) - first_A[block.anchor_R]
    wanted_AK = wanted_R.new_zeros(len(ascending_AP), int(counts_A.max()))
    wanted_AK[block.anchor_R, column_R] = wanted_R
    return torch.searchsorted(ascending_AP, wanted_AK, right=after_equals)[block.anchor_R, column_R]


def _semi_hard_range(block: _Block, margin: float) -> tuple[Tensor, Tensor]:
    d2_R = block.d2_pairs
    return _places(block, d2_R, after_equals=True), _places(block, d2_R + margin, after_equals=False)


_Choice = Callable[[_Block, float, torch.Generator | None], tuple[Tensor, Tensor, Tensor]]


def _semi_hard(
    block: _Block, margin: float, _generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    first_R, end_R = _semi_hard_range(block, margin)
    return _picked(block, first_R, end_R > first_R)


def _semi_hard_random(
    block: _Block, margin: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    first_R, end_R = _semi_hard_range(block, margin)
    drawn_R = torch.rand(len(first_R), generator=generator).to(block.d2_AP.device)
    place_R = first_R + (drawn_R * (end_R - first_R)).long()
    return _picked(block, place_R, end_R > first_R)


def _semi_hard_all(
    block: _Block, margin: float, _generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    first_R, end_R = _semi_hard_range(block, margin)
    return _expanded(block, first_R, end_R)


def _all(block: _Block, margin: float, _generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    end_R = _places(block, block.d2_pairs + margin, after_equals=False)
    return _expanded(block, torch.zeros_like(end_R), end_R)


def _hard(block: _Block, _margin: float, _generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    farthest_AP = torch.full_like(block.d2_AP, -torch.inf)
    farthest_AP[block.anchor_R, block.positive_R] = block.d2_pairs
    d2_A, positive_A = farthest_AP.max(dim=1)
    anchor_T = torch.nonzero(torch.isfinite(d2_A) & (block.n_negatives_A > 0)).squeeze(1)
    return anchor_T, positive_A[anchor_T], block.order_AP[anchor_T, 0]


def _random(
    block: _Block, _margin: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    end_R = block.n_negatives_A[block.anchor_R]
    drawn_R = torch.rand(len(end_R), generator=generator).to(block.d2_AP.device)
    return _picked(block, (drawn_R * end_R).long(), end_R > 0)


def _distance_weighted(
    block: _Block, _margin: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws by ``1 / q(d)``, q being the density of distances between random points of the sphere.

    Distances under .5 count as .5, and negatives beyond 1.4, which have no loss, are left out.
    """
    distance_AP = block.d2_AP.sqrt().clamp(min=_NEAREST)
    inside_AP = (1 - distance_AP.square() / 4).clamp(min=1e-6)
    log_q_AP = (block.dim - 2) * distance_AP.log() + (block.dim - 3) / 2 * inside_AP.log()
    usable_AP = block.different_AP & (distance_AP < _FARTHEST_WITH_LOSS)
    weights_AP = torch.softmax((-log_q_AP).masked_fill(~usable_AP, -torch.inf), dim=1).nan_to_num_()
    until_AP = weights_AP.cumsum(dim=1)
    drawn_R = torch.rand(len(block.anchor_R), generator=generator).to(until_AP)
    negative_R = _search(until_AP, block, drawn_R * until_AP[block.anchor_R, -1], after_equals=True)
    has_R = usable_AP.any(dim=1)[block.anchor_R]
    return block.anchor_R[has_R], block.positive_R[has_R], negative_R[has_R].clamp(max=until_AP.shape[1] - 1)


def _picked(block: _Block, place_R: Tensor, has_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    anchor_T = block.anchor_R[has_R]
    return anchor_T, block.positive_R[has_R], block.order_AP[anchor_T, place_R[has_R]]


def _expanded(block: _Block, first_R: Tensor, end_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A triplet for each place from ``first_R`` up to ``end_R``."""
    count_R = (end_R - first_R).clamp(min=0)
    _check_count(int(count_R.sum()))
    pair_T = torch.repeat_interleave(torch.arange(len(count_R), device=count_R.device), count_R)
    begins_R = count_R.cumsum(0) - count_R
    place_T = torch.arange(len(pair_T), device=count_R.device) - begins_R[pair_T] + first_R[pair_T]
    anchor_T = block.anchor_R[pair_T]
    return anchor_T, block.positive_R[pair_T], block.order_AP[anchor_T, place_T]


def _check_count(n_triplets: int) -> None:
    if n_triplets > MAX_TRIPLETS:
        raise ValueError(
            f"a batch gives more than {MAX_TRIPLETS:,} triplets: "
            "use semi-hard, which takes one for each pair, or a smaller batch"
        )


_CHOICES: dict[Miner, _Choice] = {
    Miner.SEMI_HARD: _semi_hard,
    Miner.SEMI_HARD_RANDOM: _semi_hard_random,
    Miner.SEMI_HARD_ALL: _semi_hard_all,
    Miner.HARD: _hard,
    Miner.ALL: _all,
    Miner.DISTANCE_WEIGHTED: _distance_weighted,
    Miner.RANDOM: _random,
}
