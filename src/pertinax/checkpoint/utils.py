# SPDX-License-Identifier: Apache-2.0
"""Small things that programs use, gathered under the name they know.

Knows where they live. Knows nothing itself, except what a scalar is. Deprecated, as in Orbax: each
has a home of its own.
"""

from typing import Any

import numpy as np

from pertinax.checkpoint._adapt.placeholders import (
    all_leaves_are_placeholders,
    fully_replicated_host_local_array_to_global_array,
    leaf_is_placeholder,
    leaf_placeholder,
    name_from_leaf_placeholder,
    pytree_structure,
)
from pertinax.checkpoint.multihost import (
    broadcast_one_to_all,
    is_primary_host,
    reached_preemption,
    sync_global_processes,
)
from pertinax.checkpoint.path.async_utils import (
    async_exists,
    async_makedirs,
    async_write_bytes,
)
from pertinax.checkpoint.path.step import (
    TMP_DIR_SUFFIX,
    any_checkpoint_step,
    checkpoint_steps,
    checkpoint_steps_paths,
    cleanup_tmp_directories,
    get_save_directory,
    is_checkpoint_finalized,
    is_gcs_path,
    is_tmp_checkpoint,
    record_saved_duration,
    step_from_checkpoint_name,
    tmp_checkpoints,
)
from pertinax.checkpoint.path.utils import is_locked, lockdir
from pertinax.checkpoint.tree import (
    deserialize_tree,
    from_flat_dict,
    from_flattened_with_keypath,
    get_key_name,
    get_param_names,
    is_dict_key,
    is_empty_node,
    is_empty_or_leaf,
    is_sequence_key,
    serialize_tree,
    to_flat_dict,
    to_shape_dtype_struct,
    tuple_path_from_keypath,
)

__all__ = [
    "TMP_DIR_SUFFIX",
    "all_leaves_are_placeholders",
    "any_checkpoint_step",
    "async_exists",
    "async_makedirs",
    "async_write_bytes",
    "broadcast_one_to_all",
    "checkpoint_steps",
    "checkpoint_steps_paths",
    "cleanup_tmp_directories",
    "deserialize_tree",
    "from_flat_dict",
    "from_flattened_with_keypath",
    "fully_replicated_host_local_array_to_global_array",
    "get_key_name",
    "get_param_names",
    "get_save_directory",
    "is_checkpoint_finalized",
    "is_dict_key",
    "is_empty_node",
    "is_empty_or_leaf",
    "is_gcs_path",
    "is_locked",
    "is_primary_host",
    "is_scalar",
    "is_sequence_key",
    "is_tmp_checkpoint",
    "leaf_is_placeholder",
    "leaf_placeholder",
    "lockdir",
    "name_from_leaf_placeholder",
    "pytree_structure",
    "reached_preemption",
    "record_saved_duration",
    "serialize_tree",
    "step_from_checkpoint_name",
    "sync_global_devices",
    "sync_global_processes",
    "tmp_checkpoints",
    "to_flat_dict",
    "to_shape_dtype_struct",
    "tuple_path_from_keypath",
]

sync_global_devices = sync_global_processes


def is_scalar(x: Any) -> bool:
    """Whether `x` is a number by itself, of Python or numpy."""
    return isinstance(x, int | float | np.number)
