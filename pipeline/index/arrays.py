"""Names for the array types of this room, and the legend of its shape suffixes.

==  ===========================================  ==  =======================================
N   rows of a sample, a block or an index shard  Q   queries
D   dimensions of a vector (Faiss's ``d``)       C   candidates of the first stage
B   bits of a code                               K   results asked for (Faiss's ``k``)
W   bytes of a code, B / 8                       M   loose pairs of a query and a row
L   lists of the coarse quantiser                P   lists probed for a query
==  ===========================================  ==  =======================================
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

BoolArray: TypeAlias = npt.NDArray[np.bool_]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Int8Array: TypeAlias = npt.NDArray[np.int8]
Int32Array: TypeAlias = npt.NDArray[np.int32]
IntArray: TypeAlias = npt.NDArray[np.int64]
KeyArray: TypeAlias = npt.NDArray[np.uint64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
FloatArray: TypeAlias = npt.NDArray[np.float64]
VectorArray: TypeAlias = npt.NDArray[np.floating[Any]]  # float16, float32 or float64 rows
