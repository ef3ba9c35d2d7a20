"""The kernels of a device as a GPU gets them: Triton brings an assembler, so only running needs a GPU."""

import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs the extra 'device'")

_COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pipeline.index import kernel_cuda

numbers = dict.fromkeys(["n_queries", "n_rows", "n_pieces", "span_stride", "room"], "i32")
pointers = {"codes": "*i32", "queries": "*i32", "live": "*u8", "spans": "*i64", "counts": "*i32"}
pointers |= {"order": "*i32", "limits": "*i32", "used": "*i32", "kept": "*i64"}
fixed = {"N_WORDS": 16, "N_BINS": 1024, "HAS_LIVE": True, "HAS_ORDER": True, "BLOCK": 1024, "N_BLOCKS": 16}
for kernel in (kernel_cuda.count, kernel_cuda.keep):
    types = {name: (pointers | numbers).get(name, "constexpr") for name in kernel.arg_names}
    given = {name: fixed[name] for name, kind in types.items() if kind == "constexpr"}
    made = compile(ASTSource(kernel, types, given), target=GPUTarget("cuda", 90, 32))
    print(made.asm["ptx"].count("popc.b32") > 0, len(made.asm["cubin"]) > 0)
"""


@pytest.mark.integration
def test_kernels_compile_for_compute_capability_9_where_counting_bits_is_one_instruction() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
