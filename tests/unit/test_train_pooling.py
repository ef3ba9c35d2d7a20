"""Poolings and heads against hand-computed and published values (science page, section 4)."""

import pytest
import torch

from pipeline.train.heads import BatchDrop, CombinedDescriptor, make_head
from pipeline.train.pooling import POOLINGS, GeM, rmac_regions

MAP_1CHW = torch.tensor([[[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[0, 0, 1], [0, 2, 0], [3, 0, 0]]]).float()[None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average", (5, 0.666667)),
        ("max", (9, 3)),
        ("gem", (6.082202, 1.587401)),
        ("rmac", (0.981319, 0.192385)),
        ("rmac-cirtorch", (0.979618, 0.200863)),  # (14.483348, 2.969666), made unit
    ],
)
def test_pooling_of_a_3x3_map_gives_the_published_values(name: str, expected: tuple[float, float]) -> None:
    pooled_BC = POOLINGS[name]()(MAP_1CHW)
    assert pooled_BC[0].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("p", "expected"), [(1, 2.5), (2, 2.738613), (3, 2.924018), (10, 3.501656)])
def test_gem_of_four_values_is_their_generalised_mean(p: float, expected: float) -> None:
    assert GeM(p)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item() == pytest.approx(expected, abs=2e-6)


def test_gem_in_half_precision_overflows_no_value() -> None:
    assert GeM()(torch.full((1, 1, 2, 2), 1000.0, dtype=torch.float16)).item() == pytest.approx(
        1000, rel=1e-4
    )


def test_gem_below_one_counts_as_one() -> None:
    assert GeM(0.1)(MAP_1CHW)[0, 0].item() == pytest.approx(5)


def test_regions_of_a_square_map_are_those_of_the_paper() -> None:
    assert rmac_regions(7, 7) == [
        (0, 0, 7),
        *((y, x, 4) for y in (0, 3) for x in (0, 3)),
        *((y, x, 3) for y in (0, 2, 4) for x in (0, 2, 4)),
    ]


@pytest.mark.parametrize(
    ("height", "width", "count", "columns"),
    [
        (7, 10, 20, ({0, 3}, {0, 3, 6}, {0, 2, 4, 7})),
        (12, 16, 20, ({0, 4}, {0, 4, 8}, {0, 3, 6, 10})),
        (4, 12, 32, None),
        (1, 1, 1, None),
    ],
)
def test_regions_of_other_maps_spread_along_the_long_side(
    height: int, width: int, count: int, columns: tuple[set[int], ...] | None
) -> None:
    regions = rmac_regions(height, width)
    assert len(regions) == count
    turned = {(x, y, side) for y, x, side in rmac_regions(width, height)}
    assert set(regions) == turned
    if columns is not None:
        sides = sorted({side for _, _, side in regions}, reverse=True)
        assert tuple({x for _, x, side in regions if side == wanted} for wanted in sides) == columns


@pytest.mark.parametrize("name", [*POOLINGS, "combined", "batch-drop"])
def test_every_head_gives_unit_vectors_of_its_dimension(name: str) -> None:
    torch.manual_seed(0)
    embedding_BD = make_head(name, 8, 5)(torch.rand(3, 8, 4, 6))
    assert embedding_BD.shape == (3, 5)
    assert embedding_BD.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_first_branch_of_the_combined_descriptor_is_the_front_of_the_embedding() -> None:
    head = CombinedDescriptor(8, 8, ("average", "max", "gem"))
    assert head.first_dim == 3
    x_BCHW = torch.rand(2, 8, 3, 3)
    front_BD = torch.nn.functional.normalize(head(x_BCHW)[:, :3], dim=1)
    assert torch.allclose(front_BD, head.branches[0](x_BCHW), atol=1e-6)


def test_batch_drop_drops_one_region_for_all_images_and_nothing_in_use() -> None:
    torch.manual_seed(0)
    drop, x_BCHW = BatchDrop(0.5, 0.5), torch.ones(3, 2, 6, 8)
    dropped_BCHW = drop(x_BCHW)
    assert int((dropped_BCHW == 0).sum()) == 3 * 2 * 3 * 4
    assert (dropped_BCHW == dropped_BCHW[:1, :1]).all()
    assert (drop.eval()(x_BCHW) == 1).all()


def test_unknown_pooling_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="average, max, gem"):
        make_head("mean", 8, 4)
