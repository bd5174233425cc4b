# SPDX-License-Identifier: Apache-2.0
"""The type handler of `jax.Array` for which one replica reads, and sends the others what it read.

Knows replicas: which devices are in the one that reads. The sending is done by
`multihost.multislice`.
"""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from pertinax._hosts import this_job
from pertinax.checkpoint import multihost
from pertinax.checkpoint.multihost import multislice
from pertinax.checkpoint.type_handlers.array_handler import ArrayHandler
from pertinax.checkpoint.type_handlers.contract import ParamInfo, check_input_arguments
from pertinax.checkpoint.type_handlers.leaf_args import (
    RestoreArgs,
    SingleReplicaArrayRestoreArgs,
)
from pertinax.checkpoint.type_handlers.specs import get_json_tspec_read
from pertinax.checkpoint.type_handlers.stored_arrays import all_of, open_stored

_METRICS: Final = "/jax/checkpoint/read/"
ReadArrays = Callable[[Sequence[RestoreArgs]], Sequence[Any]]
"""Arrays of some leaves, one for each of the args."""


class InvalidShardingError(ValueError):
    """A sharding whose replicas cannot be read by one and sent to the others."""


class _Wanted(NamedTuple):
    """One array: where this process's replica has it, and as what."""

    info: ParamInfo
    args: SingleReplicaArrayRestoreArgs
    sharding: NamedSharding


_Read = Callable[[Sequence[_Wanted]], Awaitable[Sequence[Any]]]


def _record(what: str, seconds: float) -> None:
    jax.monitoring.record_event_duration_secs(f"{_METRICS}{what}_duration_secs", seconds)


def _nothing(_: Any) -> None:
    """It is enough that all have come so far."""


class SingleReplicaArrayHandler(ArrayHandler):
    """Saves like `ArrayHandler`; on restore one replica reads and broadcasts.

    Register it with `override=True` for `jax.Array`, and restore with
    `SingleReplicaArrayRestoreArgs`.

    Args:
        replica_axis_index: which axis of the mesh tells replicas apart.
        primary_replica_id: the replica that reads.
        broadcast_memory_limit_bytes: how many bytes a device may spend on one broadcast; None: a
            share of what it has left, if it tells.
        broadcast_memory_scaling_factor: that share.
    """

    def __init__(
        self,
        replica_axis_index: int = 0,
        primary_replica_id: int = 0,
        broadcast_memory_limit_bytes: int | None = None,
        broadcast_memory_scaling_factor: float = 0.75,
    ) -> None:
        super().__init__()
        self.replica_axis_index = replica_axis_index
        self.primary_replica_id = primary_replica_id
        self.broadcast_memory_limit_bytes = broadcast_memory_limit_bytes
        self.broadcast_memory_scaling_factor = broadcast_memory_scaling_factor

    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """The arrays with their `sharding`s, read by one replica.

        Raises `ValueError` for args of another class or without shardings, `InvalidShardingError`
        for replicas that cannot be told apart, `PeerFailed` if a process that reads cannot.
        """

        async def read(wanted: Sequence[_Wanted]) -> Sequence[Any]:
            return await all_of(self._read_own, wanted)

        return await self._restore(infos, args, read)

    async def deserialize_by(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs], engine: ReadArrays
    ) -> Sequence[Any]:
        """The same with another reader: `engine` returns the arrays that args ask for."""

        async def read(wanted: Sequence[_Wanted]) -> Sequence[Any]:
            asked = [dataclasses.replace(one.args, sharding=one.sharding) for one in wanted]
            return await asyncio.to_thread(engine, asked)

        return await self._restore(infos, args, read)

    async def _restore(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None, read: _Read
    ) -> Sequence[Any]:
        if args is None:
            raise ValueError("arrays need SingleReplicaArrayRestoreArgs to be restored")
        check_input_arguments(infos, args)
        wanted = [self._wanted(info, arg) for info, arg in zip(infos, args, strict=True)]
        if not wanted:
            return []
        mesh = wanted[0].args.sharding.mesh
        reads = self._reads(wanted[0].args.sharding)
        members = {device.process_index for device in mesh.devices.flat}
        began_s = time.monotonic()
        # If one cannot read, nobody must wait for it inside the broadcast.
        subject = f"{infos[0].parent_dir}/{infos[0].name}"
        with this_job(members=members).begin("one replica reads", subject) as talk:
            values = await read(wanted) if reads else await all_of(self._zeros, wanted)
            talk.collect("read", None, _nothing)
        read_s = time.monotonic()
        if reads:
            _record("primary_replica_deserialization", read_s - began_s)
        sent, _ = await asyncio.to_thread(
            multislice.broadcast_one_replica_to_all,
            tuple(values),
            mesh,
            self.replica_axis_index,
            reads,
            memory_limit_bytes=self.broadcast_memory_limit_bytes,
            memory_scaling_factor=self.broadcast_memory_scaling_factor,
        )
        _record("broadcast", time.monotonic() - read_s)
        return [
            value
            if value.sharding == one.args.sharding
            else jax.device_put(value, one.args.sharding)
            for value, one in zip(sent, wanted, strict=True)
        ]

    def _wanted(self, info: ParamInfo, arg: RestoreArgs) -> _Wanted:
        if not isinstance(arg, SingleReplicaArrayRestoreArgs):
            raise ValueError(
                f"{info.name!r} needs SingleReplicaArrayRestoreArgs, not {type(arg).__name__}"
            )
        if arg.sharding is None:
            raise ValueError(f"{info.name!r}: SingleReplicaArrayRestoreArgs need a sharding")
        if arg.single_replica_sharding is None:
            raise ValueError(
                f"{info.name!r}: SingleReplicaArrayRestoreArgs need a single_replica_sharding"
            )
        self._validate_sharding_and_get_primary_replica_processes(arg.sharding)
        return _Wanted(info, arg, arg.single_replica_sharding)

    def _reads(self, sharding: NamedSharding) -> bool:
        readers = self._validate_sharding_and_get_primary_replica_processes(sharding)
        return multihost.process_index() in readers

    def _validate_sharding_and_get_primary_replica_processes(self, sharding: Any) -> set[int]:
        """The processes that read. Raises `InvalidShardingError`."""
        if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
            raise InvalidShardingError(
                f"one replica can read for all only with a NamedSharding, not {sharding!r}"
            )
        devices = sharding.mesh.devices
        axis, primary = self.replica_axis_index, self.primary_replica_id
        if not 0 <= axis < devices.ndim or not 0 <= primary < devices.shape[axis]:
            raise InvalidShardingError(
                f"replica {primary} along axis {axis} is not in a mesh of {devices.shape}"
            )
        inside = np.take(devices, primary, axis).ravel().tolist()
        outside = np.delete(devices, primary, axis).ravel().tolist()
        if not outside:
            raise InvalidShardingError(
                f"all devices of {sharding.mesh.shape} are in the primary replica: "
                "there is nobody to send to"
            )
        readers = multihost.unique_processes_from_devices(inside)
        torn = readers & multihost.unique_processes_from_devices(outside)
        # A job of one process has nobody to spare the reading; its devices are sent what it reads.
        if torn and jax.process_count() > 1:
            raise InvalidShardingError(
                f"processes {sorted(torn)} have devices inside and outside of the primary replica: "
                "replicas must consist of whole processes"
            )
        return readers

    async def _read_own(self, wanted: _Wanted) -> jax.Array:
        return await self._read(wanted.info, wanted.args, wanted.sharding)

    async def _zeros(self, wanted: _Wanted) -> jax.Array:
        """What a process contributes that does not read: nothing, in the right shape."""
        info, args, _ = wanted
        shape, dtype = args.global_shape, args.dtype
        if shape is None or dtype is None:
            spec = get_json_tspec_read(info, bool(info.is_ocdbt_checkpoint), self._metadata_key)
            stored = await open_stored(spec, info, self._metadata_key)
            shape = tuple(stored.shape) if shape is None else shape
            dtype = stored.dtype.numpy_dtype if dtype is None else dtype
        make = jax.jit(
            lambda: jnp.zeros(tuple(shape), jnp.dtype(dtype)), out_shardings=wanted.sharding
        )
        return make()
