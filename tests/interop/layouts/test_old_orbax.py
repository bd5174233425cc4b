# SPDX-License-Identifier: Apache-2.0
"""Every layout, with every kind of leaf, goes from us to Orbax 0.8.0 and from there to us.

Needs the environment `.venv-orbax-0.8` (`make golden` makes one); without it there is nothing here.
"""

import pathlib
import subprocess

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door
from tests.checkpoint.data.twins import same
from tests.interop.layouts import forest
from tests.interop.layouts.test_layouts import restore, save

HERE = pathlib.Path(__file__).parent
OLD = HERE.parents[2] / ".venv-orbax-0.8" / "bin" / "python"
pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(not OLD.exists(), reason="needs the environment of Orbax 0.8.0"),
]


@pytest.mark.row("R129", "R135", "R172", "R279", "R008", "R146", "R147")
def test_all_layouts_go_both_ways(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for name, use_ocdbt, use_zarr3, limits in forest.CASES:
        save(door, ours / name, forest.tree(), use_ocdbt, use_zarr3, limits)
    save_singles(ours)
    command = [str(OLD), str(HERE / "old_side.py"), str(ours), str(theirs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""
    for name, *_ in forest.CASES:
        found = restore(door, theirs / name)
        same(found, restore(door, ours / name))
        loaded = pertinax.load(theirs / name)
        assert jax.tree.structure(loaded) == jax.tree.structure(found)
    check_singles(theirs)


SINGLES = [
    (door.ArrayCheckpointHandler, door.args.ArraySave, door.args.ArrayRestore, forest.arrays),
    (
        door.JaxRandomKeyCheckpointHandler,
        door.args.JaxRandomKeySave,
        door.args.JaxRandomKeyRestore,
        forest.jax_keys,
    ),
    (
        door.NumpyRandomKeyCheckpointHandler,
        door.args.NumpyRandomKeySave,
        door.args.NumpyRandomKeyRestore,
        forest.numpy_keys,
    ),
]


def save_singles(root):
    for handler, saving, _, values in SINGLES:
        for name, value in values().items():
            with door.Checkpointer(handler()) as checkpointer:
                checkpointer.save(root / name, args=saving(value))


def check_singles(root):
    for handler, _, restoring, values in SINGLES:
        for name, value in values().items():
            with door.Checkpointer(handler()) as checkpointer:
                found = checkpointer.restore(root / name, args=restoring())
            assert type(found) is type(value) or handler is door.ArrayCheckpointHandler
            alike = jax.tree.map(np.array_equal, _plain(found), _plain(value))
            assert jax.tree.all(alike), name


def _plain(value):
    typed = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(value) if typed else value
