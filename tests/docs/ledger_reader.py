# SPDX-License-Identifier: Apache-2.0
"""A reader written from `docs/formats/ledger.md` alone: the page is true as long as this works.

Knows what the page says, numpy, JSON and CRC-32C. Knows nothing of pertinax.
"""

import base64
import collections
import json
import math
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zstandard
from crc32c import crc32c

CONTAINERS = {"list": list, "tuple": tuple}
SCALARS = {"bool": bool, "int": int, "float": float, "complex": complex}


def check(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def read(directory: Path) -> Any:
    """The tree in an item directory, or a dict of the trees in a step directory."""
    ledger = read_ledger(directory / "pertinax.json")
    for name, length, crc in ledger["files"]:
        content = (directory / name).read_bytes()
        check(len(content) == length and zlib.crc32(content) == int(crc, 16), f"{name} is damaged")
    if "items" in ledger:
        items = [name for name in ledger["items"] if (directory / name / "pertinax.json").exists()]
        return {name: read(directory / name) for name in items}
    leaves = iter(read_leaves(directory, ledger))
    return build(ledger["tree"], leaves)


def read_ledger(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    body, tail = data[:-21], data[-21:]
    check(tail == b',"crc32c":"%08x"}' % crc32c(body), "the ledger is damaged")
    ledger = json.loads(data)
    check(ledger["pertinax"] == 1, "another version")
    return ledger


def column(text: str, dtype: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()


def read_leaves(directory: Path, ledger: dict[str, Any]) -> list[Any]:
    chunks = ledger["chunks"]
    widths = {"leaf": "<i4", "ordinal": "<i8", "file": "<i4", "offset": "<i8", "length": "<i8"}
    rows = zip(*(column(chunks[name], width) for name, width in widths.items()), strict=True)
    crcs = iter(column(chunks["crc32c"], "<u4"))
    pieces: dict[int, dict[int, bytes]] = collections.defaultdict(dict)
    for leaf, ordinal, file, offset, length in rows:
        with (directory / chunks["files"][file]).open("rb") as data_file:
            data_file.seek(offset)
            data = data_file.read(length)
        check(len(data) == length, "a data file is too short")
        for start in range(0, length, ledger["block_bytes"]):
            block = data[start : start + ledger["block_bytes"]]
            check(crc32c(block) == next(crcs), f"block at {offset + start} is damaged")
        pieces[leaf][ordinal] = data  # leaf -1: the container's own bytes, which we do not need
    specs = [ledger["specs"][row] for row in column(ledger["leaves"]["spec"], "<i4")]
    values = dict(ledger["values"])
    return [
        plain(values[i])
        if i in values
        else spec["typestr"]
        if spec["kind"] == "foreign"
        else value_of(spec, array_of(spec, pieces[i]))
        for i, spec in enumerate(specs)
    ]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def array_of(spec: dict[str, Any], pieces: dict[int, bytes]) -> np.ndarray:
    shape, chunk_shape = spec["shape"], spec["chunk_shape"]
    grid = [-(-n // c) for n, c in zip(shape, chunk_shape, strict=True)]
    check(sorted(pieces) == list(range(math.prod(grid))), "chunks are missing")
    out = np.zeros(
        [n * c for n, c in zip(grid, chunk_shape, strict=True)], dtype_of(spec["storage_dtype"])
    )
    for ordinal, data in pieces.items():
        zipped = spec["codec"] == "zstd"
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(data) if zipped else data
        index = np.unravel_index(ordinal, grid) if grid else ()
        where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk_shape, strict=True))
        out[where] = np.frombuffer(raw, out.dtype.newbyteorder("<")).reshape(chunk_shape)
    out = np.ascontiguousarray(out[tuple(slice(n) for n in shape)]).reshape(shape)
    dtype = dtype_of(spec["dtype"])
    return out.astype(dtype) if dtype.str[0] == ">" else out.view(dtype)


def value_of(spec: dict[str, Any], array: np.ndarray) -> Any:
    kind = spec["kind"]
    if kind in SCALARS:
        return SCALARS[kind](array[()])
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
    if node["t"] in CONTAINERS:
        return CONTAINERS[node["t"]](children)
    keys = [plain(key[1] if isinstance(key, list) else key) for key in node["k"]]
    return dict(zip(keys, children, strict=True))
