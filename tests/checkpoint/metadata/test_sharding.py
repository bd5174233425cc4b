# SPDX-License-Identifier: Apache-2.0
"""Layouts as values. The texts are what Orbax 0.8.0 wrote for the same layouts."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)

from pertinax import checkpoint as ocp
from pertinax.checkpoint.metadata import (
    GSPMDShardingMetadata,
    NamedShardingMetadata,
    PositionalShardingMetadata,
    SingleDeviceShardingMetadata,
)
from pertinax.checkpoint.metadata import sharding as module

IDS = [[0, 1], [2, 3], [4, 5], [6, 7]]
MESH_TEXT = (
    '{"mesh": [[{"id": 0}, {"id": 1}], [{"id": 2}, {"id": 3}], [{"id": 4}, {"id": 5}], '
    '[{"id": 6}, {"id": 7}]]}'
)


def mesh(*kinds: AxisType) -> Mesh:
    devices = np.array(jax.devices()).reshape(4, 2)
    return Mesh(devices, ("x", "y"), axis_types=kinds or None)


@pytest.mark.row("R166", "R283")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (PartitionSpec(), "[]"),
        (PartitionSpec("x"), '["x"]'),
        (PartitionSpec(None, "y"), '[null, "y"]'),
        (PartitionSpec(("x", "y")), '[["x", "y"]]'),
        (PartitionSpec(("x", "y"), None), '[["x", "y"], null]'),
    ],
)
def test_named_layouts_have_the_text_of_orbax(spec, text):
    live = NamedSharding(mesh(), spec)
    told = module.from_jax_sharding(live)
    assert told.to_serialized_string() == (
        '{"sharding_type": "NamedSharding", "shape": [4, 2], "axis_names": ["x", "y"], '
        f'"partition_spec": {text}, "device_mesh": {MESH_TEXT}}}'
    )
    back = module.from_serialized_string(told.to_serialized_string())
    assert back == told
    assert hash(back) == hash(told)
    assert back.to_jax_sharding() == live


def test_types_of_axes_are_told_where_they_are_not_the_usual_one():
    live = NamedSharding(mesh(AxisType.Explicit, AxisType.Auto), PartitionSpec("x"))
    told = module.from_jax_sharding(live)
    text = told.to_serialized_string()
    assert list(json.loads(text)) == [
        *("sharding_type", "shape", "axis_names", "axis_types", "partition_spec", "device_mesh"),
    ]
    assert json.loads(text)["axis_types"] == ["AxisType.Explicit", "AxisType.Auto"]
    assert module.from_serialized_string(text) == told
    assert module.from_serialized_string(text).to_jax_sharding() == live
    assert told != module.from_jax_sharding(NamedSharding(mesh(), PartitionSpec("x")))


def test_the_usual_types_of_axes_in_a_newer_file_make_no_difference():
    told = module.from_jax_sharding(NamedSharding(mesh(), PartitionSpec("x")))
    fields = json.loads(told.to_serialized_string())
    fields["axis_types"] = ["AxisType.Auto", "AxisType.Auto"]
    assert module.from_serialized_string(json.dumps(fields)) == told
    fields["axis_types"] = ["AxisType.Unheard"]
    with pytest.raises(ValueError, match="Unheard"):
        module.from_serialized_string(json.dumps(fields))


def test_a_named_layout_without_devices_takes_all_of_them():
    told = NamedShardingMetadata(np.array([8]), ["x"], ("x",))
    assert told.to_serialized_string() == (
        '{"sharding_type": "NamedSharding", "shape": [8], "axis_names": ["x"], '
        '"partition_spec": ["x"]}'
    )
    whole = Mesh(np.array(jax.devices()), ("x",))
    assert told.to_jax_sharding() == NamedSharding(whole, PartitionSpec("x"))


def test_groups_of_axes_are_tuples_however_they_were_given():
    as_lists = NamedShardingMetadata(shape=[8], axis_names=["x"], partition_spec=[["x"], None])
    assert as_lists.partition_spec == (("x",), None)
    assert as_lists == NamedShardingMetadata(np.array([8]), ["x"], (("x",), None))


@pytest.mark.parametrize(
    "told",
    [
        NamedShardingMetadata(np.array([4]), ["x"], ("x",)),
        NamedShardingMetadata(
            np.array([2]),
            ["x"],
            ("x",),
            module.DeviceMetadataMesh.from_dict({"mesh": [{"id": 0}, {"id": 99}]}),
        ),
        SingleDeviceShardingMetadata("tpu:7"),
        PositionalShardingMetadata(np.array([3])),
    ],
    ids=lambda told: type(told).__name__,
)
def test_devices_that_are_not_here_are_an_error_with_a_way_out(told):
    with pytest.raises(ValueError, match="pass shardings for the arrays"):
        told.to_jax_sharding()


@pytest.mark.parametrize("field", ["shape", "axis_names", "partition_spec"])
def test_a_missing_field_is_an_error(field):
    fields = {"shape": [8], "axis_names": ["x"], "partition_spec": ["x"]}
    del fields[field]
    with pytest.raises(ValueError, match=field):
        NamedShardingMetadata.from_deserialized_dict(fields)
    with pytest.raises(ValueError, match="device_str"):
        SingleDeviceShardingMetadata.from_deserialized_dict({})
    with pytest.raises(ValueError, match="shape"):
        PositionalShardingMetadata.from_deserialized_dict({})


@pytest.mark.row("R166")
def test_single_devices():
    live = SingleDeviceSharding(jax.local_devices()[2])
    told = module.from_jax_sharding(live)
    name = str(jax.local_devices()[2])
    assert told == SingleDeviceShardingMetadata(name)
    text = told.to_serialized_string()
    assert text == f'{{"sharding_type": "SingleDeviceSharding", "device_str": "{name}"}}'
    assert module.from_serialized_string(text) == told
    assert told.to_jax_sharding() == live


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="names of CPU devices")
def test_both_names_of_a_cpu_are_one_device():
    old, new = SingleDeviceShardingMetadata("TFRT_CPU_3"), SingleDeviceShardingMetadata("cpu:3")
    assert old == new
    assert hash(old) == hash(new)
    assert old.to_jax_sharding() == new.to_jax_sharding() == SingleDeviceSharding(jax.devices()[3])
    assert old.to_serialized_string() != new.to_serialized_string()


@pytest.mark.row("R116")
def test_an_array_of_one_device_goes_back_to_it(tmp_path):
    array = jax.device_put(np.arange(4.0), jax.devices()[1])
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": array})
        assert checkpointer.restore(tmp_path / "it")["a"].sharding == array.sharding
        told = checkpointer.metadata(tmp_path / "it")["a"].sharding
    assert told == module.from_jax_sharding(array.sharding)


@pytest.mark.row("R166")
def test_positional_layouts_divide_arrays_as_they_did():
    told = PositionalShardingMetadata(np.array([4, 2]), "device")
    text = '{"sharding_type": "PositionalSharding", "shape": [4, 2], "memory_kind": "device"}'
    assert told.to_serialized_string() == text
    assert module.from_serialized_string(text) == told
    assert hash(module.from_serialized_string(text)) == hash(told)
    bare = PositionalShardingMetadata(np.array([4, 2]))
    assert json.loads(bare.to_serialized_string()).keys() == {"sharding_type", "shape"}
    live = bare.to_jax_sharding()
    same = NamedSharding(mesh(), PartitionSpec("x", "y"))
    assert live.is_equivalent_to(same, 2)


def test_the_compilers_own_layout_has_a_name_only():
    with pytest.raises(TypeError):
        GSPMDShardingMetadata()
    with pytest.raises(NotImplementedError, match="GSPMDSharding"):
        module.from_serialized_string('{"sharding_type": "GSPMDSharding"}')


def test_kinds_that_are_not_kept_are_logged(caplog):
    odd: list[Any] = [None, "abc", object()]
    odd.append(NamedSharding(AbstractMesh((8,), ("x",)), PartitionSpec("x")))
    for one in odd:
        assert module.from_jax_sharding(one) is None
        assert caplog.records[-1].levelname == "WARNING"
        assert caplog.records[-1].getMessage() == (
            f"Conversion for {type(one)} has not been implemented."
        )


def test_texts_that_mean_nothing_are_errors():
    with pytest.raises(NotImplementedError):
        module.from_serialized_string('{"sharding_type": "Foo"}')
    for text in ("x", "{}", "3"):
        with pytest.raises(ValueError, match=r"sharding|Expecting"):
            module.from_serialized_string(text)


def test_a_layout_or_none(caplog):
    good = module.from_jax_sharding(SingleDeviceSharding(jax.local_devices()[1]))
    text = good.to_serialized_string()
    for value in (text, np.array(text), np.array([text])):
        assert module.get_sharding_or_none(value) == good.to_jax_sharding()
    assert caplog.records == []
    bad = ["x", '{"sharding_type": "Foo"}', '{"sharding_type": "NamedSharding", "shape": [2]}']
    bad.append(SingleDeviceShardingMetadata("foo").to_serialized_string())
    for text in bad:
        assert module.get_sharding_or_none(np.array(text)) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"] * len(bad)


@pytest.mark.row("R283")
def test_meshes_of_devices():
    told = module.DeviceMetadataMesh.from_jax_mesh(mesh())
    assert told.mesh == [[module.DeviceMetadata(i) for i in row] for row in IDS]
    assert module.DeviceMetadataMesh.from_dict(json.loads(MESH_TEXT)) == told
    assert told.to_jax_device_mesh() == mesh().devices.tolist()
    assert module.DeviceMetadata.from_jax_device(jax.devices()[5]) == module.DeviceMetadata(5)
    with pytest.raises(ValueError, match="id 99"):
        module.DeviceMetadataMesh([module.DeviceMetadata(99)]).to_jax_device_mesh()


@pytest.mark.row("R283")
def test_the_file_has_the_devices_of_the_mesh(tmp_path):
    array = jax.device_put(np.arange(8.0), NamedSharding(mesh(), PartitionSpec("x")))
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"a": array})
    texts = json.loads((tmp_path / "it" / "_sharding").read_text())
    (text,) = texts.values()
    assert json.loads(text)["device_mesh"] == json.loads(MESH_TEXT)


def test_layouts_of_different_kinds_are_not_equal():
    named = NamedShardingMetadata(np.array([8]), ["x"], ("x",))
    kinds = [named, SingleDeviceShardingMetadata("a"), PositionalShardingMetadata([8]), 3]
    for i, one in enumerate(kinds):
        assert [one == other for other in kinds] == [i == j for j in range(len(kinds))]


def test_the_kinds():
    assert [kind.value for kind in module.ShardingTypes] == [
        *("NamedSharding", "SingleDeviceSharding", "PositionalSharding", "GSPMDSharding"),
    ]


@pytest.mark.interop
@pytest.mark.parametrize("spec", [PartitionSpec(("x", "y")), PartitionSpec(None, "y")])
def test_the_installed_orbax_reads_our_text_and_we_its(spec):
    from orbax.checkpoint._src.metadata import sharding as orbax

    live = NamedSharding(mesh(), spec)
    ours = module.from_jax_sharding(live)
    assert orbax.from_serialized_string(ours.to_serialized_string()).to_jax_sharding() == live
    text = orbax.from_jax_sharding(live).to_serialized_string()
    assert module.from_serialized_string(text) == ours
