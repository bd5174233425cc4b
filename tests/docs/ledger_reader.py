# SPDX-License-Identifier: Apache-2.0
"""A reader written from `docs/formats/ledger.md` alone: the page is true as long as this works.

Knows what the page says, numpy, JSON and CRC-32C. Knows nothing of pertinax.
"""

import base64
import collections
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zstandard
from crc32c import crc32c

TYPES = {one.__name__: one for one in (list, tuple, bool, int, float, complex)}


def check(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def read(*directories: Path) -> Any:
    """A tree, or those of a step; of an array that is not whole the boxes, by where they start."""
    ledgers = [read_ledger(directory / "pertinax.json") for directory in directories]
    for directory, ledger in zip(directories, ledgers, strict=True):
        for name, length, crc in ledger["files"]:
            content = (directory / name).read_bytes()
            whole = len(content) == length and zlib.crc32(content) == int(crc, 16)
            check(whole, f"{name} is damaged")
    if "items" in ledgers[0]:
        names = [n for n in ledgers[0]["items"] if (directories[0] / n / "pertinax.json").exists()]
        return {name: read(*(directory / name for directory in directories)) for name in names}
    return build(ledgers[0]["tree"], iter(read_leaves(directories, ledgers)))


def read_ledger(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    body, tail = data[:-21], data[-21:]
    check(tail == b',"crc32c":"%08x"}' % crc32c(body), "the ledger is damaged")
    ledger = json.loads(data)
    check(ledger["pertinax"] == (2 if ledger.get("partial") else 1), "another version")
    return ledger


def column(text: str, dtype: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()


def read_leaves(directories: Any, ledgers: list[dict[str, Any]]) -> list[Any]:
    first = ledgers[0]
    pieces: dict[int, dict[int, bytes]] = collections.defaultdict(dict)
    for directory, ledger in zip(directories, ledgers, strict=True):
        same = all(ledger[name] == first[name] for name in ("tree", "specs", "leaves", "values"))
        check(same, "parts of different saves")
        for leaf, ordinal, data in read_chunks(directory, ledger):
            same = leaf < 0 or pieces[leaf].setdefault(ordinal, data) == data
            check(same, "parts that contradict each other")
    values, found = dict(first["values"]), []
    for i, row in enumerate(column(first["leaves"]["spec"], "<i4")):
        spec = first["specs"][row]
        if i in values or spec["kind"] == "foreign":
            found.append(plain(values.get(i, spec.get("typestr"))))
        else:
            found.append(value_of(spec, pieces[i], partial=first["pertinax"] == 2))
    return found


def read_chunks(directory: Path, ledger: dict[str, Any]) -> Iterator[tuple[int, int, bytes]]:
    chunks = ledger["chunks"]
    widths = {"leaf": "<i4", "ordinal": "<i8", "file": "<i4", "offset": "<i8", "length": "<i8"}
    rows = zip(*(column(chunks[name], width) for name, width in widths.items()), strict=True)
    crcs = iter(column(chunks["crc32c"], "<u4"))
    for leaf, ordinal, file, offset, length in rows:
        with (directory / chunks["files"][file]).open("rb") as data_file:
            data_file.seek(offset)
            data = data_file.read(length)
        check(len(data) == length, "a data file is too short")
        for start in range(0, length, ledger["block_bytes"]):
            block = data[start : start + ledger["block_bytes"]]
            check(crc32c(block) == next(crcs), f"block at {offset + start} is damaged")
        yield leaf, ordinal, data  # leaf -1: the container's own bytes, which we do not need


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def array_of(spec: dict[str, Any], stored: np.ndarray) -> np.ndarray:
    dtype = dtype_of(spec["dtype"])
    stored = np.ascontiguousarray(stored).reshape(stored.shape)
    return stored.astype(dtype) if dtype.str[0] == ">" else stored.view(dtype)


def value_of(spec: dict[str, Any], pieces: dict[int, bytes], *, partial: bool) -> Any:
    shape, chunk_shape, kind = spec["shape"], spec["chunk_shape"], spec["kind"]
    grid = [-(-n // c) for n, c in zip(shape, chunk_shape, strict=True)]
    out = np.zeros(shape, dtype_of(spec["storage_dtype"]))
    boxes: dict[tuple[int, ...], np.ndarray] = {}
    for ordinal, data in pieces.items():
        zipped = spec["codec"] == "zstd"
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(data) if zipped else data
        chunk = np.frombuffer(raw, out.dtype.newbyteorder("<")).reshape(chunk_shape)
        start = np.array(np.unravel_index(ordinal, grid) if grid else (), int) * chunk_shape
        inside = chunk[tuple(map(slice, np.subtract(shape, start).astype(int)))]
        out[tuple(map(slice, start.astype(int), np.add(start, inside.shape).astype(int)))] = inside
        boxes[tuple(map(int, start))] = array_of(spec, inside.astype(out.dtype))
    if sorted(pieces) != list(range(math.prod(grid))):
        check(partial, "chunks are missing")
        return boxes
    array = array_of(spec, out)
    if kind in TYPES:
        return TYPES[kind](array[()])
    if kind == "bytes":
        return array.tobytes()
    return array[()] if kind == "generic" else (spec["impl"], array) if kind == "key" else array


def plain(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    ((kind, inner),) = data.items()
    makers = {
        "int": int,
        "float": float.fromhex,
        "complex": lambda parts: complex(*map(float.fromhex, parts)),
        "bytes": bytes.fromhex,
        "tuple": lambda parts: tuple(map(plain, parts)),
    }
    return makers[kind](inner)


def build(node: Any, leaves: Any) -> Any:
    """Containers with keys come back as dicts: whoever knows their types can do better."""
    if node is None:
        return None
    if node == 0:
        return next(leaves)
    children = [build(child, leaves) for child in node["c"]]
    if node["t"] in TYPES:
        return TYPES[node["t"]](children)
    keys = [plain(key[1] if isinstance(key, list) else key) for key in node["k"]]
    return dict(zip(keys, children, strict=True))
