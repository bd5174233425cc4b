# SPDX-License-Identifier: Apache-2.0
"""Spreads: which process holds which box of a live array, and which of its buffers has it.

Knows shardings and the devices that they name. Knows nothing of who writes what (`_plan.shares`).
Layouts of meshes are worked out by columns, for there may be tens of thousands of devices; all
others are asked device by device.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple, cast, final

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from numpy.typing import NDArray

from pertinax._device.shardings import box_of
from pertinax._plan.boxes import Box, Shape
from pertinax._plan.grids import Grid, grid_of
from pertinax._plan.shares import Seating, Spread, seating_of
from pertinax._plan.topology import Topology


class Lay(NamedTuple):
    """The boxes of an array, and for each one of this process the position of a buffer that holds
    it (see `jax.Array.addressable_data`).
    """

    spread: Spread
    positions: tuple[int, ...]


@final
class Spreads:
    """Works out how arrays lie, once for those that lie alike."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._lays: dict[tuple[Sharding, Shape], Lay] = {}
        self._processes: dict[Mesh, NDArray[np.int64]] = {}
        self._seatings: dict[Hashable, Seating] = {}

    def of(self, array: jax.Array) -> Lay:
        """How `array` lies; `spread.seating.fewest` is 0 if no member holds some part of it."""
        key = (array.sharding, array.shape)
        found = self._lays.get(key)
        if found is None:
            found = self._lays[key] = self._work_out(array)
        return found

    def _work_out(self, array: jax.Array) -> Lay:
        sharding, shape = array.sharding, array.shape
        grid = _grid_of(sharding, shape)
        if grid is None:
            return self._one_by_one(array)
        mesh = cast("Mesh", cast("NamedSharding", sharding).mesh)
        if mesh not in self._processes:
            self._processes[mesh] = _processes_of(mesh.devices.ravel().tolist())
        processes = self._processes[mesh]
        seating = self._seating(mesh, grid.numbers, processes)
        boxes = [grid.box(seat.number, shape) for seat in seating.own]
        devices = mesh.devices.ravel()
        here = np.flatnonzero(processes == self._topology.process)
        held = {int(grid.numbers[i]): devices[i] for i in reversed(here.tolist())}
        return self._lay(array, seating, boxes, held, grid.box_shape(shape), even=True)

    def _one_by_one(self, array: jax.Array) -> Lay:
        shape = array.shape
        devices: list[Any] = []
        held_by: list[Box] = []
        for device, index in array.sharding.devices_indices_map(shape).items():
            devices.append(device)
            held_by.append(box_of(index or (), shape))
        boxes = sorted(set(held_by), key=lambda box: (box.start, box.stop))
        number = {box: i for i, box in enumerate(boxes)}
        numbers = np.fromiter((number[box] for box in held_by), np.int64, len(held_by))
        seating = self._seating(None, numbers, _processes_of(devices))
        held: dict[int, Any] = {}
        for device, box in zip(devices, held_by, strict=True):
            if device.process_index == self._topology.process:
                held.setdefault(number[box], device)
        own = [boxes[seat.number] for seat in seating.own]
        even = len({box.shape for box in boxes}) == 1
        return self._lay(array, seating, own, held, boxes[0].shape, even=even)

    def _lay(
        self,
        array: jax.Array,
        seating: Seating,
        boxes: list[Box],
        held: dict[int, Any],
        first: Shape,
        *,
        even: bool,
    ) -> Lay:
        position = {shard.device: i for i, shard in enumerate(array.addressable_shards)}
        return Lay(
            Spread(seating, tuple(boxes), first, even),
            tuple(position[held[seat.number]] for seat in seating.own),
        )

    def _seating(
        self, mesh: Mesh | None, numbers: NDArray[np.int64], processes: NDArray[np.int64]
    ) -> Seating:
        who = self._topology
        key = (mesh, numbers.tobytes())
        if mesh is None or key not in self._seatings:
            found = seating_of(numbers, processes, members=who.members, process=who.process)
            self._seatings[key] = found
        return self._seatings[key]


def _processes_of(devices: list[Any]) -> NDArray[np.int64]:
    return np.fromiter((device.process_index for device in devices), np.int64, len(devices))


def _grid_of(sharding: Sharding, shape: Shape) -> Grid | None:
    """None for layouts that are not plainly a mesh's axes along dimensions."""
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None
    mesh, spec = sharding.mesh, sharding.spec
    if spec != PartitionSpec(*spec) or len(spec) > len(shape):
        return None  # it says more than axes: `unreduced`, say
    sizes: dict[Hashable, int] = dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    parts = (*spec, *[None] * (len(shape) - len(spec)))
    along = [() if p is None else p if isinstance(p, tuple) else (p,) for p in parts]
    return grid_of(sizes, along, shape)
