# SPDX-License-Identifier: Apache-2.0
"""What programs ask about the processes of a job that has one."""

import logging
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from pertinax import checkpoint as ocp
from pertinax.checkpoint import _registry, multihost
from pertinax.checkpoint.multihost import counters

SETTING = "PERTINAX_USE_DISTRIBUTED_PROCESS_ID"


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "LAST_SAID", {})
    monkeypatch.setattr(_registry, "RUNTIME_TO_DISTRIBUTED_IDS", [])
    monkeypatch.delenv(SETTING, raising=False)


@pytest.mark.row("R186", "R308")
def test_the_names_of_the_package():
    names = {
        *("broadcast_one_to_all", "is_primary_host", "reached_preemption", "process_index"),
        *("sync_global_processes", "BarrierSyncFn", "get_barrier_sync_fn"),
        "is_runtime_to_distributed_ids_initialized",
        "initialize_runtime_to_distributed_ids",
        *("should_skip_process_sync", "unique_barrier_key"),
    }
    assert names <= set(multihost.__all__)
    assert [name for name in multihost.__all__ if not hasattr(multihost, name)] == []
    assert ocp.multihost is multihost


def test_old_places_have_the_same_functions():
    for name in ("sync_global_processes", "broadcast_one_to_all", "reached_preemption"):
        assert getattr(ocp.utils, name) is getattr(multihost, name)
    assert ocp.utils.sync_global_devices is multihost.sync_global_processes
    assert ocp.utils.is_primary_host is multihost.is_primary_host


def test_who_leads(monkeypatch):
    assert multihost.process_index() == jax.process_index() == 0
    asked = (None, 0, 1)
    assert [multihost.is_primary_host(host) for host in asked] == [True, True, False]
    monkeypatch.setattr(multihost, "process_index", lambda: 1)
    assert [multihost.is_primary_host(host) for host in asked] == [True, False, True]


class Flags:
    """What absl has for a module of flags, as far as anybody asks."""

    def __init__(self, **values: Any) -> None:
        self.FLAGS = self
        self._values = values

    def is_parsed(self) -> bool:
        return True

    def flag_values_dict(self) -> dict[str, Any]:
        if "error" in self._values:
            raise self._values["error"]
        return self._values


@pytest.mark.row("R232")
def test_flags_that_are_not_parsed_change_nothing_and_are_told_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(jax._src.distributed.global_state, "process_id", 7)
    flags = pytest.importorskip("absl.flags")
    with monkeypatch.context() as patch:
        patch.setattr(flags, "FLAGS", flags.FlagValues())
        assert not flags.FLAGS.is_parsed()
        assert [multihost.process_index() for _ in range(3)] == [0, 0, 0]
        name = "experimental_orbax_use_distributed_process_id"
        flags.DEFINE_boolean(name, False, "x", flags.FLAGS)
        flags.FLAGS(["program", f"--{name}=true"])
        assert multihost.process_index() == 7
    assert caplog.text.count("not parsed") == 1
    monkeypatch.setitem(sys.modules, "absl.flags", Flags(error=RuntimeError("broken")))
    assert [multihost.process_index() for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("broken") == 1


def test_a_flag_or_the_environment_chooses_the_other_numbers(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(jax._src.distributed.global_state, "process_id", 7)
    flags = Flags(experimental_orbax_use_distributed_process_id=True)
    monkeypatch.setitem(sys.modules, "absl.flags", flags)
    assert [multihost.process_index() for _ in range(2)] == [7, 7]
    assert caplog.text.count("jax.distributed.initialize") == 1
    monkeypatch.setenv(SETTING, "0")  # the environment says it last
    assert multihost.process_index() == 0
    monkeypatch.setitem(sys.modules, "absl.flags", Flags())
    monkeypatch.setenv(SETTING, "true")
    assert multihost.process_index() == 7


def test_a_single_process_waits_for_nobody():
    assert multihost.should_skip_process_sync()
    wait = multihost.get_barrier_sync_fn()
    assert wait(key="a", timeout_ms=1) is None
    assert multihost.get_barrier_sync_fn(processes={3})(key="a", timeout_ms=1) is None
    multihost.sync_global_processes("a", timeout=0)
    multihost.sync_global_processes("a", processes={3})


def test_names_of_barriers():
    key = multihost.unique_barrier_key
    assert key("k") == "k"
    assert key("k", prefix="p") == "p_k"
    assert key("k", suffix="s") == "k.s"
    assert key("k", prefix="p", suffix="s") == "p_k.s"
    assert multihost._unique_barrier_key("k") == "k"


def test_without_jax_distributed_nobody_can_be_asked(monkeypatch):
    with pytest.raises(ValueError, match=r"jax\.distributed\.initialize"):
        multihost.initialize_runtime_to_distributed_ids()
    monkeypatch.setattr(multihost, "should_skip_process_sync", lambda: False)
    with pytest.raises(ValueError, match=r"jax\.distributed\.initialize"):
        multihost.get_barrier_sync_fn()


def test_numbers_of_processes_are_asked_for_before_they_are_known():
    assert not multihost.is_runtime_to_distributed_ids_initialized()
    for ask in (
        multihost.runtime_to_distributed_ids,
        lambda: multihost.runtime_to_distributed_process_id(0),
    ):
        with pytest.raises(ValueError, match=r"initialize_runtime_to_distributed_ids\(\)"):
            ask()


def test_processes_of_devices(monkeypatch):
    devices = np.array(jax.devices()).reshape(4, 2)
    assert multihost.unique_processes_from_devices(devices) == {0}
    monkeypatch.setenv(SETTING, "1")
    with pytest.raises(ValueError, match="initialize_runtime_to_distributed_ids"):
        multihost.unique_processes_from_devices(devices)
    monkeypatch.setattr(_registry, "RUNTIME_TO_DISTRIBUTED_IDS", [5])
    assert multihost.unique_processes_from_devices(devices) == {5}


@pytest.mark.parametrize(
    "broadcast", [multihost.broadcast_one_to_all, multihost.broadcast_one_to_some]
)
def test_a_broadcast_to_oneself_gives_numpy_arrays(broadcast):
    tree = {"a": np.arange(3), "b": 4, "c": [2.5, jax.numpy.ones(2)], "n": None, "t": np.True_}
    told = broadcast(tree)
    assert jax.tree.structure(told) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(told), jax.tree.leaves(tree), strict=True):
        assert isinstance(one, np.ndarray)
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(one, other)


def test_an_outsider_cannot_broadcast():
    with pytest.raises(ValueError, match=r"process 0 is none of \[1, 2\]"):
        multihost.broadcast_one_to_some(np.arange(3), processes={1, 2})
    with pytest.raises(ValueError, match=r"no such processes: \[4\]"):
        multihost.broadcast_one_to_some(np.arange(3), processes={0, 4})


@pytest.mark.row("R054")
def test_preemption_is_noticed_at_one_step(monkeypatch, caplog, request):
    heard: list[str] = []

    def listen(event: str, **_: Any) -> None:
        heard.append(event)

    jax.monitoring.register_event_listener(listen)
    request.addfinalizer(lambda: jax.monitoring.unregister_event_listener(listen))
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: step == 3)
    assert [step for step in range(6) if multihost.reached_preemption(step)] == [3]
    assert heard.count("/jax/orbax/write/preemption") == 1
    assert "step=3" in caplog.text


def test_without_a_preemption_service_nothing_is_reached(monkeypatch, caplog):
    assert not multihost.reached_preemption(1)
    caplog.set_level(logging.INFO)

    def off(step: int) -> bool:
        raise RuntimeError("Preemption sync manager has not been initialized.")

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", off)
    assert not any(multihost.reached_preemption(step) for step in range(3))
    assert caplog.text.count("Preemption sync manager") == 1


@pytest.mark.row("R240")
def test_each_counter_counts_by_itself(monkeypatch):
    monkeypatch.setattr(_registry, "COUNTERS", type(_registry.COUNTERS)(iter_from_zero))
    names = [name for name in vars(counters) if name.endswith("_counter")]
    assert len(names) == 7
    for name in names:
        count = getattr(counters, name)
        assert [count() for _ in range(3)] == ["0", "1", "2"]


def iter_from_zero() -> Any:
    import itertools

    return itertools.count()
