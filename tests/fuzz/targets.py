# SPDX-License-Identifier: Apache-2.0
"""Every parser as a function of bytes: it gives a value or a typed error, and nothing else.

Knows the parsers, which errors each may raise, and good input of each to begin from. Knows nothing
of who makes up the bytes. Where a checksum would keep bad bytes out, it is made right first: what a
checksum cannot keep out is what is looked for.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pertinax
from pertinax._device.shardings import sharding_from_text
from pertinax._formats.aggregate import Aggregate, tree_of
from pertinax._formats.crc import crc32c, file_crc
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger, vouched_files
from pertinax._formats.metadata.array_metadatas import decode_key_impls
from pertinax._formats.metadata.sharding import decode_sharding
from pertinax._formats.metadata.step_metadata import decode_step
from pertinax._formats.metadata.strings import decode_strings, encode_strings
from pertinax._formats.metadata.tree_metadata import decode_tree
from pertinax._formats.msgpack.values import decode
from pertinax._formats.ocdbt import Reference, UnsupportedDatabase, encode_database, read_database
from pertinax._formats.ocdbt.btree import Statistics
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, encode_frame
from pertinax._formats.ocdbt.manifest import Config, Version, encode_manifest
from pertinax._formats.zarr.codecs import decode_chunk, encode_chunk
from pertinax._formats.zarr.text import parse_metadata
from pertinax._steps.index import Index, Row, _encode, index_path, read_index
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.errors import CorruptCheckpoint, NotACheckpoint, PertinaxError
from pertinax.testing import read_tree

GOLDEN = Path(__file__).parents[1] / "golden"
UUID = bytes(range(16))


@dataclass(frozen=True)
class Target:
    """One parser: what it may raise, and good input."""

    parse: Callable[[bytes], Any]
    seeds: tuple[bytes, ...]
    raises: tuple[type[Exception], ...] = (CorruptCheckpoint, NotACheckpoint)

    def __call__(self, data: bytes) -> bool:
        """Whether it was understood. Any other outcome than a value or its errors comes through."""
        try:
            self.parse(data)
        except self.raises:
            return False
        return True


def _files(pattern: str) -> tuple[bytes, ...]:
    return tuple(sorted({path.read_bytes() for path in GOLDEN.glob(pattern) if path.is_file()}))


# --- ours


def _ledger(data: bytes) -> Any:
    body = data[:-21]
    sealed = body + b',"crc32c":"%08x"}' % crc32c(body)
    vouched_files(sealed)
    return decode_ledger(sealed)


def _index(data: bytes) -> Any:
    _, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    store = MemoryStore()
    for directory in ("/r", "/r/.pertinax"):
        store.make_dir(directory)
    with store.create(index_path("/r")) as writer:
        writer.write_at(
            0, [b"pertinax steps 1 %08x\n%s" % (file_crc(body.removesuffix(b"\n")), body)]
        )
    return read_index(store, "/r")


# --- OCDBT: a node or a manifest in a frame with a right checksum


class _Database:
    def __init__(self, manifest: bytes, nodes: bytes) -> None:
        self.files = {"manifest.ocdbt": manifest, "d/aa": nodes}

    def __call__(self, file: str, offset: int, length: int | None) -> bytes:
        if file not in self.files:
            raise FileNotFoundError(file)
        content = self.files[file]
        stop = len(content) if length is None else offset + length
        if stop > len(content):
            raise EOFError(file)
        return content[offset:stop]


def _node(data: bytes) -> Any:
    """The first byte says the height, the second whether the body is compressed."""
    height, compress, body = data[0] % 3 if data else 0, data[1:2] > b"\x7f", data[2:]
    frame = encode_frame(NODE, body, compress=compress)
    root = Reference("d/aa", 0, len(frame))
    version = Version(1, 1, root, height, "", Statistics(1, 1, 1))
    config = Config(UUID, 1024, 10**8, compress=False)
    manifest = encode_frame(MANIFEST, encode_manifest(config, version), compress=False)
    found = read_database(_Database(manifest, frame))
    _check_references(found.values())
    return found


def _manifest(data: bytes) -> Any:
    manifest = encode_frame(MANIFEST, data, compress=False)
    return read_database(_Database(manifest, _encoded().nodes))


def _check_references(values: Any) -> None:
    for value in values:
        if isinstance(value, Reference):
            assert not value.file.startswith("/")
            assert not {"", ".", ".."} & set(value.file.split("/"))


@functools.cache
def _encoded() -> Any:
    entries: list[tuple[bytes, Any]] = [
        (b"a/.zarray", b'{"shape":[3]}'),
        (b"a/0", Reference("d/aa", 4096, 300)),
        (b"b/0", Reference("ocdbt.process_0/d/bb", 2**40, 0)),
    ]
    return encode_database(
        entries, data_file="d/aa", offset=0, commit_time_ns=1, uuid=UUID, compress=False
    )


# --- whole items without a ledger: one file of an old Orbax checkpoint says something else


class Guarded:
    """A store in which nobody may look outside of one directory."""

    def __init__(self, inner: MemoryStore, root: str) -> None:
        self._inner = inner
        self._root = root

    def open(self, path: str) -> Any:
        assert path.startswith(self._root + "/"), path
        assert ".." not in path.split("/"), path
        return self._inner.open(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _items() -> Iterator[dict[str, bytes]]:
    for name in ("plain-directory-zarr2", "strings-ocdbt-zarr2", "subchunks-directory-zarr3"):
        place = GOLDEN / "orbax-0.8.0" / name
        if place.exists():
            yield read_tree(LocalStore(), str(place))


ITEMS = tuple(_items())


def parts_of_items() -> Iterator[tuple[int, str]]:
    """All files that could be forged: the item's number and the file's name."""
    for number, files in enumerate(ITEMS):
        for name, content in sorted(files.items()):
            if not name.endswith("/") and len(content) < 20_000:
                yield number, name


PARTS = tuple(parts_of_items())


def _item(data: bytes) -> Any:
    """The first two bytes choose a file, the rest is what it says."""
    number, forged = PARTS[int.from_bytes(data[:2], "big") % len(PARTS)]
    store = MemoryStore()
    store.make_dir("/c")
    for name, content in sorted(ITEMS[number].items()):
        if name.endswith("/"):
            store.make_dir(f"/c/{name[:-1]}")
            continue
        with store.create(f"/c/{name}") as writer:
            writer.write_at(0, [data[2:] if name == forged else content])
    guarded: Any = Guarded(store, "/c")
    pertinax.describe("/c", store=guarded)
    return pertinax.load("/c", store=guarded, arrays="numpy", mmap=False)


# --- chunks


def _chunk(data: bytes) -> Any:
    codec: Any = ("raw", "zstd", "shard", "shard+zstd")[data[0] % 4 if data else 0]
    out = bytearray(64)
    decode_chunk(codec, data[1:], out, fill=b"\1\2")
    return bytes(out)


def _msgpack(data: bytes) -> Any:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        assert offset + length <= len(data)
        return data[offset : offset + length]

    return tree_of(Aggregate("checkpoint", decode(read, len(data), "checkpoint")))


def _chunk_seeds() -> tuple[bytes, ...]:
    raw = bytes(range(64))
    codecs: tuple[Any, ...] = ("raw", "zstd", "shard", "shard+zstd")
    return tuple(bytes([i]) + bytes(encode_chunk(codec, raw)) for i, codec in enumerate(codecs))


def _old_trees() -> tuple[bytes, ...]:
    from pertinax._formats.msgpack.encode import encode

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tree: Any = {"a": array, "b": {"0": 1, "1": 2.5, "2": "text", "3": None}, "c": np.float32(3)}
    return encode(tree), encode({"big": array}, max_chunk_bytes=16)


TARGETS: Mapping[str, Target] = {
    "ledger": Target(_ledger, _files(f"pertinax-*/**/{LEDGER_FILE}")),
    "index": Target(_index, (_encode(Index({"1": Row(1, 2, {"loss": 0.5})}, 3)),), ()),
    "ocdbt-node": Target(
        _node, (b"\0\0" + _encoded().nodes[14:-4],), (CorruptCheckpoint, UnsupportedDatabase)
    ),
    "ocdbt-manifest": Target(
        _manifest,
        (_encoded().manifest[14:-4],),
        (CorruptCheckpoint, UnsupportedDatabase, NotACheckpoint),
    ),
    "zarr2": Target(lambda data: parse_metadata("zarr", data, "f"), _files("orbax-*/*/**/.zarray")),
    "zarr3": Target(
        lambda data: parse_metadata("zarr3", data, "f"), _files("orbax-*/*/**/zarr.json")
    ),
    "chunk": Target(_chunk, _chunk_seeds(), (ValueError,)),
    "msgpack": Target(_msgpack, _old_trees()),
    "_METADATA": Target(decode_tree, _files("orbax-*/*/_METADATA")),
    "_sharding": Target(decode_sharding, _files("orbax-*/*/_sharding")),
    "_strings.json": Target(
        lambda data: decode_strings(data, ["a", "b.c"]), (encode_strings({"a": "x", "b.c": "y"}),)
    ),
    "array_metadatas": Target(
        lambda data: decode_key_impls(data, "f"), _files("orbax-*/*/array_metadatas/*")
    ),
    "_CHECKPOINT_METADATA": Target(decode_step, _files("*/*/_CHECKPOINT_METADATA"), ()),
    "sharding": Target(
        lambda data: sharding_from_text(data.decode("utf-8", "replace")),
        tuple(
            text.encode()
            for data in _files("orbax-0.12.8/layouts-ocdbt-zarr2/_sharding")
            for text in decode_sharding(data).values()
        ),
        (),
    ),
    "item": Target(
        _item,
        tuple(i.to_bytes(2, "big") + ITEMS[number][name] for i, (number, name) in enumerate(PARTS)),
        (PertinaxError,),
    ),
}


@functools.cache
def words_of(name: str) -> list[bytes]:
    """Pieces of the target's good input, and numbers that break things: a dictionary to try."""
    found: set[bytes] = {b"-1", b"1e999", b"9" * 30, b"null", b"[]", b"{}", b"NaN", b'"../x"'}
    for seed in TARGETS[name].seeds:
        try:
            json.loads(seed)
        except (ValueError, RecursionError):
            continue
        found |= {b'"%s"' % word for word in seed.split(b'"')[1::2] if 0 < len(word) < 30}
    return sorted(found)
