# SPDX-License-Identifier: Apache-2.0
"""The names of the door: all that Orbax 0.8.0 promises are there, and are what they say."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp

TOP = """
AbstractCheckpointer Checkpointer AsyncCheckpointer PyTreeCheckpointer StandardCheckpointer
CheckpointHandler AsyncCheckpointHandler ArrayCheckpointHandler CompositeCheckpointHandler
JsonCheckpointHandler ProtoCheckpointHandler PyTreeCheckpointHandler StandardCheckpointHandler
JaxRandomKeyCheckpointHandler NumpyRandomKeyCheckpointHandler BasePyTreeCheckpointHandler
CheckpointHandlerRegistry DefaultCheckpointHandlerRegistry
SaveArgs RestoreArgs ArrayRestoreArgs
Transform RestoreTransform apply_transformations merge_trees Future
CheckpointManager CheckpointManagerOptions AbstractCheckpointManager AsyncOptions
"""
MODULES = """
aggregate_handlers args checkpoint_utils handlers logging metadata msgpack_utils multihost options
path serialization step test_utils transform_utils tree type_handlers utils
checkpoint_args checkpointer async_checkpointer pytree_checkpointer standard_checkpointer
abstract_checkpointer future checkpoint_manager abstract_checkpoint_manager
"""
ARGS = """
StandardSave StandardRestore PyTreeSave PyTreeRestore ArraySave ArrayRestore JsonSave JsonRestore
ProtoSave ProtoRestore JaxRandomKeySave JaxRandomKeyRestore NumpyRandomKeySave NumpyRandomKeyRestore
Composite
"""
REGISTRATION = """
CheckpointArgs register_with_handler get_registered_handler_cls get_registered_args_cls
has_registered_args
"""
INSIDE: Mapping[str, str] = MappingProxyType(
    {
        "metadata": """
            StepMetadata CheckpointMetadataStore checkpoint_metadata_store ShardingMetadata
            NamedShardingMetadata SingleDeviceShardingMetadata GSPMDShardingMetadata
            PositionalShardingMetadata ArrayMetadata StringMetadata ScalarMetadata StorageMetadata
            Metadata value tree""",
        "metadata.value": "Metadata ArrayMetadata StringMetadata ScalarMetadata StorageMetadata",
        "metadata.tree": "ValueMetadataEntry",
        "tree": """
            PyTree PyTreeOf PyTreeKey PyTreePath get_param_names serialize_tree deserialize_tree
            to_flat_dict from_flat_dict to_shape_dtype_struct is_dict_key is_sequence_key
            is_empty_node is_empty_or_leaf get_key_name tuple_path_from_keypath
            from_flattened_with_keypath""",
        "handlers": """
            handler_registration CheckpointHandlerRegistry DefaultCheckpointHandlerRegistry
            BasePyTreeCheckpointHandler CompositeResults CompositeOptions""",
        "handlers.handler_registration": """
            CheckpointHandlerRegistry DefaultCheckpointHandlerRegistry AlreadyExistsError
            NoEntryError""",
        "type_handlers": """
            ArrayHandler ArrayMetadata ArrayRestoreArgs GLOBAL_TYPE_HANDLER_REGISTRY
            InvalidShardingError LimitInFlightBytes Metadata NumpyHandler ParamInfo
            RESTORE_TYPE_DICT RESTORE_TYPE_LIST RESTORE_TYPE_NONE RESTORE_TYPE_TUPLE
            RESTORE_TYPE_UNKNOWN RestoreArgs SaveArgs ScalarHandler ScalarMetadata
            SingleReplicaArrayHandler SingleReplicaArrayRestoreArgs StringHandler StringMetadata
            TypeHandler TypeHandlerRegistry check_input_arguments create_type_handler_registry
            default_restore_type get_cast_tspec_deserialize get_cast_tspec_serialize
            get_empty_value_from_typestr get_empty_value_typestr get_json_tspec_read
            get_json_tspec_write get_param_typestr get_process_index_for_subdir
            get_sharding_tensorstore_spec get_ts_context get_type_handler has_type_handler
            is_empty_typestr is_ocdbt_checkpoint is_supported_empty_value is_supported_type
            isinstance_of_namedtuple merge_ocdbt_per_process_files
            register_standard_handlers_with_options register_type_handler""",
        "transform_utils": """
            RestoreTransform Transform apply_transformations intersect_trees merge_trees""",
        "future": "Future NoopFuture ChainedFuture ThreadRaisingException",
        "options": "AsyncOptions MultiprocessingOptions FileOptions",
        "path": "step atomicity format_utils async_utils",
        "path.atomicity": """
            TemporaryPath AtomicRenameTemporaryPath CommitFileTemporaryPath create_all
            get_default_temporary_path_class on_commit_callback TMP_DIR_SUFFIX""",
        "multihost": """
            BarrierSyncFn broadcast_one_to_all get_barrier_sync_fn is_primary_host process_index
            sync_global_processes unique_barrier_key reached_preemption counters multislice""",
        "logging": """
            AbstractLogger StandardLogger CompositeLogger abstract_logger standard_logger
            composite_logger step_statistics""",
        "checkpointer": "Checkpointer construct_checkpoint_args get_legacy_handler_wrapper",
        "checkpoint_args": REGISTRATION,
        "args": REGISTRATION,
    }
)


@pytest.mark.parametrize("name", TOP.split())
def test_a_name_is_there(name: str):
    found = getattr(ocp, name)
    assert inspect.isclass(found) or inspect.isfunction(found) or name == "Future"
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", MODULES.split())
def test_a_module_is_there_by_attribute_and_by_path(name: str):
    path = "path.step" if name == "step" else name
    module = importlib.import_module(f"pertinax.checkpoint.{path}")
    assert isinstance(module, ModuleType)
    assert getattr(ocp, name) is module


@pytest.mark.row("R198", "R225", "R313", "R314", "R317")
@pytest.mark.parametrize("home", INSIDE)
def test_what_a_module_promises_is_in_it(home: str):
    module = importlib.import_module(f"pertinax.checkpoint.{home}")
    absent = []
    for name in INSIDE[home].split():
        if not hasattr(module, name):
            try:
                importlib.import_module(f"{module.__name__}.{name}")
            except ImportError:
                absent.append(name)
    assert absent == []


@pytest.mark.row("R104", "R124")
@pytest.mark.parametrize("name", ARGS.split())
def test_args_have_a_short_and_a_long_name_and_a_handler(name: str):
    short = getattr(ocp.args, name)
    assert getattr(ocp.handlers, f"{name}Args") is short
    assert issubclass(short, ocp.args.CheckpointArgs)
    handler = ocp.args.get_registered_handler_cls(short)
    assert handler is getattr(ocp, f"{name.removesuffix('Save').removesuffix('Restore')}" + HANDLER)
    assert short in ocp.args.get_registered_args_cls(handler)


HANDLER = "CheckpointHandler"
FIELDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "StandardSave": {"item": ..., "save_args": None},
        "StandardRestore": {"item": None, "strict": True},
        "PyTreeSave": {
            "item": ...,
            "save_args": None,
            "ocdbt_target_data_file_size": None,
            "enable_pinned_host_transfer": True,
        },
        "PyTreeRestore": {
            "item": None,
            "restore_args": None,
            "transforms": None,
            "transforms_default_to_original": True,
            "legacy_transform_fn": None,
        },
        "ArraySave": {"item": ..., "save_args": None},
        "ArrayRestore": {"item": None, "restore_args": None},
        "JsonSave": {"item": ...},
        "JsonRestore": {"item": None},
        "ProtoSave": {"item": ...},
        "ProtoRestore": {"item": ...},
        "JaxRandomKeySave": {"item": ..., "save_args": None},
        "JaxRandomKeyRestore": {"restore_args": None},
        "NumpyRandomKeySave": {"item": ...},
        "NumpyRandomKeyRestore": {},
    }
)


@pytest.mark.parametrize("name", FIELDS)
def test_args_have_their_fields_in_order_and_with_their_defaults(name: str):
    fields = dataclasses.fields(getattr(ocp.args, name))
    found = {
        field.name: ... if field.default is dataclasses.MISSING else field.default
        for field in fields
    }
    assert list(found.items()) == list(FIELDS[name].items())


def test_base_args_have_the_same_fields():
    names = [field.name for field in dataclasses.fields(ocp.handlers.BasePyTreeSaveArgs)]
    assert names == list(FIELDS["PyTreeSave"])
    restore = ocp.handlers.BasePyTreeRestoreArgs()
    assert dataclasses.astuple(restore) == (None, None)


def test_one_name_two_classes():
    assert ocp.handlers.ArrayRestoreArgs is not ocp.ArrayRestoreArgs
    assert ocp.handlers.ArrayRestoreArgs is ocp.args.ArrayRestore
    assert ocp.type_handlers.ArrayRestoreArgs is ocp.ArrayRestoreArgs


@pytest.mark.row("R104")
def test_the_registration_is_the_same_by_both_names():
    for name in REGISTRATION.split():
        assert getattr(ocp.args, name) is getattr(ocp.checkpoint_args, name)


def test_the_version_is_ours():
    assert ocp.__version__ == pertinax.__version__


@pytest.mark.slow
def test_multihost_is_the_public_module_from_the_first_import_on():
    program = (
        "import pertinax.checkpoint as ocp\n"
        "assert ocp.multihost.__name__ == 'pertinax.checkpoint.multihost'\n"
        "assert ocp.multihost.counters and ocp.multihost.multislice\n"
        "import pertinax.checkpoint.multihost as public\n"
        "assert public is ocp.multihost\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


POSITIONAL: Mapping[str, str] = MappingProxyType(
    {
        "Checkpointer": "handler",
        "AsyncCheckpointer": "handler timeout_secs",
        "PyTreeCheckpointer": "primary_host use_ocdbt use_zarr3",
        "StandardCheckpointer": "",
        "PyTreeCheckpointHandler": "aggregate_filename",
        "BasePyTreeCheckpointHandler": "",
        "StandardCheckpointHandler": "",
        "JsonCheckpointHandler": "filename",
        "ProtoCheckpointHandler": "filename",
        "ArrayCheckpointHandler": "checkpoint_name",
        "CompositeCheckpointHandler": "item_names",
        "DefaultCheckpointHandlerRegistry": "other_registry",
    }
)
KEYWORDS: Mapping[str, str] = MappingProxyType(
    {
        "Checkpointer": """
            multiprocessing_options file_options checkpoint_metadata_store temporary_path_class""",
        "AsyncCheckpointer": """
            async_options multiprocessing_options file_options checkpoint_metadata_store
            temporary_path_class""",
        "StandardCheckpointer": """
            async_options multiprocessing_options file_options checkpoint_metadata_store
            temporary_path_class kwargs""",
        "PyTreeCheckpointHandler": """
            save_concurrent_gb restore_concurrent_gb use_ocdbt use_zarr3 multiprocessing_options
            type_handler_registry handler_impl""",
        "BasePyTreeCheckpointHandler": """
            save_concurrent_bytes restore_concurrent_bytes use_ocdbt use_zarr3
            multiprocessing_options type_handler_registry enable_post_merge_validation""",
        "StandardCheckpointHandler": """
            save_concurrent_gb restore_concurrent_gb multiprocessing_options""",
        "JsonCheckpointHandler": "multiprocessing_options",
        "ProtoCheckpointHandler": "multiprocessing_options",
        "CompositeCheckpointHandler": "composite_options handler_registry items_and_handlers",
    }
)


@pytest.mark.row("R211", "R213")
@pytest.mark.parametrize("name", POSITIONAL)
def test_constructors_take_what_they_promise_in_order(name: str):
    parameters = inspect.signature(getattr(ocp, name)).parameters.values()
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    by_place = [one.name for one in parameters if one.kind not in keyword]
    by_name = [one.name for one in parameters if one.kind in keyword]
    assert by_place == POSITIONAL[name].split()
    assert set(by_name) == set(KEYWORDS.get(name, "").split())


GONE = [
    ("test_utils", "create_empty"),
    ("path.step.NameFormat", "build_metadata"),
    ("path.step.NameFormat", "find_metadata"),
    ("CheckpointManager", "_single_item"),
    ("CheckpointManager", "update"),
    ("handlers", "PyTreeCheckpointHandlerImpl"),
    ("", "lazy_utils"),
    ("", "CheckpointMetadata"),
    ("metadata", "CheckpointMetadata"),
    ("type_handlers", "LazyValue"),
    ("type_handlers", "is_supported_aggregation_type"),
    ("type_handlers", "is_supported_empty_aggregation_type"),
    ("checkpoint_utils", "restore_args_from_target"),
    ("utils", "checkpoint_manager_context"),
    ("utils", "checkpointer_context"),
    ("utils", "async_checkpointer_context"),
]


@pytest.mark.row("R031", "R088", "R288", "R300")
@pytest.mark.parametrize(("home", "name"), GONE)
def test_a_name_that_is_gone_stays_gone(home: str, name: str):
    found: Any = ocp
    for part in home.split(".") if home else ():
        found = getattr(found, part)
    assert not hasattr(found, name)


def test_fields_that_are_gone_stay_gone():
    single = ocp.type_handlers.SingleReplicaArrayRestoreArgs
    fields = {field.name for field in dataclasses.fields(single)}
    assert "primary_replica_index" not in fields
    assert (
        "primary_replica_id"
        in inspect.signature(ocp.type_handlers.SingleReplicaArrayHandler).parameters
    )
    assert {field.name for field in dataclasses.fields(ocp.SaveArgs)} == {
        "aggregate",
        "dtype",
        "chunk_byte_size",
    }


@pytest.mark.row("R208", "R219")
def test_a_pytree_handler_leaves_its_work_to_another(tmp_path: Path):
    calls: list[str] = []

    class Recording(ocp.BasePyTreeCheckpointHandler):
        async def async_save(self, directory: Any, args: Any) -> Any:
            calls.append(f"save {type(args).__name__}")
            return await super().async_save(directory, args)

        def restore(self, directory: Any, args: Any = None) -> Any:
            calls.append(f"restore {type(args).__name__}")
            return super().restore(directory, args)

        def metadata(self, directory: Any) -> Any:
            calls.append("metadata")
            return super().metadata(directory)

        def finalize(self, directory: Any) -> None:
            calls.append("finalize")
            super().finalize(directory)

        def close(self) -> None:
            calls.append("close")
            super().close()

    handler = ocp.PyTreeCheckpointHandler(handler_impl=Recording())
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave({"a": 1}))
        assert checkpointer.restore(tmp_path / "it") == {"a": 1}
        assert list(checkpointer.metadata(tmp_path / "it")) == ["a"]
    expected = "save BasePyTreeSaveArgs/finalize/restore BasePyTreeRestoreArgs/metadata/close"
    assert calls == expected.split("/")
    assert not isinstance(handler, ocp.BasePyTreeCheckpointHandler)
    with pytest.raises(TypeError, match="transforms"):
        ocp.handlers.BasePyTreeRestoreArgs(transforms={})


@pytest.mark.row("R265")
def test_the_words_for_trees_are_good_in_annotations():
    def count(tree: ocp.tree.PyTreeOf[int], path: ocp.tree.PyTreePath = ()) -> ocp.tree.PyTree:
        return len(jax.tree.leaves(tree))

    assert set(typing.get_type_hints(count)) == {"tree", "path", "return"}
    assert count({"a": 1, "b": [2]}) == 2
    assert set(typing.get_args(ocp.tree.PyTreeKey)) == {
        jax.tree_util.SequenceKey,
        jax.tree_util.DictKey,
        jax.tree_util.GetAttrKey,
        jax.tree_util.FlattenedIndexKey,
    }
