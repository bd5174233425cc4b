# SPDX-License-Identifier: Apache-2.0
"""Our OCDBT reader sees what TensorStore sees in databases of TensorStore and of Orbax."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts

from pertinax._formats.ocdbt import Reference, UnsupportedDatabase, open_database, read_database
from tests.formats.ocdbt.databases import (
    Directory,
    open_kvstore,
    our_view,
    tensorstore_view,
)

pytestmark = pytest.mark.interop

CONFIGS: list[dict[str, Any]] = [
    {},
    {"compression": None},
    {"max_decoded_node_bytes": 1},
    {"max_decoded_node_bytes": 500, "compression": None},
    {"max_decoded_node_bytes": 5_000, "max_inline_value_bytes": 0},
    {"max_inline_value_bytes": 1 << 20, "compression": {"id": "zstd", "level": 9}},
    {"version_tree_arity_log2": 1},
    {"version_tree_arity_log2": 16, "max_decoded_node_bytes": 2_000},
]


def random_value(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 50, 99, 101, 150, 2_000]))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_many_commits_and_deletions_end_in_the_newest_version(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    rng = random.Random(7)
    store = open_kvstore(tmp_path, **config)
    expected: dict[bytes, bytes] = {}
    for _ in range(40):
        changes = {
            f"a/{rng.randrange(300)}/{'x' * rng.randrange(4)}".encode(): random_value(rng)
            for _ in range(8)
        }
        writes = [store.write(key, value) for key, value in changes.items()]
        doomed = set(rng.sample(sorted(expected), min(2, len(expected)))) - set(changes)
        writes += [store.write(key, None) for key in doomed]
        for write in writes:
            write.result()
        expected = {k: v for k, v in (expected | changes).items() if k not in doomed}
    assert our_view(tmp_path) == expected
    assert tensorstore_view(tmp_path) == expected
    assert list(read_database(Directory(tmp_path))) == sorted(expected)


def test_a_tall_tree_is_read_to_its_leaves(tmp_path: Path) -> None:
    store = open_kvstore(tmp_path, max_decoded_node_bytes=200)
    expected = {f"key/{number:05d}/{'y' * 20}".encode(): b"v%d" % number for number in range(400)}
    with ts.Transaction() as transaction:
        for key, value in expected.items():
            store.with_transaction(transaction)[key] = value
    version = open_database(Directory(tmp_path)).version
    assert version.height >= 3
    assert version.statistics.keys == 400
    assert our_view(tmp_path) == expected


@pytest.mark.parametrize("config", [{}, {"compression": None}], ids=str)
def test_a_database_emptied_again_is_empty(tmp_path: Path, config: dict[str, Any]) -> None:
    store = open_kvstore(tmp_path, **config)
    store.write("key", b"value").result()
    store.delete_range(ts.KvStore.KeyRange("", "")).result()
    database = open_database(Directory(tmp_path))
    assert database.entries == {}
    assert database.version.root is None


def test_numbered_manifests_are_left_to_tensorstore(tmp_path: Path) -> None:
    open_kvstore(tmp_path, manifest_kind="numbered").write("key", b"value").result()
    with pytest.raises(UnsupportedDatabase, match="numbered"):
        read_database(Directory(tmp_path))


@pytest.mark.parametrize("use_zarr3", [False, True])
def test_orbax_checkpoints_read_as_tensorstore_reads_them(tmp_path: Path, use_zarr3: bool) -> None:
    rng = np.random.default_rng(1)
    tree = {
        f"layer_{number}": {
            "kernel": jnp.asarray(rng.random((64, 33)), jnp.float32),
            "bias": np.arange(number + 1),
        }
        for number in range(30)
    }
    path = tmp_path / "checkpoint"
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=use_zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, tree)
    assert (path / "manifest.ocdbt").exists()
    entries = read_database(Directory(path))
    outer = [value for value in entries.values() if isinstance(value, Reference)]
    assert any(reference.file.startswith("ocdbt.process_0/d/") for reference in outer)
    assert len(entries) >= 120
    assert our_view(path) == tensorstore_view(path)
