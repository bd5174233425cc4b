# SPDX-License-Identifier: Apache-2.0
"""What lies in the directory of a tree that was saved with no options at all."""

import json
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same, sharded

KNOWN = {"_CHECKPOINT_METADATA", "_METADATA", "_sharding", "_strings.json", "array_metadatas"}
KNOWN |= {"commit_success.txt", "manifest.ocdbt", "d", "pertinax.json"}


def tree() -> Any:
    return {
        "sharded": sharded(PartitionSpec("a")),
        "more": [jnp.ones(3), {"n": np.arange(4), "i": 3}],
        "text": "words",
        "a/b": np.float32(0.5) * np.ones(2, np.float32),
    }


def save_sync(place: Path) -> None:
    ocp.PyTreeCheckpointer().save(place, tree())


def save_async(place: Path) -> None:
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(place, tree())


def save_standard(place: Path) -> None:
    without_text = {key: value for key, value in tree().items() if key != "text"}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(place, without_text)


def save_base(place: Path) -> None:
    handler = ocp.BasePyTreeCheckpointHandler()
    args = ocp.handlers.base_pytree_checkpoint_handler.BasePyTreeSaveArgs(tree())
    ocp.Checkpointer(handler).save(place, args=args)


SAVES = [save_sync, save_async, save_standard, save_base]


@pytest.mark.row("R012", "R043", "R065", "R078", "R084", "R101", "R110", "R119", "R228")
@pytest.mark.parametrize("save", SAVES)
def test_there_are_only_known_files(save: Any, tmp_path: Path):
    save(tmp_path / "it")
    names = {path.name for path in (tmp_path / "it").iterdir()}
    assert names <= KNOWN  # neither `checkpoint` of msgpack nor metadata of protobuf
    assert names >= {"manifest.ocdbt", "_METADATA", "_sharding", "d"}
    every_file = [path.name for path in (tmp_path / "it").rglob("*") if path.is_file()]
    assert every_file.count("_sharding") == 1
    assert "checkpoint" not in every_file
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "it")
    same(found["more"], tree()["more"])


@pytest.mark.row("R107", "R128")
@pytest.mark.interop
@pytest.mark.parametrize("save", SAVES)
def test_the_directory_is_one_database(save: Any, tmp_path: Path):
    import tensorstore as ts

    save(tmp_path / "it")
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{tmp_path}/it/"}}
    keys = {key.decode() for key in ts.KvStore.open(spec).result().list().result()}
    arrays = {key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")}
    assert arrays == {"sharded", "more.0", "more.1.n", "more.1.i", "a/b"}
    assert keys >= {f"sharded/{row}.0" for row in range(4)}
    assert not list((tmp_path / "it").glob("ocdbt.process_*"))


@pytest.mark.row("R127", "R213")
def test_the_metadata_is_plain_json(tmp_path: Path):
    save_sync(tmp_path / "it")
    found = json.loads((tmp_path / "it" / "_METADATA").read_text())["tree_metadata"]
    leaf = found["('more', '1', 'n')"]
    assert [part["key"] for part in leaf["key_metadata"]] == ["more", "1", "n"]
    assert leaf["value_metadata"]["value_type"] == "np.ndarray"
    assert len(found) == 6


@pytest.mark.row("R201", "R202")
def test_each_step_says_when_it_was_begun_and_when_it_was_whole(tmp_path: Path):
    before = time.time_ns()
    with ocp.CheckpointManager(tmp_path) as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave({"a": step}))
            manager.wait_until_finished()
    after = time.time_ns()
    notes = [
        json.loads((tmp_path / str(step) / "_CHECKPOINT_METADATA").read_text()) for step in (1, 2)
    ]
    times = [
        note[key] for note in notes for key in ("init_timestamp_nsecs", "commit_timestamp_nsecs")
    ]
    assert sorted(times) == times
    assert before <= times[0] < times[1] <= times[2] < times[3] <= after


@pytest.mark.row("R239")
@pytest.mark.parametrize("kind", ["standard", "pytree"])
def test_a_path_that_is_written_again_and_again_is_read_anew(kind: str, tmp_path: Path):
    if kind == "standard":
        checkpointer: Any = ocp.StandardCheckpointer()
    else:
        checkpointer = ocp.PyTreeCheckpointer()
    with checkpointer:
        for i in range(5):
            checkpointer.save(tmp_path / "it", {"a": jnp.full((i + 1,), i), "s": i}, force=True)
            same(checkpointer.restore(tmp_path / "it"), {"a": jnp.full((i + 1,), i), "s": i})


@pytest.mark.row("R234")
def test_arrays_are_written_and_read_without_the_serialization_of_jax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from jax.experimental.array_serialization import serialization

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("JAX's own serialization was called")

    for name in ("async_serialize", "async_deserialize", "run_serialization"):
        monkeypatch.setattr(serialization, name, refuse)
    save_sync(tmp_path / "it")
    same(ocp.PyTreeCheckpointer().restore(tmp_path / "it")["sharded"], tree()["sharded"])


@pytest.mark.row("R205")
@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize("use_zarr3", [True, False])
def test_arrays_of_numpy_and_of_jax_are_stored_with_the_same_specs(
    use_ocdbt: bool, use_zarr3: bool, tmp_path: Path
):
    def files(value: Any, name: str) -> dict[str, bytes]:
        checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
        checkpointer.save(tmp_path / name, {"x": value})
        return stored_keys(tmp_path / name)

    value = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    one, other = files(value, "numpy"), files(jnp.asarray(value), "jax")
    assert len(one) == 2
    assert one == other


def stored_keys(item: Path) -> dict[str, bytes]:
    """Metadata and chunk of the array `x`, as TensorStore finds them."""
    import tensorstore as ts

    store: Any = {"driver": "file", "path": f"{item}/"}
    if (item / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": store}
    found = ts.KvStore.open(store).result()
    keys = [key for key in found.list().result() if key.startswith(b"x/")]
    return {key.decode(): found.read(key).result().value for key in keys}
