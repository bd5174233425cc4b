# SPDX-License-Identifier: Apache-2.0
"""TensorStore reads what our OCDBT writer writes, whatever the shape of the tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorstore as ts

from pertinax._formats.ocdbt import Reference, Value, encode_database, open_database
from tests.formats.ocdbt.databases import (
    COMMIT_TIME_NS,
    DATA_FILE,
    UUID,
    Directory,
    Memory,
    encode,
    open_kvstore,
    our_view,
    tensorstore_view,
    write_database,
)

pytestmark = pytest.mark.interop


def arrays(count: int) -> dict[bytes, bytes]:
    """What a checkpoint of `count` leaves stores: metadata inline, one chunk each out of line."""
    values: dict[bytes, bytes] = {}
    for number in range(count):
        name = f"params/layer_{number // 7}/kernel_{number}"
        values[f"{name}/.zarray".encode()] = b'{"shape":[%d]}' % number
        values[f"{name}/0".encode()] = b"%08d" % number * 16
    return values


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("max_node_bytes", [0, 300, 2_000, 100_000_000])
def test_tensorstore_reads_every_value(tmp_path: Path, max_node_bytes: int, compress: bool) -> None:
    values = arrays(200)
    write_database(tmp_path, values, max_node_bytes=max_node_bytes, compress=compress)
    assert tensorstore_view(tmp_path) == values
    assert our_view(tmp_path) == values


@pytest.mark.parametrize("max_node_bytes", [20_000, 100_000_000])
def test_tensorstore_reads_twenty_thousand_entries(tmp_path: Path, max_node_bytes: int) -> None:
    values = arrays(10_000)
    entries = write_database(tmp_path, values, align=8, max_node_bytes=max_node_bytes)
    assert tensorstore_view(tmp_path) == values
    assert open_database(Directory(tmp_path)).entries == entries


def test_small_nodes_make_a_tall_tree_with_right_statistics() -> None:
    values = arrays(50)
    entries: dict[bytes, Value] = {
        key: value if len(value) < 100 else Reference(DATA_FILE, 0, len(value))
        for key, value in values.items()
    }
    database = encode(entries, max_node_bytes=300)
    version = open_database(Memory(database)).version
    assert version.height >= 3
    assert version.statistics.keys == 100
    assert version.statistics.tree_bytes == len(database.nodes)
    assert version.statistics.indirect_bytes == 50 * 128


@pytest.mark.parametrize("compress", [False, True])
def test_an_empty_database_lists_nothing_and_takes_writes(tmp_path: Path, compress: bool) -> None:
    write_database(tmp_path, {}, compress=compress)
    assert tensorstore_view(tmp_path) == {}
    assert our_view(tmp_path) == {}
    open_kvstore(tmp_path).write("key", b"value").result()
    assert our_view(tmp_path) == tensorstore_view(tmp_path) == {b"key": b"value"}


@pytest.mark.parametrize("max_node_bytes", [300, 100_000_000])
def test_tensorstore_goes_on_writing_to_our_database(tmp_path: Path, max_node_bytes: int) -> None:
    values = arrays(60)
    write_database(tmp_path, values, max_node_bytes=max_node_bytes)
    store = open_kvstore(tmp_path)
    removed = sorted(values)[10:40]
    store.delete_range(ts.KvStore.KeyRange(removed[0], removed[-1] + b"\0")).result()
    store.write("zebra", b"z" * 5_000).result()
    expected = {key: value for key, value in values.items() if key not in removed}
    expected[b"zebra"] = b"z" * 5_000
    assert tensorstore_view(tmp_path) == expected
    assert our_view(tmp_path) == expected


def test_tensorstore_finds_single_keys_in_a_tall_tree(tmp_path: Path) -> None:
    values = arrays(100)
    write_database(tmp_path, values, max_node_bytes=300)
    store = open_kvstore(tmp_path)
    assert store.read("params/layer_0/kernel_3/0").result().value == b"%08d" % 3 * 16
    assert store.read("params/layer_0/kernel_3/1").result().state == "missing"
    assert store.read("zzz").result().state == "missing"


def test_odd_keys_and_values_survive(tmp_path: Path) -> None:
    values = {
        b"": b"",
        b"\0": b"\0" * 200,
        b"\0\0": b"x",
        b"a" * 65_535: b"long",
        b"b" * 300 + b"1": b"shared",
        b"b" * 300 + b"2": b"prefix",
        b"\xff": b"\xff" * 100,
    }
    write_database(tmp_path, values)
    assert tensorstore_view(tmp_path) == values
    assert our_view(tmp_path) == values


def test_references_may_point_into_any_file_and_be_empty(tmp_path: Path) -> None:
    entries: dict[bytes, Value] = {
        b"a": Reference("ocdbt.process_1/d/aa", 3, 4),
        b"b": Reference("d/bb", 0, 0),
        b"c": Reference("ocdbt.process_0/d/aa", 1, 2),
    }
    database = encode(entries)
    for file in ("ocdbt.process_0/d/aa", "ocdbt.process_1/d/aa", "d/bb"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"0123456789")
    (tmp_path / DATA_FILE).write_bytes(database.nodes)
    (tmp_path / "manifest.ocdbt").write_bytes(database.manifest)
    assert tensorstore_view(tmp_path) == {b"a": b"3456", b"b": b"", b"c": b"12"}
    assert our_view(tmp_path) == tensorstore_view(tmp_path)


@pytest.mark.parametrize(
    ("entries", "options", "why"),
    [
        ([(b"b", b""), (b"a", b"")], {}, "rise strictly"),
        ([(b"a", b""), (b"a", b"")], {}, "rise strictly"),
        ([(b"a" * 65_536, b"")], {}, "a key has 65536 bytes"),
        ([(b"a", b"x" * 1_025)], {}, "1025 bytes; write it out of line"),
        ([(b"a", Reference("../d/x", 0, 1))], {}, "'../d/x' is not a plain"),
        ([(b"a", Reference("/d/x", 0, 1))], {}, "'/d/x' is not a plain"),
        ([(b"a", Reference("d/x", -1, 1))], {}, "no place in a file"),
        ([(b"a", Reference("d/x", 2**63 - 1, 1))], {}, "no place in a file"),
        ([], {"data_file": "d/../x"}, "'d/../x' is not a plain"),
        ([], {"offset": -1}, "no place in a file"),
        ([], {"uuid": b"short"}, "uuid has 5 bytes"),
        ([], {"max_inline_bytes": 2**20 + 1}, "max_inline_bytes is 1048577"),
        ([], {"max_node_bytes": 2**32}, "max_node_bytes is 4294967296"),
    ],
)
def test_what_ocdbt_cannot_hold_is_refused(
    entries: list[tuple[bytes, Value]], options: dict[str, Any], why: str
) -> None:
    defaults = {
        "data_file": DATA_FILE,
        "offset": 0,
        "commit_time_ns": COMMIT_TIME_NS,
        "uuid": UUID,
    }
    with pytest.raises(ValueError, match=re.escape(why)):
        encode_database(entries, **(defaults | options))
