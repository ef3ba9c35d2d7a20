"""Whether kernels can be compiled here."""

import sys
from functools import cache


@cache
def available() -> bool:
    """Numba is installed and the processor little-endian."""
    try:
        import pipeline.index.kernel_jit  # noqa: F401
    except ImportError:
        return False
    return sys.byteorder == "little"
