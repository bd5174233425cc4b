# SPDX-License-Identifier: Apache-2.0
"""The front door on real servers: what is promised on a disk is promised in a bucket."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax.errors import CheckpointExists, CheckpointNotFound, PertinaxError
from tests.hosts import processes, states
from tests.objects.faults import FaultProxy
from tests.objects.servers import ObjectServer

MARKER = "commit_success.txt"


def state(seed: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    sharded = jax.device_put(
        rng.standard_normal((64, 32)).astype(np.float32),
        NamedSharding(mesh, PartitionSpec("a", "b")),
    )
    return {
        "w": sharded,
        "half": jnp.asarray(rng.standard_normal(100), jnp.bfloat16),
        "n": seed,
        "text": "words",
        "deep": [np.arange(7) + seed, {"empty": np.zeros((0, 3))}],
    }


def assert_same(found, wanted) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def keys(server: ObjectServer, url: str) -> list[str]:
    """The keys below `url`, by a client that is not ours."""
    return server.keys(url)


def test_a_checkpoint_comes_back(cloud):
    url = f"{cloud.new_root()}/run/first"
    pertinax.save(url, state())
    assert_same(pertinax.load(url, state()), state())
    assert pertinax.verify(url).ok
    found = pertinax.describe(url)
    assert str(found)
    assert MARKER in cloud.keys(url)
    assert not [key for key in cloud.keys(url) if "attempt" in key]


def test_a_save_in_the_background_comes_back(cloud):
    url = f"{cloud.new_root()}/run/first"
    pending = pertinax.save_async(url, state(3))
    pending.result()
    assert_same(pertinax.load(url, state()), state(3))


def test_a_large_array_goes_up_in_parts(cloud):
    url = f"{cloud.new_root()}/large"
    large = {"w": np.random.default_rng(0).bytes(40 << 20)}
    large = {"w": np.frombuffer(large["w"], np.uint8)}
    with FaultProxy(cloud.port) as proxy, cloud.behind(proxy.port).in_environment():
        pertinax.save(url, large)
        assert [one for one in proxy.seen if {"partNumber", "blockid"} & set(one.query)]
        proxy.forget()
        loaded = pertinax.load(url)
    np.testing.assert_array_equal(loaded["w"], large["w"])
    assert proxy.most_in_flight > 1


def test_there_is_nothing_where_nothing_was_saved(cloud):
    with pytest.raises(CheckpointNotFound, match="nothing"):
        pertinax.load(f"{cloud.new_root()}/nothing")


def test_a_second_checkpoint_of_the_same_name_is_refused(cloud):
    url = f"{cloud.new_root()}/run"
    pertinax.save(url, {"n": 1})
    with pytest.raises(CheckpointExists):
        pertinax.save(url, {"n": 2})
    assert pertinax.load(url) == {"n": 1}


def test_the_marker_is_written_last_and_only_where_there_is_none(cloud):
    url = f"{cloud.new_root()}/run"
    with FaultProxy(cloud.port) as proxy, cloud.behind(proxy.port).in_environment():
        pertinax.save(url, state())
    writes = [one for one in proxy.seen if one.writes]
    assert writes[-1].path.endswith(MARKER)
    assert writes[-1].creates_only
    assert sum(one.path.endswith(MARKER) for one in writes) == 1


@pytest.mark.row("R004")
def test_without_its_marker_a_checkpoint_is_not_there(cloud):
    root = cloud.new_root()
    pertinax.save(f"{root}/run", {"n": 1})
    cloud.remove(f"{root}/run/{MARKER}")
    with pytest.raises(PertinaxError):
        pertinax.load(f"{root}/run")
    with pertinax.Manager(root) as manager:
        assert list(manager.steps()) == []


def test_a_manager_keeps_steps_in_a_bucket(cloud):
    root = f"{cloud.new_root()}/run"
    with pertinax.Manager(root, keep=2) as manager:
        for step in range(4):
            manager.save(step, state(step), metrics={"loss": 4.0 - step})
        manager.wait()
        assert list(manager.steps()) == [2, 3]
        assert_same(manager.load(target=state()), state(3))
    with pertinax.Manager(root) as again:
        assert list(again.steps()) == [2, 3]
        again.delete(2)
        assert list(again.steps()) == [3]
    assert all(key.startswith("3/") or "pertinax" in key for key in cloud.keys(root))


@pytest.mark.interop
def test_what_tensorflow_leaves_of_directories_is_no_file(gcs):
    """Empty objects whose names end with a slash, as consoles and TensorFlow make them."""
    root = gcs.new_root()
    bucket = root.split("://")[1]
    pertinax.save(f"{root}/run/0", {"n": 1})
    for name in ("run/", "run/0/"):
        gcs.ask("PUT", f"/{bucket}/{name}")
    assert pertinax.load(f"{root}/run/0") == {"n": 1}
    assert pertinax.verify(f"{root}/run/0").ok
    with pertinax.Manager(f"{root}/run") as manager:
        assert list(manager.steps()) == [0]
        manager.save(1, {"n": 2})
        manager.wait()
        assert list(manager.steps()) == [0, 1]


# -------------------------------------------------------------------------------- several processes


def _save_in_cloud(url: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    pertinax.save(url, states.state_on(states.mesh_of()))
    pertinax.save_async(url + "-async", states.state_on(states.mesh_of())).result()


def _load_in_cloud(url: str, environment: dict[str, str]) -> list[str]:
    os.environ.update(environment)
    loaded = pertinax.load(url, states.target_on(states.mesh_of(turned=True)))
    return states.differences(loaded)


@pytest.mark.slow
def test_two_processes_save_and_load_one_checkpoint(cloud, tmp_path: Path):
    url = f"{cloud.new_root()}/run/state"
    processes.run(_save_in_cloud, 2, url, cloud.environment, folder=tmp_path / "job", devices=2)
    for one in (url, url + "-async"):
        here = pertinax.load(one, states.target_on(states.mesh_of()))
        assert states.differences(here) == []
        assert pertinax.verify(one).ok
    answers = processes.run(
        _load_in_cloud, 2, url, cloud.environment, folder=tmp_path / "job2", devices=2
    )
    assert answers == [[], []]


# ----------------------------------------------------------------------------------- other programs


@pytest.mark.interop
def test_orbax_restores_what_we_wrote(gcs):
    import orbax.checkpoint as ocp

    url = f"{gcs.new_root()}/run/state"
    wanted = {"w": jnp.arange(24.0).reshape(4, 6), "deep": {"b": np.arange(5), "n": 3}}
    pertinax.save(url, wanted)
    with ocp.PyTreeCheckpointer() as checkpointer:
        assert_same(checkpointer.restore(url), wanted)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
    with ocp.StandardCheckpointer() as checkpointer:
        assert_same(checkpointer.restore(url, target), wanted)


@pytest.mark.interop
def test_we_load_what_orbax_wrote(gcs):
    import orbax.checkpoint as ocp

    root = gcs.new_root()
    wanted = {"w": jnp.arange(24.0).reshape(4, 6), "deep": {"b": np.arange(5), "n": 3}}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(f"{root}/pytree", wanted)
    assert_same(pertinax.load(f"{root}/pytree"), wanted)
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(root, options=options) as m:
        m.save(5, args=ocp.args.StandardSave(wanted))
        m.wait_until_finished()
    with pertinax.Manager(root) as manager:
        assert 5 in manager.steps()
    assert_same(pertinax.load(f"{root}/5/default"), wanted)


@pytest.mark.interop
def test_tensorstore_reads_our_arrays(gcs):
    import tensorstore as ts

    url = f"{gcs.new_root()}/run/state"
    w = np.arange(24.0).reshape(4, 6)
    pertinax.save(url, {"w": w})
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": url + "/", "path": "w/"},
    }
    found = ts.open(spec, read=True, open=True).result().read().result()
    np.testing.assert_array_equal(found, w)
