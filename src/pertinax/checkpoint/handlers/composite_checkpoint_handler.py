# SPDX-License-Identifier: Apache-2.0
"""The handler for several items in one checkpoint, each in a directory of its own.

Knows which handler serves which item, and learns it as the program goes. Knows nothing of what
handlers write.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from etils import epath

from pertinax._core.places import locate
from pertinax._formats.detect import UNPUBLISHED_MARK
from pertinax.checkpoint._adapt.item_handlers import ItemHandlers
from pertinax.checkpoint._adapt.legacy import unwrapped, with_args
from pertinax.checkpoint._adapt.saving import make_dirs
from pertinax.checkpoint._adapt.stored import check_files
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    register_with_handler,
)
from pertinax.checkpoint.composite import Composite
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler
from pertinax.checkpoint.handlers.handler_registration import (
    CheckpointHandlerRegistry,
    DefaultCheckpointHandlerRegistry,
)
from pertinax.checkpoint.options import FileOptions, MultiprocessingOptions
from pertinax.checkpoint.path import atomicity

_LOG: Final = logging.getLogger(__name__)
_NO_ITEM: Final = "LOCKED"
RESERVED_ITEM_NAMES: Sequence[str] = ()


@dataclasses.dataclass
class CompositeOptions:
    """How items are written.

    Attributes:
        multiprocessing_options: who takes part, and who leads.
        temporary_path_class: how the directory of an item is made and committed; None chooses by
            the store.
        file_options: permissions of the directories.
    """

    multiprocessing_options: MultiprocessingOptions = dataclasses.field(
        default_factory=MultiprocessingOptions
    )
    temporary_path_class: Any = None
    file_options: FileOptions | None = None


class CompositeCheckpointHandler(AsyncCheckpointHandler):
    """Saves and restores items by name, each through a handler of its own.

    Without any arguments, items get the handler that their args are registered with. A registry
    says more, for all or for some. Names and handlers given directly are the only items that there
    will be.

    >>> handler = CompositeCheckpointHandler()
    >>> handler.save(path, args=CompositeArgs(state=StandardSave(tree), config=JsonSave({})))
    """

    def __init__(
        self,
        *item_names: str,
        composite_options: CompositeOptions | None = None,
        handler_registry: CheckpointHandlerRegistry | None = None,
        **items_and_handlers: Any,
    ) -> None:
        if handler_registry is not None and (item_names or items_and_handlers):
            raise ValueError("give either handler_registry, or item_names and items_and_handlers")
        self._options = composite_options or CompositeOptions()
        # The only items that there will be, if any are named here.
        named = [*item_names, *items_and_handlers]
        self._handlers = ItemHandlers(handler_registry, named or None)
        self._saved: dict[str, CheckpointHandler] = {}
        self._current_temporary_paths: dict[str, atomicity.TemporaryPath] = {}
        for name, handler in items_and_handlers.items():
            if handler is not None:
                self._handlers.register(name, with_args(handler))

    @property
    def _handler_registry(self) -> DefaultCheckpointHandlerRegistry:
        return self._handlers.registry

    @property
    def _item_names_without_registered_handlers(self) -> set[str] | None:
        return self._handlers.undecided

    def _get_or_set_handler(self, item_name: str, args: CheckpointArgs | None) -> CheckpointHandler:
        return self._handlers.get_or_set(item_name, args)

    # --- saving

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for all files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    async def async_save(self, directory: epath.Path, args: "CompositeArgs") -> list[Future] | None:
        """Begin to save each item.

        Raises `TypeError` or `ValueError` for args that no handler takes.
        """
        items = _checked(args)
        with self._handlers.nothing_learned_from_failure():
            handlers = {name: self._get_or_set_handler(name, items[name]) for name in sorted(items)}
            await self._make_dirs(directory, handlers)
            self._saved = handlers
            saves = [
                _begin(handler, self._current_temporary_paths[name].get(), items[name])
                for name, handler in handlers.items()
            ]
            results = await asyncio.gather(*saves, return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            good = [result for result in results if not isinstance(result, BaseException)]
            futures = [future for result in good for future in flat_futures(result)]
            if failures:
                _let_end(futures)
                _abandon(self._current_temporary_paths)
                self._current_temporary_paths = {}
                raise failures[0]
        return futures

    async def _make_dirs(self, directory: epath.Path, names: Iterable[str]) -> None:
        make_dirs(*locate(directory))
        self._current_temporary_paths = {
            name: self._get_item_temporary_directory(epath.Path(directory), name) for name in names
        }
        await atomicity.create_all(
            list(self._current_temporary_paths.values()),
            multiprocessing_options=self._options.multiprocessing_options,
        )

    def _get_item_temporary_directory(
        self, directory: epath.Path, item_name: str
    ) -> atomicity.TemporaryPath:
        final = directory / item_name
        cls: Any = self._options.temporary_path_class
        cls = cls or atomicity.get_default_temporary_path_class(final)
        path = cls.from_final(
            final,
            file_options=self._options.file_options or FileOptions(),
            multiprocessing_options=self._options.multiprocessing_options,
        )
        if isinstance(path, atomicity.EnginePath):
            # Who publishes the whole makes it durable; an item that was there before gives way.
            path.durable, path.replace = False, True
        return path

    def finalize(self, directory: epath.Path) -> None:
        """Finish the items of the last save, and give them their names.

        Raises `ValueError` if there was none.
        """
        if not self._current_temporary_paths:
            raise ValueError("finalize() called before any items were saved.")
        for name, path in self._current_temporary_paths.items():
            handler = self._saved.get(name) or next(iter(self._handlers.handlers_of(name)), None)
            if handler is not None:
                handler.finalize(path.get())
            path.finalize()
        self._current_temporary_paths = {}

    def handler_names(self) -> dict[str, str]:
        """The class name of the handler of each item of the last save."""
        return {name: class_name(unwrapped(handler)) for name, handler in self._saved.items()}

    # --- reading

    def restore(
        self, directory: epath.Path, args: "CompositeArgs | None" = None
    ) -> "CompositeResults":
        """The items that `args` name, or all.

        Raises `KeyError` for one that is not there, or has no handler.
        """
        existing = _existing(directory)
        wanted: dict[str, CheckpointArgs | None]
        if args is None or not len(args):
            wanted = {name: self._handlers.default_restore_args(name) for name in existing}
        else:
            wanted = _checked(args)
            for name in wanted:
                if name not in existing:
                    raise KeyError(
                        f'Item "{name}" was not found in the checkpoint. '
                        f"Available items: {existing}"
                    )
        with self._handlers.nothing_learned_from_failure():
            return CompositeResults(
                **{
                    name: self._restore_item(directory, name, wanted[name])
                    for name in sorted(wanted)
                }
            )

    def _restore_item(self, directory: epath.Path, name: str, args: CheckpointArgs | None) -> Any:
        handler = self._get_or_set_handler(name, args)
        if args is None:
            args = self._handlers.default_restore_args(name)
            handler = self._get_or_set_handler(name, args)
        check_files(directory, name)
        return handler.restore(epath.Path(directory) / name, args=args)

    def metadata(self, directory: epath.Path) -> "CompositeResults":
        """What is known of each item; None where its handler is not known."""
        found: dict[str, Any] = {}
        for name in _existing(directory):
            known = self._handlers.handlers_of(name)
            if not known:
                _LOG.info("metadata of an item without a handler item=%s", name)
            found[name] = known[0].metadata(epath.Path(directory) / name) if known else None
        return CompositeResults(**found)

    def _items_exist(self, directory: epath.Path, item_names: Sequence[str]) -> dict[str, bool]:
        existing = _existing(directory)
        return {name: name in existing for name in item_names}

    def close(self) -> None:
        """Close every handler."""
        handlers = {
            id(handler): handler for handler in self._handler_registry.get_all_entries().values()
        }
        for handler in handlers.values():
            handler.close()


def reopen(handler: Any) -> None:
    """Undo `close`, for handlers that can: a manager may be given those of another."""
    inner = unwrapped(handler)
    if isinstance(inner, CompositeCheckpointHandler):
        for one in inner._handler_registry.get_all_entries().values():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - ours
            reopen(one)
    elif callable(again := getattr(inner, "reopen", None)):
        again()


def class_name(handler: Any) -> str:
    """What the notes of a checkpoint call the handler."""
    kind: Any = type(handler)
    if issubclass(kind, CheckpointHandler):
        return kind.typestr()
    return f"{kind.__module__}.{kind.__qualname__}"  # something that stands in for a handler


async def _begin(handler: CheckpointHandler, place: epath.Path, args: Any) -> Any:
    if isinstance(handler, AsyncCheckpointHandler):
        return await handler.async_save(place, args=args)
    handler.save(place, args=args)
    return None


def _abandon(paths: Mapping[str, atomicity.TemporaryPath]) -> None:
    for path in paths.values():
        if isinstance(path, atomicity.EnginePath):
            path.abandon()


def _let_end(futures: Sequence[Future]) -> None:
    """Wait, whatever comes of it: the directory will be removed, and nobody must write into it."""
    for future in futures:
        with contextlib.suppress(Exception):
            future.result()


def _checked(args: Any) -> dict[str, Any]:
    if not isinstance(args, Mapping):
        raise TypeError(f"give the items as CompositeArgs, not as {type(args).__name__}")
    items = dict(cast("Mapping[str, Any]", args))
    if not items:
        raise ValueError("there is nothing to save: CompositeArgs() has no items")
    for name, value in items.items():
        if value is not None and not isinstance(value, CheckpointArgs):
            raise TypeError(f"item {name!r} must be CheckpointArgs, not {type(value).__name__}")
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"the name of an item must be that of a directory: {name!r}")
    return items


def _existing(directory: Any) -> list[str]:
    """The names of the items in a directory, in order."""
    store, path = locate(os.fspath(directory))
    names = [entry.name for entry in store.list_dir(path) if entry.is_dir]
    return sorted(
        name
        for name in names
        if name != _NO_ITEM and UNPUBLISHED_MARK not in name and name[0] != "."
    )


def flat_futures(result: Any) -> Iterable[Future]:
    """The futures in what `async_save` returned: nothing, one, or lists of them."""
    if result is None:
        return
    if isinstance(result, list | tuple):
        for part in cast("list[Any]", result):
            yield from flat_futures(part)
    else:
        yield result


@register_with_handler(CompositeCheckpointHandler, for_save=True, for_restore=True)
class CompositeArgs(Composite, CheckpointArgs):
    """Args of several items, each under the name of its item."""


CompositeResults = CompositeArgs
