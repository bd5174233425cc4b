# SPDX-License-Identifier: Apache-2.0
"""An item that is saved in the background, while the program goes on.

    python examples/extending/background_item.py [DIRECTORY]

`async_save` takes hold of the value and returns futures of what is still to be written: the program
may change the value as soon as it has returned. Once all futures are done, `finalize` is called on
one process, and the checkpoint appears.
"""

import concurrent.futures
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pertinax import checkpoint as ocp


class TableHandler(ocp.AsyncCheckpointHandler):
    """Keeps columns of numbers in one file of NumPy's."""

    def __init__(self) -> None:
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    async def async_save(
        self, directory: Any, args: "TableSave"
    ) -> list[concurrent.futures.Future[None]]:
        columns = {name: np.array(column) for name, column in args.columns.items()}  # copies
        return [self._writer.submit(self._write, Path(directory), columns)]

    def _write(self, directory: Path, columns: dict[str, Any]) -> None:
        np.savez(directory / "table.npz", **columns)

    def save(self, directory: Any, args: "TableSave") -> None:
        for future in ocp.asyncio_utils.run_sync(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: Any, args: "TableRestore") -> dict[str, Any]:
        with np.load(Path(directory) / "table.npz") as table:
            return {name: table[name] for name in args.names or table.files}

    def finalize(self, directory: Any) -> None:
        """Everything is written, and nobody sees it yet."""
        assert (directory / "table.npz").exists()

    def close(self) -> None:
        self._writer.shutdown()


@ocp.args.register_with_handler(TableHandler, for_save=True)
@dataclasses.dataclass
class TableSave(ocp.args.CheckpointArgs):
    """The columns to save."""

    columns: dict[str, Any]


@ocp.args.register_with_handler(TableHandler, for_restore=True)
@dataclasses.dataclass
class TableRestore(ocp.args.CheckpointArgs):
    """The columns to restore, all of them if none is named."""

    names: list[str] | None = None


def main(directory: Path) -> None:
    columns = {"loss": np.linspace(2, 1, 1000), "step": np.arange(1000)}
    with ocp.AsyncCheckpointer(TableHandler()) as checkpointer:
        checkpointer.save(directory / "curve", args=TableSave(columns))
        columns["loss"][:] = 0  # too late to matter
        checkpointer.wait_until_finished()
        found = checkpointer.restore(directory / "curve", args=TableRestore(["loss"]))
    assert found.keys() == {"loss"}
    assert found["loss"][0] == 2
    print("the table is as it was when `save` returned")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
