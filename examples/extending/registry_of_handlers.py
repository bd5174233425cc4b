# SPDX-License-Identifier: Apache-2.0
"""A registry: which handler serves which item of a checkpoint.

    python examples/extending/registry_of_handlers.py [DIRECTORY]

Without a registry the class of the args decides. A registry decides for items by name, so that two
items with args of the same class may be written in different ways, and an item may be restored by
somebody who says nothing but where it is.
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from pertinax import checkpoint as ocp


class PackedJsonHandler(ocp.CheckpointHandler):
    """JSON, compressed. Takes the args that the JSON handler takes."""

    def __init__(self, level: int) -> None:
        self._inner = ocp.JsonCheckpointHandler()
        self._level = level

    def save(self, directory: Any, args: ocp.args.JsonSave) -> None:
        self._inner.save(directory, args=args)
        plain = directory / "metadata"
        (directory / "packed").write_bytes(zlib.compress(plain.read_bytes(), self._level))
        plain.unlink()

    def restore(self, directory: Any, args: ocp.args.JsonRestore) -> Any:
        return json.loads(zlib.decompress((directory / "packed").read_bytes()))

    def close(self) -> None:
        self._inner.close()


def make_registry() -> ocp.DefaultCheckpointHandlerRegistry:
    registry = ocp.DefaultCheckpointHandlerRegistry()
    packed = PackedJsonHandler(level=9)
    registry.add("log", ocp.args.JsonSave, packed)  # a pair: one entry to save ...
    registry.add("log", ocp.args.JsonRestore, packed)  # ... and one to restore
    registry.add("state", ocp.args.StandardSave)  # None: the handler of these args
    registry.add("state", ocp.args.StandardRestore)
    return registry


def main(directory: Path) -> None:
    log = [f"step {step} was a good one" for step in range(1000)]
    items = ocp.args.Composite(
        state=ocp.args.StandardSave({"w": jnp.ones(3)}),
        log=ocp.args.JsonSave(log),
        config=ocp.args.JsonSave({"layers": 2}),  # in no entry: the JSON handler as it is
    )
    writer = ocp.CompositeCheckpointHandler(handler_registry=make_registry())
    with ocp.AsyncCheckpointer(writer) as checkpointer:
        checkpointer.save(directory / "first", args=items)
    assert (directory / "first" / "log" / "packed").stat().st_size < 10_000
    assert (directory / "first" / "config" / "metadata").exists()

    # Another program: its registry knows how each item is read, so it need not say.
    registry = make_registry()
    registry.add("config", ocp.args.JsonRestore)
    reader = ocp.CompositeCheckpointHandler(handler_registry=registry)
    with ocp.Checkpointer(reader) as checkpointer:
        found = checkpointer.restore(directory / "first")
    assert (found.log, found.config) == (log, {"layers": 2})
    assert found.state["w"].tolist() == [1, 1, 1]
    print("each item came back through the handler that the registry names for it")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
