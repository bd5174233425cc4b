# SPDX-License-Identifier: Apache-2.0
"""The same questions in real jobs of several processes."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hosts.processes import run

pytestmark = pytest.mark.slow

TREE = {
    "f": np.array([-0.0, np.nan, 1.5], np.float32),
    "b": np.array([True, False]),
    "i": np.arange(6, dtype=np.int8).reshape(2, 3),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
}


def bits(tree: Any) -> Any:
    return {name: (str(leaf.dtype), leaf.shape, leaf.tobytes()) for name, leaf in tree.items()}


def ask() -> dict[str, Any]:
    """One process of four."""
    import jax

    from pertinax.checkpoint import multihost

    own = multihost.process_index()
    heard: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: heard.append(name))
    out: dict[str, Any] = {"own": own, "leads": multihost.is_primary_host(2)}

    with pytest.raises(ValueError, match="initialize_runtime"):
        multihost.runtime_to_distributed_ids()
    multihost.initialize_runtime_to_distributed_ids()
    out["ids"] = multihost.runtime_to_distributed_ids()
    out["owners"] = multihost.unique_processes_from_devices(np.array(jax.devices()))

    multihost.sync_global_processes("all", timeout=60)
    multihost.sync_global_processes("all, no limit")
    out["timed"] = heard.count("/jax/checkpoint/sync_global_devices_duration_sec")

    some = {1, 2}
    mine = {name: leaf * (own == 1) for name, leaf in TREE.items()}
    if own in some:
        multihost.sync_global_processes("some", timeout=60, processes=some)
        wait = multihost.get_barrier_sync_fn(processes=some)
        keys = ["one", "two"] if own == 1 else ["two", "one"]
        threads = [
            threading.Thread(target=wait, kwargs={"key": key, "timeout_ms": 60_000}) for key in keys
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = multihost.broadcast_one_to_some(TREE if own == 1 else mine, processes=some)
        assert bits(told) == bits(TREE)
        last = multihost.broadcast_one_to_some(np.array(own), is_source=own == 2, processes=some)
        out["last"] = int(last)
    else:
        for call in (
            lambda: multihost.get_barrier_sync_fn(processes=some),
            lambda: multihost.sync_global_processes("some", processes=some),
            lambda: multihost.broadcast_one_to_some(TREE, processes=some),
        ):
            with pytest.raises(ValueError, match=rf"process {own} .*\[1, 2\]"):
                call()

    own_function: list[tuple[str, int]] = []
    multihost.sync_global_processes(
        "mine",
        timeout=2,
        barrier_sync_fn=lambda *, key, timeout_ms: own_function.append((key, timeout_ms)),
    )
    out["own function"] = own_function

    out["all"] = int(multihost.broadcast_one_to_all(np.array(own * 10)))
    out["all from 3"] = int(multihost.broadcast_one_to_all(np.array(own), is_source=own == 3))
    whole = multihost.broadcast_one_to_some(TREE if own == 0 else mine)
    assert bits(whole) == bits(TREE)
    out["preempted"] = multihost.reached_preemption(1)
    return out


@pytest.mark.row("R177")
def test_four_processes_ask_wait_and_tell(tmp_path: Path):
    answers = run(ask, 4, folder=tmp_path, devices=2)
    for own, out in enumerate(answers):
        assert (out["own"], out["leads"]) == (own, own == 2)
        assert (out["ids"], out["owners"]) == ([0, 1, 2, 3], {0, 1, 2, 3})
        assert out["timed"] == 2
        assert (out["all"], out["all from 3"]) == (0, 3)
        assert out.get("last") == (2 if own in (1, 2) else None)
        assert out["own function"] == [("mine", 2000)]
        assert out["preempted"] is False


def miss() -> str:
    from pertinax.checkpoint import multihost
    from pertinax.errors import PeerAbsent

    multihost.sync_global_processes("begin", timeout=60)
    if multihost.process_index() == 0:
        with pytest.raises(PeerAbsent) as caught:
            multihost.sync_global_processes("lonely", timeout=1)
        assert isinstance(caught.value, TimeoutError)
        text = str(caught.value)
    else:
        text = ""
    multihost.sync_global_processes("end", timeout=60)
    return text


def test_who_does_not_come_is_told_after_the_time_that_was_given(tmp_path: Path):
    text, _ = run(miss, 2, folder=tmp_path)
    assert "process 0 waited 1 s at 'lonely' for all processes" in text
