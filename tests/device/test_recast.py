# SPDX-License-Identifier: Apache-2.0
"""A leaf that is stored in another dtype is what that dtype makes of it."""

import ml_dtypes
import numpy as np
import pytest

from pertinax._device.inspect import Inspector
from pertinax._device.recast import recast


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.int8, "int"),
        (np.uint16, "int"),
        (ml_dtypes.int4, "int"),
        (ml_dtypes.uint4, "int"),
        (np.float32, "float"),
        (ml_dtypes.bfloat16, "float"),
        (np.complex64, "complex"),
        (np.bool_, "bool"),
    ],
)
def test_a_python_number_becomes_the_kind_of_number_of_its_dtype(dtype: type, kind: str) -> None:
    leaf = recast(Inspector().look(1, ()), np.dtype(dtype))
    assert (leaf.kind, leaf.dtype) == (kind, np.dtype(dtype).name)
