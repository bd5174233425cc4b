# SPDX-License-Identifier: Apache-2.0
"""One item without a name, or several by name: what a manager has settled on, and what follows.

Knows the args of calls and the items of a step on disk. Knows nothing of steps. The first call that
succeeds settles it; a call that fails settles nothing.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, final

from etils import epath

from pertinax.checkpoint import args as args_lib
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.manager_items import (
    DEFAULT_ITEM_NAME,
    METRIC_ITEM_NAME,
    Backing,
    check_items,
    check_mode,
    legacy_args,
)
from pertinax.checkpoint._adapt.stored_items import guess_restore_args, list_items
from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    get_registered_args_cls,
    get_registered_handler_cls,
)
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonCheckpointHandler

_LOG: Final = logging.getLogger(__name__)


@final
class ItemMode:
    """Turns what callers say into the args of all items, and results back."""

    def __init__(self, backing: Backing) -> None:
        self.default_item = backing.default_item
        self._backing = backing
        # Item -> the handler, or its class, that reads and writes it.
        self._known: dict[str, Any] = dict(backing.handlers)

    # -------------------------------------------------------------------------------------- saving

    def check_save(self, args: Any) -> None:
        """Raise `ValueError` for args that do not fit what was settled."""
        check_mode(args, default_item=self._mode_of(args))

    def save_args(self, items: Any, kwargs: Any, args: Any) -> dict[str, Any]:
        """The args of each item. Raises `ValueError` or `TypeError` for what cannot be saved."""
        single = self._mode_of(args)
        if args is None:
            built = legacy_args(items, kwargs, self._known, default_item=single, restoring=False)
            found = dict(built or {})
        else:
            found = {DEFAULT_ITEM_NAME: args} if single else dict(args)
        check_items(found, self._backing, self._known)
        for name in [name for name, one in found.items() if one is None]:
            if _is_json(self._known[name]):
                _LOG.warning("item %r is None: null is saved", name)
                found[name] = args_lib.JsonSave(None)
        return found

    def saved(self, items: Any, args: Any) -> None:
        """A save with these args has begun well."""
        self.default_item = single = self._mode_of(args)
        if args is not None:
            self._learn({DEFAULT_ITEM_NAME: args} if single else dict(args))

    # ----------------------------------------------------------------------------------- restoring

    def check_restore(self, args: Any) -> None:
        """Raise `ValueError` for args that do not fit what was settled, if anything was."""
        if self.default_item is not None:
            check_mode(args, default_item=self.default_item)

    def restore(self, path: epath.Path, items: Any, kwargs: Any, args: Any) -> Any:
        """The item, or all that were asked for by name, of the step at `path`."""
        stored_single = files.is_dir(path / DEFAULT_ITEM_NAME)
        single, settles = self._restore_mode(args, stored_single=stored_single)
        check_mode(args, default_item=single)
        wanted: Mapping[str, Any] | None
        if args is None:
            wanted = legacy_args(items, kwargs, self._known, default_item=single, restoring=True)
        else:
            wanted = {DEFAULT_ITEM_NAME: args} if single else args
        if not wanted:
            names = [DEFAULT_ITEM_NAME] if single else list_items(path)
            restored = self._restore_stored(path, names)
        else:
            restored = dict(self._backing.reader.restore(path, args=args_lib.Composite(**wanted)))
            self._learn(wanted)
        if settles:
            self.default_item = single
        if not single:
            return args_lib.Composite(**restored)
        return restored[DEFAULT_ITEM_NAME]

    def metadata(self, path: epath.Path) -> Any:
        """What the items of the step at `path` know of themselves."""
        single = self.default_item
        if single is None:
            single = files.is_dir(path / DEFAULT_ITEM_NAME)
        found: Any = self._backing.reader.metadata(path)
        self.default_item = single
        return found.get(DEFAULT_ITEM_NAME) if single else found

    # ------------------------------------------------------------------------------------- inside

    def _mode_of(self, args: Any) -> bool:
        if self.default_item is not None:
            return self.default_item
        return not isinstance(args, args_lib.Composite)

    def _restore_mode(self, args: Any, *, stored_single: bool) -> tuple[bool, bool]:
        """The mode of one call, and whether it settles the mode of the manager."""
        if self.default_item is not None:
            return self.default_item, False
        if isinstance(args, args_lib.Composite):
            if stored_single and args and DEFAULT_ITEM_NAME not in args:
                check_mode(args, default_item=True)  # raises
            # The item happens to be called so: that may be its name, or stand for its lack of one.
            return False, not stored_single
        return stored_single, True

    def _restore_stored(self, path: epath.Path, names: list[str]) -> dict[str, Any]:
        """Items as they were saved, each by the args that fit it."""
        stored = list_items(path)
        told: dict[str, Any] = {}
        guessed: dict[str, Any] = {}
        for name in names:
            if name not in stored:
                raise ValueError(
                    f"there is no item {name!r} in {path}, only {stored}: pass `args`, or "
                    "construct the manager with a handler for what is there"
                )
            if name in self._known:
                told[name] = _default_restore_args(name, self._known[name])
            elif name != METRIC_ITEM_NAME:
                guessed[name] = self._guess(path, name)
            else:
                told[name] = args_lib.JsonRestore()
        restored: dict[str, Any] = {}
        if told:
            restored |= self._backing.reader.restore(path, args=args_lib.Composite(**told))
        if guessed:
            # With a checkpointer of its own: to look is not to decide how the item is saved next.
            once = self._backing.one_reader()
            try:
                restored |= once.restore(path, args=args_lib.Composite(**guessed))
            finally:
                once.close()
        return {name: restored[name] for name in names}

    def _guess(self, path: epath.Path, name: str) -> CheckpointArgs:
        names = self._backing.names
        guess = None
        if names is None or name in names:
            guess = guess_restore_args(path, name)
        if guess is None:
            raise KeyError(
                f"item {name!r} of {path} could not be restored: nothing tells how. Pass `args` "
                "or construct the manager with a handler for it"
            )
        return guess

    def _learn(self, args: Mapping[str, Any]) -> None:
        for name, one in args.items():
            if one is not None and name not in self._known:
                try:
                    self._known[name] = get_registered_handler_cls(one)
                except ValueError:  # known to the caller's registry only
                    continue


def _is_json(handler: Any) -> bool:
    cls = handler if isinstance(handler, type) else type(handler)
    return issubclass(cls, JsonCheckpointHandler)


def _default_restore_args(name: str, handler: Any) -> CheckpointArgs:
    cls = get_registered_args_cls(handler)[1]
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"item {name!r} cannot be restored without args: {cls.__name__} needs some ({error})"
        ) from error
