# SPDX-License-Identifier: Apache-2.0
"""Processes with large shards of their own: each sends its share and no more, in parallel requests,
and reads what its devices need.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes
from tests.objects.faults import FaultProxy, Link, Seen
from tests.objects.servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.interop]

MIB = 1 << 20


def _sharding() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))


def _row(number: int, width: int) -> np.ndarray[Any, Any]:
    return np.full(width, number + 1, np.uint8)


def _rows(index: Any, width: int) -> np.ndarray[Any, Any]:
    begin, stop, _ = index[0].indices(jax.process_count() * 4)
    return np.stack([_row(number, width) for number in range(begin, stop)])


def _state(width: int) -> dict[str, jax.Array]:
    """Two arrays, a part of each on each process."""
    shape = (jax.process_count() * 4, width)
    return {
        name: jax.make_array_from_callback(shape, _sharding(), lambda index: _rows(index, width))
        for name in ("w", "v")
    }


def _share(root: str, ports: list[int], server: ObjectServer, width: int, door: str) -> Any:
    """Each process has a proxy of its own: who sends what is counted there."""
    os.environ.update(server.behind(ports[jax.process_index()]).environment)
    state = _state(width)
    target = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in state.items()
    }
    if door == "front":
        pertinax.save(f"{root}/a", state)
        ocp.multihost.sync_global_processes("saved")
        found = pertinax.load(f"{root}/a", target)
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(f"{root}/a", state)
            checkpointer.wait_until_finished()
            found = checkpointer.restore(f"{root}/a", target)
    return all(
        np.array_equal(np.asarray(shard.data), _rows(shard.index, width))
        for array in found.values()
        for shard in array.addressable_shards
    )


def _at_once(seen: list[Seen]) -> int:
    steps = sorted([(one.begin_s, 1) for one in seen] + [(one.end_s, -1) for one in seen])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def _move(tmp_path: Path, cloud: ObjectServer, door: str, mib: int) -> None:
    root = f"{cloud.new_root()}/run"
    width = mib * MIB // 8
    link = Link(latency_s=0.02, bytes_per_s=200e6)
    with FaultProxy(cloud.port, link=link) as one, FaultProxy(cloud.port, link=link) as other:
        ports = [one.port, other.port]
        answers = processes.run(
            *(_share, 2, root, ports, cloud, width, door), folder=tmp_path / "job", limit_s=300
        )
        assert answers == [True, True]
        for process, proxy in enumerate((one, other)):
            sent = [seen for seen in proxy.seen if seen.sent_bytes > MIB]
            got = [seen for seen in proxy.seen if seen.got_bytes > MIB]
            bytes_sent = sum(seen.sent_bytes for seen in proxy.seen)
            bytes_got = sum(seen.got_bytes for seen in proxy.seen)
            assert mib * MIB <= bytes_sent < 1.02 * mib * MIB + 2 * MIB, process
            assert mib * MIB <= bytes_got < 1.02 * mib * MIB + 2 * MIB, process
            assert _at_once(sent) >= 2, process
            assert _at_once(got) >= 2, process


def test_each_process_moves_its_share_in_parallel(tmp_path: Path, gcs: ObjectServer) -> None:
    _move(tmp_path, gcs, "front", 48)


@pytest.mark.campaign
@pytest.mark.parametrize("door", ["front", "orbax"])
def test_each_process_moves_a_large_share_in_parallel(
    tmp_path: Path, cloud: ObjectServer, door: str
) -> None:
    _move(tmp_path, cloud, door, 160)
