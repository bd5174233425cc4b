# SPDX-License-Identifier: Apache-2.0
"""A type of leaf that is kept as arrays in the checkpoint's own database.

    python examples/extending/leaf_in_the_database.py [DIRECTORY]

A sparse matrix is two arrays. The handler writes them through TensorStore into the database of its
process, with the specs that each `ParamInfo` leads to; when all is written, the databases become
one, and no byte is copied. Settings such as the layout come with the infos, so one handler serves
every layout.
"""

import asyncio
import concurrent.futures
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint.type_handlers import (
    ParamInfo,
    TypeHandler,
    get_json_tspec_read,
    get_json_tspec_write,
    get_process_index_for_subdir,
)


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A matrix of mostly zeros: `values[i]` stands at `places[i]`, row and column."""

    shape: tuple[int, int]
    places: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]

    def dense(self) -> np.ndarray[Any, Any]:
        out = np.zeros(self.shape, self.values.dtype)
        out[tuple(self.places.T)] = self.values
        return out


class SparseHandler(TypeHandler):
    """Keeps shape and places in one array, and values in another."""

    def __init__(self) -> None:
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def typestr(self) -> str:
        return "my_project.Sparse"

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[ParamInfo], args: Any = None
    ) -> list[concurrent.futures.Future[None]]:
        """Copy first: the program may go on as soon as this returns."""
        parts = [
            (part(info, name), array)
            for value, info in zip(values, infos, strict=True)
            for name, array in (
                ("places", np.vstack([value.shape, value.places])),
                ("values", value.values.copy()),
            )
        ]
        return [self._writer.submit(lambda: asyncio.run(_write_all(parts)))]

    async def deserialize(self, infos: Sequence[ParamInfo], args: Any = None) -> list[Sparse]:
        return list(await asyncio.gather(*map(_read, infos)))

    async def metadata(self, infos: Sequence[ParamInfo]) -> list[ocp.metadata.Metadata]:
        return [ocp.metadata.Metadata(info.name, info.parent_dir) for info in infos]


def part(info: ParamInfo, name: str) -> ParamInfo:
    """One of the arrays of a leaf, as if it were a leaf itself."""
    assert info.name is not None
    assert info.parent_dir is not None
    full = f"{info.name}.{name}"
    return dataclasses.replace(info, name=full, path=info.parent_dir / full)


async def _write_all(parts: Sequence[tuple[ParamInfo, Any]]) -> None:
    await asyncio.gather(*(_write(info, array) for info, array in parts))


async def _write(info: ParamInfo, array: Any) -> None:
    use_ocdbt = bool(info.is_ocdbt_checkpoint)
    spec = get_json_tspec_write(
        info,
        use_ocdbt,
        global_shape=array.shape,
        local_shape=array.shape,
        dtype=array.dtype,
        process_index=get_process_index_for_subdir(use_ocdbt),
    )
    opened = await ts.open(
        {**spec, "dtype": array.dtype.name}, create=True, open=True, context=info.ts_context
    )
    await opened.write(array)


async def _read(info: ParamInfo) -> Sparse:
    places, values = [
        await (
            await ts.open(
                get_json_tspec_read(part(info, name), bool(info.is_ocdbt_checkpoint)),
                open=True,
                context=info.ts_context,
            )
        ).read()
        for name in ("places", "values")
    ]
    return Sparse((int(places[0, 0]), int(places[0, 1])), places[1:], values)


def main(directory: Path) -> None:
    ocp.type_handlers.register_type_handler(Sparse, SparseHandler(), override=True)
    places = np.array([[0, 1], [2, 0]])
    matrix = Sparse((3, 2), places, np.array([0.5, 2.0], np.float32))
    state = {"graph": matrix, "weights": np.ones(4)}
    for name, use_ocdbt in (("one database", True), ("one file for each chunk", False)):
        path = directory / name
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)) as checkpointer:
            checkpointer.save(path, state)
            found = checkpointer.restore(path)
        assert np.array_equal(found["graph"].dense(), matrix.dense())
        assert pertinax.verify(path).ok
        print(f"{name}: {pertinax.describe(path).leaves[0].text}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
