# SPDX-License-Identifier: Apache-2.0
"""Layouts over thousands of devices cost a ledger little, and come back word for word."""

import base64
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._device.shardings import sharding_text
from pertinax._formats import meshes
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger, encode_ledger
from pertinax._formats.metadata import sharding as sharding_file
from pertinax._formats.metadata.sharding import decode_sharding, encode_sharding
from pertinax._store.memory import MemoryStore
from pertinax.errors import CorruptCheckpoint


def nested(ids: Any) -> Any:
    return [nested(part) for part in ids] if isinstance(ids, list) else {"id": ids}


def text_of(shape: tuple[int, ...], seed: int = 0) -> str:
    """As Orbax would write a mesh whose devices have no order at all."""
    ids = np.random.default_rng(seed).permutation(int(np.prod(shape))) * 131072
    return json.dumps(
        {
            "sharding_type": "NamedSharding",
            "shape": list(shape),
            "axis_names": [f"a{i}" for i in range(len(shape))],
            "axis_types": ["AxisType.Auto"] * len(shape),
            "partition_spec": ["a0", None],
            "device_mesh": {"mesh": nested(ids.reshape(shape).tolist())},
        }
    )


def ledger_with(text: str) -> bytes:
    store = MemoryStore()
    pertinax.save("/c", {"w": np.zeros(3), "v": np.ones(4)}, store=store)
    manifest = decode_ledger(bytes(store.find(f"/c/{LEDGER_FILE}").content))
    leaves = tuple(leaf._replace(sharding=text) for leaf in manifest.leaves)
    return encode_ledger(
        type(manifest)("pertinax", manifest.root, leaves, manifest.chunks, facts=manifest.facts)
    )


@pytest.mark.parametrize("shape", [(512,), (16, 8, 32), (2, 256, 1, 1)])
def test_a_large_mesh_is_kept_word_for_word_in_fewer_bytes(shape):
    text = text_of(shape)
    data = ledger_with(text)
    assert {leaf.sharding for leaf in decode_ledger(data).leaves} == {text}
    assert len(data) - len(ledger_with("{}")) < 2 * 13 * int(np.prod(shape)) + 1000
    assert b'\\"id\\"' not in data


def test_a_small_mesh_is_told_as_orbax_tells_it():
    assert b'{\\"id\\": 131072}' in ledger_with(text_of((8,)))


def test_what_no_mesh_of_numbers_can_be_is_left_as_it_is():
    for text in (
        text_of((16, 32)).replace('"id": 131072}', '"id": "one"}'),
        text_of((16, 32)).replace('"id": 131072}', '"id":  131072}'),
        text_of((16, 32)).replace("[16, 32]", "[32, 32]"),
        json.dumps({"axis_names": ["x" * 5000]}),
    ):
        assert {leaf.sharding for leaf in decode_ledger(ledger_with(text)).leaves} == {text}


@pytest.mark.parametrize("shape", ["[3, 100]", "[0, 10]", "[-3, -4]", "[1e3]", "null", "[" * 9])
def test_a_crafted_mesh_is_refused(shape):
    ids = base64.b64encode(np.arange(12, dtype="<i8")).decode()
    text = f'{{"shape": {shape}, "device_mesh": {{"ids": "{ids}"}}}}'
    data = ledger_with(text)
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(data)


def test_where_orbax_would_write_a_mesh_for_each_of_very_many_arrays_the_ids_are_left_out():
    text = text_of((64, 64))
    few = {f"w{i}": text for i in range(3)}
    assert decode_sharding(encode_sharding(few)) == few
    many = {f"w{i}": text for i in range(300)}
    written = decode_sharding(encode_sharding(many))
    assert written.keys() == many.keys()
    fields = json.loads(text)
    del fields["device_mesh"]
    assert {text_: json.loads(text_) for text_ in written.values()} == {json.dumps(fields): fields}


@pytest.mark.interop
def test_orbax_restores_such_arrays_on_the_devices_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orbax import checkpoint as ocp

    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    monkeypatch.setattr(sharding_file, "WHOLE_UP_TO", 10)
    pertinax.save(tmp_path / "c", {"w": jax.device_put(np.arange(16.0), sharding)})
    assert b"device_mesh" not in (tmp_path / "c" / "_sharding").read_bytes()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(tmp_path / "c")["w"]
    assert found.sharding == sharding
    assert np.array_equal(found, np.arange(16.0))
    assert pertinax.load(tmp_path / "c", sharding="stored")["w"].sharding == sharding


def test_the_text_of_a_live_layout_is_the_same_however_often_a_mesh_is_met():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    known: dict[Mesh, str] = {}
    for spec in (("x",), (None, ("y", "x")), ()):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        text = sharding_text(sharding, known)
        assert text == sharding_text(sharding)
        assert json.loads(text)["device_mesh"]["mesh"][1][3] == {"id": 7}
    assert len(known) == 1
    fields = json.loads(text)
    del fields["device_mesh"]
    assert meshes.without_ids(text) == json.dumps(fields)
