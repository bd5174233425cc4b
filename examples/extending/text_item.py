# SPDX-License-Identifier: Apache-2.0
"""A new kind of item: a handler, and two classes of args that say what it is asked.

    python examples/extending/text_item.py [DIRECTORY]

The handler writes whatever files it likes into the directory that it is given. It need not care for
crashes: the directory is synced, vouched for byte by byte, and becomes visible as a whole.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from pertinax import checkpoint as ocp


class LinesHandler(ocp.CheckpointHandler):
    """Keeps lines of text."""

    def save(self, directory: Any, args: "LinesSave") -> None:
        (directory / "lines.txt").write_text("\n".join(args.lines))

    def restore(self, directory: Any, args: "LinesRestore") -> list[str]:
        return (directory / "lines.txt").read_text().split("\n")[: args.limit]

    def metadata(self, directory: Any) -> dict[str, int]:
        return {"lines": (directory / "lines.txt").read_text().count("\n") + 1}


@ocp.args.register_with_handler(LinesHandler, for_save=True)
@dataclasses.dataclass
class LinesSave(ocp.args.CheckpointArgs):
    """What to save."""

    lines: list[str]


@ocp.args.register_with_handler(LinesHandler, for_restore=True)
@dataclasses.dataclass
class LinesRestore(ocp.args.CheckpointArgs):
    """How much to restore; with defaults for all fields, nothing need be said."""

    limit: int | None = None


def main(directory: Path) -> None:
    with ocp.Checkpointer(LinesHandler()) as checkpointer:
        checkpointer.save(directory / "poem", args=LinesSave(["first", "second", "third"]))
        assert checkpointer.restore(directory / "poem") == ["first", "second", "third"]
        assert checkpointer.restore(directory / "poem", args=LinesRestore(limit=1)) == ["first"]
        assert checkpointer.metadata(directory / "poem") == {"lines": 3}

    # Beside other items: the class of the args tells which handler is meant.
    with ocp.CheckpointManager(directory / "run") as manager:
        manager.save(
            0,
            args=ocp.args.Composite(
                notes=LinesSave(["begun"]), config=ocp.args.JsonSave({"layers": 2})
            ),
        )
        found = manager.restore(0)
        assert (found.notes, found.config) == (["begun"], {"layers": 2})
    print("lines of text come back, alone and as an item of a step")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
