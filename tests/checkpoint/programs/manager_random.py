# SPDX-License-Identifier: Apache-2.0
import datetime as dt
import random
import sys
from unittest import mock

import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, say

# What nobody would think of: random options, and random calls in a random order. Deletion is not
# in the background, where Orbax loses races with itself.
root = epath.Path(sys.argv[1])  # of each case its own
A = ocp.args
Real = dt.datetime
PROGRAMS = 10


class Clock(dt.datetime):
    time = Real(2024, 1, 1, tzinfo=dt.UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.time if tz is not None else cls.time.replace(tzinfo=None)


def names():
    return sorted(path.name for path in root.iterdir())


def options_of(dice):
    chosen = {
        "max_to_keep": dice.choice([None, 0, 1, 2, 3, 5]),
        "keep_period": dice.choice([None, None, 2, 3, 5]),
        "save_interval_steps": dice.choice([1, 1, 2, 3]),
        "save_on_steps": dice.choice([None, [4, 7, 9]]),
        "step_prefix": dice.choice([None, "a", "run"]),
        "step_format_fixed_length": dice.choice([None, None, 3]),
        "todelete_subdir": dice.choice([None, None, "gone"]),
        "enable_async_checkpointing": dice.choice([True, False]),
        "keep_checkpoints_without_metrics": dice.choice([True, False]),
    }
    if dice.random() < 0.25:
        chosen["keep_time_interval"] = dt.timedelta(hours=dice.choice([1, 2, 4]))
    if dice.random() < 0.6:
        chosen["best_fn"] = lambda metrics: metrics["v"]
        chosen["best_mode"] = dice.choice(["min", "max"])
    if chosen["max_to_keep"] == 0:
        chosen["keep_checkpoints_without_metrics"] = True
    return chosen


def save(dice, manager, step, force, measured):
    Clock.time += dt.timedelta(minutes=dice.choice([20, 60, 90]))
    metrics = {"v": dice.choice([0, 1, 2, 3, 4, 5.5, -1])} if dice.random() < 0.8 else None
    args = A.JsonSave({"s": step})
    saved = manager.save(step, args=args, metrics=metrics if measured else None, force=force)
    if dice.random() < 0.5:
        manager.wait_until_finished()
    steps = [int(one) for one in manager.all_steps()]
    say("saved", [step, saved, steps, manager.latest_step(), manager.best_step()])


def delete(dice, manager):
    manager.wait_until_finished()
    steps = list(manager.all_steps())
    if steps:
        manager.delete(dice.choice(steps))
    say("deleted", [int(one) for one in manager.all_steps()])


def read(manager):
    manager.wait_until_finished()
    steps = sorted(manager.all_steps())
    if steps:
        attempt("restored", lambda: manager.restore(steps[-1], args=A.JsonRestore()))
        say("metrics", manager.metrics(steps[-1]))


def program(seed):
    dice = random.Random(seed)
    chosen = options_of(dice)
    say("options", repr({name: value for name, value in chosen.items() if name != "best_fn"}))
    manager = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**chosen))
    step = 0
    timed = "keep_time_interval" in chosen  # times on the disk are not those of the clock above
    for _ in range(26):
        kinds = ["save", "force", "delete", "restart", "reload", "ask", "read"]
        kind = dice.choices(kinds, [24, 2, 1, 1, 1, 2, 1])[0]
        if kind in ("save", "force"):
            step += dice.choice([1, 1, 1, 2])
            save(dice, manager, step, kind == "force", "best_fn" in chosen)
        elif kind == "delete":
            delete(dice, manager)
        elif kind == "restart" and not timed:
            manager.close()
            say("names", names())
            manager = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**chosen))
            say("found", [sorted(manager.all_steps()), manager.best_step()])
        elif kind == "reload" and not timed:
            manager.wait_until_finished()
            manager.reload()
            say("found", sorted(manager.all_steps()))
        elif kind == "ask":
            say("should", [bool(manager.should_save(step + more)) for more in range(4)])
        elif kind == "read":
            read(manager)
    manager.close()
    say("names", names())


for seed in range(PROGRAMS):

    def one():
        with mock.patch.object(dt, "datetime", Clock):
            program(seed)

    one.__name__ = f"seed_{seed}"
    case(one)
