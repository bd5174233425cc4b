# SPDX-License-Identifier: Apache-2.0
"""Leaves of type handlers that a program has registered: which they are, and what each handler is
told and asked.

Knows registries, and that handlers get all of their leaves in one call. Knows nothing of what they
do with them. Leaves whose handler is a stock one as it comes are the engine's, and are not seen
here.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast, final

import numpy as np
from etils import epath

from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.ocdbt import MANIFEST_FILE
from pertinax._tree.flatten import Flat
from pertinax._tree.paths import path_text
from pertinax.checkpoint import serialization
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.type_handlers import (
    GLOBAL_TYPE_HANDLER_REGISTRY,
    NumpyHandler,
    ParamInfo,
    RestoreArgs,
    SaveArgs,
    SingleReplicaArrayHandler,
    StringHandler,
    TypeHandler,
    is_empty_typestr,
)
from pertinax.checkpoint.type_handlers.stock import is_engines, is_plain
from pertinax.errors import PertinaxError

_LOG: Final = logging.getLogger(__name__)
_TYPESTRS: Final[Mapping[str, str]] = {
    "jax": "jax.Array",
    "key": "jax.Array",
    "numpy": "np.ndarray",
    "bytes": "np.ndarray",
    "str": "string",
}
_PLAIN: Final = (str, bytes, int, float)
_EXACT: Final = frozenset({*_PLAIN, bool})
_ENGINES_KINDS: Final = frozenset({"key", "bytes"})  # which no stock handler of Orbax knows


class NoTypeHandler(PertinaxError, ValueError):
    """Leaves are of types that no type handler is registered for."""


class Batch(NamedTuple):
    """The leaves of one handler, by position."""

    handler: TypeHandler
    leaves: list[int]


@dataclass(frozen=True, slots=True)
class Settings:
    """What handlers are told with each call, and where they are looked up.

    Attributes:
        registry: None: that of the program.
        use_ocdbt, use_zarr3: how arrays shall be kept, for a save.
        concurrent_bytes: how many bytes may be in flight; None: without limit.
        file_bytes: from how many bytes on a data file is closed; None: as TensorStore does it.
        pinned: whether bytes may leave a device by way of pinned memory.
        validate: whether arrays in databases of handlers must be whole.
    """

    registry: Any = None
    use_ocdbt: bool = True
    use_zarr3: bool = False
    concurrent_bytes: int | None = None
    file_bytes: int | None = None
    pinned: bool = True
    validate: bool = True

    @property
    def handlers(self) -> Any:
        """The registry."""
        return GLOBAL_TYPE_HANDLER_REGISTRY if self.registry is None else self.registry


STOCK: Final = Settings()
"""Those of somebody who has asked for nothing special."""


# --- Saving.


def sort_out(flat: Flat, settings: Settings) -> tuple[list[Any], list[Batch]]:
    """The values for the engine, and the leaves that it has nothing to do with.

    Raises `NoTypeHandler`, naming all leaves without one.
    """
    known: dict[type, TypeHandler | None] = {}
    batches: dict[int, Batch] = {}
    lost: list[int] = []
    values = flat.leaves
    for i, value in enumerate(flat.leaves):
        kind = type(value)
        if kind not in known:
            if not settings.handlers.has(kind):
                lost.append(i)
                continue
            handler = settings.handlers.get(kind)
            known[kind] = None if is_engines(handler, kind) else handler
        handler = known[kind]
        if handler is not None:
            batches.setdefault(id(handler), Batch(handler, [])).leaves.append(i)
        elif kind not in _EXACT and isinstance(value, _PLAIN):
            values = list(values) if values is flat.leaves else values
            values[i] = _without_subclass(value)
    if lost:
        listed = ", ".join(
            f"{path_text(flat.paths[i])!r} ({type(flat.leaves[i]).__qualname__})" for i in lost[:20]
        )
        raise NoTypeHandler(
            f"TypeHandler lookup failed: {len(lost)} leaves are of types that no type handler is "
            f"registered for, and cannot be saved: {listed}"
        )
    return values, list(batches.values())


def typestrs_of(batches: Sequence[Batch]) -> dict[int, str]:
    """Under which name the type of each leaf is recorded. Raises `ValueError` for one of ours."""
    found: dict[int, str] = {}
    for handler, leaves in batches:
        typestr = handler.typestr()
        if is_empty_typestr(typestr):
            raise ValueError(
                f"{type(handler).__qualname__} calls its type {typestr!r}, which is the name of an "
                "empty container"
            )
        found.update(dict.fromkeys(leaves, typestr))
    return found


async def serialize(
    directory: epath.Path,
    batches: Sequence[Batch],
    *,
    values: Sequence[Any],
    names: Sequence[str],
    args: Sequence[SaveArgs],
    settings: Settings,
    primary_host: int | None = 0,
) -> list[Future]:
    """Let all handlers begin at once; returns what they go on with. Who is `primary_host` writes
    what all processes have.

    If one fails, what the others have begun is waited for, and the failure raised: then nobody
    writes any more.
    """
    context = tensorstore_utils.get_ts_context(use_ocdbt=settings.use_ocdbt)
    limiter = serialization.get_byte_limiter(settings.concurrent_bytes)

    def info(name: str, typestr: str) -> ParamInfo:
        return ParamInfo(
            name=name,
            path=directory / name,
            parent_dir=directory,
            skip_deserialize=False,
            byte_limiter=limiter,
            is_ocdbt_checkpoint=settings.use_ocdbt,
            use_zarr3=settings.use_zarr3,
            ocdbt_target_data_file_size=settings.file_bytes,
            ts_context=context,
            value_typestr=typestr,
            enable_pinned_host_transfer=settings.pinned,
            primary_host=primary_host,
        )

    calls = [
        handler.serialize(
            [values[i] for i in leaves],
            [info(names[i], handler.typestr()) for i in leaves],
            [args[i] for i in leaves],
        )
        for handler, leaves in batches
    ]
    begun: list[Future] = []
    failures: list[BaseException] = []
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            failures.append(outcome)
        else:
            begun += outcome or ()
    if failures:
        await asyncio.to_thread(wait_for_all, begun)
        raise failures[0]
    return begun


def bytes_of(batches: Sequence[Batch], values: Sequence[Any], *, leads: bool) -> int:
    """How many bytes the handlers write, if they say so; else what Python keeps for the values.

    What all processes have is written by the one that `leads`.
    """
    total = 0
    for handler, leaves in batches:
        own = [values[i] for i in leaves]
        try:
            sizes = handler.memory_size(own)
            if isinstance(handler, NumpyHandler | StringHandler):  # they cannot know who leads
                total += sum(read for _, read in sizes) if leads else 0
            else:
                total += sum(written for written, _ in sizes)
        except NotImplementedError:
            name = type(handler).__name__
            _LOG.warning("sizes are guessed handler=%s reason='it has no memory_size'", name)
            total += sum(map(sys.getsizeof, own))
    return total


def wait_for_all(futures: Sequence[Future]) -> list[BaseException]:
    """Wait for the end of each, however it comes; returns the failures."""
    failures: list[BaseException] = []
    for future in futures:
        try:
            future.result()
        except BaseException as error:  # noqa: BLE001 - the caller decides what it means
            failures.append(error)
    return failures


@final
class HandlersAtWork:
    """Handlers that have begun to write, as `_formats.item.Others`."""

    def __init__(
        self, futures: Sequence[Future], batches: Sequence[Batch], directory: epath.Path
    ) -> None:
        self._futures = futures
        self._batches = batches
        self._directory = directory
        self._failures: list[BaseException] | None = None
        self._finished = False

    def wait(self) -> None:
        """Wait for the files of all handlers, and raise the first failure."""
        if self._failures is None:
            self._failures = wait_for_all(self._futures)
        if self._failures:
            raise self._failures[0]

    def finish(self) -> None:
        """Let each handler finish, once."""
        if not self._finished:
            self._finished = True
            for handler, _ in self._batches:
                handler.finalize(self._directory)


def _without_subclass(value: Any) -> Any:
    """The number or text that an object of a subclass (an `IntEnum`, say) is."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, np.generic):
        return value
    return int(value) if isinstance(value, int) else float(value)


# --- Restoring.


def sort_out_stored(
    leaves: Sequence[StoredLeaf], wanted: Sequence[tuple[int, RestoreArgs]], settings: Settings
) -> list[Batch]:
    """Which of `wanted`, by position, are for handlers. Raises `ValueError` for unknown types."""
    known: dict[Any, TypeHandler | None] = {}
    batches: dict[int, Batch] = {}
    for i, (leaf, args) in enumerate(wanted):
        stored = leaves[leaf]
        key = (stored.kind, stored.codec == "none", stored.typestr, args.restore_type)
        if key not in known:
            known[key] = _reader_of(stored, args.restore_type, settings)
        handler = known[key]
        if handler is not None:
            batches.setdefault(id(handler), Batch(handler, [])).leaves.append(i)
    return list(batches.values())


def _reader_of(leaf: StoredLeaf, restore_type: Any, settings: Settings) -> TypeHandler | None:
    """None: the engine."""
    if isinstance(restore_type, str) and is_empty_typestr(restore_type):
        return None  # which is an error, and the engine says so
    foreign = leaf.kind == "foreign"
    recorded = leaf.typestr if foreign else typestr_of(leaf)
    if not foreign and _is_engines_own(leaf) and restore_type is None:
        return None
    asked = recorded if restore_type is None else restore_type
    if not settings.handlers.has(asked):
        if settings.registry is None and not foreign:
            return None  # the engine knows more types than any registry
        raise ValueError(
            f"Unknown type: {asked!r} of leaf {path_text(leaf.path)!r}: "
            "register the type handler that it was saved with"
        )
    handler = settings.handlers.get(asked)
    return None if is_plain(handler) and not foreign else handler


def typestr_of(leaf: StoredLeaf) -> str:
    """Under which name a leaf of the engine is recorded."""
    if leaf.typestr is not None:
        return leaf.typestr
    return "string" if leaf.codec == "none" else _TYPESTRS.get(leaf.kind, "scalar")


def _is_engines_own(leaf: StoredLeaf) -> bool:
    return leaf.kind in _ENGINES_KINDS or (leaf.codec == "none" and leaf.kind == "int")


class StoredInfos:
    """Infos of stored leaves, alike for all handlers of one call."""

    def __init__(self, directory: str, *, use_zarr3: bool, settings: Settings) -> None:
        self._directory = epath.Path(directory)
        self._is_ocdbt = files.exists(self._directory / MANIFEST_FILE)
        self._use_zarr3 = use_zarr3
        self._limiter = serialization.get_byte_limiter(settings.concurrent_bytes)
        self._context = tensorstore_utils.get_ts_context(use_ocdbt=self._is_ocdbt)

    def of(self, leaf: StoredLeaf) -> ParamInfo:
        """What a handler is told of one leaf."""
        return ParamInfo(
            name=leaf.name,
            path=self._directory / leaf.name,
            parent_dir=self._directory,
            skip_deserialize=False,
            byte_limiter=self._limiter,
            is_ocdbt_checkpoint=self._is_ocdbt,
            use_zarr3=self._use_zarr3,
            ts_context=self._context,
        )


def left_to_engine(batch: Batch) -> bool:
    """Whether a handler only says who reads what, and may be given the engine to read by."""
    handler = batch.handler
    return (
        isinstance(handler, SingleReplicaArrayHandler)
        and type(handler).deserialize is SingleReplicaArrayHandler.deserialize
    )


def deserialize(
    batches: Sequence[Batch],
    infos: Sequence[ParamInfo],
    args: Sequence[RestoreArgs],
    engine: Callable[[Sequence[int], Sequence[RestoreArgs]], Sequence[Any]],
) -> dict[int, Any]:
    """The values of all batches, by position; handlers work at once.

    `engine` reads the leaves at some positions as args ask, for those that are `left_to_engine`.
    """

    async def call(batch: Batch) -> Sequence[Any]:
        told, asked = [infos[i] for i in batch.leaves], [args[i] for i in batch.leaves]
        if left_to_engine(batch):
            handler = cast("SingleReplicaArrayHandler", batch.handler)
            return await handler.deserialize_by(
                told, asked, lambda changed: engine(batch.leaves, changed)
            )
        return await batch.handler.deserialize(told, asked)

    return _ask(batches, call)


def describe(batches: Sequence[Batch], infos: Sequence[ParamInfo]) -> dict[int, Any]:
    """What handlers say of stored leaves, by position."""

    async def call(batch: Batch) -> Sequence[Any]:
        return await batch.handler.metadata([infos[i] for i in batch.leaves])

    return _ask(batches, call)


def _ask(batches: Sequence[Batch], call: Callable[[Batch], Any]) -> dict[int, Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(call(batch) for batch in batches), return_exceptions=True)

    found: dict[int, Any] = {}
    for (handler, leaves), outcome in zip(batches, run_coroutine(all_at_once()), strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        answers = list(cast("Sequence[Any]", outcome))
        if len(answers) != len(leaves):
            raise ValueError(
                f"{type(handler).__qualname__} was asked for {len(leaves)} leaves and gave "
                f"{len(answers)}"
            )
        found.update(zip(leaves, answers, strict=True))
    return found
