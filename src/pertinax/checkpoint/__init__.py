# SPDX-License-Identifier: Apache-2.0
"""The Orbax door: programs written for `orbax.checkpoint` run on Pertinax by changing the import.

    from pertinax import checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save("runs/first", state)

Knows names only. Its adapters translate; the engine does the work.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pertinax import __version__ as __version__
from pertinax.checkpoint import aggregate_handlers as aggregate_handlers
from pertinax.checkpoint import args as args
from pertinax.checkpoint import arrays as arrays
from pertinax.checkpoint import asyncio_utils as asyncio_utils
from pertinax.checkpoint import checkpoint_args as checkpoint_args
from pertinax.checkpoint import checkpoint_utils as checkpoint_utils
from pertinax.checkpoint import handlers as handlers
from pertinax.checkpoint import logging as logging
from pertinax.checkpoint import metadata as metadata
from pertinax.checkpoint import msgpack_utils as msgpack_utils
from pertinax.checkpoint import multihost as multihost
from pertinax.checkpoint import options as options
from pertinax.checkpoint import path as path
from pertinax.checkpoint import serialization as serialization
from pertinax.checkpoint import transform_utils as transform_utils
from pertinax.checkpoint import tree as tree
from pertinax.checkpoint import type_handlers as type_handlers
from pertinax.checkpoint import utils as utils
from pertinax.checkpoint.abstract_checkpointer import AbstractCheckpointer as AbstractCheckpointer
from pertinax.checkpoint.async_checkpointer import AsyncCheckpointer as AsyncCheckpointer
from pertinax.checkpoint.checkpoint_manager import (
    AbstractCheckpointManager as AbstractCheckpointManager,
)
from pertinax.checkpoint.checkpoint_manager import CheckpointManager as CheckpointManager
from pertinax.checkpoint.checkpoint_manager import (
    CheckpointManagerOptions as CheckpointManagerOptions,
)
from pertinax.checkpoint.checkpointer import Checkpointer as Checkpointer
from pertinax.checkpoint.future import Future as Future
from pertinax.checkpoint.handlers import ArrayCheckpointHandler as ArrayCheckpointHandler
from pertinax.checkpoint.handlers import AsyncCheckpointHandler as AsyncCheckpointHandler
from pertinax.checkpoint.handlers import BasePyTreeCheckpointHandler as BasePyTreeCheckpointHandler
from pertinax.checkpoint.handlers import CheckpointHandler as CheckpointHandler
from pertinax.checkpoint.handlers import CheckpointHandlerRegistry as CheckpointHandlerRegistry
from pertinax.checkpoint.handlers import CompositeCheckpointHandler as CompositeCheckpointHandler
from pertinax.checkpoint.handlers import (
    DefaultCheckpointHandlerRegistry as DefaultCheckpointHandlerRegistry,
)
from pertinax.checkpoint.handlers import (
    JaxRandomKeyCheckpointHandler as JaxRandomKeyCheckpointHandler,
)
from pertinax.checkpoint.handlers import JsonCheckpointHandler as JsonCheckpointHandler
from pertinax.checkpoint.handlers import (
    NumpyRandomKeyCheckpointHandler as NumpyRandomKeyCheckpointHandler,
)
from pertinax.checkpoint.handlers import ProtoCheckpointHandler as ProtoCheckpointHandler
from pertinax.checkpoint.handlers import PyTreeCheckpointHandler as PyTreeCheckpointHandler
from pertinax.checkpoint.handlers import StandardCheckpointHandler as StandardCheckpointHandler
from pertinax.checkpoint.options import AsyncOptions as AsyncOptions
from pertinax.checkpoint.path import step as step
from pertinax.checkpoint.pytree_checkpointer import PyTreeCheckpointer as PyTreeCheckpointer
from pertinax.checkpoint.standard_checkpointer import StandardCheckpointer as StandardCheckpointer
from pertinax.checkpoint.transform_utils import RestoreTransform as RestoreTransform
from pertinax.checkpoint.transform_utils import Transform as Transform
from pertinax.checkpoint.transform_utils import apply_transformations as apply_transformations
from pertinax.checkpoint.transform_utils import merge_trees as merge_trees
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs as ArrayRestoreArgs
from pertinax.checkpoint.type_handlers import RestoreArgs as RestoreArgs
from pertinax.checkpoint.type_handlers import SaveArgs as SaveArgs

if TYPE_CHECKING:
    from pertinax.checkpoint import test_utils as test_utils


def __getattr__(name: str) -> Any:
    """`test_utils`, imported when it is first asked for: programs in production never do."""
    if name == "test_utils":
        return importlib.import_module("pertinax.checkpoint.test_utils")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
