# SPDX-License-Identifier: Apache-2.0
"""Paths of checkpoints. Knows the names of its modules; knows nothing of what they do."""

from pertinax.checkpoint.path import async_utils as async_utils
from pertinax.checkpoint.path import atomicity as atomicity
from pertinax.checkpoint.path import deleter as deleter
from pertinax.checkpoint.path import format_utils as format_utils
from pertinax.checkpoint.path import step as step
from pertinax.checkpoint.path import utils as utils

__all__ = ["async_utils", "atomicity", "deleter", "format_utils", "step", "utils"]
