# SPDX-License-Identifier: Apache-2.0
"""Type handlers: how leaves of each type are stored, and how a program adds types of its own.

    class PathHandler(ocp.type_handlers.TypeHandler): ...

    ocp.type_handlers.register_type_handler(pathlib.Path, PathHandler())

Knows names only.
"""

from pertinax.checkpoint._registry import (
    GLOBAL_TYPE_HANDLER_REGISTRY as GLOBAL_TYPE_HANDLER_REGISTRY,
)
from pertinax.checkpoint.metadata.value import ArrayMetadata as ArrayMetadata
from pertinax.checkpoint.metadata.value import Metadata as Metadata
from pertinax.checkpoint.metadata.value import ScalarMetadata as ScalarMetadata
from pertinax.checkpoint.metadata.value import StringMetadata as StringMetadata
from pertinax.checkpoint.serialization.limits import LimitInFlightBytes as LimitInFlightBytes
from pertinax.checkpoint.type_handlers.array_handler import ArrayHandler as ArrayHandler
from pertinax.checkpoint.type_handlers.contract import ParamInfo as ParamInfo
from pertinax.checkpoint.type_handlers.contract import TypeHandler as TypeHandler
from pertinax.checkpoint.type_handlers.contract import TypeHandlerRegistry as TypeHandlerRegistry
from pertinax.checkpoint.type_handlers.contract import (
    check_input_arguments as check_input_arguments,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    RESTORE_TYPE_DICT as RESTORE_TYPE_DICT,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    RESTORE_TYPE_LIST as RESTORE_TYPE_LIST,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    RESTORE_TYPE_NONE as RESTORE_TYPE_NONE,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    RESTORE_TYPE_TUPLE as RESTORE_TYPE_TUPLE,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    RESTORE_TYPE_UNKNOWN as RESTORE_TYPE_UNKNOWN,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    get_empty_value_from_typestr as get_empty_value_from_typestr,
)
from pertinax.checkpoint.type_handlers.empty_values import (
    get_empty_value_typestr as get_empty_value_typestr,
)
from pertinax.checkpoint.type_handlers.empty_values import get_param_typestr as get_param_typestr
from pertinax.checkpoint.type_handlers.empty_values import is_empty_typestr as is_empty_typestr
from pertinax.checkpoint.type_handlers.empty_values import (
    is_supported_empty_value as is_supported_empty_value,
)
from pertinax.checkpoint.type_handlers.empty_values import is_supported_type as is_supported_type
from pertinax.checkpoint.type_handlers.empty_values import (
    isinstance_of_namedtuple as isinstance_of_namedtuple,
)
from pertinax.checkpoint.type_handlers.leaf_args import ArrayRestoreArgs as ArrayRestoreArgs
from pertinax.checkpoint.type_handlers.leaf_args import RestoreArgs as RestoreArgs
from pertinax.checkpoint.type_handlers.leaf_args import SaveArgs as SaveArgs
from pertinax.checkpoint.type_handlers.leaf_args import (
    SingleReplicaArrayRestoreArgs as SingleReplicaArrayRestoreArgs,
)
from pertinax.checkpoint.type_handlers.leaf_args import (
    default_restore_type as default_restore_type,
)
from pertinax.checkpoint.type_handlers.merging import (
    merge_ocdbt_per_process_files as merge_ocdbt_per_process_files,
)
from pertinax.checkpoint.type_handlers.numpy_handlers import NumpyHandler as NumpyHandler
from pertinax.checkpoint.type_handlers.numpy_handlers import ScalarHandler as ScalarHandler
from pertinax.checkpoint.type_handlers.registry import (
    create_type_handler_registry as create_type_handler_registry,
)
from pertinax.checkpoint.type_handlers.registry import get_type_handler as get_type_handler
from pertinax.checkpoint.type_handlers.registry import has_type_handler as has_type_handler
from pertinax.checkpoint.type_handlers.registry import (
    register_type_handler as register_type_handler,
)
from pertinax.checkpoint.type_handlers.single_replica import (
    InvalidShardingError as InvalidShardingError,
)
from pertinax.checkpoint.type_handlers.single_replica import (
    SingleReplicaArrayHandler as SingleReplicaArrayHandler,
)
from pertinax.checkpoint.type_handlers.specs import (
    get_cast_tspec_deserialize as get_cast_tspec_deserialize,
)
from pertinax.checkpoint.type_handlers.specs import (
    get_cast_tspec_serialize as get_cast_tspec_serialize,
)
from pertinax.checkpoint.type_handlers.specs import get_json_tspec_read as get_json_tspec_read
from pertinax.checkpoint.type_handlers.specs import get_json_tspec_write as get_json_tspec_write
from pertinax.checkpoint.type_handlers.specs import (
    get_process_index_for_subdir as get_process_index_for_subdir,
)
from pertinax.checkpoint.type_handlers.specs import (
    get_sharding_tensorstore_spec as get_sharding_tensorstore_spec,
)
from pertinax.checkpoint.type_handlers.specs import get_ts_context as get_ts_context
from pertinax.checkpoint.type_handlers.specs import is_ocdbt_checkpoint as is_ocdbt_checkpoint
from pertinax.checkpoint.type_handlers.stock import fill_global_registry
from pertinax.checkpoint.type_handlers.stock import (
    register_standard_handlers_with_options as register_standard_handlers_with_options,
)
from pertinax.checkpoint.type_handlers.string_handler import StringHandler as StringHandler

fill_global_registry()
