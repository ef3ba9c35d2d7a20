"""Bytes to pixels or a reject: pixel layouts, orientations, limits and damage, against hand-made pixels."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import ImageRejected, decode, decode_upright, to_rgb
from pipeline.values import DecodeLimits, RejectReason

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # as quiet_decoder_warnings does in a worker

LIMITS = DecodeLimits()


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int = 40, width: int = 60) -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def reason_of(data: bytes, limits: DecodeLimits = LIMITS) -> RejectReason:
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits)
    return caught.value.reason


def decode_or_reason(data: bytes) -> Image.Image | RejectReason:
    try:
        return decode(data, LIMITS)
    except ImageRejected as rejected:
        return rejected.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_decode_lossless_format_gives_the_pixels(kind: str) -> None:
    image = decode(encode(picture(), kind), LIMITS)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))


def smooth(height: int = 40, width: int = 60) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 4, y * 6, x + y], axis=2).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_decode_lossy_format_gives_nearly_the_pixels(kind: str) -> None:
    image = decode(encode(smooth(), kind, quality=95), LIMITS)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - np.asarray(smooth())).mean() < 3


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_decode_palette_or_lossless_gives_the_pixels(kind: str, options: dict[str, bool]) -> None:
    rng = np.random.default_rng(2)
    colours = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    pixels = colours[rng.integers(0, 16, (9, 13))]
    image = Image.fromarray(pixels)
    stored = image if options else image.quantize(16)
    wanted = pixels if options else np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(encode(stored, kind, **options), LIMITS)), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_decode_orientation_of_lossy_formats_is_applied_once(kind: str, orientation: int) -> None:
    upright = np.asarray(smooth())
    stored = np.rot90(upright, {1: 0, 3: 2, 6: 1, 8: -1}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, quality=95, exif=exif)
    decoded = decode_upright(data, LIMITS)
    assert (decoded.width_px, decoded.height_px) == (60, 40)
    assert np.abs(np.asarray(decoded.image).astype(int) - upright).mean() < 3


def test_decode_sixteen_bit_colour_png_keeps_the_high_byte() -> None:
    values = np.array([[[0, 255, 256], [0x8000, 0xFFFF, 0x1234]]], dtype=">u2")
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0" + values.tobytes())),
            (b"IEND", b""),
        )
    )
    pixels = np.asarray(decode(b"\x89PNG\r\n\x1a\n" + body, LIMITS))
    assert pixels.tolist() == [[[0, 0, 1], [128, 255, 0x12]]]


def test_decode_cmyk_tiff_is_not_inverted() -> None:
    ink = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert np.asarray(decode(encode(ink, "TIFF"), LIMITS))[1, 1].tolist() == [255, 0, 0]


def test_decode_says_how_much_room_pixels_need_before_it_makes_them() -> None:
    asked: list[int] = []
    for mode in ("RGB", "RGBA", "L"):
        decode_upright(encode(picture().convert(mode), "PNG"), LIMITS, make_room=asked.append)
    decode_upright(encode(picture(400, 600), "JPEG"), LIMITS, draft_px=90, make_room=asked.append)
    assert asked == [40 * 60 * 8, 40 * 60 * 16, 40 * 60 * 16, 100 * 150 * 8]


def test_decode_result_carries_no_metadata() -> None:
    data = encode(picture(), "JPEG", comment=b"<script>", dpi=(300, 300))
    assert decode(data, LIMITS).info == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_orientation_tag_turns_the_picture_upright(orientation: int) -> None:
    upright = np.asarray(picture())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
        decoded = decode_upright(data, LIMITS)
        np.testing.assert_array_equal(np.asarray(decoded.image), upright)
        assert (decoded.width_px, decoded.height_px) == (60, 40)


@pytest.mark.parametrize("value", [0, 9, 300])
def test_decode_orientation_out_of_range_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = encode(picture(), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(data, LIMITS)), np.asarray(picture()))


def test_decode_broken_exif_is_ignored() -> None:
    data = encode(picture(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, LIMITS).size == (60, 40)


def test_decode_exif_transpose_off_leaves_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_upright(encode(picture(), "PNG", exif=exif), LIMITS, exif_transpose=False)
    assert (decoded.width_px, decoded.height_px) == (60, 40)


def test_decode_alpha_lies_over_white() -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    pixels = np.asarray(decode(encode(Image.fromarray(rgba), "PNG"), LIMITS))
    assert pixels[0].tolist() == [[200, 100, 0], [255, 255, 255], [244, 224, 204]]  # c * .2 + 255 * .8


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "RGBA"])
def test_decode_hidden_colour_under_zero_alpha_is_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (2, 1), 1)
        image.putpalette([10, 20, 30, 40, 50, 60])
        data = encode(image, "PNG", transparency=1)
    else:
        image = Image.new("RGBA", (2, 1), (9, 9, 9, 0)).convert(mode if mode != "PA" else "RGBA")
        data = encode(image, "PNG")
    assert np.asarray(decode(data, LIMITS)).tolist() == [[[255] * 3] * 2]


def test_decode_transparent_colour_of_rgb_png_is_white() -> None:
    data = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert np.asarray(decode(data, LIMITS)).tolist() == [[[255, 255, 255]]]


def test_decode_one_bit_becomes_black_and_white() -> None:
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert np.asarray(decode(encode(bits, "PNG"), LIMITS)).tolist() == [[[0] * 3, [255] * 3]]


def test_decode_sixteen_bit_grey_keeps_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = np.asarray(decode(encode(Image.fromarray(values), kind), LIMITS))
        assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_to_rgb_integers_beyond_sixteen_bits_are_refused() -> None:
    fits = to_rgb(Image.fromarray(np.array([[0x1200, 5]], dtype=np.int32)))
    assert np.asarray(fits)[0, :, 0].tolist() == [0x12, 0]
    for value in (-1, 0x10000):
        with pytest.raises(ImageRejected) as caught:
            to_rgb(Image.fromarray(np.array([[value]], dtype=np.int32)))
        assert caught.value.reason is RejectReason.MODE_UNSUPPORTED


def test_decode_floating_point_is_refused() -> None:
    data = encode(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF")
    assert reason_of(data) is RejectReason.MODE_UNSUPPORTED


def test_decode_cmyk_jpeg_is_not_inverted() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
    red, green, blue = np.asarray(decode(encode(ink, "JPEG", quality=95), LIMITS))[8, 8].tolist()
    assert red > 240
    assert green < 15
    assert blue < 15


def test_to_rgb_lab_white_and_black_keep_their_meaning() -> None:
    lab = Image.merge("LAB", [Image.new("L", (1, 1), value) for value in (255, 128, 128)])
    assert min(np.asarray(to_rgb(lab))[0, 0].tolist()) >= 250
    lab = Image.merge("LAB", [Image.new("L", (1, 1), value) for value in (0, 128, 128)])
    assert max(np.asarray(to_rgb(lab))[0, 0].tolist()) <= 5


def test_decode_animation_gives_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(decode(data, LIMITS))[1, 1].tolist()
        assert red > 240
        assert blue < 15


def test_decode_draft_shrinks_but_reports_the_full_sides() -> None:
    decoded = decode_upright(encode(picture(400, 600), "JPEG"), LIMITS, draft_px=90)
    assert decoded.image.size == (150, 100)
    assert (decoded.width_px, decoded.height_px) == (600, 400)


@pytest.mark.parametrize("kind", ["JPEG", "PROGRESSIVE", "WEBP", "BMP", "TIFF", "AVIF", "PNG", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.98])
def test_decode_file_cut_short_is_truncated(kind: str, share: float) -> None:
    options = {"progressive": True} if kind == "PROGRESSIVE" else {}
    data = encode(picture(90, 120), "JPEG" if options else kind, **options)
    assert reason_of(data[: int(len(data) * share)]) is RejectReason.TRUNCATED


def test_decode_compressed_tiff_cut_before_its_directory_is_truncated() -> None:
    data = encode(picture(), "TIFF", compression="tiff_lzw")
    assert reason_of(data[:-200]) is RejectReason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", RejectReason.EMPTY),
        (b"x", RejectReason.UNIDENTIFIED),
        (b"\xff\xd8\xff", RejectReason.UNIDENTIFIED),
        (b"\x89PNG\r\n\x1a\n", RejectReason.UNIDENTIFIED),
        (b"<html><body>404 Not Found</body></html>", RejectReason.UNIDENTIFIED),
        (b"%PDF-1.7 and so on, long enough to look at", RejectReason.FORMAT_NOT_ALLOWED),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', RejectReason.FORMAT_NOT_ALLOWED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", RejectReason.FORMAT_NOT_ALLOWED),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", RejectReason.FORMAT_NOT_ALLOWED),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", RejectReason.FORMAT_NOT_ALLOWED),
        (b"P6 2 2 255\n" + bytes(12), RejectReason.FORMAT_NOT_ALLOWED),
    ],
)
def test_decode_not_an_allowed_image_says_what_it_is(data: bytes, reason: RejectReason) -> None:
    assert reason_of(data) is reason


def test_decode_damaged_png_is_corrupt() -> None:
    data = bytearray(encode(picture(), "PNG"))
    data[60:90] = bytes(30)
    assert reason_of(bytes(data)) is RejectReason.CORRUPT


def test_decode_limits_refuse_before_decoding() -> None:
    data = encode(picture(40, 60), "PNG")
    assert reason_of(data, DecodeLimits(max_bytes=10)) is RejectReason.TOO_LARGE
    assert reason_of(data, DecodeLimits(max_pixels=2399)) is RejectReason.TOO_MANY_PIXELS
    assert reason_of(data, DecodeLimits(max_side_px=59)) is RejectReason.BAD_DIMENSIONS
    assert reason_of(data, DecodeLimits(min_side_px=41)) is RejectReason.BAD_DIMENSIONS
    decode(data, DecodeLimits(max_bytes=len(data), max_pixels=2400, max_side_px=60, min_side_px=40))


def test_decode_bomb_is_refused_by_its_claim() -> None:
    bomb = b"GIF89a" + b"\xff\xff\xff\xff" + b"\0\0\0" + b",\0\0\0\0\xff\xff\xff\xff\0" + b"\2\1\0\0;"
    assert reason_of(bomb) is RejectReason.TOO_MANY_PIXELS


def test_image_rejected_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(ImageRejected(RejectReason.CORRUPT, "why")))
    assert (again.reason, again.detail) == (RejectReason.CORRUPT, "why")


def test_decode_hostile_corpus_ends_as_pixels_or_reject(shared_data: Path) -> None:
    files = sorted((shared_data / "hostile" / "images").iterdir())
    assert len(files) > 400
    outcomes = [decode_or_reason(path.read_bytes()) for path in files]
    images = [outcome for outcome in outcomes if isinstance(outcome, Image.Image)]
    assert all(image.mode == "RGB" for image in images)
    assert 200 < len(images) < len(files)
    assert len(images) + sum(isinstance(outcome, RejectReason) for outcome in outcomes) == len(files)
