# SPDX-License-Identifier: Apache-2.0
"""Carrying bytes from process to process, by a computation on the devices of all.

Knows one collective, which sends each process's buffer to another one. Knows nothing of what the
bytes mean. All processes call it together, on the caller's thread, like any computation of theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

LIMIT_BYTES: Final = 1 << 26
"""What one process has on its devices of an exchange at a time."""
_LEAST_BYTES: Final = 1 << 12
_PARTS: Final = PartitionSpec("process", "device")


@final
class Wires:
    """The devices of some processes, as many of each as the one with the fewest has."""

    def __init__(self, processes: Sequence[int], *, limit_bytes: int = LIMIT_BYTES) -> None:
        by_process: dict[int, list[Any]] = {process: [] for process in processes}
        for device in jax.devices():
            if device.process_index in by_process:
                by_process[device.process_index].append(device)
        self._width = min(map(len, by_process.values()))
        rows = [by_process[process][: self._width] for process in processes]
        self._mesh = Mesh(np.array(rows, dtype=object), ("process", "device"))
        self._number = {process: i for i, process in enumerate(processes)}
        self._limit_bytes = limit_bytes
        self._own = rows[self._number[jax.process_index()]]

    def carry(
        self, pairs: Mapping[int, int], lengths: Mapping[int, int], own: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        """Send `own` bytes, of which this process is a source, and return what it is sent.

        `pairs` says which process each source sends to, one at most; `lengths` how many bytes each
        source has. All processes give the same.
        """
        me = jax.process_index()
        senders = {target: source for source, target in pairs.items()}
        expected = lengths[senders[me]] if me in senders else 0
        got = np.zeros(expected, np.uint8)
        most = max(lengths[source] for source in pairs)
        route = tuple(sorted((self._number[a], self._number[b]) for a, b in pairs.items()))
        for start in range(0, most, self._limit_bytes):
            size = self._padded(min(self._limit_bytes, most - start))
            arrived = self._step(self._route(route), own, start, size)
            if start < expected:
                part = arrived[: expected - start]
                got[start : start + len(part)] = part
        return got if me in senders else None

    def _padded(self, length: int) -> int:
        """Few sizes, so that few programs are compiled; each device gets an equal part."""
        size = _LEAST_BYTES
        while size < length:
            size *= 2
        return -(-size // self._width) * self._width

    def _route(self, route: tuple[tuple[int, int], ...]) -> Callable[[Any], Any]:
        def send(part: Any) -> Any:
            return jax.lax.ppermute(part, "process", route)

        return jax.jit(jax.shard_map(send, mesh=self._mesh, in_specs=_PARTS, out_specs=_PARTS))

    def _step(
        self, send: Callable[[Any], Any], own: NDArray[np.uint8] | None, start: int, size: int
    ) -> NDArray[np.uint8]:
        buffer = np.zeros(size, np.uint8)
        if own is not None and start < len(own):
            part = own[start : start + size]
            buffer[: len(part)] = part
        shape = (len(self._number), size)
        each = size // self._width
        parts = [
            jax.device_put(buffer[None, i * each : (i + 1) * each], device)
            for i, device in enumerate(self._own)
        ]
        sharding = NamedSharding(self._mesh, _PARTS)
        there = send(jax.make_array_from_single_device_arrays(shape, sharding, parts))
        arrived = {shard.device: shard.data for shard in there.addressable_shards}
        return np.concatenate([np.asarray(arrived[device])[0] for device in self._own])
