"""An image that holds up its worker costs that image, not its shard and not the run."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Command
from tests.support.pictures import jpeg


def slow_png() -> bytes:
    """A valid PNG of 64 megapixels of noise: a second to decode, within every limit but time."""
    noise = np.random.default_rng(0).integers(0, 4, (8000, 8000, 1), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.repeat(noise, 3, axis=2)).save(out, "PNG", compress_level=1)
    return out.getvalue()


@pytest.mark.fault
@pytest.mark.timeout(180)
def test_reindex_image_that_decodes_too_long_is_rejected_and_the_others_are_embedded(tmp_path):
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    for number in range(20):
        (catalog / f"fine{number:02d}.jpg").write_bytes(jpeg(40, 30, seed=number))
    (catalog / "slow.png").write_bytes(slow_png())
    limits = ["--set", "decode.max_seconds=0.4", "--set", "decode.max_bytes=200000000"]

    command = Command(tmp_path / "cache")
    done = command.json("reindex", catalog, "--store", tmp_path / "store", "--model", "builtin", *limits)

    assert done["rejected"] == {"decode_timeout": 1}
    assert done["images"]["embedded"] == 20
    assert done["images"]["set_aside"] == 0
