"""Names for the arrays that cross the borders between the wings, and the dtype of a row address."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
"""(K,) float64, one number a domain."""

Counts: TypeAlias = NDArray[np.int64]
"""int64 counts or row numbers."""

Words: TypeAlias = NDArray[np.uint64]
"""uint64 random bits, or keys."""

Tokens: TypeAlias = NDArray[np.uint32]
"""(T,) uint32 token ids, documents one after the other."""

Rows: TypeAlias = NDArray[np.integer[Any]]
"""(n, S) token ids in the corpus's own dtype."""

Addresses: TypeAlias = NDArray[np.void]
"""(n,) structured array of ADDRESS."""

ADDRESS = np.dtype([("domain", np.int32), ("row", np.int64)])
"""One row of a corpus: index into the domain names, row in shard order."""
