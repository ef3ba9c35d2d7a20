"""Well-known kinds of files get the preprocessing of their family."""

import json
from pathlib import Path

import pytest
from onnx import helper

from jobs.cli import run
from pipeline.errors import ModelError
from pipeline.model.presets import Preset, preset_input
from tests.support.models import bare_pool, graph_bytes, pool_nodes


@pytest.mark.parametrize(
    ("preset", "black", "white", "resize", "align"),
    [
        ("arcface", (-1, -1, -1), (1, 1, 1), "squash", "arcface5"),
        ("clip", (-1.7922626, -1.7520971, -1.4802198), (1.9303361, 2.0748837, 2.1458972), "shortest", None),
        ("dinov2", (-2.1179039, -2.0357143, -1.8044444), (2.2489083, 2.4285714, 2.64), "shortest", None),
        ("siglip", (-1, -1, -1), (1, 1, 1), "squash", None),
    ],
)
def test_a_preset_maps_black_and_white_as_the_family_does(
    preset: str, black: tuple[float, ...], white: tuple[float, ...], resize: str, align: str | None
) -> None:
    spec = preset_input(bare_pool(), "a file", Preset(preset))
    for value, expected in ((0, black), (255, white)):
        found = [(value * spec.scale - m) / s for m, s in zip(spec.mean, spec.std, strict=True)]
        assert found == pytest.approx(expected, abs=1e-6)
    assert (spec.resize, spec.align, spec.size) == (resize, align, (4, 4))


def test_the_size_is_the_graphs_then_what_is_given_then_the_familys() -> None:
    free = bare_pool(input_shape=("N", 3, "H", "W"))
    assert preset_input(free, "a file", Preset.DINOV2).size == (224, 224)
    assert preset_input(free, "a file", Preset.DINOV2).resize_to == 256
    assert preset_input(free, "a file", Preset.CLIP, (336, 336)).size == (336, 336)


def test_an_arcface_graph_that_normalises_by_itself_is_refused() -> None:
    nodes = [
        helper.make_node("Sub", ["image", "image"], ["zero"]),
        helper.make_node("Mul", ["zero", "zero"], ["scaled"]),
        *pool_nodes("scaled"),
    ]
    data = graph_bytes(nodes)
    with pytest.raises(ModelError, match="begins with Sub and Mul"):
        preset_input(data, "a file", Preset.ARCFACE)
    assert preset_input(data, "a file", Preset.SIGLIP).scale == 1


def test_model_import_writes_a_file_that_says_what_it_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.onnx").write_bytes(bare_pool())
    out = tmp_path / "out.onnx"
    arguments = ["model", "import", str(tmp_path / "net.onnx"), "-o", str(out), "--preset", "siglip"]
    assert run([*arguments, "--license", "MIT", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"]["name"] == "net"
    assert result["preprocess"]["interpolation"] == "bicubic"
    assert result["probe"]["dim"] == 3
    assert run([*arguments, "--license", "MIT", "--json"]) == 2  # it is not overwritten
