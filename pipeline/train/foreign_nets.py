"""Networks of other libraries as trunks: transformers (``hf:…``), and timm (``timm:…``) where installed.

A trunk gives a map. Where a network gives tokens, those of the patches are laid out as the map they came
from, and the class and register tokens in front of them are dropped. ``hf:`` takes a name on the hub, a
folder with weights, or a folder with a ``config.json`` alone, which starts untrained.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.errors import ModelError

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of pixels 0..255, each R, G, B."""


class TransformersTrunk(nn.Module):
    """The vision part of a model of ``transformers``."""

    def __init__(self, model: nn.Module, where: str) -> None:
        super().__init__()
        self.model: Any = getattr(model, "vision_model", model)  # of CLIP and SigLIP the images' half
        self.channels = _channels(self.model.config, where)
        patch = getattr(self.model.config, "patch_size", 0)
        self.patch = patch if isinstance(patch, int) else 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] to a map."""
        last = self.model(pixel_values=x_BCHW).last_hidden_state
        if last.ndim == 4:
            return last
        height, width = x_BCHW.shape[2] // self.patch, x_BCHW.shape[3] // self.patch
        patches_BTC = last[:, last.shape[1] - height * width :]
        return patches_BTC.transpose(1, 2).unflatten(2, (height, width))


class TimmTrunk(nn.Module):
    """A model of ``timm`` without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.channels = int(self.model.num_features)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] to a map."""
        last = self.model.forward_features(x_BCHW)
        if last.ndim == 4:
            return last if last.shape[1] == self.channels else last.permute(0, 3, 1, 2)
        height, width = self.model.patch_embed.dynamic_feat_size(tuple(x_BCHW.shape[2:]))
        patches_BTC = last[:, self.model.num_prefix_tokens :]
        return patches_BTC.transpose(1, 2).unflatten(2, (height, width))


def transformers_trunk(where: str) -> tuple[nn.Module, Pixels]:
    """The trunk that ``hf:WHERE`` names, and how it wants its pixels.

    Raises:
        ModelError: there is none, or it is no model of images.
    """
    import transformers

    folder = Path(where)
    has_weights = not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    try:
        if has_weights:
            model = transformers.AutoModel.from_pretrained(where)
        else:
            model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(where))
    except (OSError, ValueError, KeyError, ImportError) as exc:
        raise ModelError(
            f"hf:{where} is no model that transformers can load: {_first_line(exc)}",
            fix="name a folder with config.json, or a model on the hub, as in hf:facebook/dinov2-small",
        ) from exc
    return TransformersTrunk(model, f"hf:{where}"), _transformers_pixels(where)


def timm_trunk(name: str) -> tuple[nn.Module, Pixels]:
    """The trunk that ``timm:NAME`` names with its published weights, and how it wants its pixels.

    Raises:
        ModelError: timm is not installed, or knows no such model.
    """
    try:
        import timm
    except ImportError as exc:
        raise ModelError(
            f"timm:{name} needs timm: {_first_line(exc)}", fix="pip install bitsieve[timm]"
        ) from exc
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError) as exc:
        raise ModelError(
            f"timm:{name} does not load: {_first_line(exc)}", fix="see timm.list_models()"
        ) from exc
    config = timm.data.resolve_model_data_config(model)
    return TimmTrunk(model), (_times_255(config["mean"]), _times_255(config["std"]))


def _transformers_pixels(where: str) -> Pixels:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(where)
    except (OSError, ValueError):
        return _IMAGENET
    mean, std = config.get("image_mean"), config.get("image_std")
    return (_times_255(mean), _times_255(std)) if mean and std else _IMAGENET


def _times_255(values: Any) -> tuple[float, float, float]:
    red, green, blue = (255 * float(value) for value in values)
    return red, green, blue


def _channels(config: Any, where: str) -> int:
    """How many channels the last map has: transformers has no one name for it."""
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return int(sizes[-1])
    for name in ("hidden_dim", "hidden_size"):  # EfficientNet says hidden_dim, the transformers hidden_size
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ModelError(f"{where} does not say how many channels it gives: it is no model of images")


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
