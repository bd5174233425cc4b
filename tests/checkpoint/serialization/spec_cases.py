# SPDX-License-Identifier: Apache-2.0
"""Calls that build specs, and what the real Orbax 0.8.0 answered to them.

Knows the calls as data. Run by a Python with Orbax 0.8.0 in it, writes its answers down:

    .venv-orbax-0.8/bin/python tests/checkpoint/serialization/spec_cases.py

Must not import anything that old environment does not have.
"""

import json
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("orbax-0.8.0-specs.json")

WRITE: dict[str, Any] = {
    "global_shape": (8, 16),
    "write_shape": (8, 4),
    "dtype": "float32",
    "use_ocdbt": True,
}

KVSTORES = [
    ("build_kvstore_tspec", [directory, name], {"use_ocdbt": ocdbt, "process_id": process})
    for directory in ("/tmp/x", "/tmp//x/../y/", "gs://b/c", "gs:/b/c/", "gs://b", "rel/x")
    for name in ("a.b", None, "")
    for ocdbt, process in ((True, None), (True, 3), (True, "ab1"), (True, "a/b"), (False, None))
]
ZARR = [
    (
        "build_zarr_shard_and_chunk_metadata",
        [],
        {"global_shape": shape, "shard_shape": shard, "chunk_shape": chunk, "use_zarr3": zarr3},
    )
    for shape, shard, chunk in (((8, 4), (4, 4), (2, 2)), ((), (), ()), ((0,), (0,), (1,)))
    for zarr3 in (False, True)
]
CHUNK_SIZES = [
    (
        "calculate_chunk_byte_size",
        [shape, "float32"],
        {"chunk_byte_size": chunk, "ocdbt_target_data_file_size": file},
    )
    for shape in ((1024, 1024), (1 << 30,))
    for chunk in (None, 10, 1 << 40)
    for file in (None, 0, 5, 1 << 31)
]
OPTIONS = [
    ("add_ocdbt_write_options", [{"driver": "ocdbt"}, size], {}) for size in (None, 0, 5, -1)
]
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"use_ocdbt": False},
    {"use_zarr3": True},
    {"use_zarr3": True, "use_ocdbt": False, "chunk_byte_size": 64},
    {"target_dtype": "bfloat16"},
    {"target_dtype": "float32"},
    {"dtype": "int4"},
    {"dtype": "bool"},
    {"process_id": 2, "metadata_key": "k", "ocdbt_target_data_file_size": 64},
    {"use_ocdbt": False, "ocdbt_target_data_file_size": 64},
    {"chunk_byte_size": 64, "shard_axes": (1,), "use_zarr3": True, "target_dtype": "float64"},
    {"chunk_byte_size": 1 << 21, "ocdbt_target_data_file_size": 0},
    {"chunk_byte_size": 2},
    {"ocdbt_target_data_file_size": -3},
    {"process_id": "a-b"},
    {"write_shape": (8,), "chunk_byte_size": 64},
    {"global_shape": (), "write_shape": ()},
    {"global_shape": (0, 3), "write_shape": (0, 3)},
)
WRITES = [("ArrayWriteSpec", ["/tmp/x", "a.b"], {**WRITE, **change}) for change in CHANGES]
PATHS = ("/tmp/a/b", "gs://b/c/d", "rel/a", "/tmp/a//b/", "gs://b", "/a", "gs:/b/c")
LOCATIONS = [
    ("get_tensorstore_spec", [path, ocdbt], {}) for path in PATHS for ocdbt in (False, True)
]
REMOTE = [
    ("is_remote_storage", [spec], {})
    for spec in (
        *("gs://a", "s3://a/b", "/tmp", "file:///a", "http://x", {}),
        {"driver": "zarr", "kvstore": {"driver": "gcs"}},
        {"driver": "zarr", "kvstore": {"driver": "file", "path": "/gs://"}},
        {"driver": "ocdbt", "base": "gs://x"},
        {"driver": "cast", "base": {"kvstore": {"driver": "ocdbt", "base": "s3://x"}}},
    )
]
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *(KVSTORES + ZARR + CHUNK_SIZES + OPTIONS + WRITES + LOCATIONS + REMOTE)
]


def answer(serialization: Any, utils: Any, case: tuple[str, list[Any], dict[str, Any]]) -> Any:
    """What an implementation says to one call, as JSON has it; of an error, its type."""
    import jax.numpy as jnp  # for the dtypes that NumPy alone does not know
    import numpy as np

    name, arguments, options = case
    arguments = json.loads(json.dumps(arguments))
    options = {
        key: np.dtype(getattr(jnp, value, value)) if "dtype" in key and value else value
        for key, value in options.items()
    }
    if name == "calculate_chunk_byte_size":
        arguments[1] = np.dtype(arguments[1])
    function = getattr(serialization if case in LOCATIONS + REMOTE else utils, name)
    try:
        found = function(*arguments, **options)
    except Exception as error:
        return {"error": type(error).__name__}
    if name == "add_ocdbt_write_options":
        found = arguments[0]
    if name == "ArrayWriteSpec":
        metadata = {**vars(found.metadata), "dtype": found.metadata.dtype.name}
        found = {"json": found.json, "metadata": metadata}
    return json.loads(json.dumps(found))


def main() -> int:
    import orbax.checkpoint as ocp
    from orbax.checkpoint._src.serialization import tensorstore_utils

    if ocp.__version__ != "0.8.0":
        print(f"this Python has Orbax {ocp.__version__}, not 0.8.0", file=sys.stderr)
        return 1
    answers = [answer(ocp.serialization, tensorstore_utils, case) for case in CASES]
    lines = ",\n".join(json.dumps(one, sort_keys=True) for one in answers)
    RECORD.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
