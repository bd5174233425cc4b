# SPDX-License-Identifier: Apache-2.0
"""Metadata of values: what counts as equal, and what `metadata()` of a tree says."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint.metadata.sharding import (
    SingleDeviceShardingMetadata,
    from_jax_sharding,
)
from pertinax.checkpoint.metadata.value import (
    ArrayMetadata,
    Metadata,
    ScalarMetadata,
    StorageMetadata,
    StringMetadata,
)

F32 = np.dtype("float32")
HERE = epath.Path("here")


def rows(shape: tuple[int, ...] = (8,)) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    return jax.device_put(jnp.ones(shape), NamedSharding(mesh, PartitionSpec("x")))


def array(**changes: object) -> ArrayMetadata:
    facts = {"name": "a", "directory": None, "shape": (2,), "sharding": None, "dtype": F32}
    return ArrayMetadata(**{**facts, **changes})


def test_arrays_are_equal_wherever_they_lie():
    assert array() == array(name="b", directory=HERE)
    assert array() == array(dtype=jnp.float32)
    assert hash(array()) == hash(array(name="b", dtype=jnp.float32))
    one_device = SingleDeviceShardingMetadata("cpu:0")
    others = {"shape": (3,), "dtype": np.int32, "storage": StorageMetadata((1,))}
    for name, value in {**others, "sharding": one_device}.items():
        assert array() != array(**{name: value})
    assert array() != 3


def test_scalars_are_equal_if_their_dtypes_are():
    one = ScalarMetadata("a", None, dtype=np.int32)
    assert one == ScalarMetadata("b", HERE, dtype=np.dtype("int32"))
    assert hash(one) == hash(ScalarMetadata("b", HERE, dtype=np.dtype("int32")))
    assert one != ScalarMetadata("a", None, dtype=np.float64)
    assert ScalarMetadata("a", None) == ScalarMetadata("b", None)
    assert ScalarMetadata("a", None) != ScalarMetadata("a", None, dtype=np.float64)
    assert (one.shape, one.sharding, one.storage) == ((), None, None)
    assert ScalarMetadata("a", None, (2,), None, F32) != array()
    assert array() != ScalarMetadata("a", None, (2,), None, F32)


def test_texts_are_all_equal_and_plain_metadata_too():
    assert StringMetadata("a", None) == StringMetadata("b", HERE)
    assert Metadata("a", None) == Metadata("b", HERE)
    assert Metadata("a", None) != StringMetadata("a", None)
    assert StringMetadata("a", None) != Metadata("a", None)
    assert array() != StringMetadata("a", None)
    assert Metadata("a", None) != 3


def test_from_a_struct():
    struct_of = jax.ShapeDtypeStruct((8,), F32, sharding=rows().sharding)
    told = ArrayMetadata.from_shape_dtype_struct(struct_of, name="q", directory=HERE)
    assert (told.name, told.directory, told.shape, told.dtype) == ("q", HERE, (8,), F32)
    assert told.sharding == from_jax_sharding(rows().sharding)
    bare = ArrayMetadata.from_shape_dtype_struct(jax.ShapeDtypeStruct((8,), F32))
    assert (bare.sharding, bare.name, bare.storage) == (None, None, None)
    scalar = ScalarMetadata.from_shape_dtype_struct(jax.ShapeDtypeStruct((), F32), name="s")
    assert type(scalar) is ScalarMetadata
    assert scalar == ScalarMetadata("s", None, dtype=F32)


def test_a_live_layout_counts_as_its_metadata():
    live = array(sharding=rows().sharding)
    assert live == array(sharding=from_jax_sharding(rows().sharding))
    assert live != array(sharding=SingleDeviceShardingMetadata("cpu:0"))


def metadata_of(tree: object, directory: Path) -> object:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(directory / "it", tree)
        return checkpointer.metadata(directory / "it")


@pytest.mark.row("R086", "R102", "R117")
def test_metadata_has_shape_dtype_layout_name_and_place_of_each_leaf(tmp_path):
    tree = {"a": {"b": rows()}, "n": np.ones((2, 3), np.float16), "i": 4, "s": "text"}
    told = metadata_of(tree, tmp_path)
    leaf = told["a"]["b"]
    assert (leaf.shape, leaf.dtype) == ((8,), F32)
    assert leaf.sharding == from_jax_sharding(tree["a"]["b"].sharding)
    assert leaf.sharding.to_jax_sharding() == tree["a"]["b"].sharding
    assert leaf.storage == StorageMetadata((2,))
    assert told["n"] == array(shape=(2, 3), dtype=np.float16, storage=StorageMetadata((2, 3)))
    assert told["i"] == ScalarMetadata("", None, dtype=np.int64)
    assert told["s"] == StringMetadata("", None)
    assert leaf.name == "a.b"
    assert {one.directory for one in (leaf, told["n"], told["i"], told["s"])} == {tmp_path / "it"}


@pytest.mark.row("R091")
def test_empty_containers_behind_leaves_keep_their_places(tmp_path):
    one, two, three, four = metadata_of([np.arange(2), {}, np.arange(3), None], tmp_path)
    assert (one.shape, two, three.shape, four) == ((2,), {}, (3,), None)


@struct.dataclass
class Nothing:
    """No leaves at all."""


@pytest.mark.row("R092")
def test_empty_containers_stand_for_themselves(tmp_path):
    tree = {"d": {}, "l": [], "t": (), "n": None, "x": 1}
    told = metadata_of(tree, tmp_path)
    assert told.pop("x") == ScalarMetadata("", None, dtype=np.int64)
    assert told == {"d": {}, "l": [], "t": (), "n": None}


@jax.tree_util.register_pytree_node_class
class Bag(Mapping):
    """A mapping that Python does not have."""

    def __init__(self, **items: object) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> object:
        return self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def tree_flatten(self) -> tuple[list[object], tuple[str, ...]]:
        return list(self.items_.values()), tuple(self.items_)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: list[object]) -> "Bag":
        return cls(**dict(zip(names, values, strict=True)))


@pytest.mark.row("R285")
def test_an_empty_mapping_of_an_unknown_type_is_an_empty_dict(tmp_path):
    tree = {"bag": Bag(), "full": Bag(a=1), "o": optax.EmptyState(), "f": Nothing(), "x": 1}
    told = metadata_of(tree, tmp_path)
    assert (told["bag"], told["o"], told["f"]) == ({}, None, None)
    text = (tmp_path / "it" / "_METADATA").read_text()
    assert json.loads(text)["tree_metadata"]["('bag',)"]["value_metadata"]["value_type"] == "Dict"
    assert ocp.PyTreeCheckpointer().restore(tmp_path / "it")["bag"] == {}
    assert isinstance(pertinax.load(tmp_path / "it", tree)["bag"], Bag)


@pytest.mark.row("R285")
def test_an_empty_dataclass_of_chex_is_an_empty_dict(tmp_path):
    chex = pytest.importorskip("chex")

    @chex.dataclass
    class Hollow:
        pass

    assert metadata_of({"h": Hollow(), "x": 1}, tmp_path)["h"] == {}


@pytest.mark.interop
def test_a_layout_of_an_unknown_kind_hides_nothing_else(tmp_path):
    import orbax.checkpoint as orbax

    with orbax.PyTreeCheckpointer() as other:
        other.save(tmp_path / "theirs", {"a": rows(), "b": rows()})
    file = tmp_path / "theirs" / "_sharding"
    file.write_text(file.read_text().replace("NamedSharding", "GSPMDSharding", 1))
    told = ocp.PyTreeCheckpointHandler().metadata(epath.Path(tmp_path / "theirs"))
    assert told["a"].sharding is None
    assert told["b"].sharding == from_jax_sharding(rows().sharding)


def test_metadata_opens_the_tree_once_whatever_the_number_of_leaves(tmp_path, monkeypatch):
    from pertinax._store.local import LocalStore

    tree = {f"w{i}": rows() for i in range(20)}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        opened: list[str] = []
        really = LocalStore.open

        def counted(self: LocalStore, path: str) -> object:
            opened.append(path)
            return really(self, path)

        monkeypatch.setattr(LocalStore, "open", counted)
        assert len(checkpointer.metadata(tmp_path / "it")) == 20
    assert len(opened) <= 3, opened


@pytest.mark.row("R198", "R314")
def test_the_names_of_the_package():
    names = [
        *("StepMetadata", "CheckpointMetadataStore", "checkpoint_metadata_store"),
        *("ShardingMetadata", "NamedShardingMetadata", "SingleDeviceShardingMetadata"),
        *("GSPMDShardingMetadata", "PositionalShardingMetadata", "ArrayMetadata"),
        *("StringMetadata", "ScalarMetadata", "StorageMetadata", "Metadata", "value", "tree"),
    ]
    assert [name for name in names if not hasattr(ocp.metadata, name)] == []
    assert ocp.metadata.value.ArrayMetadata is ocp.metadata.ArrayMetadata
    assert ocp.metadata.tree.ValueMetadataEntry.__module__ == "pertinax.checkpoint.metadata.tree"
