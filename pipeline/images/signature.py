"""Says what some bytes claim to be, and whether they end too early, from structure alone, decoding nothing.

It is asked only after a decoder has refused an image, to give the reject its reason: a picture cut off in
transit (fetch it again), a format that is not opened (convert it), or no picture at all (remove it). ALLOWED
names the formats that ``decode`` opens, as Pillow spells them.
"""

from collections.abc import Callable
from typing import Literal

ALLOWED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_PREFIXES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"gimp xcf", "XCF"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x1aE\xdf\xa3", "Matroska video"),
    (b"\0\0\x01\xba", "MPEG video"),
    (b"FLV\x01", "Flash video"),
    (b"farbfeld", "farbfeld"),
)
_ONLY_MAGIC_BYTES = 16
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
}


def recognise(data: bytes) -> str:
    """The format that the first bytes claim, in a word people know, or ``""`` if they claim none.

    >>> recognise(b"%PDF-1.7")
    'PDF'
    """
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    if data[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "AVI video"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "MP4 video")
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "Netpbm"
    return "SVG" if _looks_like_svg(data[:1024]) else ""


def ends_early(data: bytes) -> bool:
    """Whether an image of an allowed format lacks its end: its own sizes or its end marker say so.

    False for formats and damage it cannot judge, and for little more than a magic number: that is no picture.
    """
    judge = _JUDGES.get(recognise(data))
    return judge is not None and len(data) > _ONLY_MAGIC_BYTES and judge(data)


def _looks_like_svg(head: bytes) -> bool:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text
    )


def _jpeg_ends_early(data: bytes) -> bool:
    end = data.rfind(b"\xff\xd9")
    return end < max(0, data.rfind(b"\xff\xda"))  # no end of image after the last start of scan


def _png_ends_early(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at >= len(data) or at + 12 > len(data)


def _gif_ends_early(data: bytes) -> bool:
    return not data.rstrip(b"\0").endswith(b";")


def _webp_ends_early(data: bytes) -> bool:
    return len(data) < 8 + int.from_bytes(data[4:8], "little")


def _bmp_ends_early(data: bytes) -> bool:
    claimed = max(int.from_bytes(data[2:6], "little"), int.from_bytes(data[10:14], "little"))
    return len(data) < 26 or len(data) < claimed < 2**31


def _tiff_ends_early(data: bytes) -> bool:
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    is_big_tiff = b"+" in data[2:4]
    return int.from_bytes(data[8:16] if is_big_tiff else data[4:8], order) >= len(data)


def _avif_ends_early(data: bytes) -> bool:
    at = 0
    while at + 8 <= len(data):
        size_bytes = int.from_bytes(data[at : at + 4], "big")
        if size_bytes < 8:  # 0: to the end of the file; 1: a 64-bit size, not judged
            return False
        at += size_bytes
    return at != len(data)


_JUDGES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _jpeg_ends_early,
    "PNG": _png_ends_early,
    "GIF": _gif_ends_early,
    "WEBP": _webp_ends_early,
    "BMP": _bmp_ends_early,
    "TIFF": _tiff_ends_early,
    "AVIF": _avif_ends_early,
}
