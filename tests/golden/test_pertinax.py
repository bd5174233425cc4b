# SPDX-License-Identifier: Apache-2.0
"""Every version of our own format that was ever shipped is read for ever: exactly, and verified."""

import jax
import numpy as np
import pytest

import pertinax
from tests.golden.make_pertinax import CASES, HERE, golden_tree

CHECKPOINTS = [path for name in CASES for path in sorted(HERE.glob(f"pertinax-*/{name}"))]
MANAGED = sorted(HERE.glob("pertinax-*/managed"))


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert [(type(k), k) for k in found] == [(type(k), k) for k in wanted]
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, jax.Array):
        assert found.dtype == wanted.dtype
        if jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(found) == jax.random.key_impl(wanted)
            found, wanted = jax.random.key_data(found), jax.random.key_data(wanted)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
    elif isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == wanted


def test_each_version_has_its_golden_checkpoints():
    assert {path.name for path in CHECKPOINTS} == set(CASES)
    assert MANAGED


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_golden_checkpoint_is_read_exactly(path):
    assert pertinax.verify(path).ok
    assert_same(pertinax.load(path), golden_tree())
    assert_same(pertinax.load(path, golden_tree()), golden_tree())


@pytest.mark.parametrize("process", [0, 1])
def test_golden_parts_give_back_what_they_hold_and_name_what_they_do_not(process):
    path = HERE / "pertinax-2" / str(process) / "part"
    assert pertinax.verify(path).ok
    assert pertinax.describe(path).partial
    assert_same(
        pertinax.load(path, select=["host", "name"]), {"host": np.arange(3), "name": "part"}
    )
    with pytest.raises(pertinax.errors.PartAbsent, match="'rows'") as caught:
        pertinax.load(path)
    own, other = [((0, 0), (2, 3)), ((2, 0), (4, 3))][:: -1 if process else 1]
    assert caught.value.held == (own,)
    assert (caught.value.start, caught.value.stop) == other


@pytest.mark.parametrize("root", MANAGED, ids=lambda p: p.parent.name)
def test_a_golden_root_is_read_exactly(root):
    assert pertinax.verify(root / "3").ok
    assert_same(pertinax.load(root / "3"), golden_tree())
    with pertinax.Manager(root) as manager:
        assert (manager.steps(), manager.metrics(3)) == ([3], {"loss": 0.25})
