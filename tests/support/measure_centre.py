"""Measures the centre of the filters over the demo catalog, for `pipeline/model/filters_centre.py`."""

import io
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from pipeline.images.products import catalog_images
from pipeline.model.filters import DIM, SIZE_PX, build_filter_model


def catalog_pixels(n_products: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """The demo catalog as the fixed-filter model wants it: uint8 [N,3,96,96], and the product numbers [N]."""
    pixels, numbers = [], []
    for name, data, _ in catalog_images(n_products, views):
        with Image.open(io.BytesIO(data)) as image:
            small = image.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(small).transpose(2, 0, 1))
        numbers.append(int(name[1:5]))
    return np.stack(pixels), np.array(numbers)


def run_model(data: bytes, pixels: np.ndarray, batch: int = 32, threads: int = 1) -> np.ndarray:
    """The first output of the model for all images, computed ``batch`` at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    starts = range(0, len(pixels), batch)
    return np.concatenate([session.run(None, {"image": pixels[s : s + batch]})[0] for s in starts])


def measure_centre(n_products: int = 200, views: int = 10) -> np.ndarray:
    """The mean [128] of what enters the L2 normalisation when nothing is subtracted."""
    model = onnx.load_from_string(build_filter_model(centre=[0.0] * DIM))
    unit = model.graph.node.pop()
    model.graph.output[0].name = unit.input[0]
    pixels, _ = catalog_pixels(n_products, views)
    return run_model(model.SerializeToString(), pixels).mean(axis=0)


if __name__ == "__main__":
    sys.stdout.write(", ".join(f"{value:.3f}" for value in measure_centre()) + "\n")
