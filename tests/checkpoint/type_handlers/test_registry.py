# SPDX-License-Identifier: Apache-2.0
"""Which handler is for which type: the program's registry and private ones."""

import enum
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as ocp
from pertinax.checkpoint import type_handlers as th
from tests.checkpoint.type_handlers.leaves import Name, Point, point_handler

STOCK = [
    (int, th.ScalarHandler, "scalar"),
    (float, th.ScalarHandler, "scalar"),
    (bytes, th.ScalarHandler, "scalar"),
    (np.float32, th.ScalarHandler, "scalar"),
    (np.ndarray, th.NumpyHandler, "np.ndarray"),
    (jax.Array, th.ArrayHandler, "jax.Array"),
    (str, th.StringHandler, "string"),
]


@pytest.mark.parametrize(("ty", "handler", "typestr"), STOCK)
def test_stock_types_have_their_handlers(ty: Any, handler: type, typestr: str):
    found = th.get_type_handler(ty)
    assert type(found) is handler
    assert found.typestr() == typestr
    assert type(th.get_type_handler(typestr)) is handler
    assert th.has_type_handler(ty)
    assert th.has_type_handler(typestr)


def test_the_order_of_the_program_registry_is_that_of_orbax():
    entries = th.GLOBAL_TYPE_HANDLER_REGISTRY._type_registry
    kinds = [type(handler) for _, handler in entries[:7]]
    assert kinds == [*4 * [th.ScalarHandler], th.NumpyHandler, th.ArrayHandler, th.StringHandler]


def test_subclasses_have_the_handler_of_their_base():
    assert type(th.get_type_handler(bool)) is th.ScalarHandler
    assert type(th.get_type_handler(type(jnp.ones(1)))) is th.ArrayHandler
    assert type(th.get_type_handler(np.memmap)) is th.NumpyHandler


def test_a_type_without_handler_is_an_error():
    assert not th.has_type_handler(Point)
    with pytest.raises(ValueError, match="Unknown type"):
        th.get_type_handler(Point)
    with pytest.raises(ValueError, match="Unknown type"):
        th.get_type_handler("Point")


def test_a_handler_can_be_added_and_is_found_by_type_and_name():
    handler = point_handler()
    th.register_type_handler(Point, handler)
    assert th.get_type_handler(Point) is handler
    assert th.get_type_handler("Point") is handler
    with pytest.raises(ValueError, match="already registered"):
        th.register_type_handler(Point, point_handler())
    with pytest.raises(ValueError, match="collides"):
        th.register_type_handler(Name, point_handler())
    other = point_handler()
    th.register_type_handler(Point, other, override=True)
    assert th.get_type_handler(Point) is other
    assert th.get_type_handler("Point") is other


def test_a_function_may_decide_which_types_belong_to_a_handler():
    handler = point_handler()
    registry = th.create_type_handler_registry()
    registry.add(Point, handler, func=lambda ty: ty in (Point, Name))
    assert registry.get(Name) is handler
    assert not registry.has(int)


def test_the_first_match_in_the_order_of_registration_wins():
    first, second = th.ScalarHandler(), th.ScalarHandler()
    registry = th.create_type_handler_registry((int, first))
    registry.add(float, second, override=True)
    assert registry.get(int) is first
    assert registry.get(float) is second
    assert registry.get("scalar") is second, "of handlers of one name the last one reads"


def test_overriding_replaces_the_entry_in_place():
    before = [handler for _, handler in th.GLOBAL_TYPE_HANDLER_REGISTRY._type_registry]
    handler = th.NumpyHandler("key")
    th.register_type_handler(np.ndarray, handler, override=True)
    after = [handler for _, handler in th.GLOBAL_TYPE_HANDLER_REGISTRY._type_registry]
    assert after == [*before[:4], handler, *before[5:]]


@pytest.mark.wd("WD-27")
def test_overriding_a_subtype_leaves_its_base_type_alone():
    """WD-27: in Orbax a handler of bool takes int away."""
    ints, bools = th.get_type_handler(int), th.ScalarHandler()
    th.register_type_handler(bool, bools, override=True)
    assert th.get_type_handler(bool) is bools
    assert th.get_type_handler(int) is ints
    again = th.ScalarHandler()
    th.register_type_handler(bool, again, override=True)
    assert th.get_type_handler(bool) is again


def test_a_registry_that_is_put_back_forgets_names_too():
    """WD-27: the tests of Orbax put the list back, and a name goes on to mean the other handler."""
    registry = th.GLOBAL_TYPE_HANDLER_REGISTRY
    before = list(registry._type_registry)
    stock = registry.get(np.ndarray)
    registry.add(np.ndarray, th.NumpyHandler("other"), override=True)
    assert registry.get("np.ndarray") is not stock
    registry._type_registry = before
    assert registry.get("np.ndarray") is stock


def test_what_was_saved_under_the_name_of_a_replaced_handler_can_still_be_read():
    stock = th.get_type_handler(np.ndarray)

    class Renamed(th.NumpyHandler):
        def typestr(self) -> str:
            return "mine"

    th.register_type_handler(np.ndarray, Renamed(), override=True)
    assert th.get_type_handler("np.ndarray") is stock


def test_private_registries_know_nothing_else():
    registry = th.create_type_handler_registry((int, th.ScalarHandler()))
    assert registry.has(int)
    assert not registry.has(str)


def test_standard_handlers_get_options_and_old_keywords_are_dropped():
    with pytest.raises(KeyError):
        th.register_standard_handlers_with_options(metadata_key="m")
    th.register_standard_handlers_with_options(metadata_key="m", use_ocdbt=True, ts_context=None)
    for ty in (int, float, np.float64, np.ndarray, jax.Array):
        assert th.get_type_handler(ty)._metadata_key == "m"


@pytest.mark.parametrize(
    ("value", "typestr"),
    [
        (1, "scalar"),
        (np.float16(1), "scalar"),
        (np.ones(1), "np.ndarray"),
        ("x", "string"),
        ({}, "Dict"),
        ([], "List"),
        ((), "Tuple"),
        (None, "None"),
        (Point(1, 2), "None"),
    ],
)
def test_values_have_names_of_their_types(value: Any, typestr: str):
    assert th.get_param_typestr(value, th.GLOBAL_TYPE_HANDLER_REGISTRY) == typestr
    assert th.get_param_typestr(jnp.ones(2), th.GLOBAL_TYPE_HANDLER_REGISTRY) == "jax.Array"


def test_a_private_registry_decides_what_can_be_saved(tmp_path: Path):
    registry = th.create_type_handler_registry((int, th.ScalarHandler()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with pytest.raises(ValueError, match="TypeHandler lookup failed") as error:
        handler.save(tmp_path / "a", {"n": 1, "s": "text", "array": np.ones(2)})
    assert "'s' (str)" in str(error.value)
    assert "'array' (ndarray)" in str(error.value)
    assert not (tmp_path / "a").exists()
    handler.save(tmp_path / "a", {"n": 1})
    assert handler.restore(tmp_path / "a") == {"n": 1}


def test_a_private_registry_decides_what_can_be_restored(tmp_path: Path):
    ocp.PyTreeCheckpointHandler().save(tmp_path / "a", {"n": 1, "s": "text"})
    registry = th.create_type_handler_registry((int, th.ScalarHandler()))
    with pytest.raises(ValueError, match="Unknown type: 'string'"):
        ocp.PyTreeCheckpointHandler(type_handler_registry=registry).restore(tmp_path / "a")


class Colour(enum.IntEnum):
    RED = 3


class Title(str):
    __slots__ = ()


def test_objects_of_subclasses_are_saved_as_what_they_are(tmp_path: Path):
    tree = {"i": Colour.RED, "s": Title("x"), "n": np.str_("y"), "f": np.float64(2.5)}
    ocp.PyTreeCheckpointHandler().save(tmp_path / "a", tree)
    found = ocp.PyTreeCheckpointHandler().restore(tmp_path / "a")
    assert found == {"i": 3, "s": "x", "n": "y", "f": 2.5}
    kinds = {"i": int, "s": str, "n": str, "f": float}
    assert {key: type(value) for key, value in found.items()} == kinds


@pytest.mark.row("R156")
def test_aggregate_changes_nothing_but_is_mentioned_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from pertinax.checkpoint import _registry

    monkeypatch.setattr(_registry, "LAST_SAID", {})
    monkeypatch.setattr("pertinax.checkpoint.type_handlers.leaf_args.LAST_SAID", {})
    with caplog.at_level(logging.WARNING):
        args = [ocp.SaveArgs(aggregate=True) for _ in range(3)]
    assert [r.message for r in caplog.records if "aggregate" in r.message] == [
        "SaveArgs(aggregate=True) is deprecated and changes nothing"
    ]
    ocp.PyTreeCheckpointHandler().save(tmp_path / "a", {"x": np.arange(3)}, {"x": args[0]})
    assert ocp.PyTreeCheckpointHandler().restore(tmp_path / "a")["x"].tolist() == [0, 1, 2]
    assert not (tmp_path / "a" / "checkpoint").exists()


def test_sequences_for_a_handler_have_one_length():
    th.check_input_arguments([1], [2], None)
    with pytest.raises(ValueError, match="without any leaf"):
        th.check_input_arguments([], [])
    with pytest.raises(ValueError, match="one length"):
        th.check_input_arguments([1], [1, 2])


def test_a_registry_may_be_asked_for_by_its_protocol():
    assert isinstance(th.GLOBAL_TYPE_HANDLER_REGISTRY.get(int), th.TypeHandler)
    with pytest.raises(NotImplementedError):
        th.TypeHandler.memory_size(point_handler(), [])


@pytest.mark.row("R317")
def test_names_of_the_module_are_those_of_orbax():
    names = """ArrayHandler ArrayRestoreArgs GLOBAL_TYPE_HANDLER_REGISTRY InvalidShardingError
        LimitInFlightBytes NumpyHandler ParamInfo RestoreArgs SaveArgs ScalarHandler
        SingleReplicaArrayHandler SingleReplicaArrayRestoreArgs StringHandler TypeHandler
        TypeHandlerRegistry check_input_arguments create_type_handler_registry
        default_restore_type get_cast_tspec_deserialize get_cast_tspec_serialize
        get_empty_value_from_typestr get_empty_value_typestr get_json_tspec_read
        get_json_tspec_write get_param_typestr get_process_index_for_subdir
        get_sharding_tensorstore_spec get_ts_context get_type_handler has_type_handler
        is_empty_typestr is_ocdbt_checkpoint is_supported_empty_value is_supported_type
        isinstance_of_namedtuple merge_ocdbt_per_process_files
        register_standard_handlers_with_options register_type_handler"""
    assert [name for name in names.split() if not hasattr(ocp.type_handlers, name)] == []
    assert ocp.ArrayRestoreArgs is th.ArrayRestoreArgs
    assert th.LimitInFlightBytes is ocp.serialization.LimitInFlightBytes
