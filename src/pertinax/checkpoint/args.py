# SPDX-License-Identifier: Apache-2.0
"""Args of all handlers by their short names, and their registration.

Knows where they are defined. Knows nothing itself.
"""

from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    get_registered_args_cls,
    get_registered_handler_cls,
    has_registered_args,
    register_with_handler,
)
from pertinax.checkpoint.handlers.array_checkpoint_handler import ArrayRestoreArgs as ArrayRestore
from pertinax.checkpoint.handlers.array_checkpoint_handler import ArraySaveArgs as ArraySave
from pertinax.checkpoint.handlers.composite_checkpoint_handler import CompositeArgs as Composite
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonRestoreArgs as JsonRestore
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonSaveArgs as JsonSave
from pertinax.checkpoint.handlers.proto_checkpoint_handler import ProtoRestoreArgs as ProtoRestore
from pertinax.checkpoint.handlers.proto_checkpoint_handler import ProtoSaveArgs as ProtoSave
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import (
    PyTreeRestoreArgs as PyTreeRestore,
)
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import PyTreeSaveArgs as PyTreeSave
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    JaxRandomKeyRestoreArgs as JaxRandomKeyRestore,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    JaxRandomKeySaveArgs as JaxRandomKeySave,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    NumpyRandomKeyRestoreArgs as NumpyRandomKeyRestore,
)
from pertinax.checkpoint.handlers.random_key_checkpoint_handler import (
    NumpyRandomKeySaveArgs as NumpyRandomKeySave,
)
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardRestoreArgs as StandardRestore,
)
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardSaveArgs as StandardSave,
)

__all__ = [
    "ArrayRestore",
    "ArraySave",
    "CheckpointArgs",
    "Composite",
    "JaxRandomKeyRestore",
    "JaxRandomKeySave",
    "JsonRestore",
    "JsonSave",
    "NumpyRandomKeyRestore",
    "NumpyRandomKeySave",
    "ProtoRestore",
    "ProtoSave",
    "PyTreeRestore",
    "PyTreeSave",
    "StandardRestore",
    "StandardSave",
    "get_registered_args_cls",
    "get_registered_handler_cls",
    "has_registered_args",
    "register_with_handler",
]
