# SPDX-License-Identifier: Apache-2.0
"""The handlers for the states of random number generators, of JAX and of numpy.

Knows what tells one kind of state from another, and keeps that in a small file beside the state.
The state itself is an array, or a tree; other handlers save it.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from pertinax._device.inspect import key_impl_name
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.array_checkpoint_handler import ArrayRestoreArgs, ArraySaveArgs
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeArgs,
    CompositeCheckpointHandler,
    reopen,
)
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonRestoreArgs, JsonSaveArgs
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import (
    PyTreeRestoreArgs,
    PyTreeSaveArgs,
)
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs as LeafRestoreArgs
from pertinax.checkpoint.type_handlers import RestoreArgs, SaveArgs

JAX_RANDOM_KEY_NAME = "jax_random_key"
NUMPY_RANDOM_KEY_NAME = "np_random_key"


class BaseRandomKeyCheckpointHandler(AsyncCheckpointHandler):
    """A state and what there is to know of it, as two items within the item.

    Subclasses say what these are, and put the state together again.
    """

    def __init__(self, key_name: str) -> None:
        self._key_name = key_name
        self._key_metadata = f"{key_name}_metadata"
        self._handler = CompositeCheckpointHandler(self._key_name, self._key_metadata)

    @abc.abstractmethod
    def checkpoint_save_args(self, args: Any) -> tuple[CheckpointArgs, JsonSaveArgs]:
        """The args that save the state, and those that save what there is to know of it."""

    @abc.abstractmethod
    def checkpoint_restore_args(self, args: Any) -> CheckpointArgs:
        """The args that restore the state."""

    @abc.abstractmethod
    def post_restore(self, item: Any, metadata: Mapping[Any, Any]) -> Any:
        """The state as the program had it."""

    async def async_save(self, directory: epath.Path, args: CheckpointArgs) -> list[Future] | None:
        """Begin to save both items. Raises `TypeError` for what is no such state."""
        state, notes = self.checkpoint_save_args(args)
        both = {self._key_name: state, self._key_metadata: notes}
        return await self._handler.async_save(directory, args=CompositeArgs(**both))

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(self, directory: epath.Path, args: CheckpointArgs) -> Any:
        """The state as it was saved."""
        both = {
            self._key_name: self.checkpoint_restore_args(args),
            self._key_metadata: JsonRestoreArgs(),
        }
        found = self._handler.restore(directory, args=CompositeArgs(**both))
        return self.post_restore(found[self._key_name], found[self._key_metadata])

    def finalize(self, directory: epath.Path) -> None:
        """Finish both items."""
        self._handler.finalize(directory)

    def close(self) -> None:
        """Close the handlers of both items."""
        self._handler.close()

    def reopen(self) -> None:
        """Undo `close`: a manager does it with handlers that another has closed."""
        reopen(self._handler)


class JaxRandomKeyCheckpointHandler(BaseRandomKeyCheckpointHandler):
    """Saves keys of `jax.random`, old and new, one or an array of them.

    Typed keys come back with the implementation that they had; old ones as the plain arrays they
    are, of JAX, unless `restore_args` ask for something else.
    """

    def __init__(self, key_name: str | None = None) -> None:
        super().__init__(key_name or JAX_RANDOM_KEY_NAME)

    def checkpoint_save_args(self, args: Any) -> tuple[CheckpointArgs, JsonSaveArgs]:
        """The key data, and whether there was a type, and which."""
        key = args.item
        if not isinstance(key, jax.Array):
            raise TypeError(f"a key of jax.random is a jax.Array, not a {type(key).__name__}")
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return ArraySaveArgs(key, args.save_args), JsonSaveArgs({"typed": False})
        notes = {"typed": True, "impl": key_impl_name(key)}
        return ArraySaveArgs(jax.random.key_data(key), args.save_args), JsonSaveArgs(notes)

    def checkpoint_restore_args(self, args: Any) -> CheckpointArgs:
        """The args of the caller, or else those for an array of JAX in its own layout."""
        own = args.restore_args
        return ArrayRestoreArgs(restore_args=LeafRestoreArgs() if own is None else own)

    def post_restore(self, item: Any, metadata: Mapping[Any, Any]) -> Any:
        """The key; one that Orbax saved says nothing of its type, and gets the usual one."""
        if not metadata.get("typed"):
            return item
        return jax.random.wrap_key_data(jnp.asarray(item), impl=metadata.get("impl"))


class NumpyRandomKeyCheckpointHandler(BaseRandomKeyCheckpointHandler):
    """Saves what `np.random.get_state` gives, in either form."""

    def __init__(self, key_name: str | None = None) -> None:
        super().__init__(key_name or NUMPY_RANDOM_KEY_NAME)

    def checkpoint_save_args(self, args: Any) -> tuple[CheckpointArgs, JsonSaveArgs]:
        """The state as a tree, and which form it has."""
        if not isinstance(args.item, tuple | dict):
            raise TypeError(f"a state of np.random is a tuple or a dict, not {type(args.item)}")
        legacy = isinstance(args.item, tuple)
        return PyTreeSaveArgs(args.item), JsonSaveArgs({"legacy": legacy})

    def checkpoint_restore_args(self, args: Any) -> CheckpointArgs:
        """Args that restore the tree as it was."""
        return PyTreeRestoreArgs()

    def post_restore(self, item: Any, metadata: Mapping[Any, Any]) -> Any:
        """The state in the form that it had."""
        return tuple(item) if metadata.get("legacy") else item


@register_with_handler(JaxRandomKeyCheckpointHandler, for_save=True)
@dataclasses.dataclass
class JaxRandomKeySaveArgs(CheckpointArgs):
    """A key to save; `save_args` are for its key data."""

    item: Any
    save_args: SaveArgs | None = None


@register_with_handler(JaxRandomKeyCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class JaxRandomKeyRestoreArgs(CheckpointArgs):
    """Restores a key; `restore_args` are for its key data."""

    restore_args: RestoreArgs | None = None


@register_with_handler(NumpyRandomKeyCheckpointHandler, for_save=True)
@dataclasses.dataclass
class NumpyRandomKeySaveArgs(CheckpointArgs):
    """A state to save."""

    item: Any


@register_with_handler(NumpyRandomKeyCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class NumpyRandomKeyRestoreArgs(CheckpointArgs):
    """Restores a state."""
