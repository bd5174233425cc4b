# SPDX-License-Identifier: Apache-2.0
"""Items of old releases come back through the door as real Orbax reads them, or better."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pertinax import checkpoint as door
from pertinax.errors import CorruptCheckpoint
from tests.checkpoint.data import old_items
from tests.checkpoint.data.old_items import VALUES, aggregate, leaves, metadata, packed
from tests.checkpoint.data.twins import agree, mesh, same

Make = Callable[[Path], Path]
SCENES: dict[str, Make] = {
    "without _METADATA": old_items.without_metadata,
    "with _METADATA": old_items.with_metadata,
    "placeholders only": old_items.placeholders_only,
    "in OCDBT": old_items.in_database,
}


def restored(make: Make, *args: Any, use_ocdbt: bool = True, **kwargs: Any) -> Any:
    def program(ocp: Any, root: Path) -> Any:
        place = make(root / "it")
        return ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt).restore(place, *args, **kwargs)

    return program


@pytest.mark.interop
@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize("scene", SCENES)
def test_a_whole_item(scene: str, use_ocdbt: bool, tmp_path: Path):
    agree(restored(SCENES[scene], use_ocdbt=use_ocdbt), tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    ("scene", "item"),
    [
        ("without _METADATA", {"x": 0, "p": 0, "q": {"r": 0}}),
        ("without _METADATA", {"x": 0, "none": 1, "ed": 5}),
        ("without _METADATA", {"x": None, "i": {}, "s": 0}),
        ("without _METADATA", {"l": (0, 0)}),
        ("with _METADATA", {"a": 0, "j": 0, "l": [0, 0]}),
        ("with _METADATA", {"z": 0, "str": 0, "e": {}}),
        ("in OCDBT", {"v": 0}),
    ],
)
def test_a_target_may_be_a_part_of_it(scene: str, item: Any, tmp_path: Path):
    agree(restored(SCENES[scene], item=item), tmp_path)


@pytest.mark.parametrize("scene", ["without _METADATA", "with _METADATA"])
def test_a_target_with_more_names_what_is_missing(scene: str, tmp_path: Path):
    place = SCENES[scene](tmp_path / "it")
    with pytest.raises(ValueError, match=r"mismatch(.|\n)*") as caught:
        door.PyTreeCheckpointHandler().restore(place, item={"p": 0, "zzz": 1, "deep": {"yyy": 2}})
    assert "zzz" in str(caught.value)
    assert "deep/yyy" in str(caught.value)


@pytest.mark.interop
def test_a_part_of_an_item_without_values_of_its_own_is_a_mismatch(tmp_path: Path):
    agree(restored(old_items.placeholders_only, item={"e": {}}), tmp_path)


KEYS = ("x", "n", "i", "f", "b", "s", "by", "c", "p")
ARGS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda ocp: ocp.RestoreArgs(),
    "float16": lambda ocp: ocp.RestoreArgs(dtype=np.float16),
    "int": lambda ocp: ocp.RestoreArgs(restore_type=int),
    "int32": lambda ocp: ocp.RestoreArgs(restore_type=int, dtype=np.int32),
    "numpy": lambda ocp: ocp.RestoreArgs(restore_type=np.ndarray),
    "array": lambda ocp: ocp.ArrayRestoreArgs(
        dtype=jnp.bfloat16, sharding=NamedSharding(mesh(), PartitionSpec())
    ),
    "untyped array": lambda ocp: ocp.ArrayRestoreArgs(
        restore_type=None, sharding=NamedSharding(mesh(), PartitionSpec())
    ),
}


# A number of numpy becomes the array that is asked for; Orbax makes a Python number of it. An array
# is no number, in either, but Orbax leaves a coroutine behind when it says so.
BETTER = {("n", "array"), ("p", "int"), ("p", "int32")}


def test_an_array_is_no_number(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    with pytest.raises(ValueError, match="not a scalar"):
        door.PyTreeCheckpointHandler().restore(
            place, item={"p": 0}, restore_args={"p": door.RestoreArgs(restore_type=int)}
        )


@pytest.mark.interop
@pytest.mark.parametrize(
    ("key", "args"),
    [(key, args) for key in KEYS for args in ARGS if (key, args) not in BETTER],
)
def test_values_are_cast_and_placed_as_orbax_does(key: str, args: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        place = old_items.without_metadata(root / "it")
        own = ocp.RestoreArgs()
        full = {name: own for name, value in VALUES.items() if value not in (None, {}, [])}
        full |= {"none": None, "ed": {}, "el": [], "l": [own, own], "q": {"r": own}}
        return ocp.PyTreeCheckpointHandler().restore(
            place, item={key: 0}, restore_args={**full, key: ARGS[args](ocp)}
        )

    agree(program, tmp_path)


def test_the_args_of_a_part_are_enough(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    rows = NamedSharding(mesh(), PartitionSpec("a"))
    found = door.PyTreeCheckpointHandler().restore(
        place,
        item={"x": 0, "p": 0},
        restore_args={
            "x": door.ArrayRestoreArgs(sharding=rows, global_shape=(4, 2)),
            "p": door.RestoreArgs(dtype=np.float32),
        },
    )
    assert found["x"].sharding == rows
    same(np.asarray(found["x"]), np.arange(8.0, dtype=np.float32).reshape(4, 2))
    same(found["p"], np.arange(3, dtype=np.float32))


@pytest.mark.row("R069")
@pytest.mark.parametrize("scene", ["without _METADATA", "with _METADATA"])
def test_a_value_of_the_aggregate_file_becomes_a_sharded_array(scene: str, tmp_path: Path):
    place = SCENES[scene](tmp_path / "it")
    key = "x" if scene == "without _METADATA" else "j"
    rows = NamedSharding(mesh(), PartitionSpec(("a", "b")))
    args = {key: door.ArrayRestoreArgs(sharding=rows, dtype=jnp.float32)}
    found = door.PyTreeCheckpointHandler().restore(place, item={key: 0}, restore_args=args)[key]
    assert isinstance(found, jax.Array)
    assert found.sharding == rows
    assert found.tolist() == list(range(8))


def test_an_array_that_is_asked_for_is_one(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    args = {"x": door.ArrayRestoreArgs(), "q": {"r": door.RestoreArgs(restore_type=jax.Array)}}
    found = door.PyTreeCheckpointHandler().restore(
        place, item={"x": 0, "q": {"r": 0}}, restore_args=args
    )
    assert isinstance(found["x"], jax.Array)
    assert isinstance(found["q"]["r"], jax.Array)


def test_a_shape_that_the_elements_do_not_fill_is_refused(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    with pytest.raises(ValueError, match="not compatible with the stored shape"):
        door.PyTreeCheckpointHandler().restore(
            place, item={"x": 0}, restore_args={"x": door.ArrayRestoreArgs(global_shape=(5,))}
        )


@pytest.mark.row("R001")
@pytest.mark.parametrize("prefix", ["PLACEHOLDER://", "AGGREGATED://"])
def test_either_text_stands_for_a_leaf_of_its_own(prefix: str, tmp_path: Path):
    place = aggregate(tmp_path / "it", {"a": {"b": f"{prefix}a.b"}, "v": 1})
    leaves(place, {"a": {"b": np.arange(5)}})
    same(door.PyTreeCheckpointHandler().restore(place), {"a": {"b": np.arange(5)}, "v": 1})
    assert door.utils.leaf_placeholder("a.b") == "PLACEHOLDER://a.b"


def test_a_text_may_stand_for_a_leaf_of_another_name(tmp_path: Path):
    place = aggregate(tmp_path / "it", {"new": "PLACEHOLDER://old"})
    leaves(place, {"old": np.arange(5)})
    same(door.PyTreeCheckpointHandler().restore(place), {"new": np.arange(5)})


@pytest.mark.row("R245")
def test_metadata_of_values_kept_elsewhere_is_their_name(tmp_path: Path):
    place = old_items.with_metadata(tmp_path / "it")
    found = door.PyTreeCheckpointHandler().metadata(place)
    for key in ("a", "j", "s", "str"):
        assert type(found[key]) is door.metadata.Metadata
        assert found[key].name == key
        assert found[key].directory == place
    assert found["l"][0].name == "l.0"
    assert found["p"].shape == (3,)
    assert found["e"] == {}


@pytest.mark.interop
@pytest.mark.parametrize("scene", ["without _METADATA", "in OCDBT"])
def test_there_is_no_metadata_without_its_file(scene: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        return ocp.PyTreeCheckpointHandler().metadata(SCENES[scene](root / "it"))

    assert isinstance(agree(program, tmp_path), FileNotFoundError)


@pytest.mark.interop
@pytest.mark.parametrize("item", [None, {"l": [0, 0], "p": 0}, {"l": {"1": 0}}])
def test_directories_alone_make_a_tree_where_the_handler_says_so(item: Any, tmp_path: Path):
    agree(restored(old_items.directories_only, item=item, use_ocdbt=False), tmp_path)


@pytest.mark.interop
def test_directories_alone_are_nothing_to_other_handlers(tmp_path: Path):
    error = agree(restored(old_items.directories_only), tmp_path)
    assert isinstance(error, FileNotFoundError)
    assert "No structure could be identified" in str(error)


@pytest.mark.wd("WD-13")
@pytest.mark.parametrize("zarr3", [False, True])
def test_other_files_of_an_item_are_no_leaves(zarr3: bool, tmp_path: Path):
    place = leaves(tmp_path / "it", {"a": {"b/c": np.arange(3)}, "s": 5}, use_zarr3=zarr3)
    (place / "_CHECKPOINT_METADATA").write_text("{}")
    (place / "commit_success.txt").write_text("")
    (place / "array_metadatas").mkdir()
    found = door.PyTreeCheckpointHandler(use_ocdbt=False).restore(place)
    same(found, {"a": {"b/c": np.arange(3)}, "s": np.array(5)})


def test_a_directory_that_is_a_leaf_and_holds_leaves_is_corrupt(tmp_path: Path):
    place = leaves(tmp_path / "it", {"a": np.arange(3)})
    leaves(tmp_path / "it", {"a": {"b": np.arange(3)}})
    with pytest.raises(CorruptCheckpoint, match="both a leaf and a container"):
        door.PyTreeCheckpointHandler(use_ocdbt=False).restore(place)


@pytest.mark.interop
@pytest.mark.parametrize("aggregate_filename", ["agg", None])
def test_the_file_may_have_another_name(aggregate_filename: str | None, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        place = aggregate(root / "it", {"a": packed(np.arange(4))}, aggregate_filename or "agg")
        return ocp.PyTreeCheckpointHandler(aggregate_filename).restore(place)

    agree(program, tmp_path)


def test_values_of_an_item_with_metadata_may_be_in_a_file_of_another_name(tmp_path: Path):
    place = old_items.with_metadata(tmp_path / "it")
    (place / "checkpoint").rename(place / "agg")
    handler = door.PyTreeCheckpointHandler("agg")
    assert handler.restore(place)["s"] == 7
    assert handler.metadata(place)["s"].name == "s"
    with pytest.raises(CorruptCheckpoint, match="values of leaves"):
        door.PyTreeCheckpointHandler().restore(place)


@pytest.mark.interop
@pytest.mark.parametrize("scene", ["without _METADATA", "with _METADATA"])
def test_a_part_through_transforms(scene: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        item = {"p": 0, "new": 1}
        wanted = ocp.args.PyTreeRestore(
            item=item, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(), item), transforms={}
        )
        place = SCENES[scene](root / "it")
        return ocp.PyTreeCheckpointHandler().restore(place, args=wanted)

    agree(program, tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["nothing", "an empty directory"])
def test_where_there_is_no_item(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        place = root / "it"
        if name != "nothing":
            place.mkdir()
        return ocp.PyTreeCheckpointHandler().restore(place)

    error = agree(program, tmp_path)
    assert isinstance(error, FileNotFoundError)
    if name != "nothing":
        assert "No structure could be identified" in str(error)


def test_our_own_item_that_lost_its_metadata_is_not_taken_for_whole(tmp_path: Path):
    door.PyTreeCheckpointer().save(tmp_path / "it", {"a": np.arange(3)})
    (tmp_path / "it" / "_METADATA").unlink()
    for call in (
        door.PyTreeCheckpointHandler().restore,
        door.PyTreeCheckpointHandler().metadata,
        door.BasePyTreeCheckpointHandler().restore,
    ):
        with pytest.raises(FileNotFoundError, match="_METADATA"):
            call(tmp_path / "it")


def test_a_value_that_is_promised_and_not_there_is_corrupt(tmp_path: Path):
    place = aggregate(tmp_path / "it", {"p": 1})
    metadata(place, [([("p", 2)], "scalar", True), ([("v", 2)], "np.ndarray", True)])
    with pytest.raises(CorruptCheckpoint, match="'v'"):
        door.PyTreeCheckpointHandler().restore(place)


def test_the_other_handlers_and_a_manager_read_them(tmp_path: Path):
    old_items.with_metadata(tmp_path / "it")
    with door.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "it", {"a": np.zeros(4, int), "s": 0})
        assert found["s"] == 7
        assert checkpointer.restore(tmp_path / "it")["str"] == "hi"
    shutil.move(tmp_path / "it", tmp_path / "root" / "3" / "default")
    with door.CheckpointManager(tmp_path / "root") as manager:
        assert manager.restore(3, args=door.args.PyTreeRestore())["s"] == 7


@pytest.mark.row("R060")
def test_nothing_is_put_into_such_a_file_any_more(tmp_path: Path):
    tree = {"x": jax.device_put(jnp.arange(8.0), NamedSharding(mesh(), PartitionSpec("a")))}
    save_args = {"x": door.SaveArgs(aggregate=True)}
    door.PyTreeCheckpointer().save(tmp_path / "it", tree, save_args=save_args)
    assert not (tmp_path / "it" / "checkpoint").exists()
    same(door.PyTreeCheckpointer().restore(tmp_path / "it"), tree)
