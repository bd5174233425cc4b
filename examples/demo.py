# SPDX-License-Identifier: Apache-2.0
"""The story of one crash: train, be killed in the middle of a save, start again, and lose nothing.

    make demo                    or: python examples/demo.py [--output demo-output] [--steps 200]

Runs `train_digits.py` three times: once undisturbed; once until SIGKILL, sent while a checkpoint is
half written; once more, to go on from the newest whole checkpoint. Ends with 0 only if every leaf
of the two final states is equal, bit for bit. Writes a picture of the loss.

Knows the training program's command line, its log, and what a save looks like from outside. Knows
nothing of models.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from demo_picture import Story, draw
from demo_screen import Screen, screen_for_stdout

import pertinax

TRAINER = Path(__file__).with_name("train_digits.py")
DRAFT_MARK = ".orbax-checkpoint-tmp-"
DEADLINE_S = 240.0


class Trainer:
    """The training program, running on its own; `losses` has what it logged so far."""

    def __init__(self, root: Path, name: str, options: argparse.Namespace) -> None:
        self.root = root
        self.steps: int = options.steps
        self.losses: dict[int, float] = {}
        self._log = options.output / f"{name}.log"
        self._output = options.output / f"{name}.txt"
        self._read_bytes = 0
        flags = ["--steps", options.steps, "--save-every", options.save_every]
        flags += ["--width", options.width, "--log", self._log]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(TRAINER), str(root), *map(str, flags)],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def step(self) -> int:
        """The last step that it logged."""
        return max(self.losses, default=0)

    def watch(self, screen: Screen) -> Iterator[None]:
        """Go around until the program ends, telling how far it is."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"the training did not end within {DEADLINE_S:.0f} s")
            self._tell_progress(screen)
            yield
            # Leaves the cores to the training. A draft lives for many of these.
            time.sleep(0.0005)
        self._tell_progress(screen)
        if self.process.returncode not in (0, -signal.SIGKILL):
            said = self._output.read_text(errors="replace")
            raise SystemExit(f"the training ended with {self.process.returncode}:\n{said}")

    def kill_if_caught_saving(self) -> Path | None:
        """Kill it if a save is half written at this instant. Returns the draft that it left."""
        if not any(map(is_half_written, drafts_in(self.root))):
            return None
        # Hold it still and look again: if the save was published meanwhile, wait for the next.
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.process.returncode = os.waitstatus_to_exitcode(status)
            return None
        caught = [draft for draft in drafts_in(self.root) if is_half_written(draft)]
        if caught:
            self.kill()
            return caught[0]
        self.process.send_signal(signal.SIGCONT)
        return None

    def finish(self, screen: Screen) -> None:
        """Let it run to its end, and tell its last words."""
        try:
            for _ in self.watch(screen):
                pass
        finally:
            self.kill()
        if self.step < self.steps:
            raise SystemExit(f"somebody else killed the training after step {self.step}")
        screen.say(f"Ended with a loss of {self.losses[self.step]:.4f}.")
        screen.say(self._output.read_text().splitlines()[-1])

    def kill(self) -> None:
        """SIGKILL: no cleaning up, no last words."""
        self.process.kill()
        self.process.wait()

    def _tell_progress(self, screen: Screen) -> None:
        if self._log.exists():
            with self._log.open("rb") as log:
                log.seek(self._read_bytes)
                new = log.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            for line in whole.decode().splitlines():
                step, loss = line.split()
                self.losses[int(step)] = float(loss)
        screen.progress(self.step, self.steps, self.losses.get(self.step))


def drafts_in(root: Path) -> list[Path]:
    """Saves in the making, or left by the dead: directories that no reader takes for a step."""
    return [path for path in root.glob("*") if DRAFT_MARK in path.name]


def is_half_written(draft: Path) -> bool:
    """Array data is being written, and the ledger, which comes last, is not there."""
    return any(draft.rglob("d/*")) and not (draft / "pertinax.json").exists()


def train_undisturbed(options: argparse.Namespace, screen: Screen) -> Trainer:
    """Chapter one: nothing happens."""
    trainer = Trainer(options.output / "undisturbed", "undisturbed", options)
    trainer.finish(screen)
    return trainer


def train_and_kill(options: argparse.Namespace, screen: Screen) -> tuple[Trainer, Path]:
    """Chapter two: kill the program while a save is half written. Returns the draft it left."""
    trainer = Trainer(options.output / "interrupted", "killed", options)
    draft = None
    try:
        for _ in trainer.watch(screen):
            # Beyond the middle, so that there are checkpoints before it and steps behind it.
            if trainer.step > options.steps // 2:
                draft = draft or trainer.kill_if_caught_saving()
    finally:
        trainer.kill()
    if draft is None:
        raise SystemExit("no save could be caught in the act: give the run more --steps")
    return trainer, draft


def tell_what_is_left(root: Path, killed: Trainer, draft: Path, screen: Screen) -> int:
    """What a crash leaves. Returns the step of the newest checkpoint that can be seen."""
    # Looked at from outside: opening a manager would clean up, and that is the next chapter.
    newest = max(int(path.name) for path in root.iterdir() if path.name.isdigit())
    if newest >= step_of(draft) or not draft.exists():
        raise SystemExit(f"not killed in the middle of a save: step {newest} is there")
    checked = pertinax.verify(root / str(newest))
    screen.say(
        f"Killed after step {killed.step}, while checkpoint {step_of(draft)} was being written.",
        f"It left {draft.name}, which no reader takes for a checkpoint.",
        f"The newest visible checkpoint is {newest}: {checked.checked_bytes:,} bytes verified.",
    )
    return newest


def step_of(draft: Path) -> int:
    """The step that a draft would have become."""
    return int(draft.name.partition(".")[0])


def train_on(options: argparse.Namespace, screen: Screen) -> Trainer:
    """Chapter three: the same command again."""
    trainer = Trainer(options.output / "interrupted", "resumed", options)
    trainer.finish(screen)
    left = drafts_in(trainer.root)
    if left:
        raise SystemExit(f"the dead program's draft is still there: {left[0].name}")
    screen.say(f"It removed the unfinished save, and went on with step {min(trainer.losses)}.")
    return trainer


def compare(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many leaves two checkpoints have, and which are not in both, equal in every bit."""
    left, right = (
        {jax.tree_util.keystr(path): bits(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in map(pertinax.load, (one, other))
    )
    names = sorted(left.keys() | right.keys())
    return len(names), [name for name in names if left.get(name) != right.get(name)]


def bits(leaf: Any) -> tuple[Any, ...]:
    """Type, dtype, shape and every bit."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "key", str(jax.random.key_impl(leaf)), *bits(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return type(leaf).__name__, array.dtype.name, array.shape, array.tobytes()


def make_room(output: Path) -> None:
    """An empty directory; an earlier story goes, anything else of the user's stays."""
    if (output / "undisturbed.log").exists():
        shutil.rmtree(output)
    elif output.is_dir() and any(output.iterdir()):
        raise SystemExit(f"{output} holds something else: choose another --output")
    output.mkdir(parents=True, exist_ok=True)


def tell(options: argparse.Namespace, screen: Screen) -> bool:
    """The whole story. Returns whether it ended well."""
    root = options.output / "interrupted"
    make_room(options.output)

    screen.chapter(
        1, f"Train a network on handwritten digits; save every {options.save_every} steps."
    )
    calm = train_undisturbed(options, screen)
    screen.chapter(2, "The same once more, and SIGKILL in the middle of a save.")
    killed, draft = train_and_kill(options, screen)
    newest = tell_what_is_left(root, killed, draft, screen)
    screen.chapter(3, "The same command again.")
    resumed = train_on(options, screen)

    last = str(options.steps)
    with pertinax.Manager(root) as manager:
        steps = manager.steps()
    screen.chapter(4, f"What there is now: steps {', '.join(map(str, steps))}. Inside {last}:")
    screen.show(str(pertinax.describe(root / last)))
    pertinax.verify(root / last)
    count, differing = compare(calm.root / last, root / last)

    picture = options.output / "loss.png"
    saves = tuple(range(options.save_every, options.steps + 1, options.save_every))
    runs = (calm.losses, killed.losses, resumed.losses)
    draw(Story(*runs, saves, step_of(draft), newest, count, len(differing)), picture)
    differing += [
        f"the loss of step {step}"
        for run in (killed, resumed)
        for step, loss in run.losses.items()
        if loss != calm.losses[step]
    ]
    if differing:
        screen.end(f"NOT equal to the undisturbed run: {', '.join(differing)}", good=False)
        return False
    screen.end(
        f"All {count} leaves of the final state equal those of the undisturbed run, bit for bit.",
        good=True,
    )
    screen.say(f"The loss of both runs is drawn in {picture}.")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--width", type=int, default=1536, help="of the hidden layers")
    options = parser.parse_args()
    if options.steps < 3 * options.save_every or options.steps % options.save_every:
        parser.error("--steps is a multiple of --save-every, and at least three times as much")
    begun_s = time.monotonic()
    with screen_for_stdout() as screen:
        good = tell(options, screen)
        screen.say(f"The story took {time.monotonic() - begun_s:.0f} s.")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
