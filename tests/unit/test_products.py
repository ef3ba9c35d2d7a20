import io
import itertools

import numpy as np
import pytest
from PIL import Image

from pipeline.images import goods, products, silhouettes


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((64, 64))).astype(float)


def test_render_product_same_numbers_give_the_same_pixels() -> None:
    first = products.render_product(7, 3, 0).tobytes()
    goods.cut_out_of.cache_clear()
    assert products.render_product(7, 3, 0).tobytes() == first


def test_render_product_does_not_depend_on_what_was_rendered_before() -> None:
    alone = products.product_jpeg(5, 1, 0)
    for other in range(20, 40):
        products.render_product(other, 0, 0)
    assert products.product_jpeg(5, 1, 0) == alone


@pytest.mark.parametrize("other", [(8, 3, 0), (7, 4, 0), (7, 3, 1)])
def test_render_product_each_number_matters(other: tuple[int, int, int]) -> None:
    assert products.product_jpeg(*other) != products.product_jpeg(7, 3, 0)


def test_render_product_is_rgb_of_the_stated_size_in_every_category() -> None:
    for line in range(len(silhouettes.CATEGORIES)):
        image = products.render_product(line * goods.PRODUCTS_PER_LINE, line % 3, 0)
        assert image.mode == "RGB"
        assert all(160 <= side <= 224 for side in image.size)
        assert _pixels(image).std() > 10  # something is on it


def test_render_product_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        products.render_product(0, -1, 0)


def test_cut_out_products_all_differ_also_within_a_line() -> None:
    seen = [goods.cut_out_of(product, 0).tobytes() for product in range(60)]
    assert len(set(seen)) == len(seen)


def test_cut_out_is_opaque_inside_and_transparent_in_the_corners() -> None:
    alpha = np.asarray(goods.cut_out_of(2, 0))[..., 3]
    assert alpha.max() == 255
    assert alpha[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0, 0, 0, 0]


def test_views_of_a_product_are_nearer_than_views_of_others_on_average() -> None:
    views = {p: [_pixels(products.render_product(p, v, 0)) for v in range(4)] for p in range(0, 54, 3)}
    same = [np.abs(a - b).mean() for v in views.values() for a, b in itertools.combinations(v, 2)]
    firsts = [v[0] for v in views.values()]
    different = [np.abs(a - b).mean() for a, b in itertools.combinations(firsts, 2)]
    assert np.mean(same) < 0.8 * np.mean(different)


def test_catalog_images_names_labels_and_bytes() -> None:
    listed = list(products.catalog_images(n_products=4, views=2, seed=3))
    assert [name for name, _, _ in listed] == [f"p{p:04d}_v{v:02d}" for p in range(4) for v in range(2)]
    name, data, labels = listed[3]
    assert labels == {"product": "p0001", "category": "bottle", "group_id": "p0001"}
    assert data == products.product_jpeg(1, 1, 3)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "JPEG"
    assert name == "p0001_v01"
    assert listed == list(products.catalog_images(n_products=4, views=2, seed=3))


def test_catalog_images_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        next(products.catalog_images(n_products=-1))


@pytest.mark.parametrize("category", silhouettes.CATEGORIES)
@pytest.mark.parametrize("number", [0.0, 0.5, 1.0])
def test_silhouette_any_shape_has_a_body_inside_the_canvas(category: str, number: float) -> None:
    drawn = silhouettes.draw_silhouette(category, [number] * silhouettes.N_SHAPE_NUMBERS)
    body = np.asarray(drawn.body) > 0
    assert 0.03 < body.mean() < 0.8
    edge = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
    assert not edge.any()
    if drawn.label is not None:
        left, top, right, bottom = drawn.label
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1


def test_silhouette_wrong_count_of_shape_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 5"):
        silhouettes.draw_silhouette("mug", [0.5])
