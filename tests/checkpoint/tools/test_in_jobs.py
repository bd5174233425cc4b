# SPDX-License-Identifier: Apache-2.0
"""`test_utils` in real jobs of several processes."""

import unittest
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.processes import run

pytestmark = pytest.mark.slow


def run_in_my_order() -> list[str]:
    """One process of two: the same tests, those that need nobody at another time."""
    from pertinax.checkpoint import multihost, test_utils
    from pertinax.checkpoint.multihost import counters

    keys: list[str] = []

    def meet() -> None:
        number = counters.async_save_counter()
        multihost.sync_global_processes(f"meet.{number}", timeout=60)
        keys.append(multihost._unique_barrier_key(f"meet.{number}"))

    @test_utils.barrier_compatible_test
    class Tests(unittest.TestCase):
        def test_alone(self) -> None:
            for _ in range(3):
                counters.async_save_counter()

        def test_together(self) -> None:
            meet()
            meet()

        def test_together_again(self) -> None:
            meet()

    own = multihost.process_index()
    shared = ["test_together", "test_together_again"]
    for name in ["test_alone", *shared] if own == 0 else [*shared, "test_alone"]:
        result = unittest.TestResult()
        Tests(name).run(result)
        assert result.wasSuccessful(), result.errors
    return keys


@pytest.mark.row("R241")
def test_processes_that_run_test_cases_in_another_order_meet_all_the_same(tmp_path: Path):
    one, other = run(run_in_my_order, 2, folder=tmp_path)
    assert one == other
    assert len(set(one)) == 3


def use_directories(root: str) -> Any:
    import jax
    import jax.numpy as jnp
    from etils import epath
    from jax.sharding import NamedSharding, PartitionSpec

    from pertinax.checkpoint import test_utils

    fake = test_utils.save_fake_tmp_dir(epath.Path(root), 3, "params", subdirs=["a"])
    mesh = test_utils.get_fake_global_mesh_for_slices([{1}, {0}])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    array = jax.make_array_from_callback((4,), sharding, lambda i: jnp.arange(4.0)[i])
    (alone,) = test_utils.select_single_replica([array], mesh)
    doubled = test_utils.apply_function(test_utils.replicate_sharded_array(array), lambda x: x * 2)
    return (
        str(fake),
        alone.is_fully_addressable,
        alone.tolist(),
        doubled.addressable_data(0).tolist(),
    )


def test_both_processes_see_one_directory_and_their_own_replica(tmp_path: Path):
    root = tmp_path / "root"
    answers = run(use_directories, 2, str(root), folder=tmp_path, devices=2)
    assert answers[0] == answers[1]
    fake, own, values, doubled = answers[0]
    assert (Path(fake) / "a").is_dir()
    assert Path(fake).parent.parent == root
    assert own
    assert (values, doubled) == ([0, 1, 2, 3], [0, 2, 4, 6])
