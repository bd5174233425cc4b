# SPDX-License-Identifier: Apache-2.0
"""Anything with `get_state` and `set_state` as an item of a checkpoint, as data iterators are.

    python examples/extending/stateful_item.py [DIRECTORY]

A handler says how one kind of item is written and read; its args say what is saved, and into what
it is restored. The manager does the rest: the item becomes visible with the others, is vouched for
byte by byte, and goes when its step goes.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from pertinax import checkpoint as ocp


class StatefulHandler(ocp.CheckpointHandler):
    """Keeps what `get_state` gives, as JSON or bytes; restores into a living object."""

    def save(self, directory: Any, args: "StatefulSave") -> None:
        state = args.item.get_state()
        if isinstance(state, bytes):
            (directory / "state.bin").write_bytes(state)
        else:
            (directory / "state.json").write_text(json.dumps(state))

    def restore(self, directory: Any, args: "StatefulRestore") -> Any:
        raw = directory / "state.bin"
        state = (
            raw.read_bytes() if raw.exists() else json.loads((directory / "state.json").read_text())
        )
        args.item.set_state(state)
        return args.item


@ocp.args.register_with_handler(StatefulHandler, for_save=True)
@dataclasses.dataclass
class StatefulSave(ocp.args.CheckpointArgs):
    """`item`: the object whose state is saved, as it is at the call."""

    item: Any


@ocp.args.register_with_handler(StatefulHandler, for_restore=True)
@dataclasses.dataclass
class StatefulRestore(ocp.args.CheckpointArgs):
    """`item`: the object that gets the state; it is also what comes back."""

    item: Any


class Shuffled:
    """A stand-in for a data loader: endless, in an order that its seed decides."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.at = size, seed, 0

    def __next__(self) -> int:
        self.at += 1
        return hash((self.seed, self.at)) % self.size

    def get_state(self) -> dict[str, int]:
        return {"seed": self.seed, "at": self.at}

    def set_state(self, state: dict[str, int]) -> None:
        self.seed, self.at = state["seed"], state["at"]


def main(root: Path) -> None:
    data, weights = Shuffled(100, seed=7), {"w": jnp.zeros(4)}
    with ocp.CheckpointManager(root) as manager:
        for step in range(3):
            weights = {"w": weights["w"] + next(data)}
            args = ocp.args.Composite(
                weights=ocp.args.StandardSave(weights), data=StatefulSave(data)
            )
            manager.save(step, args=args)

    after_restart = Shuffled(100, seed=0)
    with ocp.CheckpointManager(root) as manager:
        wanted = ocp.args.Composite(
            weights=ocp.args.StandardRestore(weights), data=StatefulRestore(after_restart)
        )
        found = manager.restore(manager.latest_step(), args=wanted)
    assert (found.weights["w"] == weights["w"]).all()
    going_on = [[next(loader) for _ in range(3)] for loader in (data, after_restart)]
    print("next after the restart:", going_on[1], "- as if nothing had happened:", going_on[0])
    assert going_on[0] == going_on[1]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch) / "run")
