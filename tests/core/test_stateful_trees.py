# SPDX-License-Identifier: Apache-2.0
"""Any trees, dtypes and shardings, saved, replaced, loaded in part and on other devices, with
deaths of the program and of the machine in between: the checkpoints are those of a dictionary.
"""

import contextlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import pertinax
from pertinax._store import leftovers
from pertinax.errors import CheckpointExists, CheckpointNotFound, CorruptCheckpoint
from pertinax.testing import CrashingStore, SimulatedDeath
from pertinax.testing.trees import (
    JAX_DTYPES,
    differences,
    filled,
    shapes,
    shardings,
    trees,
)

pytestmark = [pytest.mark.crash, pytest.mark.slow]

NAMES = st.sampled_from(["a", "b"])
CUTS = st.integers(0, 50) | st.integers(20, 30)  # a save has 25 to 45 operations
WAYS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(["none", "zstd"]),
        "layout": st.sampled_from(["ocdbt+zarr2", "ocdbt+zarr3"]),  # which take every name
        "chunk_bytes": st.sampled_from([None, 64, 4096]),
    }
)


@st.composite
def spread_arrays(draw: st.DrawFn) -> jax.Array:
    """Arrays over any of the eight devices."""
    shape = draw(shapes())
    value = filled(shape, draw(st.sampled_from(JAX_DTYPES)), draw(st.integers(0, 1 << 32)))
    return jax.device_put(jnp.asarray(value), draw(shardings(shape)))


STATES = trees(max_leaves=6) | st.dictionaries(
    st.sampled_from(["w", "b", "opt"]), spread_arrays(), min_size=1, max_size=3
)


def spread(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and bool(tree)
        and all(
            isinstance(one, jax.Array) and not jnp.issubdtype(one.dtype, jax.dtypes.prng_key)
            for one in tree.values()
        )
    )


class Trees(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, Any] = {}
        self.damaged: set[str] = set()
        self.disk = CrashingStore()
        self.disk.make_dir("/r")
        self.disk.sync_dir("/")
        self.alive, leftovers.owner_alive = leftovers.owner_alive, lambda token: False

    def teardown(self) -> None:
        leftovers.owner_alive = self.alive

    def write(self, store: Any, name: str, tree: Any, how: dict[str, Any], behind: bool) -> None:
        if behind:
            pertinax.save_async(f"/r/{name}", tree, store=store, **how).result()
        else:
            pertinax.save(f"/r/{name}", tree, store=store, **how)

    @rule(name=NAMES, tree=STATES, how=WAYS, behind=st.booleans())
    def save(self, name: str, tree: Any, how: dict[str, Any], behind: bool) -> None:
        if name in self.there:
            with pytest.raises(CheckpointExists):
                self.write(self.disk, name, tree, how, behind)
            self.write(self.disk, name, tree, {**how, "exists": "skip"}, behind)
            return
        self.write(self.disk, name, tree, how, behind)
        self.there[name] = tree

    @rule(name=NAMES, tree=STATES, how=WAYS, behind=st.booleans())
    def replace(self, name: str, tree: Any, how: dict[str, Any], behind: bool) -> None:
        self.write(self.disk, name, tree, {**how, "exists": "replace"}, behind)
        self.there[name] = tree
        self.damaged.discard(name)

    @rule(name=NAMES, tree=STATES, how=WAYS, behind=st.booleans(), cut=CUTS)
    def die(self, name: str, tree: Any, how: dict[str, Any], behind: bool, cut: int) -> None:
        """In the middle of a save, or a while after it; then perhaps the machine, too."""
        before = self.there.get(name)
        dying, done = self.disk.after_kill(die_at=cut), False
        with contextlib.suppress(SimulatedDeath):
            self.write(dying, name, tree, {**how, "exists": "replace"}, behind)
            done = True
        self.disk = dying.after_kill()
        if cut % 3:
            states = list(dying.crash_states(12, seed=cut))
            self.disk = CrashingStore(states[cut % len(states)])
        self.settle(name, before, tree, done)

    def settle(self, name: str, before: Any, tree: Any, done: bool) -> None:
        try:
            found = pertinax.load(f"/r/{name}", store=self.disk)
        except CheckpointNotFound:
            assert not done
            assert name not in self.there
            return
        except CorruptCheckpoint:
            assert name in self.damaged
            assert not done
            return
        new = not differences(tree, found)
        assert new or not done
        assert new or (name in self.there and not differences(before, found))
        self.there[name] = tree if new else before
        if new:
            self.damaged.discard(name)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        leftovers.discard(self.disk, f"/r/{name}")
        del self.there[name]
        self.damaged.discard(name)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        node: Any = self.disk._live.find(f"/r/{name}/pertinax.json")
        node.content[data.draw(st.integers(0, len(node.content) - 1))] ^= 1
        if name in self.damaged:  # perhaps back to what it was: then all the better
            node.content[0] = 0
        self.disk._journal.write(node, 0, bytes(node.content))
        self.disk._journal.sync(node)
        self.damaged.add(name)

    @precondition(lambda self: any(spread(tree) for tree in self.there.values()))
    @rule(data=st.data())
    def load_elsewhere(self, data: st.DataObject) -> None:
        """Into any sharding, whatever it was saved from."""
        whole = [name for name, tree in self.there.items() if spread(tree)]
        name = data.draw(st.sampled_from(sorted(whole)))
        target = {
            key: jax.ShapeDtypeStruct(
                one.shape, one.dtype, sharding=data.draw(shardings(one.shape))
            )
            for key, one in self.there[name].items()
        }
        if name in self.damaged:
            with pytest.raises(CorruptCheckpoint):
                pertinax.load(f"/r/{name}", target, store=self.disk)
            return
        found = pertinax.load(f"/r/{name}", target, store=self.disk)
        assert differences(self.there[name], found) == []
        for key, one in found.items():
            assert one.sharding == target[key].sharding
        some = data.draw(st.sampled_from(sorted(found)))
        part = pertinax.load(f"/r/{name}", store=self.disk, select=some)
        assert differences({some: self.there[name][some]}, part) == []

    @invariant()
    def what_is_there_is_what_was_saved(self) -> None:
        visible = {one.name for one in self.disk.list_dir("/r") if "tmp" not in one.name}
        assert visible == self.there.keys()
        for name, tree in self.there.items():
            if name in self.damaged:
                with pytest.raises(CorruptCheckpoint):
                    pertinax.load(f"/r/{name}", store=self.disk)
            else:
                found = pertinax.load(f"/r/{name}", store=self.disk)
                assert differences(tree, found) == []


TestTrees = Trees.TestCase
TestTrees.settings = settings(max_examples=3, stateful_step_count=8, deadline=None)


class LongTrees(Trees):
    """The same for longer."""


TestLongTrees = pytest.mark.campaign(LongTrees.TestCase)
TestLongTrees.settings = settings(
    max_examples=int(os.environ.get("PERTINAX_EXAMPLES", "2000")),
    stateful_step_count=30,
    deadline=None,
)
