# SPDX-License-Identifier: Apache-2.0
"""Words for shapes and indices, as annotations use them.

Knows types only.
"""

from types import EllipsisType
from typing import Any

import numpy as np

Shape = tuple[int, ...]
"""Elements along each dimension."""
Index = tuple[slice, ...]
"""One slice for each dimension."""
NdSlice = tuple[slice, ...] | EllipsisType
"""An index, or `...` for all of an array."""
DType = np.dtype[Any]
