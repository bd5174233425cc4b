# SPDX-License-Identifier: Apache-2.0
"""The items of a manager: one without a name, or several, and the checkpointer that writes them.

Knows the ways in which a manager can be told about its items, old and new, and the args that belong
to them. Knows nothing of steps, histories or options about keeping.
"""

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pertinax.checkpoint import args as args_lib
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions
from pertinax.checkpoint.abstract_checkpointer import AbstractCheckpointer
from pertinax.checkpoint.async_checkpointer import AsyncCheckpointer
from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    get_registered_args_cls,
)
from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeCheckpointHandler,
    CompositeOptions,
    reopen,
)
from pertinax.checkpoint.handlers.handler_registration import (
    CheckpointHandlerRegistry,
    DefaultCheckpointHandlerRegistry,
)
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonCheckpointHandler
from pertinax.checkpoint.options import AsyncOptions

_LOG: Final = logging.getLogger(__name__)

DEFAULT_ITEM_NAME: Final = "default"
DESCRIPTOR_ITEM_NAME: Final = "descriptor"
METRIC_ITEM_NAME: Final = "metrics"
RESERVED_ITEM_NAMES: Final = (DESCRIPTOR_ITEM_NAME, METRIC_ITEM_NAME)

Handlers = Mapping[str, CheckpointHandler | None]


@dataclass(frozen=True, slots=True)
class Told:
    """What the caller of a manager said about its items: at most one of the ways."""

    checkpointers: Any = None
    item_names: Any = None
    item_handlers: Any = None
    registry: CheckpointHandlerRegistry | None = None

    def check(self, options: CheckpointManagerOptions) -> None:
        """Raise `ValueError` for what contradicts itself."""
        if self.checkpointers is not None:
            for name in ("item_names", "item_handlers", "registry"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`checkpointers` and `{_public(name)}` exclude each other: "
                        "handlers belong to checkpointers already"
                    )
            if options.multiprocessing_options.primary_host != 0:
                raise ValueError("`checkpointers` work with primary_host=0 only: use item_handlers")
        if self.registry is not None:
            for name in ("item_handlers", "item_names"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`handler_registry` and `{name}` exclude each other")
        single = self.item_handlers is not None and not isinstance(self.item_handlers, Mapping)
        if self.item_names and single:
            raise ValueError("`item_names` name several items, `item_handlers` is for a single one")
        primary = options.multiprocessing_options.primary_host
        if self.item_names and self.item_handlers is None and primary is None:
            raise ValueError("with primary_host=None give `item_handlers` built for it, not names")
        for named in (self.checkpointers, self.item_names, self.item_handlers):
            _check_names(named)


@dataclass(frozen=True, slots=True)
class Backing:
    """What stands behind a manager.

    Attributes:
        checkpointer: writes all items of a step together.
        reader: reads them. It does not wait, so that who reads never takes a failure away from
            who saves.
        default_item: whether there is one item without a name; None if that is not known yet.
        handlers: those that were given, by item.
        names: the items there may be, or None if any.
        options: those of the manager.
    """

    checkpointer: Checkpointer
    reader: Checkpointer
    default_item: bool | None
    handlers: Mapping[str, CheckpointHandler]
    names: frozenset[str] | None
    options: CheckpointManagerOptions

    def one_reader(self) -> Checkpointer:
        """A reader that knows no handler and remembers none for the manager."""
        return _reader(CompositeCheckpointHandler(), self.options)


def build_backing(told: Told, options: CheckpointManagerOptions) -> Backing:
    """The checkpointer for what was told. Raises `ValueError` for what cannot be."""
    told.check(options)
    if told.checkpointers is not None:
        return _from_checkpointers(told.checkpointers, options)
    if told.item_names is not None or told.item_handlers is not None:
        return _from_handlers(told.item_names or (), told.item_handlers, options)
    registry = DefaultCheckpointHandlerRegistry(told.registry)  # ours: we add to it
    given: dict[str, CheckpointHandler] = {}
    for (item, _), handler in registry.get_all_entries().items():
        if item is not None:
            given.setdefault(item, handler)
    metrics = JsonCheckpointHandler(filename=METRIC_ITEM_NAME)
    for args in (args_lib.JsonSave, args_lib.JsonRestore):
        if not registry.has(METRIC_ITEM_NAME, args):
            registry.add(METRIC_ITEM_NAME, args, metrics)
    composite = CompositeCheckpointHandler(
        composite_options=_composite_options(options), handler_registry=registry
    )
    checkpointer = _checkpointer(
        composite, options, asynchronous=options.enable_async_checkpointing
    )
    return Backing(checkpointer, _reader(composite, options), None, given, None, options)


def is_async_checkpointer(checkpointer: AbstractCheckpointer | Any) -> bool:
    """Whether saves of `checkpointer` go on in the background."""
    if isinstance(checkpointer, AsyncCheckpointer):
        return True
    # JAX has a checkpointer as well. Who has one has imported it, and TensorStore with it.
    theirs: Any = sys.modules.get("jax.experimental.array_serialization.serialization")
    return theirs is not None and isinstance(checkpointer, theirs.GlobalAsyncCheckpointManagerBase)


def _from_checkpointers(given: Any, options: CheckpointManagerOptions) -> Backing:
    import jax

    _LOG.warning("`checkpointers` is an old way to construct a manager: pass args to save instead")
    jax.monitoring.record_event("/jax/orbax/deprecation/checkpoint_manager_legacy_init")
    named: dict[str, Any]
    if isinstance(given, Checkpointer):
        named = {DEFAULT_ITEM_NAME: given}
    elif isinstance(given, dict):
        named = cast("dict[str, Any]", given)
    else:
        named = {}
    strangers = [one for one in named.values() if not isinstance(one, Checkpointer)]
    if strangers or not isinstance(given, Checkpointer | dict):
        raise ValueError(f"`checkpointers` is a Checkpointer or a dict of them, not {given!r}")
    asynchronous = [one for one in named.values() if is_async_checkpointer(one)]
    if asynchronous and len(asynchronous) < len(named):
        _LOG.error("some checkpointers are asynchronous: so is every save of this manager")
    timeouts = [_timeout(one) for one in asynchronous]
    handlers = {name: one.handler for name, one in named.items()}
    composite = _closed_composite((), handlers, options)
    checkpointer = _checkpointer(
        composite,
        options,
        asynchronous=bool(asynchronous),
        default=AsyncOptions(timeout_secs=max(timeouts)) if timeouts else None,
    )
    names = frozenset(named)
    return Backing(
        checkpointer,
        _reader(composite, options),
        isinstance(given, Checkpointer),
        handlers,
        names,
        options,
    )


def _from_handlers(names: Iterable[str], given: Any, options: CheckpointManagerOptions) -> Backing:
    single = given is not None and not isinstance(given, Mapping)
    named = {DEFAULT_ITEM_NAME: given} if single else dict(cast("Handlers", given or {}))
    handlers = {name: Checkpointer(one).handler for name, one in named.items() if one is not None}
    everything = frozenset(names) | frozenset(named)
    composite = _closed_composite(sorted(everything - set(handlers)), handlers, options)
    checkpointer = _checkpointer(
        composite, options, asynchronous=options.enable_async_checkpointing
    )
    return Backing(checkpointer, _reader(composite, options), single, handlers, everything, options)


def _closed_composite(
    names: Iterable[str],
    handlers: Mapping[str, CheckpointHandler],
    options: CheckpointManagerOptions,
) -> CompositeCheckpointHandler:
    everything: dict[str, Any] = {
        **handlers,
        METRIC_ITEM_NAME: JsonCheckpointHandler(filename=METRIC_ITEM_NAME),
    }
    return CompositeCheckpointHandler(
        *names, composite_options=_composite_options(options), **everything
    )


def _checkpointer(
    handler: CompositeCheckpointHandler,
    options: CheckpointManagerOptions,
    *,
    asynchronous: bool,
    default: AsyncOptions | None = None,
) -> Checkpointer:
    reopen(handler)  # those that the caller gave may have served a manager before
    chosen = options.async_options or default or AsyncOptions()
    common: dict[str, Any] = {
        "multiprocessing_options": options.multiprocessing_options,
        "file_options": options.file_options,
        "temporary_path_class": options.temporary_path_class,
    }
    if asynchronous:
        return AsyncCheckpointer(handler, async_options=chosen, **common)
    if chosen.post_finalization_callback is not None:
        raise ValueError("post_finalization_callback is for asynchronous saves only")
    return Checkpointer(handler, **common)


def _reader(handler: CompositeCheckpointHandler, options: CheckpointManagerOptions) -> Checkpointer:
    return Checkpointer(handler, multiprocessing_options=options.multiprocessing_options)


def _composite_options(options: CheckpointManagerOptions) -> CompositeOptions:
    return CompositeOptions(
        multiprocessing_options=options.multiprocessing_options,
        temporary_path_class=options.temporary_path_class,
        file_options=options.file_options,
    )


def _timeout(checkpointer: Any) -> int:
    return int(getattr(checkpointer, "_timeout_secs", AsyncOptions().timeout_secs))


def _check_names(named: Any) -> None:
    if named is None or not isinstance(named, Iterable):
        return
    reserved = sorted(
        set(RESERVED_ITEM_NAMES) & {str(name) for name in cast("Iterable[Any]", named)}
    )
    if reserved:
        raise ValueError(f"item names {reserved} are reserved: {list(RESERVED_ITEM_NAMES)}")


def _public(name: str) -> str:
    return "handler_registry" if name == "registry" else name


# --------------------------------------------------------------------------------- args of one call


def check_args(items: Any, args: Any) -> None:
    """Raise `ValueError` for args that are not where args belong, or are none."""
    if isinstance(items, CheckpointArgs):
        raise ValueError(
            "an instance of `CheckpointArgs` was passed for `items`: say `args=`, as in "
            f"`args={type(items).__name__}(...)`"
        )
    if args is not None and not isinstance(args, CheckpointArgs):
        raise ValueError(f"`args` must be a `CheckpointArgs`, not {type(args).__name__}")


def check_mode(args: Any, *, default_item: bool) -> None:
    """Raise `ValueError` for args of one item where there are several, or the other way round."""
    if default_item and isinstance(args, args_lib.Composite):
        raise ValueError(
            "Cannot provide `args` of type `Composite`: this manager keeps a single object without "
            "a name (the default item). Pass its args as they are, or use another root"
        )
    if not default_item and args is not None and not isinstance(args, args_lib.Composite):
        raise ValueError(
            "Must provide `args` of type `Composite`: this manager keeps several objects by name. "
            f"Say `args=Composite(name={type(args).__name__}(...))`"
        )


def check_items(composite: Mapping[str, Any], backing: Backing, known: Iterable[str]) -> None:
    """Raise `ValueError` or `TypeError` for items that cannot be saved, before anything is."""
    reserved = sorted(set(composite) & set(RESERVED_ITEM_NAMES))
    if reserved:
        raise ValueError(
            f"item names {reserved} are reserved: pass metrics as `metrics=`, call others otherwise"
        )
    for name, args in composite.items():
        if args is not None and not isinstance(args, CheckpointArgs):
            raise TypeError(f"item {name!r} needs a `CheckpointArgs`, not {type(args).__name__}")
        if backing.names is not None and name not in backing.names:
            raise ValueError(
                f"item {name!r} does not match with any registered handler: this manager was "
                f"constructed for {sorted(backing.names)}"
            )
        if args is None and name not in known:
            raise ValueError(
                f"Provided `None` for `CheckpointArgs` of {name!r}, which nobody knows"
            )


def legacy_args(
    items: Any, kwargs: Any, known: Mapping[str, Any], *, default_item: bool, restoring: bool
) -> args_lib.Composite | None:
    """The args that `items` and their keyword arguments stand for; None if there are none.

    `known` are the handlers, or their classes, by item: those that were given, and those that args
    of earlier calls have named. Raises `ValueError` for an item without one.
    """
    if default_item:
        objects = {DEFAULT_ITEM_NAME: items}
        options = {DEFAULT_ITEM_NAME: kwargs}
        if items is None and kwargs is None:
            return None
    else:
        objects, options = dict(items or {}), dict(kwargs or {})
    names = [*objects, *(name for name in options if restoring and name not in objects)]
    if not names:
        return None
    built: dict[str, Any] = {}
    for name in names:
        handler = known.get(name)
        if handler is None:
            raise ValueError(
                f"Unknown key {name!r}: no handler and no args were given for an item of that name"
            )
        cls: Any = get_registered_args_cls(handler)[1 if restoring else 0]
        built[name] = cls(objects.get(name), **(options.get(name) or {}))
    return args_lib.Composite(**built)
