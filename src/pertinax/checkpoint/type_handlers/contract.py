# SPDX-License-Identifier: Apache-2.0
"""What a type handler is: the part of a program that knows how leaves of one type are stored.

Knows the protocol, and all that a handler is told about a leaf. Knows nothing of any handler.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from etils import epath

from pertinax.checkpoint import multihost
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.metadata.value import Metadata
from pertinax.checkpoint.type_handlers.leaf_args import RestoreArgs, SaveArgs


@dataclasses.dataclass
class ParamInfo:
    """What a handler is told about one leaf.

    Attributes:
        name: its name in the item: its keys, joined by dots.
        path: `parent_dir / name`, for handlers that keep a directory or file for each leaf.
        parent_dir: the directory of the item.
        skip_deserialize: whether there is nothing to read.
        byte_limiter: how many bytes may be in flight, shared by all leaves of a call.
        is_ocdbt_checkpoint: whether arrays are, or shall be, in an OCDBT database.
        use_zarr3: whether arrays are, or shall be, Zarr v3.
        ocdbt_target_data_file_size: from how many bytes on a data file is closed.
        ts_context: the TensorStore context of the call.
        value_typestr: under which name the leaf's type is recorded (when saving).
        enable_pinned_host_transfer: whether bytes may leave a device by way of pinned memory.
        primary_host: the process that writes what all processes have; None: each process.
    """

    name: str | None = None
    path: epath.Path | None = None
    parent_dir: epath.Path | None = None
    skip_deserialize: bool | None = None
    byte_limiter: Any = None
    is_ocdbt_checkpoint: bool | None = None
    use_zarr3: bool | None = False
    ocdbt_target_data_file_size: int | None = None
    ts_context: Any = None
    value_typestr: str | None = None
    enable_pinned_host_transfer: bool = True
    primary_host: int | None = 0

    @property
    def is_written_here(self) -> bool:
        """Whether this process writes what all processes have, such as a number."""
        return multihost.leads(self.primary_host)


class TypeHandler(abc.ABC):
    """Stores and reads back leaves of one type.

    A handler keeps no settings of a save: they come with each `ParamInfo`, so that one handler may
    serve several saves at once. It gets all of its leaves in one call.
    """

    @abc.abstractmethod
    def typestr(self) -> str:
        """The name under which the type is recorded; it finds the handler again on restore."""

    @abc.abstractmethod
    async def metadata(self, infos: Sequence[ParamInfo]) -> Sequence[Metadata]:
        """What is known of stored leaves without their values."""

    @abc.abstractmethod
    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[ParamInfo],
        args: Sequence[SaveArgs] | None = None,
    ) -> Sequence[Future]:
        """Begin to write the values; the futures are those of the files.

        When this returns, the program may change or delete the values.
        """

    @abc.abstractmethod
    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """The values, in the order of `infos`."""

    def finalize(self, directory: epath.Path) -> None:
        """Called on the primary host when all processes have written into `directory`."""
        return

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        """Bytes that this process writes for each value, and that it reads to restore it.

        Raises `NotImplementedError` where a handler does not say.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how large its values are")


class TypeHandlerRegistry(Protocol):
    """Which handler is for which type of leaf."""

    def add(
        self,
        ty: Any,
        handler: TypeHandler,
        func: Callable[[Any], bool] | None = None,
        override: bool = False,
    ) -> None:
        """Use `handler` for leaves of type `ty`, or of the types for which `func` is true."""
        ...

    def get(self, ty: Any) -> TypeHandler:
        """The handler for a type, or for a recorded name. Raises `ValueError` if there is none."""
        ...

    def has(self, ty: Any) -> bool:
        """Whether `get` would find one."""
        ...


def check_input_arguments(*args: Sequence[Any] | None) -> None:
    """Raise `ValueError` if the sequences are empty or of different lengths."""
    lengths = [len(one) for one in args if one is not None]
    if not lengths or not min(lengths):
        raise ValueError("a handler was called without any leaf")
    if len(set(lengths)) > 1:
        raise ValueError(f"a handler needs sequences of one length, not of {lengths}")
