# SPDX-License-Identifier: Apache-2.0
"""A handler without classes of args: it is called with whatever the program passes.

    python examples/extending/plain_handler.py [DIRECTORY]

That is how handlers were written before args existed, and the shortest way to one. Checkpointers
and managers put it in a wrapper; positions and keywords reach it as they are.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from pertinax import checkpoint as ocp


class BytesHandler(ocp.CheckpointHandler):
    """Keeps bytes."""

    def save(self, directory: Any, content: bytes, name: str = "content") -> None:
        (directory / name).write_bytes(content)

    def restore(self, directory: Any, name: str = "content") -> bytes:
        return (directory / name).read_bytes()


def main(directory: Path) -> None:
    with ocp.Checkpointer(BytesHandler()) as checkpointer:
        checkpointer.save(directory / "blob", b"\x00\x01", name="two")
        assert checkpointer.restore(directory / "blob", name="two") == b"\x00\x01"

    with ocp.CheckpointManager(
        directory / "run", item_handlers={"blob": BytesHandler()}
    ) as manager:
        manager.save(0, {"blob": b"first"})
        assert manager.restore(0)["blob"] == b"first"
    print("bytes come back through a handler that knows nothing of args")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
