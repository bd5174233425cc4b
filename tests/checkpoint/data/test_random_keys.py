# SPDX-License-Identifier: Apache-2.0
"""States of random number generators come back as what they were, and draw the same numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door

orbax = pytest.importorskip("orbax.checkpoint")

KEYS = {
    "typed": lambda: jax.random.key(3),
    "rbg": lambda: jax.random.key(4, impl="rbg"),
    "unsafe": lambda: jax.random.key(4, impl="unsafe_rbg"),
    "several": lambda: jax.random.split(jax.random.key(1), 4),
    "untyped": lambda: jax.random.PRNGKey(5),
    "untyped rbg": lambda: jax.random.key_data(jax.random.key(4, impl="rbg")),
}


def save(path, key, ocp=door, name=None):
    with ocp.Checkpointer(ocp.JaxRandomKeyCheckpointHandler(name)) as checkpointer:
        checkpointer.save(path, args=ocp.args.JaxRandomKeySave(key))


def restore(path, ocp=door, name=None, **given):
    with ocp.Checkpointer(ocp.JaxRandomKeyCheckpointHandler(name)) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.JaxRandomKeyRestore(**given))


def alike(one, other) -> bool:
    if one.dtype != other.dtype or not isinstance(one, jax.Array):
        return False
    typed = jnp.issubdtype(one.dtype, jax.dtypes.prng_key)
    both = [jax.random.key_data(key) if typed else key for key in (one, other)]
    return np.array_equal(*both) and one.sharding == other.sharding


@pytest.mark.row("R146")
@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
def test_a_key_of_jax_comes_back_as_it_was(tmp_path, make):
    save(tmp_path / "c", make())
    found = restore(tmp_path / "c")
    assert alike(found, make())
    if found.shape in {(), (2,)}:
        assert np.array_equal(jax.random.normal(found, (3,)), jax.random.normal(make(), (3,)))
    assert pertinax.verify(tmp_path / "c").ok


def test_the_files_are_those_that_orbax_knows(tmp_path):
    save(tmp_path / "c", jax.random.key(3), name="dice")
    text = json.loads((tmp_path / "c" / "dice_metadata" / "metadata").read_text())
    assert text == {"typed": True, "impl": "threefry2x32"}
    assert (tmp_path / "c" / "dice" / "checkpoint" / ".zarray").exists()
    assert alike(restore(tmp_path / "c", name="dice"), jax.random.key(3))


def test_restore_args_are_for_the_key_data(tmp_path):
    save(tmp_path / "c", jax.random.PRNGKey(5))
    found = restore(tmp_path / "c", restore_args=door.RestoreArgs(restore_type=np.ndarray))
    assert type(found) is np.ndarray
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    args = door.ArrayRestoreArgs(sharding=layout)
    assert restore(tmp_path / "c", restore_args=args).sharding == layout


@pytest.mark.parametrize("item", [np.zeros(2, np.uint32), 3, "key", None], ids=repr)
def test_anything_else_is_refused(tmp_path, item):
    with pytest.raises(TypeError, match="jax"):
        save(tmp_path / "c", item)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.interop
@pytest.mark.row("R146")
@pytest.mark.parametrize("name", ["typed", "several", "untyped"])
def test_todays_orbax_and_we_exchange_keys(tmp_path, name):
    save(tmp_path / "ours", KEYS[name]())
    save(tmp_path / "theirs", KEYS[name](), orbax)
    assert alike(restore(tmp_path / "ours", orbax), KEYS[name]())
    assert alike(restore(tmp_path / "theirs"), KEYS[name]())


def draw(state) -> list[float]:
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator.normal(size=3).tolist()


STATES = {"tuple": True, "dict": False}


@pytest.mark.row("R147")
@pytest.mark.interop
@pytest.mark.parametrize("legacy", STATES.values(), ids=STATES)
def test_a_state_of_numpy_comes_back_in_its_form(tmp_path, legacy):
    generator = np.random.RandomState(7)
    generator.normal()
    state = generator.get_state(legacy=legacy)
    for writer in (door, orbax):
        path = tmp_path / writer.__name__
        with writer.Checkpointer(writer.NumpyRandomKeyCheckpointHandler()) as checkpointer:
            checkpointer.save(path, args=writer.args.NumpyRandomKeySave(state))
        for reader in (door, orbax):
            with reader.Checkpointer(reader.NumpyRandomKeyCheckpointHandler()) as checkpointer:
                found = checkpointer.restore(path, args=reader.args.NumpyRandomKeyRestore())
            assert type(found) is type(state)
            assert draw(found) == draw(state)


def test_the_state_of_a_new_generator_comes_back_too(tmp_path):
    generator = np.random.default_rng(3)
    state = generator.bit_generator.state  # its numbers have 128 bits
    with door.Checkpointer(door.NumpyRandomKeyCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "c", args=door.args.NumpyRandomKeySave(state))
        found = checkpointer.restore(tmp_path / "c", args=door.args.NumpyRandomKeyRestore())
    again = np.random.default_rng()
    again.bit_generator.state = found
    assert again.normal() == generator.normal()


@pytest.mark.parametrize("item", [[1, 2], 3, None], ids=repr)
def test_any_other_state_is_refused(tmp_path, item):
    with (
        door.Checkpointer(door.NumpyRandomKeyCheckpointHandler()) as checkpointer,
        pytest.raises(TypeError, match=r"np\.random"),
    ):
        checkpointer.save(tmp_path / "c", args=door.args.NumpyRandomKeySave(item))


@pytest.mark.row("R146", "R147")
def test_both_are_items_of_a_manager_and_every_byte_of_them_is_checked(tmp_path):
    items = {
        "jax": (door.args.JaxRandomKeySave(jax.random.key(9)), door.args.JaxRandomKeyRestore()),
        "numpy": (
            door.args.NumpyRandomKeySave(np.random.RandomState(1).get_state()),
            door.args.NumpyRandomKeyRestore(),
        ),
    }
    with door.CheckpointManager(tmp_path) as manager:
        args = door.args.Composite(**{name: saving for name, (saving, _) in items.items()})
        assert manager.save(1, args=args)
        manager.wait_until_finished()
        args = door.args.Composite(**{name: restoring for name, (_, restoring) in items.items()})
        found = manager.restore(1, args=args)
    assert alike(found["jax"], jax.random.key(9))
    assert draw(found["numpy"]) == draw(np.random.RandomState(1).get_state())
    assert pertinax.verify(tmp_path / "1").ok
    chunk = tmp_path / "1" / "jax" / "jax_random_key" / "checkpoint" / "0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert not pertinax.verify(tmp_path / "1", on_damage="report").ok


class Tagged(door.JaxRandomKeyCheckpointHandler):
    """A handler of the user's, which keeps one more word."""

    def checkpoint_save_args(self, args):
        state, notes = super().checkpoint_save_args(args)
        return state, door.args.JsonSave({**notes.item, "word": "hello"})

    def post_restore(self, item, metadata):
        return super().post_restore(item, metadata), metadata["word"]


door.args.register_with_handler(Tagged, for_save=True)(
    type("TaggedSave", (door.args.JaxRandomKeySave,), {})
)
door.args.register_with_handler(Tagged, for_restore=True)(
    type("TaggedRestore", (door.args.JaxRandomKeyRestore,), {})
)


def test_a_subclass_has_a_say_in_both_items(tmp_path):
    saving, restoring = door.args.get_registered_args_cls(Tagged)
    with door.Checkpointer(Tagged()) as checkpointer:
        checkpointer.save(tmp_path / "c", args=saving(jax.random.key(2)))
        key, word = checkpointer.restore(tmp_path / "c", args=restoring())
    assert alike(key, jax.random.key(2))
    assert word == "hello"
