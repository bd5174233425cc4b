# SPDX-License-Identifier: Apache-2.0
"""Registries of handlers: which one serves an item, given its args.

Knows entries by item and by type of args. Knows nothing of saving or restoring.
"""

from typing import Any, Protocol

from pertinax.checkpoint.checkpoint_args import CheckpointArgs, get_registered_handler_cls
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler

Entry = tuple[str | None, type[CheckpointArgs]]
Args = CheckpointArgs | type[CheckpointArgs]


class AlreadyExistsError(ValueError):
    """There is an entry already."""


class NoEntryError(KeyError):
    """There is no such entry."""


class CheckpointHandlerRegistry(Protocol):
    """Entries for items (None: for any item) and types of args."""

    def add(self, item: str | None, args: Args, handler: Any = None) -> None:
        """Add an entry."""
        ...

    def get(self, item: str | None, args: Args) -> CheckpointHandler:
        """The handler of an entry."""
        ...

    def has(self, item: str | None, args: Args) -> bool:
        """Whether there is an entry."""
        ...

    def get_all_entries(self) -> dict[Entry, CheckpointHandler]:
        """All entries."""
        ...


class DefaultCheckpointHandlerRegistry(CheckpointHandlerRegistry):
    """Entries in a dict; those of another registry are taken over at first, sharing its handlers.

    >>> registry = DefaultCheckpointHandlerRegistry()
    >>> registry.add("state", StandardSave)
    >>> registry.add("state", StandardRestore)
    """

    def __init__(self, other_registry: CheckpointHandlerRegistry | None = None) -> None:
        self._entries: dict[Entry, CheckpointHandler] = {}
        if other_registry is not None:
            self._entries.update(other_registry.get_all_entries())

    def add(self, item: str | None, args: Args, handler: Any = None) -> None:
        """Add an entry.

        `handler` is an instance, or a class to make one of; None: the one registered for the args.

        Raises `AlreadyExistsError`, or `ValueError` if no handler can be made.
        """
        args_type = _type_of(args)
        if self.has(item, args_type):
            raise AlreadyExistsError(
                f"Entry for item={item} and args_type={args_type} already exists in the registry."
            )
        self._entries[item, args_type] = _instance(args_type, handler)

    def get(self, item: str | None, args: Args) -> CheckpointHandler:
        """The handler of an entry. Raises `NoEntryError`."""
        args_type = _type_of(args)
        if not self.has(item, args_type):
            raise NoEntryError(f"No entry for item={item} and args_ty={args_type} in the registry.")
        return self._entries[item, args_type]

    def has(self, item: str | None, args: Args) -> bool:
        """Whether there is an entry for exactly this item and type of args."""
        return (item, _type_of(args)) in self._entries

    def get_all_entries(self) -> dict[Entry, CheckpointHandler]:
        """All entries, as they are kept."""
        return self._entries


def _type_of(args: Args) -> type[CheckpointArgs]:
    return args if isinstance(args, type) else type(args)


def _instance(args_type: type[CheckpointArgs], handler: Any) -> CheckpointHandler:
    if handler is None:
        try:
            handler = get_registered_handler_cls(args_type)
        except ValueError as error:
            raise ValueError(
                f"Provided a `None` `CheckpointHandler`, and none is registered for {args_type}"
            ) from error
    if not isinstance(handler, type):
        return handler
    try:
        return handler()
    except TypeError as error:
        raise ValueError(f"{handler} is not default-constructible: give an instance") from error
