"""Tools for tests of programs that save: directories, trees, meshes, handlers that fail.

Knows names only.
"""

from pertinax.checkpoint._test_tools.directories import create_tmp_directory as create_tmp_directory
from pertinax.checkpoint._test_tools.directories import empty_directory as empty_directory
from pertinax.checkpoint._test_tools.directories import ensure_atomic_save as ensure_atomic_save
from pertinax.checkpoint._test_tools.directories import (
    erase_and_create_empty as erase_and_create_empty,
)
from pertinax.checkpoint._test_tools.directories import print_directory as print_directory
from pertinax.checkpoint._test_tools.directories import save_fake_tmp_dir as save_fake_tmp_dir
from pertinax.checkpoint._test_tools.handlers import (
    ErrorCheckpointHandler as ErrorCheckpointHandler,
)
from pertinax.checkpoint._test_tools.handlers import ErrorRestoreArgs as ErrorRestoreArgs
from pertinax.checkpoint._test_tools.handlers import ErrorSaveArgs as ErrorSaveArgs
from pertinax.checkpoint._test_tools.handlers import (
    PyTreeCheckpointHandler as PyTreeCheckpointHandler,
)
from pertinax.checkpoint._test_tools.meshes import (
    create_single_replica_restore_args as create_single_replica_restore_args,
)
from pertinax.checkpoint._test_tools.meshes import (
    get_fake_global_mesh_for_slices as get_fake_global_mesh_for_slices,
)
from pertinax.checkpoint._test_tools.meshes import select_single_replica as select_single_replica
from pertinax.checkpoint._test_tools.running import (
    barrier_compatible_test as barrier_compatible_test,
)
from pertinax.checkpoint._test_tools.running import (
    ocdbt_checkpoint_context as ocdbt_checkpoint_context,
)
from pertinax.checkpoint._test_tools.running import register_type_handler as register_type_handler
from pertinax.checkpoint._test_tools.running import (
    set_tensorstore_driver_for_test as set_tensorstore_driver_for_test,
)
from pertinax.checkpoint._test_tools.running import sync_global_processes as sync_global_processes
from pertinax.checkpoint._test_tools.slow_limits import (
    TestLimitInFlightBytes as TestLimitInFlightBytes,
)
from pertinax.checkpoint._test_tools.slow_limits import (
    assert_every_n_is_x_apart as assert_every_n_is_x_apart,
)
from pertinax.checkpoint._test_tools.slow_limits import (
    concurrent_gb_test_setup as concurrent_gb_test_setup,
)
from pertinax.checkpoint._test_tools.slow_limits import get_byte_limiter as get_byte_limiter
from pertinax.checkpoint._test_tools.trees import EmptyNamedTuple as EmptyNamedTuple
from pertinax.checkpoint._test_tools.trees import MuNu as MuNu
from pertinax.checkpoint._test_tools.trees import (
    NamedTupleWithNestedAttributes as NamedTupleWithNestedAttributes,
)
from pertinax.checkpoint._test_tools.trees import apply_function as apply_function
from pertinax.checkpoint._test_tools.trees import assert_array_equal as assert_array_equal
from pertinax.checkpoint._test_tools.trees import assert_tree_equal as assert_tree_equal
from pertinax.checkpoint._test_tools.trees import create_sharded_array as create_sharded_array
from pertinax.checkpoint._test_tools.trees import is_leaf as is_leaf
from pertinax.checkpoint._test_tools.trees import replicate_sharded_array as replicate_sharded_array
from pertinax.checkpoint._test_tools.trees import setup_pytree as setup_pytree
from pertinax.checkpoint._test_tools.trees import setup_sharded_pytree as setup_sharded_pytree
