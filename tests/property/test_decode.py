"""Damaged images end as pixels or as a reject, whatever the damage; nothing else ever comes out."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import ImageRejected, decode
from pipeline.values import DecodeLimits, RejectReason

LIMITS = DecodeLimits(max_pixels=1_000_000)


def seeds() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        image.save(buffer, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
        files.append(buffer.getvalue())
    return files


SEEDS = seeds()


def outcome(data: bytes) -> tuple[str, int] | RejectReason:
    try:
        image = decode(data, LIMITS)
    except ImageRejected as rejected:
        return rejected.reason
    return image.mode, image.width * image.height


@pytest.mark.filterwarnings(r"ignore:::PIL\.")  # as quiet_decoder_warnings does in a worker
@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1) | st.just(1.0),
    tail=st.binary(max_size=8),
)
def test_decode_damaged_bytes_end_as_pixels_or_reject(
    seed: bytes, damage: list[tuple[float, int]], keep: float, tail: bytes
) -> None:
    data = bytearray(seed[: int(len(seed) * keep)])
    for at, value in damage:
        if data:
            data[min(len(data) - 1, int(at * len(data)))] = value
    result = outcome(bytes(data) + tail)
    if isinstance(result, tuple):
        mode, pixels = result
        assert mode == "RGB"
        assert 0 < pixels <= LIMITS.max_pixels
    assert result == outcome(bytes(data) + tail)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64))
def test_decode_arbitrary_bytes_are_never_a_picture_by_chance(data: bytes) -> None:
    assert outcome(data) in (RejectReason.EMPTY, RejectReason.UNIDENTIFIED, RejectReason.FORMAT_NOT_ALLOWED)
