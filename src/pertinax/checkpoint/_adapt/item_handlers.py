# SPDX-License-Identifier: Apache-2.0
"""Handlers of items: which one serves an item, what is learned of that as a program goes, and what
is forgotten.

Knows registries and the registration of args. Knows nothing of directories.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, final

from pertinax.checkpoint import _registry
from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    get_registered_args_cls,
    get_registered_handler_cls,
    has_registered_args,
)
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler
from pertinax.checkpoint.handlers.handler_registration import (
    CheckpointHandlerRegistry,
    DefaultCheckpointHandlerRegistry,
)


@final
class ItemHandlers:
    """Items and their handlers.

    Attributes:
        registry: what is known; a copy of the registry that a program gave.
        undecided: the items that have no handler yet; None if any item may come.
    """

    def __init__(
        self, registry: CheckpointHandlerRegistry | None, undecided: Iterable[str] | None
    ) -> None:
        self.registry = DefaultCheckpointHandlerRegistry(registry)
        self.undecided: set[str] | None = None if undecided is None else set(undecided)

    def register(self, item: str, handler: Any) -> None:
        """From now on `handler` serves the item, for the args that it is registered with."""
        for args_cls in dict.fromkeys(get_registered_args_cls(handler)):
            if not self.registry.has(item, args_cls):
                self.registry.add(item, args_cls, handler)
        if self.undecided is not None:
            self.undecided.discard(item)

    def handlers_of(self, item: str) -> list[CheckpointHandler]:
        """The handlers of an item, the first registered first."""
        entries = self.registry.get_all_entries()
        return [handler for (name, _), handler in entries.items() if name == item]

    def get_or_set(self, item: str, args: CheckpointArgs | None) -> CheckpointHandler:
        """The handler for an item and its args; from then on the item stays with it.

        Raises `ValueError` if there is none, or another one has the item.
        """
        registry, known = self.registry, self.handlers_of(item)
        if args is None:
            if not known:
                raise ValueError(
                    f"Provided `None` for `CheckpointArgs`, and no handler is configured for item "
                    f"{item!r}: say with args how it is to be saved or restored"
                )
            return known[0]
        if registry.has(item, args):
            return registry.get(item, args)
        if registry.has(None, args):
            handler = registry.get(None, args)
            registry.add(item, args, handler)
            return handler
        handler_cls = get_registered_handler_cls(args)
        same = next((handler for handler in known if isinstance(handler, handler_cls)), None)
        if same is not None:
            registry.add(item, args, same)
            return same
        undecided = self.undecided
        if known or (undecided is not None and item not in undecided):
            raise ValueError(
                f'Item "{item}" and args of {type(args).__name__} '
                f"does not match with any registered handler: {self._told(item)}"
            )
        self.register(item, handler_cls())
        return self.get_or_set(item, args)

    def _told(self, item: str) -> str:
        entries = self.registry.get_all_entries()
        takes = [args.__name__ for name, args in entries if name == item]
        if takes:
            return f"the item takes {', '.join(takes)}"
        names = sorted({str(name) for name, _ in entries})
        return f"there are handlers for {', '.join(names) or 'no item'}"

    @contextlib.contextmanager
    def nothing_learned_from_failure(self) -> Iterator[None]:
        """A call that fails must not decide which handler an item has from then on."""
        entries = self.registry.get_all_entries()
        before, names = dict(entries), self.undecided
        names = None if names is None else set(names)
        try:
            yield
        except BaseException:
            mine = {id(handler) for handler in before.values()}
            for handler in {id(one): one for one in entries.values()}.values():
                if id(handler) not in mine:
                    with contextlib.suppress(Exception):
                        handler.close()
            entries.clear()
            entries.update(before)
            self.undecided = names
            raise

    def default_restore_args(self, name: str) -> CheckpointArgs:
        """Args that restore an item as it was saved.

        Raises `KeyError` for an item without a handler, `ValueError` if its handler is undetermined
        or takes no args that can be made without arguments.
        """
        known = self.handlers_of(name)
        if not known and name in (self.undecided or ()):
            raise ValueError(
                f"Item {name!r} has an undetermined `CheckpointHandler` "
                "when restoring: say with which args"
            )
        if not known:
            raise KeyError(
                f'Item "{name}" was found in the checkpoint, but could not be restored: give a '
                f"`CheckpointHandlerRegistry`, or args for it"
            )
        candidates = self._restore_args_types(name, known[0])
        for args_cls in candidates:
            with contextlib.suppress(TypeError):
                return args_cls()
        raise ValueError(
            f"item {name!r} needs restore args: of "
            f"{', '.join(one.__name__ for one in candidates) or 'its args types'} "
            "none is default-constructible"
        )

    def _restore_args_types(
        self, name: str, handler: CheckpointHandler
    ) -> list[type[CheckpointArgs]]:
        """What can restore an item, the likeliest first: what its entries say counts before what
        is registered globally.
        """
        entries = [args for item, args in self.registry.get_all_entries() if item == name]
        found = [args for args in entries if args in _registry.RESTORE_HANDLERS]
        if has_registered_args(handler):
            found.append(get_registered_args_cls(handler)[1])
        found += [args for args in entries if args not in _registry.SAVE_HANDLERS]
        return list(dict.fromkeys(found))
