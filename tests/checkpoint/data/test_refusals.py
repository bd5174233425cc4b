# SPDX-License-Identifier: Apache-2.0
"""What cannot be saved or asked for is refused, with the builtin that Orbax raises."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as ocp


@pytest.mark.parametrize("kind", ["PyTree", "Standard"])
def test_args_belong_behind_their_keyword(kind: str, tmp_path: Path):
    handler = getattr(ocp, f"{kind}CheckpointHandler")()
    save, restore = getattr(ocp.args, f"{kind}Save"), getattr(ocp.args, f"{kind}Restore")
    with pytest.raises(ValueError, match=f"{kind}SaveArgs.*args="):
        handler.save(tmp_path / "it", save({"a": 1}))
    with pytest.raises(ValueError, match=f"{kind}RestoreArgs.*args="):
        handler.restore(tmp_path / "it", restore())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("item", [{}, [], (), None], ids=str)
def test_nothing_is_not_saved(item: Any, tmp_path: Path):
    for handler in (ocp.PyTreeCheckpointHandler(), ocp.StandardCheckpointHandler()):
        with pytest.raises(ValueError, match=r"Found empty item|Must provide item"):
            handler.save(tmp_path / "it", item)
    base = ocp.BasePyTreeCheckpointHandler()
    with pytest.raises(ValueError, match="Found empty item"):
        base.save(tmp_path / "it", args=ocp.handlers.BasePyTreeSaveArgs(item))


@pytest.mark.parametrize(
    "item", [0, 0.0, False, "", np.arange(3), np.zeros(2), jnp.arange(3)], ids=str
)
def test_a_single_value_is_a_tree_too(item: Any, tmp_path: Path):
    handler = ocp.PyTreeCheckpointHandler()
    handler.save(tmp_path / "it", item)
    handler.finalize(tmp_path / "it")
    found = handler.restore(tmp_path / "it")
    assert type(found) is type(item) or isinstance(found, jax.Array)
    assert np.array_equal(found, item)


@pytest.mark.parametrize(
    "value", ["text", b"bytes", object(), ..., jax.ShapeDtypeStruct((2,), int)], ids=type
)
def test_the_standard_handler_is_for_arrays_and_numbers(value: Any, tmp_path: Path):
    handler = ocp.StandardCheckpointHandler()
    with pytest.raises(ValueError, match="Unsupported type"):
        handler.save(tmp_path / "it", {"a": 1, "b": [value]})
    assert list(tmp_path.iterdir()) == []


NUMBERS = [1, 2.5, True, np.float32(1.5), np.float64(2), np.int8(-3), np.bool_(1), np.uint16(7), 1j]


@pytest.mark.row("R090")
@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_the_standard_handler_takes_every_number(value: Any, tmp_path: Path):
    handler = ocp.StandardCheckpointHandler()
    handler.save(tmp_path / "it", {"a": value, "n": None, "e": {}})
    handler.finalize(tmp_path / "it")
    for found in (
        handler.restore(tmp_path / "it"),
        handler.restore(tmp_path / "it", {"a": value, "n": None, "e": {}}),
    ):
        assert found == {"a": value, "n": None, "e": {}}


@pytest.mark.parametrize("value", ["text", b"bytes", object(), ...], ids=type)
def test_a_target_of_the_standard_handler_has_arrays_and_numbers(value: Any, tmp_path: Path):
    handler = ocp.StandardCheckpointHandler()
    handler.save(tmp_path / "it", {"a": 1})
    handler.finalize(tmp_path / "it")
    with pytest.raises(ValueError, match="Unsupported type"):
        handler.restore(tmp_path / "it", {"a": value})


def test_aggregation_is_no_option_of_the_standard_handler(tmp_path: Path):
    save_args = {"a": ocp.SaveArgs(aggregate=True)}
    with pytest.raises(ValueError, match="Unsupported option"):
        ocp.StandardCheckpointHandler().save(tmp_path / "it", {"a": 1}, save_args)


@pytest.mark.parametrize("kind", ["PyTree", "Standard"])
def test_a_deleted_array_is_named(kind: str, tmp_path: Path):
    array = jnp.arange(3)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)
    gone = jnp.arange(4)
    donated(gone)
    gone.delete()
    array.delete()
    handler = getattr(ocp, f"{kind}CheckpointHandler")()
    for error in (RuntimeError, ValueError):  # JAX's, and that of other leaves that cannot be saved
        for value in (array, gone):
            with pytest.raises(error, match=r"leaf 'b/0' .*deleted or donated"):
                handler.save(tmp_path / "it", {"a": 1, "b": [value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("primary", [0, 1, None])
def test_the_primary_host_reaches_the_handler(primary: int | None, tmp_path: Path):
    checkpointer = ocp.PyTreeCheckpointer(primary_host=primary)
    assert checkpointer._multiprocessing_options.primary_host == primary
    tree = {"n": np.arange(3), "s": "text", "i": 1, "j": jnp.ones(2)}
    checkpointer.save(tmp_path / "it", tree)
    found = checkpointer.restore(tmp_path / "it")
    assert found["n"].tolist() == [0, 1, 2]
    assert (found["s"], found["i"]) == ("text", 1)


def test_places_that_hold_no_checkpoint(tmp_path: Path):
    checkpointer = ocp.PyTreeCheckpointer()
    with pytest.raises(FileNotFoundError):
        checkpointer.restore(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="not a directory"):
        checkpointer.restore(tmp_path / "file")
    unfinished = tmp_path / "it.orbax-checkpoint-tmp-3"
    unfinished.mkdir()
    with pytest.raises(ValueError, match="incomplete checkpoint"):
        checkpointer.restore(unfinished)
    json = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    assert json.metadata(tmp_path / "nowhere") is None  # nobody looks whether it is there


@pytest.mark.row("R125")
def test_a_misspelt_argument_is_told(tmp_path: Path):
    checkpointer = ocp.PyTreeCheckpointer()
    with pytest.raises(TypeError, match="saev_args"):
        checkpointer.save(tmp_path / "it", {"a": 1}, saev_args=None)
    with pytest.raises(TypeError, match="saev_args"):
        checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave({"a": 1}), saev_args={})
    checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave({"a": 1}))
    with pytest.raises(TypeError, match="restore_arg"):
        checkpointer.restore(tmp_path / "it", args=ocp.args.PyTreeRestore(), restore_arg={})
    assert checkpointer.restore(tmp_path / "it", any_name=ocp.args.PyTreeRestore()) == {"a": 1}
