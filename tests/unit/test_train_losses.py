"""Losses and miners against hand-computed values (science page, section 5) and against brute force."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from pipeline.train.losses import (
    ArcFace,
    AuxiliarySoftmax,
    contrastive_loss,
    n_pair_loss,
    n_tuple_loss,
    triplet_loss,
)
from pipeline.train.memory import CrossBatchMemory
from pipeline.train.mining import Miner, Triplets, mine, squared_distances
from pipeline.train.relation import with_memory, within

MARGIN = 0.2


def at(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def as_set(triplets: Triplets) -> set[tuple[int, int, int]]:
    columns = (triplets.anchor_T, triplets.positive_T, triplets.negative_T)
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(found) == len(set(found))
    return set(found)


def random_batch(n: int = 60, classes: int = 7, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    labels_N = torch.randint(classes, (n,), generator=generator)
    return torch.nn.functional.normalize(x_ND + labels_N[:, None] / 4, dim=1), labels_N


def every_triplet(e_ND: Tensor, labels_N: Tensor) -> list[tuple[int, int, int, float, float]]:
    d2_NN = squared_distances(e_ND, e_ND).tolist()
    labels = labels_N.tolist()
    n = range(len(labels))
    return [
        (a, p, m, d2_NN[a][p], d2_NN[a][m])
        for a, p, m in itertools.product(n, n, n)
        if a != p and labels[a] == labels[p] != labels[m]
    ]


def test_only_semi_hard_triplet_of_four_points_is_found_and_costs_what_it_should() -> None:
    e_ND, labels_N = at(0, 30, -38, -60), torch.tensor([0, 0, 1, 1])
    for miner in (Miner.SEMI_HARD, Miner.SEMI_HARD_RANDOM, Miner.SEMI_HARD_ALL):
        triplets = mine(e_ND, e_ND, within(labels_N), miner)
        assert as_set(triplets) == {(0, 1, 2)}
        assert triplet_loss(e_ND, e_ND, triplets).item() == pytest.approx(0.043971, abs=1e-6)


def test_active_triplets_of_four_points_cost_what_they_should() -> None:
    e_ND, labels_N = at(0, 20, 35, 90), torch.tensor([0, 0, 1, 1])
    triplets = mine(e_ND, e_ND, within(labels_N), Miner.ALL)
    assert as_set(triplets) == {(1, 0, 2), (2, 3, 0), (2, 3, 1)}
    assert triplet_loss(e_ND, e_ND, triplets).item() == pytest.approx(0.642772, abs=1e-6)
    every = torch.tensor([row[:3] for row in every_triplet(e_ND, labels_N)]).T
    eight = Triplets(anchor_T=every[0], positive_T=every[1], negative_T=every[2])
    assert triplet_loss(e_ND, e_ND, eight, mean_over="all").item() == pytest.approx(0.241040, abs=1e-6)
    assert len(mine(e_ND, e_ND, within(labels_N), Miner.SEMI_HARD)) == 0


def test_contrastive_loss_is_squared_and_halved() -> None:
    e_ND, labels_N = at(0, 20, 35, 90), torch.tensor([0, 0, 1, 1])
    assert contrastive_loss(e_ND, e_ND, within(labels_N)).item() == pytest.approx(0.085880, abs=1e-6)


def test_n_pair_loss_of_two_pairs() -> None:
    assert n_pair_loss(at(0, 35), at(20, 90), scale=1).item() == pytest.approx(0.619142, abs=1e-6)


def test_n_tuple_loss_counts_all_negatives_of_an_anchor() -> None:
    e_ND, labels_N = at(0, 20, 35, 90), torch.tensor([0, 0, 1, 1])
    cos = {(a, b): math.cos(math.radians(a - b)) for a in (0, 20, 35, 90) for b in (0, 20, 35, 90)}
    pairs = [((0, 20), (35, 90)), ((20, 0), (35, 90)), ((35, 90), (0, 20)), ((90, 35), (0, 20))]
    terms = [math.log(1 + sum(math.exp(2 * (cos[a, n] - cos[a, p])) for n in ns)) for (a, p), ns in pairs]
    loss = n_tuple_loss(e_ND, e_ND, within(labels_N), scale=2)
    assert loss.item() == pytest.approx(sum(terms) / 4)


@pytest.mark.parametrize(("scale", "expected"), [(4, 0.246490), (30, 7.0495e-5), (64, 1.389e-9)])
def test_arcface_of_one_vector_between_two_classes(scale: float, expected: float) -> None:
    loss = ArcFace(2, 2, scale=scale).double()
    with torch.no_grad():
        loss.weight_CD.copy_(at(0, 90))
    assert loss(at(20), torch.tensor([0])).item() == pytest.approx(expected, rel=1e-3)


def test_arcface_stays_finite_at_the_class_centre_and_opposite_to_it() -> None:
    loss = ArcFace(2, 2)
    with torch.no_grad():
        loss.weight_CD.copy_(at(0, 90))
    e_ND = at(0, 180).float().requires_grad_()
    loss(e_ND, torch.tensor([0, 0])).backward()
    assert e_ND.grad is not None
    assert e_ND.grad.isfinite().all()


def test_auxiliary_softmax_looks_at_the_first_branch_only() -> None:
    torch.manual_seed(0)
    loss = AuxiliarySoftmax(2, 3)
    e_ND = torch.rand(4, 5)
    other_ND = e_ND.clone()
    other_ND[:, 2:] = 7
    labels_N = torch.tensor([0, 1, 2, 0])
    assert loss(e_ND, labels_N).item() == pytest.approx(loss(other_ND, labels_N).item())


@pytest.mark.parametrize("block_bytes", [600, 16 << 20])
def test_mined_ranges_are_those_of_brute_force(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.mining._BLOCK_BYTES", block_bytes)
    e_ND, labels_N = random_batch()
    every = every_triplet(e_ND, labels_N)
    semi_hard = {(a, p, n) for a, p, n, ap, an in every if ap < an < ap + MARGIN}
    active = {(a, p, n) for a, p, n, ap, an in every if an < ap + MARGIN}
    relation = within(labels_N)
    assert as_set(mine(e_ND, e_ND, relation, Miner.SEMI_HARD_ALL)) == semi_hard
    assert as_set(mine(e_ND, e_ND, relation, Miner.ALL)) == active
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    for a, p, n, ap, an in every:
        if ap < an < ap + MARGIN and an < nearest.get((a, p), (math.inf, 0))[0]:
            nearest[a, p] = (an, n)
    one_each = {(a, p, n) for (a, p), (_, n) in nearest.items()}
    assert as_set(mine(e_ND, e_ND, relation, Miner.SEMI_HARD)) == one_each
    drawn = as_set(
        mine(e_ND, e_ND, relation, Miner.SEMI_HARD_RANDOM, generator=torch.Generator().manual_seed(1))
    )
    assert drawn <= semi_hard
    assert {pair[:2] for pair in drawn} == set(nearest)


def test_hard_miner_takes_the_farthest_positive_and_the_nearest_negative() -> None:
    e_ND, labels_N = random_batch()
    every = every_triplet(e_ND, labels_N)
    expected = set()
    for anchor in range(len(e_ND)):
        mine_ = [row for row in every if row[0] == anchor]
        if mine_:
            expected.add((anchor, max(mine_, key=lambda r: r[3])[1], min(mine_, key=lambda r: r[4])[2]))
    assert as_set(mine(e_ND, e_ND, within(labels_N), Miner.HARD)) == expected


def test_distance_weighted_miner_draws_evenly_over_distances() -> None:
    n_ring = 800
    generator = torch.Generator().manual_seed(0)
    directions_ND = torch.nn.functional.normalize(torch.randn(n_ring, 16, generator=generator), dim=1)
    e_ND = torch.cat([torch.eye(1, 16).expand(60, 16), directions_ND])
    labels_N = torch.cat([torch.zeros(60, dtype=torch.int64), torch.arange(1, n_ring + 1)])
    relation = within(labels_N)
    triplets = mine(e_ND, e_ND, relation, Miner.DISTANCE_WEIGHTED, generator=generator)
    of_first = triplets.anchor_T < 60
    d_T = (e_ND[triplets.anchor_T] - e_ND[triplets.negative_T]).norm(dim=1)[of_first]
    random = mine(e_ND, e_ND, relation, Miner.RANDOM, generator=generator)
    d_random_T = (e_ND[random.anchor_T] - e_ND[random.negative_T]).norm(dim=1)
    assert (d_T < 1.4).all()
    assert d_T.mean() < 1.25 < d_random_T.mean()  # random ones crowd at sqrt(2)
    assert not set(triplets.negative_T.tolist()) & set(range(60))


def test_distances_to_a_memory_count_and_an_image_is_not_its_own_partner() -> None:
    e_ND, labels_N = random_batch(20)
    memory_MD, remembered_M = random_batch(30, seed=1)
    both_PD = torch.cat([e_ND, memory_MD])
    relation = with_memory(labels_N, remembered_M, torch.arange(20), torch.arange(20, 50))
    triplets = mine(e_ND, both_PD, relation, Miner.ALL)
    labels_P = torch.cat([labels_N, remembered_M])
    assert (triplets.positive_T != triplets.anchor_T).all()
    assert (labels_P[triplets.positive_T] == labels_N[triplets.anchor_T]).all()
    assert (labels_P[triplets.negative_T] != labels_N[triplets.anchor_T]).all()
    assert int(triplets.negative_T.max()) >= 20


def test_older_vector_of_an_image_is_no_partner_of_it() -> None:
    memory = CrossBatchMemory(5)
    e_BD, labels_B, images_B = at(0, 30, 90), torch.tensor([0, 0, 1]), torch.tensor([7, 8, 9])
    memory.add(e_BD, labels_B, images_B)
    memory.add(at(5, 35, 95), labels_B, images_B)
    assert memory.held is not None
    again = CrossBatchMemory(5)
    again.load(memory.state())
    assert again.held is not None
    assert again.held.images_M.tolist() == [8, 9, 7, 8, 9]  # the oldest is forgotten
    relation = with_memory(labels_B, again.held.labels_M, images_B, again.held.images_M)
    same_AP, different_AP = relation.rows(0, 3)
    assert torch.nonzero(same_AP).tolist() == [[0, 1], [0, 3], [0, 6], [1, 0], [1, 5]]
    assert not same_AP[2].any()
    assert different_AP.sum(dim=1).tolist() == [3, 3, 5]


def test_images_with_many_labels_are_related_by_how_many_they_share() -> None:
    labels_NL = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    same_AP, different_AP = within(labels_NL, at_least=2).rows(0, 4)
    assert torch.nonzero(same_AP).tolist() == [[0, 1], [1, 0]]
    assert torch.nonzero(different_AP).tolist() == [[0, 3], [1, 3], [2, 3], [3, 0], [3, 1], [3, 2]]
    e_ND = at(0, 5, 2, 3)
    assert as_set(mine(e_ND, e_ND, within(labels_NL, 2), Miner.ALL)) == {(0, 1, 3), (1, 0, 3)}


def test_more_triplets_than_memory_holds_are_refused_before_they_are_made() -> None:
    labels_N = torch.arange(900) % 9
    e_ND = torch.nn.functional.normalize(torch.randn(900, 4), dim=1)
    with pytest.raises(ValueError, match="use semi-hard"):
        mine(e_ND, e_ND, within(labels_N), Miner.ALL, margin=4)


@pytest.mark.parametrize("miner", list(Miner))
def test_a_batch_of_one_class_gives_no_triplet_and_no_loss(miner: Miner) -> None:
    e_ND = at(0, 10, 20).requires_grad_()
    labels_N = torch.zeros(3, dtype=torch.int64)
    triplets = mine(e_ND, e_ND, within(labels_N), miner)
    loss = triplet_loss(e_ND, e_ND, triplets) + n_tuple_loss(e_ND, e_ND, within(labels_N))
    loss.backward()
    assert len(triplets) == 0
    assert loss.item() == 0
