r"""Image ids and locators: printable, reversible, stable.

An id is the catalog's own name for an image, never a position: the key relative to the source, the tar
member's path up to the first dot after the last slash, or the id column. A locator says where the bytes are:
``key`` or ``container::name``. Bytes that are not UTF-8 become ``\xNN`` and a backslash is doubled, so that
every name is text and can be turned back.
"""

import re

CONTAINER_SEPARATOR = "::"
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def printable(name: str) -> str:
    r"""``name`` as plain text: surrogate escapes become ``\xNN``, backslashes are doubled.

    >>> printable("caf\udce9 \\ x")
    'caf\\xe9 \\\\ x'
    """
    if "\\" not in name and name.isascii():
        return name
    return "".join(_escaped(char) for char in name)


def original(text: str) -> str:
    r"""The name that ``printable`` made ``text`` from, with surrogate escapes.

    >>> original(printable("caf\udce9 \\ x")) == "caf\udce9 \\ x"
    True
    """
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_unescaped, text)


def sample_name(member: str) -> tuple[str, str]:
    """The id and the extension of a tar member: cut at the first dot after the last slash.

    >>> sample_name("shoes/red.left.jpg")
    ('shoes/red', 'left.jpg')
    """
    folder, slash, base = member.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def container_locator(container: str, name: str) -> str:
    """The locator of something inside a tar or Parquet file. Both arguments are printable."""
    return f"{container}{CONTAINER_SEPARATOR}{name}"


def _escaped(char: str) -> str:
    if char == "\\":
        return "\\\\"
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char


def _unescaped(match: re.Match[str]) -> str:
    body = match.group(1)
    return "\\" if body == "\\" else chr(0xDC00 + int(body[1:], 16))
