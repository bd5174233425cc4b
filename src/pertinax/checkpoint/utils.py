"""Small things that programs use, gathered under the name they know.

Knows where they live. Knows nothing itself, except what a scalar is.
"""

from typing import Any

import numpy as np

from pertinax.checkpoint.tree import from_flat_dict as from_flat_dict
from pertinax.checkpoint.tree import from_flattened_with_keypath as from_flattened_with_keypath
from pertinax.checkpoint.tree import get_key_name as get_key_name
from pertinax.checkpoint.tree import get_param_names as get_param_names
from pertinax.checkpoint.tree import deserialize_tree as deserialize_tree
from pertinax.checkpoint.tree import is_dict_key as is_dict_key
from pertinax.checkpoint.tree import is_empty_node as is_empty_node
from pertinax.checkpoint.tree import is_empty_or_leaf as is_empty_or_leaf
from pertinax.checkpoint.tree import is_sequence_key as is_sequence_key
from pertinax.checkpoint.tree import serialize_tree as serialize_tree
from pertinax.checkpoint.tree import to_flat_dict as to_flat_dict
from pertinax.checkpoint.tree import to_shape_dtype_struct as to_shape_dtype_struct
from pertinax.checkpoint.tree import tuple_path_from_keypath as tuple_path_from_keypath


def is_scalar(x: Any) -> bool:
    """Whether `x` is a number by itself, of Python or numpy."""
    return isinstance(x, int | float | np.number)
