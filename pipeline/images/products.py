"""Photographs a small shop: products that never existed, seen again and again, the same way every time.

Does the pipeline find the other photos of a product? The demo asks that of these images; they need no network
and no licence. A view of a product changes crop, scale, angle, light, background and JPEG quality; some views
are unsharp, a few carry a watermark. ``goods`` says what the products look like.
"""

import colorsys
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from PIL import Image

from pipeline.images import degrade
from pipeline.images.goods import CUT_OUT_PX, category_of, cut_out_of

PRODUCTS_PER_LINE = 3


class ProductLabels(TypedDict):
    """What the catalog says about an image, beside its pixels; ``group_id`` is the product."""

    product: str
    category: str
    group_id: str


def image_name(product: int, view: int) -> str:
    """The id of a view, ``p0123_v04``."""
    return f"p{product:04d}_v{view:02d}"


def product_labels(product: int) -> ProductLabels:
    """What the catalog says about every image of ``product``."""
    name = f"p{product:04d}"
    return {"product": name, "category": category_of(product), "group_id": name}


def catalog_images(
    n_products: int = 200, views: int = 10, seed: int = 0
) -> Iterator[tuple[str, bytes, ProductLabels]]:
    """Yields (id, JPEG bytes, labels) for every view of every product, product by product.

    Raises:
        ValueError: if a count is negative.
    """
    if n_products < 0 or views < 0:
        raise ValueError(f"counts must not be negative, got {n_products} products of {views} views")
    for product in range(n_products):
        for view in range(views):
            yield image_name(product, view), product_jpeg(product, view, seed), product_labels(product)


def product_jpeg(product: int, view: int, seed: int = 0) -> bytes:
    """A view as the JPEG a shop would store: 4:2:0, quality 40 to 92 chosen by the view."""
    quality = 40 + int(53 * float(_rng(seed, 3, product, view).random()))
    return degrade.recompress_jpeg(render_product(product, view, seed), quality)


def render_product(product: int, view: int, seed: int = 0) -> Image.Image:
    """One photo of a product: RGB, each side 160..224 px, the same pixels for the same three numbers.

    Raises:
        ValueError: if a number is negative.
    """
    if min(product, view, seed) < 0:
        raise ValueError(f"numbers must not be negative, got product {product}, view {view}, seed {seed}")
    rng = _rng(seed, 2, product, view)
    width_px, height_px = (160 + 8 * int(9 * u) for u in rng.random(2))
    canvas = _background((width_px, height_px), rng)
    cut_out = _place(cut_out_of(product, seed), (width_px, height_px), rng)
    canvas.paste(cut_out, (0, 0), cut_out)
    return _photograph(canvas, rng)


def _rng(*key: int) -> np.random.Generator:
    """Only ``random()`` is drawn from it: its stream is fixed, the derived distributions of numpy are not."""
    return np.random.default_rng(key)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """White or grey paper, a pastel wall, or a wall with a floor."""
    kind = float(rng.random())
    hue, depth, dark = (float(u) for u in rng.random(3))
    if kind < 0.65:
        return Image.new("RGB", size, (255 - int(22 * depth),) * 3)
    canvas = Image.new("RGB", size, _hsv(hue, 0.03 + 0.15 * depth, 0.98 - 0.16 * dark))
    if kind > 0.85:
        floor = _hsv(0.07 + 0.1 * hue, 0.1 + 0.3 * depth, 0.9 - 0.3 * dark)
        canvas.paste(floor, (0, int(size[1] * _between(rng, 0.6, 0.8)), *size))
    return canvas


def _place(cut_out: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The cut-out turned, scaled and shifted onto ``size``: an affine map from canvas to cut-out pixels."""
    width_px, height_px = size
    scale = CUT_OUT_PX / min(size) / _between(rng, 0.9, 1.12)
    turn = np.deg2rad(_between(rng, -6, 6))
    squeeze = _between(rng, 0.94, 1.04)
    shift_x, shift_y = (_between(rng, -0.05, 0.05) * side for side in size)
    a, b = scale * np.cos(turn) / squeeze, scale * np.sin(turn) / squeeze
    d, e = -scale * np.sin(turn), scale * np.cos(turn)
    cx, cy = width_px / 2 + shift_x, height_px / 2 + shift_y
    middle = CUT_OUT_PX / 2
    data = (a, b, middle - a * cx - b * cy, d, e, middle - d * cx - e * cy)
    matrix = tuple(float(x) for x in data)
    return cut_out.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light for all, an unsharp lens for some, a watermark for a few."""
    image = degrade.relight(
        image,
        brightness=_between(rng, 0.86, 1.1),
        contrast=_between(rng, 0.86, 1.12),
        warmth=_between(rng, -0.2, 0.2),
    )
    soft, marked, style, overlay = (float(u) for u in rng.random(4))
    if soft < 0.12:
        image = degrade.blur(image, 0.6 + 6 * soft)
    if marked < 0.08:
        chosen = list(degrade.WatermarkStyle)[int(3 * style)]
        image = degrade.watermark(image, chosen, opacity=0.3 + 2.5 * marked, area=0.12, seed=int(4 * overlay))
    return image


def _hsv(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
