# SPDX-License-Identifier: Apache-2.0
"""Saves, failures, deletions, restarts in any order: what is known is what is there, and right."""

import dataclasses
import os
import pathlib
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pertinax import checkpoint as ocp
from pertinax._steps.history import StepRecord
from pertinax.checkpoint._adapt.retention import ManagerRetention, Quality
from tests.checkpoint.manager.sides import names

STEPS = st.integers(0, 12)
LOSSES = st.sampled_from([None, 0.0, 1.0, 2.0])


class Text(ocp.CheckpointHandler):
    """Writes a line, or fails when the line says so."""

    def save(self, directory, args):
        (directory / "text").write_text(args.item)
        if args.item == "fail":
            raise OSError(28, "no room, says the test")

    def restore(self, directory, args=None):
        return (directory / "text").read_text()


@ocp.args.register_with_handler(Text, for_save=True, for_restore=True)
@dataclasses.dataclass
class TextArgs(ocp.args.CheckpointArgs):
    item: str = ""


def loss(metrics):
    return metrics["loss"]


class ManagedRoot(RuleBasedStateMachine):
    """The model is a dictionary, step -> loss; the policy is the same value, tested by itself."""

    def __init__(self):
        super().__init__()
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.stored = {}
        self.manager = None
        self.policy = ManagerRetention(2, period=5, quality=Quality(loss, "min"))
        self.start()

    def start(self):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, keep_period=5, best_fn=loss, best_mode="min", todelete_subdir=self.trash
        )
        self.manager = ocp.CheckpointManager(self.root, options=options, item_handlers=Text())

    trash = None

    @rule(step=STEPS, value=LOSSES, force=st.booleans())
    def save(self, step, value, force):
        latest = max(self.stored, default=None)
        metrics = None if value is None else {"loss": value}
        args = TextArgs(f"step {step}")
        if force and step in self.stored:
            with pytest.raises(ValueError, match="saved already"):
                self.manager.save(step, metrics=metrics, args=args, force=True)
            return
        due = force or latest is None or step > latest
        assert self.manager.save(step, metrics=metrics, args=args, force=force) is due
        self.manager.wait_until_finished()
        if due:
            self.stored[step] = metrics
            history = [StepRecord(one, one, self.stored[one], "") for one in sorted(self.stored)]
            kept = self.policy.keep(history)
            self.stored = {one: self.stored[one] for one in kept}

    @rule(step=STEPS)
    def fail(self, step):
        if step in self.stored:
            return
        with pytest.raises(OSError, match="no room"):
            self.manager.save(step, args=TextArgs("fail"), metrics={"loss": -1.0}, force=True)

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def delete(self, data):
        step = data.draw(st.sampled_from(sorted(self.stored)))
        self.manager.delete(step)
        del self.stored[step]

    @rule(how=st.sampled_from(["close", "abandon", "reload"]))
    def restart(self, how):
        if how == "reload":
            self.manager.reload()
            return
        if how == "close":
            self.manager.close()
        self.start()

    @rule()
    def die_while_saving(self):
        (self.root / "99.orbax-checkpoint-tmp-7").mkdir(exist_ok=True)

    @invariant()
    def what_is_known_is_what_is_there_and_what_should_be(self):
        steps = sorted(self.stored)
        assert self.manager.all_steps() == steps
        assert self.manager.latest_step() == (steps[-1] if steps else None)
        there = [int(name) for name in names(self.root) if name.isdigit()]
        assert sorted(there) == steps
        measured = [(-self.stored[one]["loss"], one) for one in steps if self.stored[one]]
        assert self.manager.best_step() == (max(measured)[1] if measured else None)
        for step in steps:
            assert self.manager.restore(step) == f"step {step}"
            assert self.manager.metrics(step) == self.stored[step]

    def teardown(self):
        self.manager.close()
        shutil.rmtree(self.root)


class ManagedRootWithTrash(ManagedRoot):
    trash = "trash"


BUDGET = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestManagedRoot = pytest.mark.slow(ManagedRoot.TestCase)
TestManagedRoot.settings = BUDGET
TestManagedRootWithTrash = pytest.mark.slow(ManagedRootWithTrash.TestCase)
TestManagedRootWithTrash.settings = BUDGET


class LongManagedRoot(ManagedRoot):
    """The same for longer."""


TestLongManagedRoot = pytest.mark.campaign(LongManagedRoot.TestCase)
TestLongManagedRoot.settings = settings(
    max_examples=int(os.environ.get("PERTINAX_EXAMPLES", "1000")),
    stateful_step_count=30,
    deadline=None,
)
