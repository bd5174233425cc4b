# SPDX-License-Identifier: Apache-2.0
"""Numbers that make the names of barriers and temporary directories unique.

Knows one counter for each use; each counts from 0, for the whole program, and in step on all
processes that take part. Knows nothing of those uses.
"""

from pertinax.checkpoint import _registry


def _next(use: str) -> str:
    return str(next(_registry.COUNTERS[use]))


def async_save_counter() -> str:
    """The next number for a save in the background, and for a checkpointer that makes such."""
    return _next("async_save")


def composite_save_counter() -> str:
    """The next number for a save of several items."""
    return _next("composite_save")


def tmp_directory_counter() -> str:
    """The next number for a temporary directory, and for the barriers about it."""
    return _next("tmp_directory")


def model_surgery_loading_counter() -> str:
    """The next number for a restore that changes the tree."""
    return _next("model_surgery_loading")


def global_max_broadcast_counter() -> str:
    """The next number for finding the largest of all processes' values."""
    return _next("global_max_broadcast")


def local_all_steps_broadcast_counter() -> str:
    """The next number for telling which steps are on a local disk."""
    return _next("local_all_steps_broadcast")


def find_complete_slice_broadcast_counter() -> str:
    """The next number for finding a replica that has all of a step."""
    return _next("find_complete_slice_broadcast")
