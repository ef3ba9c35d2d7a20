"""Models of other libraries as trunks; importing transformers takes seconds, so these stand apart."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.train.networks import build_network

pytestmark = pytest.mark.integration

_CONFIGS = {
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
    "vit": {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 8,
    },
    "dinov2": {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
}


@pytest.mark.parametrize(
    ("kind", "shape"), [("resnet", (12, 4, 4)), ("vit", (16, 4, 4)), ("dinov2", (16, 4, 4))]
)
def test_models_of_transformers_give_maps(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_CONFIGS[kind]))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]})
    )
    net = build_network(f"hf:{tmp_path}", pooling="average", dim=6).eval()
    pixels_BCHW = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert net.trunk(pixels_BCHW.float()).shape[1:] == shape
    assert net(pixels_BCHW).shape == (2, 6)
    assert net.pixel_std.flatten().tolist() == pytest.approx([51, 51, 51])


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model that transformers can load"):
        build_network(f"hf:{tmp_path}", pooling="gem", dim=8)
