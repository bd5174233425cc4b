# SPDX-License-Identifier: Apache-2.0
"""What saves and restores tell `jax.monitoring`: the names that dashboards for Orbax look for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax import checkpoint as ocp


class Heard:
    """What was recorded since the last look; JAX's own are left out."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    def event(self, name: str, **facts: Any) -> None:
        self._keep(name, facts.get("bytes"))

    def duration(self, name: str, value: float, **_: Any) -> None:
        assert value >= 0
        self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        if name.startswith(("/jax/orbax/", "/jax/checkpoint/")):
            self._events.append((name, value))

    def look(self) -> list[str]:
        names = [name for name, _ in self._events]
        self._events.clear()
        return names

    def values(self) -> dict[str, Any]:
        found = dict(self._events)
        self._events.clear()
        return found


@pytest.fixture
def heard() -> Iterator[Heard]:
    listener = Heard()
    jax.monitoring.register_event_listener(listener.event)
    jax.monitoring.register_event_duration_secs_listener(listener.duration)
    yield listener
    jax.monitoring.unregister_event_listener(listener.event)
    jax.monitoring.unregister_event_duration_listener(listener.duration)


WRITE, ORBAX = "/jax/checkpoint/write/", "/jax/orbax/"
LEGACY = ORBAX + "deprecation/checkpointer_legacy_args"
# In the order in which Orbax 0.8.0 records them.
SAVED_TREE = [
    ORBAX + "write/directory_creation_secs",
    WRITE + "blocking_bytes_per_sec",
    WRITE + "async/metadata_write_duration_secs",
    WRITE + "bytes_per_sec",
    WRITE + "bytes",
    WRITE + "async/ocdbt_merge_duration_secs",
    WRITE + "duration_since_last_checkpoint_secs",
    ORBAX + "write/success",
]
READ = ["/jax/checkpoint/read/bytes_per_sec", "/jax/checkpoint/read/bytes"]


def test_a_save_that_waits(heard: Heard, tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    made = [ORBAX + "pytree_checkpoint_handler/init/ocdbt", ORBAX + "checkpointer/init"]
    assert heard.look() == made
    checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave({"a": jnp.arange(4)}))
    told = heard.look()
    assert told[0] == ORBAX + "write/start"
    # The rate of the part that blocks, and what the writing thread says, may come in any order.
    assert sorted(told[1:]) == sorted(SAVED_TREE)
    assert told[-3:] == SAVED_TREE[-3:]
    checkpointer.restore(tmp_path / "it", args=ocp.args.PyTreeRestore())
    assert heard.look() == READ


def test_a_save_in_the_background(heard: Heard, tmp_path: Path):
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        made = [ORBAX + "pytree_checkpoint_handler/init/ocdbt", ORBAX + "async_checkpointer/init"]
        assert heard.look() == made
        checkpointer.save(tmp_path / "it", args=ocp.args.StandardSave({"a": jnp.arange(4)}))
        checkpointer.wait_until_finished()
        told = heard.look()
    background = [
        WRITE + "async/" + name
        for name in (
            "blocking_duration_secs",
            "commit_future_count",
            "commit_duration_sec",
            "total_duration_secs",
            "thread_duration_sec",
        )
    ]
    assert told[0] == ORBAX + "write/async/start"
    assert sorted(told[1:]) == sorted([*SAVED_TREE, *background])
    assert told[-5:] == [*SAVED_TREE[-3:], *background[-2:]]


def test_a_call_without_args_is_the_old_way(heard: Heard, tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    heard.look()
    checkpointer.save(tmp_path / "it", {"a": 1})
    assert LEGACY in heard.look()
    checkpointer.restore(tmp_path / "it")
    assert heard.look() == [LEGACY]


def test_items_have_their_directories_made_together(heard: Heard, tmp_path: Path):
    args = ocp.args.Composite(a=ocp.args.JsonSave(1), b=ocp.args.JsonSave(2))
    ocp.Checkpointer(ocp.CompositeCheckpointHandler()).save(tmp_path / "it", args=args)
    assert heard.look().count(ORBAX + "write/directory_creation_secs") == 2


@pytest.mark.row("R303")
def test_bytes_are_those_that_are_written_and_those_that_are_held(heard: Heard, tmp_path: Path):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    everywhere, parted = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("x")),
    )
    one, two = np.zeros(16, np.float32), np.zeros((8, 2), np.float32)
    tree = {
        "everywhere": jax.device_put(one, everywhere),
        "parted": jax.device_put(two, parted),
        "numpy": np.zeros(3, np.int64),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        checkpointer.wait_until_finished()
        assert heard.values()[WRITE + "bytes"] == 64 + 64 + 24
        checkpointer.restore(tmp_path / "it", tree)
    # All eight devices hold the first, two at a time share a quarter of the second.
    assert heard.values()["/jax/checkpoint/read/bytes"] == 8 * 64 + 2 * 64 + 24


def test_what_is_deprecated_is_counted(heard: Heard, tmp_path: Path):
    deprecated = ORBAX + "deprecation/"
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    save_args = {"a": ocp.SaveArgs(aggregate=True)}
    checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave({"a": 1}, save_args))
    assert deprecated + "aggregate" in heard.look()
    wanted = ocp.args.PyTreeRestore({"a": 0}, {"a": ocp.RestoreArgs()}, transforms={})
    checkpointer.restore(tmp_path / "it", args=wanted)
    assert deprecated + "apply_transformations" in heard.look()


def test_a_step_without_notes_is_counted(heard: Heard, tmp_path: Path):
    layout: Any = {"use_ocdbt": False}
    handler = ocp.PyTreeCheckpointHandler(**layout)
    handler.save(tmp_path / "it", {"a": np.arange(3)})
    for name in ("_METADATA", "pertinax.json"):
        (tmp_path / "it" / name).unlink()
    heard.look()
    found = handler.restore(tmp_path / "it")
    assert found["a"].tolist() == [0, 1, 2]
    told = heard.look()
    for name in ("missing_metadata", "missing_structure", "inferred_structure"):
        assert ORBAX + "deprecation/" + name in told


def test_a_failed_save_is_no_success(heard: Heard, tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    with pytest.raises(TypeError):
        checkpointer.save(tmp_path / "it", object())
    assert ORBAX + "write/success" not in heard.look()
