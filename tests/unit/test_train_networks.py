"""Networks against the sizes and costs that FaceNet publishes (science page, section 1.1)."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.errors import UsageError
from pipeline.train.counting import count_mult_adds, count_parameters
from pipeline.train.heads import make_head
from pipeline.train.inception import NN2, NN4, InceptionNet, L2Pool
from pipeline.train.networks import build_network, input_size
from pipeline.train.plain_nets import Nn1


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def with_head(trunk: nn.Module) -> nn.Module:
    return nn.Sequential(trunk, make_head("average", int(trunk.channels), 128))


@pytest.mark.parametrize(
    ("make", "size", "parameters", "mult_adds"),
    [
        (Nn1, (220, 220), 140_025_664, 1_605_944_064),
        (lambda: InceptionNet(NN2, norm="lrn"), (224, 224), 7_456_304, 1_596_530_688),
        (lambda: InceptionNet(NN2), (224, 224), 7_472_144, 1_596_530_688),
        (lambda: InceptionNet(NN2), (160, 160), 7_472_144, 814_620_672),
        (lambda: InceptionNet(NN4), (96, 96), 6_622_640, 284_741_632),
    ],
)
def test_facenet_networks_have_the_published_size_and_cost(
    make: Callable[[], nn.Module], size: tuple[int, int], parameters: int, mult_adds: int
) -> None:
    net = on_meta(lambda: with_head(make()))
    assert count_parameters(net) == parameters
    assert count_mult_adds(net, size) == mult_adds


@pytest.mark.parametrize(
    ("name", "parameters", "mult_adds"), [("nns1-like", 26e6, 220e6), ("nns2-like", 4.3e6, 20e6)]
)
def test_small_facenet_networks_meet_the_published_budget(
    name: str, parameters: float, mult_adds: float
) -> None:
    net = on_meta(lambda: build_network(name, pooling="average", dim=128))
    assert count_parameters(net) == pytest.approx(parameters, rel=0.02)
    assert count_mult_adds(net, input_size(name, None)) == pytest.approx(mult_adds, rel=0.12)


@pytest.mark.parametrize(
    ("name", "convolutions"), [("vgg11", 9_220_480), ("vgg16", 14_714_688), ("vgg19", 20_024_384)]
)
def test_vgg_has_the_published_convolutions(name: str, convolutions: int) -> None:
    trunk = on_meta(lambda: build_network(name, pooling="average", dim=8)).trunk
    norms = sum(count_parameters(module) for module in trunk.modules() if isinstance(module, nn.BatchNorm2d))
    assert count_parameters(trunk) - norms == convolutions


def test_l2_pool_is_the_root_of_a_sum() -> None:
    pooled_BCHW = L2Pool()(torch.ones(1, 1, 3, 3))
    assert pooled_BCHW[0, 0].flatten().square().tolist() == pytest.approx(
        [4, 6, 4, 6, 9, 6, 4, 6, 4], rel=1e-5
    )


def test_tiny_network_gives_unit_vectors_from_whole_and_from_real_pixels() -> None:
    torch.manual_seed(0)
    net = build_network("tiny", pooling="gem", dim=16).eval()
    pixels_BCHW = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    embedding_BD = net(pixels_BCHW)
    assert embedding_BD.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-6)
    assert torch.equal(embedding_BD, net(pixels_BCHW.float()))
    assert count_parameters(net) < 80_000


@pytest.mark.parametrize("name", ["nn1:0.25", "nn2:0.25", "nn4:0.25", "nns1-like:0.25"])
def test_a_thin_network_takes_small_images_at_a_small_part_of_the_cost(name: str) -> None:
    size = (40, 34)
    net = build_network(name, pooling="average", dim=8, size=size).eval()
    assert net(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, 8)
    whole = on_meta(lambda: build_network(name.partition(":")[0], pooling="average", dim=8, size=size))
    thin = on_meta(lambda: build_network(name, pooling="average", dim=8, size=size))
    assert count_mult_adds(thin, size) < count_mult_adds(whole, size) / 4


def test_unknown_networks_and_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no network 'resnet'"):
        build_network("resnet", pooling="gem", dim=8)
    for name in ("nn2:0", "nn2:2", "nn2:thin", "tiny:0.5"):
        with pytest.raises(UsageError, match="a share of the filters"):
            build_network(name, pooling="gem", dim=8)
