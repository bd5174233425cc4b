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
from pertinax._store.leftovers import remove_tree
from pertinax.checkpoint._adapt.composite import Composite
from pertinax.checkpoint._adapt.legacy import unwrapped, with_args
from pertinax.checkpoint._adapt.saving import make_dirs
from pertinax.checkpoint._adapt.stored import check_files
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    get_registered_args_cls,
    get_registered_handler_cls,
    register_with_handler,
)
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler
from pertinax.checkpoint.handlers.handler_registration import (
    CheckpointHandlerRegistry,
    DefaultCheckpointHandlerRegistry,
)
from pertinax.checkpoint.options import FileOptions, MultiprocessingOptions

_LOG: Final = logging.getLogger("pertinax")
_NO_ITEM = "LOCKED"


@dataclasses.dataclass
class CompositeOptions:
    """How items are written.

    Directories are made inside one that nobody sees, whatever `temporary_path_class` says.
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
        self._handler_registry = DefaultCheckpointHandlerRegistry(handler_registry)
        self._closed_set = bool(item_names or items_and_handlers)
        self._item_names_without_registered_handlers: list[str] = list(item_names)
        self._saved: dict[str, CheckpointHandler] | None = None
        for name, handler in items_and_handlers.items():
            if handler is None:
                self._item_names_without_registered_handlers.append(name)
            else:
                self._register(name, with_args(handler))

    # --- which handler

    def _register(self, item: str, handler: Any) -> None:
        for args_cls in dict.fromkeys(get_registered_args_cls(handler)):
            if not self._handler_registry.has(item, args_cls):
                self._handler_registry.add(item, args_cls, handler)
        if item in self._item_names_without_registered_handlers:
            self._item_names_without_registered_handlers.remove(item)

    def _handlers_of(self, item: str) -> list[CheckpointHandler]:
        entries = self._handler_registry.get_all_entries()
        return [handler for (name, _), handler in entries.items() if name == item]

    def _get_or_set_handler(self, item: str, args: CheckpointArgs | None) -> CheckpointHandler:
        """The handler for an item and its args; from then on the item stays with it."""
        registry, known = self._handler_registry, self._handlers_of(item)
        if args is None:
            if not known:
                raise ValueError(
                    f"args for item {item!r} are None, and no handler is configured for it"
                )
            return known[0]
        if registry.has(item, args):
            return registry.get(item, args)
        if registry.has(None, args):
            handler = registry.get(None, args)
            registry.add(item, args, handler)
            return handler
        handler_cls = get_registered_handler_cls(args)
        same = next((handler for handler in known if type(handler) is handler_cls), None)
        if same is not None:
            registry.add(item, args, same)
            return same
        undecided = item in self._item_names_without_registered_handlers
        if known or (self._closed_set and not undecided):
            raise ValueError(
                f"item {item!r} with args of {type(args).__name__} "
                "does not match with any registered handler"
            )
        self._register(item, handler_cls())
        return self._get_or_set_handler(item, args)

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
        handlers = {name: self._get_or_set_handler(name, items[name]) for name in sorted(items)}
        self._make_dirs(directory, handlers)
        self._saved = handlers
        saves = [
            _begin(handler, epath.Path(directory) / name, items[name])
            for name, handler in handlers.items()
        ]
        results = await asyncio.gather(*saves, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        futures = [
            future
            for result in results
            if not isinstance(result, BaseException)
            for future in flat_futures(result)
        ]
        if failures:
            _let_end(futures)
            raise failures[0]
        return futures

    def _make_dirs(self, directory: epath.Path, names: Iterable[str]) -> None:
        store, path = locate(directory)
        make_dirs(store, path)
        files = self._options.file_options
        mode = files.path_permission_mode if files is not None else None
        for name in names:
            if store.stat(f"{path}/{name}") is not None:
                remove_tree(store, f"{path}/{name}")
            store.make_dir(f"{path}/{name}", 0o777 if mode is None else mode)

    def finalize(self, directory: epath.Path) -> None:
        """Finish the items of the last save. Raises `ValueError` if there was none."""
        if self._saved is None:
            raise ValueError("finalize without a save before it")
        for name, handler in self._saved.items():
            handler.finalize(epath.Path(directory) / name)

    def handler_names(self) -> dict[str, str]:
        """The class name of the handler of each item of the last save."""
        return {
            name: type(unwrapped(handler)).typestr()
            for name, handler in (self._saved or {}).items()
        }

    # --- reading

    def restore(
        self, directory: epath.Path, args: "CompositeArgs | None" = None
    ) -> "CompositeResults":
        """The items that `args` name, or all.

        Raises `KeyError` for one that is not there, or has no handler.
        """
        existing = _existing(directory)
        if args is None or not len(args):
            wanted = {name: self._default_restore_args(name) for name in existing}
        else:
            wanted = _checked(args)
            for name in wanted:
                if name not in existing:
                    raise KeyError(
                        f'Item "{name}" was not found in the checkpoint. '
                        f"Available items: {existing}"
                    )
        results: dict[str, Any] = {}
        for name in sorted(wanted):
            handler = self._get_or_set_handler(name, wanted[name])
            given = wanted[name] if wanted[name] is not None else self._default_restore_args(name)
            check_files(directory, name)
            results[name] = handler.restore(epath.Path(directory) / name, args=given)
        return CompositeResults(**results)

    def _default_restore_args(self, name: str) -> CheckpointArgs:
        known = self._handlers_of(name)
        if not known and name in self._item_names_without_registered_handlers:
            raise ValueError(
                f"Item {name!r} has an undetermined `CheckpointHandler` "
                "when restoring: say with which args"
            )
        if not known:
            raise KeyError(
                f'Item "{name}" was found in the checkpoint, but could not be restored: give a '
                f"`CheckpointHandlerRegistry`, or args for it"
            )
        args_cls = get_registered_args_cls(known[0])[1]
        try:
            return args_cls()
        except TypeError as error:
            raise ValueError(
                f"item {name!r} needs restore args: {args_cls.__name__} has no defaults"
            ) from error

    def metadata(self, directory: epath.Path) -> "CompositeResults":
        """What is known of each item; None where its handler is not known."""
        found: dict[str, Any] = {}
        for name in _existing(directory):
            known = self._handlers_of(name)
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


async def _begin(handler: CheckpointHandler, place: epath.Path, args: Any) -> Any:
    if isinstance(handler, AsyncCheckpointHandler):
        return await handler.async_save(place, args=args)
    handler.save(place, args=args)
    return None


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
