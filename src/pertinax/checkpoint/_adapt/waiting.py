# SPDX-License-Identifier: Apache-2.0
"""Waiting for a step that somebody else saves, and telling all processes which one it is.

Knows listings, formats of names, clocks, and that one process of a job looks for all. Knows nothing
of what is done with the step.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import jax
from etils import epath

from pertinax._core.places import locate
from pertinax._hosts import this_job
from pertinax.checkpoint._adapt.holding import held_snapshot
from pertinax.checkpoint.path import format_utils
from pertinax.checkpoint.path import step as step_lib
from pertinax.errors import CheckpointNotFound, StorageError

NO_STEP: Final = -1
# An evaluator waits as long as the trainer takes; who dies meanwhile is noticed all the same.
_FOREVER: Final = 1e9


@final
@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: `timeout` in seconds, None for ever; `timeout_fn` says whether it is over.

    `pause_s`: how many seconds to sleep between two looks.
    """

    pause_s: float = 1
    timeout: float | None = None
    timeout_fn: Callable[[], bool] | None = None


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """A step of at least `least` under `root`, called as `names` say; `place_of` its snapshot."""

    root: epath.Path
    names: step_lib.NameFormat[Any]
    place_of: Callable[[epath.Path], epath.Path]
    least: int = 0


@contextlib.contextmanager
def held_step(wanted: Wanted, patience: Patience) -> Iterator[int]:
    """The newest step that is wanted, with a snapshot as long as the block runs; -1 if none comes.

    All processes of a job call it. Raises `ValueError` where no snapshot can be made, or where
    there are checkpoints only that `names` do not know.
    """
    begun_s = time.monotonic()
    with contextlib.ExitStack() as holding:
        with this_job().begin("wait", str(wanted.root), timeout_s=_FOREVER) as asked:
            step = asked.agree("step", lambda: _hold(wanted, patience, holding))
        jax.monitoring.record_event_duration_secs(
            "/jax/orbax/checkpoint_utils/wait_duration", time.monotonic() - begun_s
        )
        yield step
        if step != NO_STEP:
            # Who is done first must not take the snapshot away from the others.
            with this_job().begin("release", str(wanted.root), timeout_s=_FOREVER) as asked:
                asked.collect("done", None, lambda _: None)


def _hold(wanted: Wanted, patience: Patience, holding: contextlib.ExitStack) -> int:
    while True:
        found = _wait(wanted, patience)
        if found is None:
            return NO_STEP
        store, source = locate(found.path)
        try:
            hold = held_snapshot(store, source, locate(wanted.place_of(found.path))[1])
            holding.enter_context(hold)
        except CheckpointNotFound:  # deleted meanwhile: there will be a newer one
            continue
        except StorageError as error:
            raise ValueError(
                f"no snapshot can be made of {source}: {error}. Pass snapshot_dir, a directory "
                "that can be written to, on the same file system if possible"
            ) from error
        return int(found.step)


def _wait(wanted: Wanted, patience: Patience) -> step_lib.Metadata | None:
    """Look first, then sleep; after the last sleep comes another look."""
    timeout = patience.timeout
    end_s = None if timeout is None else time.monotonic() + timeout
    while (found := _newest(wanted)) is None:
        left_s = None if end_s is None else end_s - time.monotonic()
        if left_s is None:
            time.sleep(patience.pause_s)
        elif left_s > 0:
            time.sleep(min(patience.pause_s, left_s))
        elif patience.timeout_fn is None or patience.timeout_fn():
            return None
        else:
            time.sleep(patience.pause_s)
    return found


def _newest(wanted: Wanted) -> step_lib.Metadata | None:
    store, root = locate(wanted.root)
    if store.stat(root) is None:
        return None
    found = step_lib.latest_step_metadata(wanted.root, wanted.names)
    other = _other_checkpoint(wanted) if found is None else None
    if other is not None:
        # It may have appeared just now, too, and be of a format with several kinds of names.
        found = step_lib.latest_step_metadata(wanted.root, wanted.names)
        if found is None:
            raise ValueError(
                f"{other} is a checkpoint, but none of the steps of {wanted.names}: say "
                "step_prefix, step_format_fixed_length or step_name_format as its manager does"
            )
    return found if found is not None and found.step >= wanted.least else None


def _other_checkpoint(wanted: Wanted) -> epath.Path | None:
    """One of another name: to wait for ever beside finished steps that nobody sees helps nobody."""
    for path in step_lib.checkpoint_steps_paths(wanted.root):
        if path.name == wanted.names.build_name(int(path.name.rpartition("_")[2])):
            continue  # it has appeared since we looked
        with contextlib.suppress(FileNotFoundError):  # deleted since then
            if format_utils.is_orbax_checkpoint(path):
                return path
    return None
