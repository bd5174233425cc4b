# SPDX-License-Identifier: Apache-2.0
"""Transformations in memory and while restoring: as Orbax has them, and where ours differ."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pertinax import checkpoint as door
from pertinax.checkpoint import transform_utils
from pertinax.checkpoint.transform_utils import InvalidTransform
from tests.checkpoint.data.transform_cases import (
    APPLIED,
    ORIGINAL,
    RESTORED,
    STORED,
    Point,
    restore,
)
from tests.checkpoint.data.twins import agree, mesh, same


@pytest.mark.interop
@pytest.mark.parametrize("default_to_original", [True, False])
@pytest.mark.parametrize("name", APPLIED)
def test_trees_in_memory(name: str, default_to_original: bool, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        transforms, tree = APPLIED[name](ocp)
        return ocp.apply_transformations(ORIGINAL, transforms, tree, default_to_original)

    agree(program, tmp_path)


@pytest.mark.parametrize("default_to_original", [True, False])
def test_a_key_that_is_not_there_is_named(default_to_original: bool):
    rules = {"new": door.Transform(original_key="old/key")}
    with pytest.raises(ValueError, match=r'"old/key" not found in origin tree'):
        door.apply_transformations(ORIGINAL, rules, {"new": 0}, default_to_original)
    with pytest.raises(ValueError, match="not found in origin tree"):
        door.apply_transformations(
            ORIGINAL, {"new": door.Transform(use_fallback=True)}, {"new": 0}, False
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"original_key": "a", "use_fallback": True},
        {"use_fallback": True, "value_fn": abs},
        {"multi_value_fn": max, "value_fn": abs},
        {"multi_value_fn": max, "use_fallback": True},
        {"multi_value_fn": max, "original_key": "a"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [door.Transform, door.RestoreTransform])
@pytest.mark.wd("WD-17")
def test_fields_that_contradict_each_other_are_refused_at_once(kind: type, fields: dict[str, Any]):
    with pytest.raises(InvalidTransform):
        kind(**fields)
    with pytest.raises(AssertionError):  # what Orbax's programs may catch
        kind(**fields)
    with pytest.raises(ValueError, match="alone"):
        kind(**fields)


def test_input_args_need_a_function():
    with pytest.raises(AssertionError, match="multi_value_fn"):
        door.RestoreTransform(multi_value_fn_input_args={"a": door.RestoreArgs()})


def test_a_rule_must_be_a_transform():
    with pytest.raises(ValueError, match="no Transform"):
        door.apply_transformations(ORIGINAL, {"a": "b"}, {"a": 0})


@pytest.mark.wd("WD-17", "WD-04")
def test_keys_with_a_slash_are_kept_apart():
    tree = {"a/b": 1, "a": {"b": 2}}
    assert door.apply_transformations(tree, {}, {"a": {"b": 0}, "a/b": 5}) == tree
    rules = {"x": door.Transform(original_key=("a", "b")), "y": door.Transform(("a/b",))}
    assert door.apply_transformations(tree, rules, {"x": 0, "y": 0}) == {"x": 2, "y": 1}
    with pytest.raises(ValueError, match="ambiguous"):
        door.apply_transformations(tree, {"x": door.Transform(original_key="a/b")}, {"x": 0})


def test_groups_are_put_into_each_level_of_a_tuple():
    rules = {r"(\w)_(\w)": door.Transform(original_key=(r"\1", r"\2"))}
    assert door.apply_transformations({"b": {"c": 2}}, rules, {"b_c": 0}) == {"b_c": 2}


def test_dicts_keep_their_order_and_arrays_are_leaves():
    found = door.apply_transformations({"b": np.arange(3)}, {}, {"z": 0, "b": 0})
    assert list(found) == ["z", "b"]
    same(found["b"], np.arange(3))
    same(door.apply_transformations(np.arange(3), {}, np.zeros(3)), np.arange(3))


@pytest.mark.row("R100")
def test_use_is_logged_as_deprecated(caplog: pytest.LogCaptureFixture):
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    try:
        with caplog.at_level(logging.WARNING, "pertinax"):
            door.apply_transformations({"a": 1}, {}, {"a": 0})
    finally:
        jax.monitoring.clear_event_listeners()
    assert "deprecated" in caplog.text
    assert "/jax/orbax/deprecation/apply_transformations" in events


# --- Merging and intersecting.


@pytest.mark.interop
@pytest.mark.row("R058")
@pytest.mark.parametrize(
    ("trees", "target"),
    [
        ([{"a": 1, "b": {"c": 2}}, {"b": {"d": 3}, "a": 4}], None),
        ([{"a": 1}], None),
        ([], None),
        ([[1, 2], [3]], None),
        ([{"x": {}, "z": None}, {"y": 2}], None),
        ([{"x": 1}, {"y": 2}], Point(0, 0)),
        ([{"x": 1}], Point(0, 0)),
    ],
    ids=str,
)
def test_later_trees_win(trees: list[Any], target: Any, tmp_path: Path):
    agree(lambda ocp, _: ocp.transform_utils.merge_trees(*trees, target=target), tmp_path)


def test_a_later_leaf_replaces_a_container_and_a_container_a_leaf():
    assert door.merge_trees({"x": {"a": 1}, "y": 1}, {"x": 2}) == {"x": 2, "y": 1}
    assert door.merge_trees({"x": 2}, {"x": {"a": {"b": 1}}}) == {"x": {"a": {"b": 1}}}


@pytest.mark.interop
@pytest.mark.parametrize(
    ("trees", "target"),
    [
        ([{"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "q": 4}], None),
        ([{"x": 1, "y": 2}, {"x": 3, "y": 4, "z": 5}], Point(0, 0)),
        ([{"a": 1}, {"b": 2}], None),
        ([{"x": 1}, {"y": 4}], Point(0, 0)),
    ],
    ids=str,
)
def test_common_leaves_have_the_values_of_the_last(trees: Any, target: Any, tmp_path: Path):
    agree(lambda ocp, _: ocp.transform_utils.intersect_trees(*trees, target=target), tmp_path)


def test_the_names_are_where_programs_look_for_them():
    for name in ("Transform", "RestoreTransform", "apply_transformations", "merge_trees"):
        assert getattr(door, name) is getattr(transform_utils, name)
    assert not hasattr(door, "PLACEHOLDER")


# --- While restoring.


def saved(ocp: Any, root: Path, tree: Any = None, **layout: Any) -> Path:
    ocp.PyTreeCheckpointer(**layout).save(root / "it", STORED if tree is None else tree)
    return root / "it"


@pytest.mark.interop
@pytest.mark.row("R046", "R047", "R082")
@pytest.mark.parametrize("default_to_original", [True, False])
@pytest.mark.parametrize("name", RESTORED)
def test_trees_on_disk(name: str, default_to_original: bool, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        item, transforms, args = RESTORED[name](ocp)
        return restore(
            ocp,
            saved(ocp, root),
            item,
            transforms,
            args,
            transforms_default_to_original=default_to_original,
        )

    agree(program, tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize("transforms", [{}, None])
def test_what_must_be_given_along(transforms: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        wanted = ocp.args.PyTreeRestore(
            item={"a": 0}, transforms=transforms, transforms_default_to_original=False
        )
        return ocp.PyTreeCheckpointHandler().restore(saved(ocp, root), args=wanted)

    assert isinstance(agree(program, tmp_path), ValueError)


def test_what_is_missing_in_the_call_is_said(tmp_path: Path):
    place = saved(door, tmp_path)
    with pytest.raises(ValueError, match="must provide `item`"):
        restore(door, place, None, {}, None)
    with pytest.raises(ValueError, match="must provide `restore_args`"):
        door.PyTreeCheckpointHandler().restore(place, item={"a": 0}, transforms={})
    with pytest.raises(ValueError, match="Must use RestoreTransform"):
        restore(door, place, {"m": 0}, {"m": door.Transform(multi_value_fn=max)}, None)
    with pytest.raises(ValueError, match="Cannot provide both"):
        restore(door, place, {"a": 0}, {}, None, legacy_transform_fn=lambda *_: None)


def doubled(value: Any) -> Any:
    return value * 2


def with_dtype(value: Any, args: Any) -> Any:
    return value.astype(args.dtype)


def with_default(value: Any, factor: int = 3) -> Any:
    return value * factor


@pytest.mark.row("R067", "R046")
@pytest.mark.wd("WD-17")
def test_a_value_fn_with_two_parameters_gets_the_args_of_its_leaf(tmp_path: Path):
    place = saved(door, tmp_path)
    item = {"u": 0, "v": 0, "w": 0, "x": 0}
    args = jax.tree.map(lambda _: door.RestoreArgs(dtype=np.dtype(np.int8)), item)
    rule = door.RestoreTransform
    found = restore(
        door,
        place,
        item,
        {
            "u": rule(original_key="a", value_fn=with_dtype),
            "v": rule(original_key="a", value_fn=doubled),
            "w": rule(original_key="a", value_fn=with_default),
            "x": rule(original_key="a", value_fn=lambda v, r, /, *, deep=1: [v, r, deep]),
        },
        args,
    )
    same(found["u"], np.arange(4, dtype=np.int8))
    same(found["v"], np.arange(4, dtype=np.int8) * 2)
    same(found["w"], np.arange(4, dtype=np.int8) * 3)
    assert found["x"][1] is args["x"]


def test_a_plain_transforms_value_fn_gets_the_value_alone(tmp_path: Path):
    place = saved(door, tmp_path)
    with pytest.raises(TypeError):
        restore(door, place, {"a": 0}, {"a": door.Transform(value_fn=with_dtype)}, None)
    found = restore(door, place, {"s": 0}, {"s": door.RestoreTransform(value_fn=str)}, None)
    assert found == {"s": "3"}  # `str` has no signature that can be read


@pytest.mark.row("R068")
def test_a_multi_value_fn_gets_the_args_of_its_leaf(tmp_path: Path):
    args = {"m": door.RestoreArgs(dtype=np.float16)}
    seen: list[Any] = []

    def both(key: str, tree: Any, own: Any) -> Any:
        seen.append((key, own))
        return (tree["a"].sum() + tree["s"]).astype(own.dtype)

    rule = door.RestoreTransform(
        multi_value_fn=both,
        multi_value_fn_input_args={"a": door.RestoreArgs(), "s": door.RestoreArgs()},
    )
    found = restore(door, saved(door, tmp_path), {"m": 0}, {"m": rule}, args)
    assert seen == [("m", args["m"])]
    assert found["m"] == np.float16(9)
    assert found["m"].dtype == np.float16


@pytest.mark.row("R048")
def test_functions_get_what_the_args_ask_for(tmp_path: Path):
    place = saved(door, tmp_path, {"a": jnp.arange(8.0)})
    rows = NamedSharding(mesh(), PartitionSpec("a"))
    args = {"a": door.ArrayRestoreArgs(sharding=rows, dtype=jnp.bfloat16)}
    seen: list[Any] = []
    restore(door, place, {"a": 0}, {"a": door.Transform(value_fn=seen.append)}, args)
    assert seen[0].sharding == rows
    assert seen[0].dtype == jnp.bfloat16


@pytest.mark.row("R049", "R082")
def test_what_no_result_needs_is_not_read(tmp_path: Path):
    place = saved(door, tmp_path, use_ocdbt=False)
    for name in ("b.c", "b.d.0", "b.d.1"):
        chunk = place / name / "0"
        chunk.write_bytes(bytes(255 - byte for byte in chunk.read_bytes()))
    with pytest.raises(ValueError, match="checksum"):
        door.PyTreeCheckpointHandler().restore(place)
    rule = door.RestoreTransform(
        multi_value_fn=lambda _, t, __: t["a"] + 1,
        multi_value_fn_input_args={"a": door.RestoreArgs()},
    )
    transforms = {"m": rule, "b/c": door.Transform(use_fallback=True)}
    found = restore(door, place, {"s": 0, "m": 0, "b": {"c": 5}, "z": 6}, transforms, None)
    same(found, {"s": 3, "m": np.arange(4.0) + 1, "b": {"c": 5}, "z": 6})
    with pytest.raises(ValueError, match="checksum"):
        restore(door, place, {"b": {"c": 0}}, {}, None)


@pytest.mark.row("R071")
def test_an_input_of_several_functions_is_read_once(tmp_path: Path):
    seen: list[Any] = []

    def keep(_: str, tree: Any, __: Any) -> int:
        seen.append(tree["a"])
        return 0

    def rule() -> Any:
        return door.RestoreTransform(
            multi_value_fn=keep, multi_value_fn_input_args={"a": door.RestoreArgs()}
        )

    restore(door, saved(door, tmp_path), {"m": 0, "n": 0}, {"m": rule(), "n": rule()}, None)
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_each_leaf_is_read_as_its_own_args_say(tmp_path: Path):
    args = {"u": door.RestoreArgs(dtype=np.float16), "v": door.RestoreArgs(dtype=np.float32)}
    rules = {"[uv]": door.Transform(original_key="a")}
    found = restore(door, saved(door, tmp_path), {"u": 0, "v": 0}, rules, args)
    assert (found["u"].dtype, found["v"].dtype) == (np.float16, np.float32)


@pytest.mark.wd("WD-17")
def test_leaves_that_were_not_read_are_there_by_their_metadata(tmp_path: Path):
    seen: list[Any] = []
    rule = door.RestoreTransform(
        multi_value_fn=lambda _, tree, __: seen.append(tree),
        multi_value_fn_input_args={"s": door.RestoreArgs()},
    )
    restore(door, saved(door, tmp_path), {"m": 0}, {"m": rule}, None)
    assert seen[0]["s"] == 3
    assert isinstance(seen[0]["b"]["d"][1], door.metadata.ArrayMetadata)
    assert seen[0]["b"]["d"][1].shape == (2,)


def test_empty_containers_are_taken_along(tmp_path: Path):
    item = {"e": 5, "n": 1, "a": None, "new": {}}
    found = restore(door, saved(door, tmp_path), item, {}, {"a": door.RestoreArgs()})
    assert found == {"e": {}, "n": None, "a": None, "new": {}}


def test_the_target_keeps_its_types(tmp_path: Path):
    place = saved(door, tmp_path, {"p": Point(1, [2]), "q": {"x": 3}})
    found = restore(door, place, {"p": Point(0, (0,)), "q": Point(0, 9)}, {}, None)
    assert found == {"p": Point(1, (2,)), "q": Point(3, 9)}


# --- A function of the program that says what is restored.


class Renamed(NamedTuple):
    old: Any
    empty: Any


def rename(_: Any, structure: Any, infos: Any) -> Any:
    return [
        {"q": tree["a"], "r": Renamed(tree["b"]["c"], tree["e"])} for tree in (structure, infos)
    ]


@pytest.mark.row("R036")
def test_a_function_drops_and_renames_keys(tmp_path: Path):
    place = saved(door, tmp_path)
    wanted = door.args.PyTreeRestore(item={"q": 0}, legacy_transform_fn=rename)
    found = door.PyTreeCheckpointHandler().restore(place, args=wanted)
    same(found, {"q": np.arange(4.0), "r": Renamed(np.ones(2, np.float32), {})})


@pytest.mark.interop
@pytest.mark.parametrize("dtype", [None, np.float16])
def test_a_function_as_orbax_calls_it(dtype: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        told: list[Any] = []

        def function(item: Any, structure: Any, infos: Any) -> Any:
            info = infos["b"]["d"][1]
            told.append([item, info.name, info.skip_deserialize, info.is_ocdbt_checkpoint])
            told.append([structure["a"].value_type, structure["e"].value_type, infos["e"].name])
            return {"q": structure["b"]["d"][1]}, {"q": info}

        args = {"q": ocp.RestoreArgs(dtype=dtype)}
        wanted = ocp.args.PyTreeRestore(
            item={"q": 0}, restore_args=args, legacy_transform_fn=function
        )
        found = ocp.PyTreeCheckpointHandler().restore(saved(ocp, root), args=wanted)
        return [found, told]

    agree(program, tmp_path)


def test_a_function_may_put_values_of_its_own_in_places(tmp_path: Path):
    def function(item: Any, structure: Any, infos: Any) -> Any:
        return {"q": structure["a"], "own": item["own"]}, {"q": infos["a"], "own": None}

    wanted = door.args.PyTreeRestore(item={"own": 5}, legacy_transform_fn=function)
    found = door.PyTreeCheckpointHandler().restore(saved(door, tmp_path), args=wanted)
    same(found, {"q": np.arange(4.0), "own": 5})


def test_infos_that_fit_nothing_are_refused(tmp_path: Path):
    place = saved(door, tmp_path)

    def nothing(_: Any, structure: Any, __: Any) -> Any:
        return {"q": structure["a"]}, {"q": door.type_handlers.ParamInfo(name="nothing")}

    def unlike(_: Any, structure: Any, infos: Any) -> Any:
        return {"q": structure["a"]}, {"other": infos["a"]}

    for function, reason in ((nothing, "no leaf called 'nothing'"), (unlike, "mismatch")):
        wanted = door.args.PyTreeRestore(item={"q": 0}, legacy_transform_fn=function)
        with pytest.raises(ValueError, match=reason):
            door.PyTreeCheckpointHandler().restore(place, args=wanted)
    wanted = door.args.PyTreeRestore(
        item={"q": 0}, restore_args={"z": door.RestoreArgs()}, legacy_transform_fn=rename
    )
    with pytest.raises(ValueError, match="mismatch"):
        door.PyTreeCheckpointHandler().restore(place, args=wanted)


@pytest.mark.row("R208")
def test_the_base_handler_knows_no_transformations(tmp_path: Path):
    place = saved(door, tmp_path)
    with pytest.raises(TypeError):
        door.handlers.BasePyTreeRestoreArgs(item={"a": 0}, transforms={})  # type: ignore[call-arg]
    same(door.BasePyTreeCheckpointHandler().restore(place)["a"], np.arange(4.0))


@pytest.mark.wd("WD-16")
def test_a_part_without_transforms_names_every_key(tmp_path: Path):
    place = saved(door, tmp_path)
    with pytest.raises(ValueError, match="mismatch") as caught:
        door.PyTreeCheckpointHandler().restore(place, item={"a": 0, "new": 1})
    assert all(key in str(caught.value) for key in ("b/c", "b/d/1", "s", "t", "e", "new"))
