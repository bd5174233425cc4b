# SPDX-License-Identifier: Apache-2.0
"""Pieces of arrays: where they lie, what they hold, how they are cut into chunks.

Knows names only.
"""

from pertinax.checkpoint.arrays import fragments as fragments
from pertinax.checkpoint.arrays import numpy_utils as numpy_utils
from pertinax.checkpoint.arrays import subchunking as subchunking
from pertinax.checkpoint.arrays import types as types
