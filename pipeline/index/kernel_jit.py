"""The door to numba: how kernels are compiled. Imported only where `kernel.available` said yes.

Kernels are compiled when first called, release the GIL, and are kept in numba's cache on disk. That cache
notices a change of the file a kernel stands in, not of files it imports: so a kernel and the machine
operations it is made of share one file. Only ``jit_any_order`` may reorder float arithmetic.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import carray
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic
from numba.np.unsafe.ndarray import to_fixed_tuple

__all__ = ["carray", "cgutils", "intrinsic", "ir", "jit", "jit_any_order", "to_fixed_tuple", "types"]

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compiles with IEEE arithmetic in the order written."""
    return _compiled(function, fastmath=False)


def jit_any_order(function: F) -> F:
    """Compiles with sums in any order: for sums that are exact in every order, or have a proven margin."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A machine operation written as LLVM instructions."""
    operation: Callable[..., Any] = _intrinsic(function)
    return operation


def _load_arrays() -> None:
    """Loads numba's arrays without SciPy's linear algebra, which they try for and no kernel needs: 10 MiB.

    Whoever compiles ``np.dot`` later still has it: numba asks for it again then.
    """
    from numba.np import linalg

    ensure = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = ensure
    arraymath.ensure_blas = ensure


def _compiled(function: F, *, fastmath: Any) -> F:
    options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        compiled: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep compiled code: neither beside this file nor in the user's cache
        compiled = numba.njit(**options)(function)
    return compiled


_load_arrays()
