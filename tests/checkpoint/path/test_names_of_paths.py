# SPDX-License-Identifier: Apache-2.0
"""The names of the modules about paths, and the old names that lead to them."""

import pytest

from pertinax import checkpoint as ocp
from pertinax.checkpoint import multihost
from pertinax.checkpoint.path import utils

_STEP = """
    checkpoint_steps any_checkpoint_step checkpoint_steps_paths cleanup_tmp_directories
    get_save_directory is_checkpoint_finalized is_gcs_path is_tmp_checkpoint record_saved_duration
    step_from_checkpoint_name tmp_checkpoints TMP_DIR_SUFFIX
"""
_LOCKS = "lockdir is_locked"
_LATER = "async_makedirs async_exists async_write_bytes"
_HOSTS = "sync_global_processes broadcast_one_to_all reached_preemption is_primary_host"


@pytest.mark.row("R204")
@pytest.mark.parametrize(
    ("module", "names"),
    [(ocp.path.step, _STEP), (utils, _LOCKS), (ocp.path.async_utils, _LATER), (multihost, _HOSTS)],
)
def test_the_old_module_has_the_very_functions(module, names):
    for name in names.split():
        assert getattr(ocp.utils, name) is getattr(module, name)
        assert name in ocp.utils.__all__


@pytest.mark.row("R189")
def test_the_package_of_paths():
    assert ocp.step is ocp.path.step
    assert set(ocp.path.__all__) == {
        *("async_utils", "atomicity", "deleter", "format_utils", "step", "utils")
    }
    wanted = {
        "async_utils": "async_makedirs async_write_bytes async_exists async_stat async_rmtree "
        "async_is_tmp_checkpoint",
        "atomicity": "TemporaryPath AtomicRenameTemporaryPath CommitFileTemporaryPath "
        "get_default_temporary_path_class create_all on_commit_callback TMP_DIR_SUFFIX",
        "deleter": "CheckpointDeleter StandardCheckpointDeleter ThreadedCheckpointDeleter "
        "create_checkpoint_deleter",
        "format_utils": "is_orbax_checkpoint is_ocdbt_checkpoint PYTREE_METADATA_FILE",
        "step": "Metadata NameFormat standard_name_format composite_name_format build_step_path "
        "build_step_metadatas step_prefix_with_underscore latest_step_metadata "
        "step_metadata_of_checkpoint_path find_step_path get_save_directory is_gcs_path "
        "is_tmp_checkpoint is_checkpoint_finalized tmp_checkpoints cleanup_tmp_directories "
        "step_from_checkpoint_name checkpoint_steps_paths checkpoint_steps any_checkpoint_step "
        "record_saved_duration TMP_DIR_SUFFIX TMP_DIR_STEP_PATTERN WORLD_READABLE_MODE",
        "utils": "lockdir is_locked are_locked",
    }
    for module, names in wanted.items():
        found = getattr(ocp.path, module)
        assert [name for name in names.split() if not hasattr(found, name)] == []
