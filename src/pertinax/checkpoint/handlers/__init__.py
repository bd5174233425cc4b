# SPDX-License-Identifier: Apache-2.0
"""Handlers, their args, and registries of them.

Knows where they are defined. Knows nothing itself.
"""

from pertinax.checkpoint.handlers import handler_registration as handler_registration
from pertinax.checkpoint.handlers.array_checkpoint_handler import (
    ArrayCheckpointHandler as ArrayCheckpointHandler,
)
from pertinax.checkpoint.handlers.array_checkpoint_handler import (
    ArrayRestoreArgs as ArrayRestoreArgs,
)
from pertinax.checkpoint.handlers.array_checkpoint_handler import ArraySaveArgs as ArraySaveArgs
from pertinax.checkpoint.handlers.async_checkpoint_handler import (
    AsyncCheckpointHandler as AsyncCheckpointHandler,
)
from pertinax.checkpoint.handlers.base_pytree_checkpoint_handler import (
    BasePyTreeCheckpointHandler as BasePyTreeCheckpointHandler,
)
from pertinax.checkpoint.handlers.base_pytree_checkpoint_handler import (
    BasePyTreeRestoreArgs as BasePyTreeRestoreArgs,
)
from pertinax.checkpoint.handlers.base_pytree_checkpoint_handler import (
    BasePyTreeSaveArgs as BasePyTreeSaveArgs,
)
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler as CheckpointHandler
from pertinax.checkpoint.handlers.composite_checkpoint_handler import CompositeArgs as CompositeArgs
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeCheckpointHandler as CompositeCheckpointHandler,
)
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeOptions as CompositeOptions,
)
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeResults as CompositeResults,
)
from pertinax.checkpoint.handlers.handler_registration import (
    CheckpointHandlerRegistry as CheckpointHandlerRegistry,
)
from pertinax.checkpoint.handlers.handler_registration import (
    DefaultCheckpointHandlerRegistry as DefaultCheckpointHandlerRegistry,
)
from pertinax.checkpoint.handlers.json_checkpoint_handler import (
    JsonCheckpointHandler as JsonCheckpointHandler,
)
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonRestoreArgs as JsonRestoreArgs
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonSaveArgs as JsonSaveArgs
from pertinax.checkpoint.handlers.proto_checkpoint_handler import (
    ProtoCheckpointHandler as ProtoCheckpointHandler,
)
from pertinax.checkpoint.handlers.proto_checkpoint_handler import (
    ProtoRestoreArgs as ProtoRestoreArgs,
)
from pertinax.checkpoint.handlers.proto_checkpoint_handler import ProtoSaveArgs as ProtoSaveArgs
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import (
    PyTreeCheckpointHandler as PyTreeCheckpointHandler,
)
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import (
    PyTreeRestoreArgs as PyTreeRestoreArgs,
)
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import PyTreeSaveArgs as PyTreeSaveArgs
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    BaseRandomKeyCheckpointHandler as BaseRandomKeyCheckpointHandler,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    JaxRandomKeyCheckpointHandler as JaxRandomKeyCheckpointHandler,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    JaxRandomKeyRestoreArgs as JaxRandomKeyRestoreArgs,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    JaxRandomKeySaveArgs as JaxRandomKeySaveArgs,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    NumpyRandomKeyCheckpointHandler as NumpyRandomKeyCheckpointHandler,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    NumpyRandomKeyRestoreArgs as NumpyRandomKeyRestoreArgs,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    NumpyRandomKeySaveArgs as NumpyRandomKeySaveArgs,
)
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardCheckpointHandler as StandardCheckpointHandler,
)
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardRestoreArgs as StandardRestoreArgs,
)
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardSaveArgs as StandardSaveArgs,
)
