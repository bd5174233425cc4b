# SPDX-License-Identifier: Apache-2.0
"""Tools for tests of programs that save: directories, trees, meshes, handlers that fail.

Knows names only.
"""

from pertinax.checkpoint._test_tools.directories import (
    create_tmp_directory,
    empty_directory,
    ensure_atomic_save,
    erase_and_create_empty,
    print_directory,
    save_fake_tmp_dir,
)
from pertinax.checkpoint._test_tools.handlers import (
    ErrorCheckpointHandler,
    ErrorRestoreArgs,
    ErrorSaveArgs,
    PyTreeCheckpointHandler,
)
from pertinax.checkpoint._test_tools.meshes import (
    create_single_replica_restore_args,
    get_fake_global_mesh_for_slices,
    select_single_replica,
)
from pertinax.checkpoint._test_tools.running import (
    barrier_compatible_test,
    ocdbt_checkpoint_context,
    register_type_handler,
    set_tensorstore_driver_for_test,
    sync_global_processes,
)
from pertinax.checkpoint._test_tools.slow_limits import (
    TestLimitInFlightBytes,
    assert_every_n_is_x_apart,
    concurrent_gb_test_setup,
    get_byte_limiter,
)
from pertinax.checkpoint._test_tools.trees import (
    EmptyNamedTuple,
    MuNu,
    NamedTupleWithNestedAttributes,
    apply_function,
    assert_array_equal,
    assert_tree_equal,
    create_sharded_array,
    is_leaf,
    replicate_sharded_array,
    setup_pytree,
    setup_sharded_pytree,
)

__all__ = [
    "EmptyNamedTuple",
    "ErrorCheckpointHandler",
    "ErrorRestoreArgs",
    "ErrorSaveArgs",
    "MuNu",
    "NamedTupleWithNestedAttributes",
    "PyTreeCheckpointHandler",
    "TestLimitInFlightBytes",
    "apply_function",
    "assert_array_equal",
    "assert_every_n_is_x_apart",
    "assert_tree_equal",
    "barrier_compatible_test",
    "concurrent_gb_test_setup",
    "create_sharded_array",
    "create_single_replica_restore_args",
    "create_tmp_directory",
    "empty_directory",
    "ensure_atomic_save",
    "erase_and_create_empty",
    "get_byte_limiter",
    "get_fake_global_mesh_for_slices",
    "is_leaf",
    "ocdbt_checkpoint_context",
    "print_directory",
    "register_type_handler",
    "replicate_sharded_array",
    "save_fake_tmp_dir",
    "select_single_replica",
    "set_tensorstore_driver_for_test",
    "setup_pytree",
    "setup_sharded_pytree",
    "sync_global_processes",
]
