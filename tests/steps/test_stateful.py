# SPDX-License-Identifier: Apache-2.0
"""Saves, failures, deletions, damage, disks that lie, restarts, power cuts, clocks that jump,
several managers, evaluators: what is listed is what is there, what is there is right or known to be
wrong, what is held can be read, and nothing goes that somebody wanted.

The model is a dictionary of steps; the policies are the same values, tested by themselves.
"""

import contextlib
import dataclasses
import errno
import os
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import pertinax
from pertinax import Manager
from pertinax._steps.index import PRIVATE_DIR
from pertinax._steps.retention import victims
from pertinax._steps.snapshots import held_step
from pertinax._store import leftovers
from pertinax._store.memory import FileNode
from pertinax.errors import (
    CheckpointExists,
    CorruptCheckpoint,
    InvalidOption,
    NoUsableStep,
    PertinaxError,
    StorageError,
)
from pertinax.policies import (
    AtSteps,
    Best,
    EverySeconds,
    EverySteps,
    KeepPolicy,
    Latest,
    StepRecord,
)
from pertinax.testing import CrashingStore, SimulatedDeath
from tests.steps.trees import ROOT, Intercepted, Lying, hidden, same

pytestmark = [pytest.mark.crash, pytest.mark.slow]

STEPS = st.integers(0, 12)
CUTS = st.integers(0, 70)  # and a little beyond the operations of a save
LOSSES = st.none() | st.sampled_from([0.0, 1.0, 2.0, float("nan")])
WHO = st.sampled_from(["a", "b"])
KEEPS = st.sampled_from(
    [
        Latest(1),
        Latest(2) | Best(1, "loss"),
        Latest(1) | EverySteps(4) | Best(2, "loss", "max"),
        EverySeconds(100),
        Latest(3) & (EverySeconds(50) | AtSteps([2, 7])),
        None,
    ]
)
CHANGES_OF_A_SAVE = 24  # so many names change until old steps are out of sight


@dataclasses.dataclass
class Made:
    """What the model knows of one visible step."""

    version: int
    time_s: float
    loss: float | None
    damaged: bool = False
    pinned: bool = False

    def tree(self, step: int) -> dict[str, Any]:
        return {"step": step, "version": self.version, "text": "x" * step}


@dataclasses.dataclass
class Somebody:
    """A manager, its policy, and what only it knows."""

    manager: Manager
    keep: KeepPolicy | None
    reads_back: bool = False
    doubtful: set[int] = dataclasses.field(default_factory=set)
    damaged: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Held:
    """What an evaluator holds of a step: a path of its own, and what must be there."""

    hold: contextlib.ExitStack
    path: str
    step: int
    made: Made


class Trouble:
    """Lets so many changes pass, then fails some or all that follow."""

    left: int | None = None
    lasting = False

    def __call__(self, method: str, path: str) -> None:
        if self.left is None or method in ("list_dir", "stat", "open", "free_bytes"):
            return
        self.left -= 1
        if self.left == -1 or (self.lasting and self.left < 0):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class Run(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1e9
        self.version = 0
        self.there: dict[int, Made] = {}
        self.unsure: set[int] = set()  # visible, but a power cut may take them
        self.ghosts: dict[int, Made] = {}  # out of sight, but a power cut may bring them back
        self.dead: set[str] = set()
        self.trouble = Trouble()
        self.owner_alive, leftovers.owner_alive = leftovers.owner_alive, self.is_alive
        self.people: dict[str, Somebody] = {}
        self.held: list[Held] = []
        self.lying = False

    def is_alive(self, token: str) -> bool:
        return token not in self.dead

    def teardown(self) -> None:
        self.trouble.left = None
        for somebody in self.people.values():
            somebody.manager._deleter.close()
        for held in self.held:
            held.hold.close()
        leftovers.owner_alive = self.owner_alive

    @initialize(a=KEEPS, b=KEEPS, careful=st.sets(WHO), exchange=st.booleans())
    def start(
        self, a: KeepPolicy | None, b: KeepPolicy | None, careful: set[str], exchange: bool
    ) -> None:
        self.keeps = {"a": a, "b": b}
        self.careful = careful  # those who read back what they wrote
        self.exchange = exchange
        self.use(CrashingStore(exchange=exchange))

    def use(self, disk: CrashingStore) -> None:
        """A disk after a boot, and new processes on it; those before are dead."""
        self.disk = disk
        self.held.clear()
        found = [leftovers.parse_leftover(path) for path in self.out_of_sight()]
        self.dead |= {one.token for one in found if one is not None}
        troubled: Any = Intercepted(disk, self.trouble)  # type: ignore[arg-type]
        self.store: Any = Lying(troubled, self.goes_wrong)
        for who in self.keeps:
            self.open(who)
        assert self.out_of_sight() == []

    def out_of_sight(self) -> list[str]:
        """Hidden names, of steps and of what evaluators hold."""
        disk: Any = self.disk
        places = [place for place in (ROOT, f"{ROOT}/{PRIVATE_DIR}") if disk.stat(place)]
        return [f"{place}/{name}" for place in places for name in hidden(disk, place)]

    def goes_wrong(self, _: int, path: str) -> bool:
        return self.lying and path.endswith("/default/pertinax.json")

    def open(self, who: str) -> None:
        manager = self.manager(self.store, who)
        self.people[who] = Somebody(manager, self.keeps[who], who in self.careful)

    def manager(self, store: Any, who: str) -> Manager:
        return Manager(
            ROOT,
            store=store,
            keep=self.keeps[who],
            read_back=who in self.careful,
            background=False,
            clock=lambda: self.now,
        )

    # ------------------------------------------------------------------------------- the model

    def made(self, loss: float | None) -> Made:
        self.version += 1
        return Made(self.version, self.now, loss)

    def doomed(self, step: int, made: Made, keep: KeepPolicy | None, who: Somebody) -> set[int]:
        """Who must go once this step is there."""
        if keep is None:
            return set()
        after = {**self.there, step: made}
        records = [
            StepRecord(
                one,
                int(it.time_s * 1e9),
                None if it.loss is None else {"loss": it.loss},
                "",
                readable=one not in who.damaged - {step},
                pins=("x",) if it.pinned else (),
            )
            for one, it in after.items()
            if one not in who.doubtful - {step}
        ]
        return set(victims(records, keep, protect={step}))

    def listed(self, who: Somebody) -> list[int]:
        return sorted(self.there.keys() - who.doubtful)

    def on_disk(self) -> set[int]:
        return set(Manager(ROOT, store=self.disk).steps())

    # ------------------------------------------------------------------------------- the rules

    def save_as(self, manager: Manager, step: int, made: Made) -> Any:
        metrics = None if made.loss is None else {"loss": made.loss}
        pending = manager.save(step, made.tree(step), metrics=metrics)
        manager.wait()
        return pending

    @rule(name=WHO, step=STEPS, loss=LOSSES)
    def save(self, name: str, step: int, loss: float | None) -> None:
        who = self.people[name]
        if step in self.there and step not in who.damaged:
            with pytest.raises(CheckpointExists):
                who.manager.save(step, {}, metrics={"loss": 1})
            return
        made = self.made(loss)
        made.pinned = step in self.there and self.there[step].pinned
        gone = self.doomed(step, made, who.keep, who)
        assert self.save_as(who.manager, step, made) is not None
        self.settled(step, made, gone)

    def settled(self, step: int, made: Made, gone: set[int]) -> None:
        self.there[step] = made
        for one in gone:
            del self.there[one]
        for somebody in self.people.values():
            somebody.doubtful -= gone
        self.unsure -= gone | {step}
        if gone:
            self.ghosts.clear()  # that was a sync
        self.ghosts.pop(step, None)
        for somebody in self.people.values():
            somebody.doubtful.discard(step)
            somebody.damaged.discard(step)

    @rule(name=WHO, step=STEPS, loss=LOSSES)
    def be_lied_to(self, name: str, step: int, loss: float | None) -> None:
        """The disk says that it has written, and keeps something else."""
        who = self.people[name]
        if step in self.there and step not in who.damaged:
            return
        made = self.made(loss)
        made.damaged, made.pinned = True, step in self.there and self.there[step].pinned
        gone = self.doomed(step, made, who.keep, who)
        self.lying = True
        try:
            self.save_as(who.manager, step, made)
        except CorruptCheckpoint:
            assert who.reads_back  # and nothing has come or gone
        else:
            assert not who.reads_back
            self.settled(step, made, gone)
        finally:
            self.lying = False

    @rule(name=WHO, step=STEPS, call=st.integers(0, CHANGES_OF_A_SAVE), lasting=st.booleans())
    def fail(self, name: str, step: int, call: int, lasting: bool) -> None:
        who = self.people[name]
        if step in self.there:
            return
        made, before = self.made(-1.0), dict(self.there)
        gone = self.doomed(step, made, who.keep, who)
        self.trouble.left, self.trouble.lasting = call, lasting
        try:
            self.save_as(who.manager, step, made)
        except StorageError:
            failed = True
        else:
            failed = False
        finally:
            self.trouble.left = None
        found = self.on_disk()
        assert before.keys() - found <= gone
        assert found - before.keys() <= {step}
        for somebody in self.people.values():  # whatever they knew was of another one
            somebody.doubtful.discard(step)
            somebody.damaged.discard(step)
        if failed:
            assert before.keys() <= found
            if step in found:
                who.doubtful.add(step)
                self.unsure.add(step)
        else:
            assert step in found
        for one in before.keys() - found:
            self.ghosts[one] = before[one]
        self.there = {one: it for one, it in {**before, step: made}.items() if one in found}

    @rule(name=WHO, step=STEPS, loss=LOSSES, cut=CUTS, data=st.data())
    def die(self, name: str, step: int, loss: float | None, cut: int, data: st.DataObject) -> None:
        """A process opens the root and saves, and it, or the whole machine, dies on the way."""
        if step in self.there:
            return
        power = data.draw(st.booleans())
        made, nobody = self.made(loss), Somebody(self.people[name].manager, None)
        gone = self.doomed(step, made, self.keeps[name], nobody)
        dying, done, manager = self.disk.after_kill(die_at=cut), False, None
        with contextlib.suppress(SimulatedDeath):
            manager = self.manager(dying, name)
            self.save_as(manager, step, made)
            done = True
        if manager is not None:
            manager._deleter.close()
        if power:
            states = list(dying.crash_states(data.draw(st.integers(1, 24)), seed=cut))
            disk = data.draw(st.sampled_from(states))
            after = CrashingStore(disk, exchange=self.exchange)
        else:
            after = dying.after_kill()
        self.recovered(after, step, made, gone, done=done, power=power)

    def recovered(
        self,
        disk: CrashingStore,
        step: int,
        made: Made,
        gone: set[int],
        *,
        done: bool,
        power: bool,
    ) -> None:
        before = {**self.there, step: made}
        ghosts = self.ghosts if power else {}
        unsure = self.unsure if power else set[int]()
        self.use(disk)
        found = self.on_disk()
        assert found <= before.keys() | ghosts.keys()
        lost = self.there.keys() - found - unsure
        assert lost <= gone
        assert not lost or step in found  # nothing goes before the new one is there
        assert not done or step in found
        self.there = {one: before.get(one, ghosts.get(one)) for one in found}  # type: ignore[misc]
        self.unsure &= set() if power else found
        self.ghosts = {} if power else {**self.ghosts, **{s: before[s] for s in lost}}

    @precondition(lambda self: self.there)
    @rule(name=WHO, data=st.data())
    def delete(self, name: str, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.there)))
        manager = self.people[name].manager
        if self.there[step].pinned:
            with pytest.raises(InvalidOption, match="pinned"):
                manager.delete(step)
            return
        manager.delete(step)
        manager.wait()
        del self.there[step]
        self.unsure.discard(step)
        self.ghosts.clear()
        for somebody in self.people.values():
            somebody.doubtful.discard(step)
        self.people[name].damaged.discard(step)

    @precondition(lambda self: self.there)
    @rule(name=WHO, data=st.data())
    def pin(self, name: str, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.there)))
        manager, made = self.people[name].manager, self.there[step]
        (manager.unpin if made.pinned else manager.pin)(step, "x")
        made.pinned = not made.pinned

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A disk that forgets: the newest, or any."""
        step = data.draw(st.sampled_from([max(self.there), *sorted(self.there)]))
        place = f"{ROOT}/{step}/default"
        node = self.disk._live.find(f"{place}/pertinax.json")
        if isinstance(node, FileNode) and not self.there[step].damaged:
            node.content[len(node.content) // 2] ^= 1
            self.disk._journal.write(node, 0, bytes(node.content))
            self.disk._journal.sync(node)
            self.there[step].damaged = True

    @rule(name=WHO)
    def restore(self, name: str) -> None:
        who = self.people[name]
        listed = self.listed(who)
        good = [step for step in listed if not self.there[step].damaged]
        newest = good[-1] if good else -1
        bad = [step for step in reversed(listed) if step > newest]
        if good:
            found = who.manager.restore(fallback=True)
            assert found.step == newest
            assert same(found.tree, self.there[newest].tree(newest))
            assert found.damaged == [one.step for one in found.passed_over] == bad
            who.damaged |= set(bad)
        elif listed:
            with pytest.raises(NoUsableStep) as caught:
                who.manager.restore(fallback=True)
            assert [one.step for one in caught.value.passed_over] == bad
            who.damaged |= set(bad)
        else:
            assert who.manager.resume(None, fallback=True) == (0, None)
        if bad:
            with pytest.raises(PertinaxError):
                who.manager.load()

    @precondition(lambda self: self.there)
    @rule(name=WHO, data=st.data())
    def load(self, name: str, data: st.DataObject) -> None:
        who, step = self.people[name], data.draw(st.sampled_from(sorted(self.there)))
        if self.there[step].damaged:
            with pytest.raises(CorruptCheckpoint):
                who.manager.load(step)
            who.damaged.add(step)
        else:
            assert same(who.manager.load(step), self.there[step].tree(step))

    @precondition(lambda self: self.there and len(self.held) < 3)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """An evaluator takes a step, whatever becomes of it."""
        step = data.draw(st.sampled_from(sorted(self.there)))
        stack, disk = contextlib.ExitStack(), self.disk
        hold = held_step(disk, ROOT, f"{ROOT}/{step}", step)  # type: ignore[arg-type]
        path = stack.enter_context(hold)
        self.held.append(Held(stack, path, step, dataclasses.replace(self.there[step])))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        held.hold.close()
        assert self.disk.stat(held.path) is None

    @rule(name=WHO, close=st.booleans())
    def restart(self, name: str, close: bool) -> None:
        if close:
            self.people[name].manager.close()
        self.open(name)

    @rule(jump=st.sampled_from([1, 30, 100, 1e6, -50, -1e6]))
    def jump(self, jump: float) -> None:
        self.now += jump

    # -------------------------------------------------------------------------- what must hold

    @invariant()
    def what_is_listed_is_what_is_there(self) -> None:
        for who in self.people.values():
            assert who.manager.steps() == self.listed(who)
            records = who.manager.history()
            assert [one.step for one in records] == self.listed(who)
            for one in records:
                made = self.there[one.step]
                assert one.time_ns == int(made.time_s * 1e9)
                told = None if made.loss is None else {"loss": made.loss}
                assert repr(one.metrics) == repr(told)
                assert bool(one.pins) == made.pinned

    @invariant()
    def what_is_there_is_right_or_known_to_be_wrong(self) -> None:
        for step, made in self.there.items():
            self.check(f"{ROOT}/{step}", step, made)

    @invariant()
    def what_is_held_can_be_read(self) -> None:
        for held in self.held:
            self.check(held.path, held.step, held.made)

    def check(self, path: str, step: int, made: Made) -> None:
        place: Any = {"path": path, "store": self.disk}
        if made.damaged:
            with pytest.raises(CorruptCheckpoint):
                pertinax.load(**place)
        else:
            assert same(pertinax.load(**place), made.tree(step))


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


class LongRun(Run):
    """The same for longer."""


TestLongRun = pytest.mark.campaign(pytest.mark.timeout(7200)(LongRun.TestCase))
TestLongRun.settings = settings(
    max_examples=int(os.environ.get("PERTINAX_EXAMPLES", "1000")),
    stateful_step_count=50,
    deadline=None,
)
