# SPDX-License-Identifier: Apache-2.0
"""For evaluators: steps as they appear, held while they are read; and what a target asks for.

Knows how the leaves of a target become restore args, and where snapshots of steps lie. Knows
nothing of what a step holds.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import jax
import numpy as np
from etils import epath

from pertinax._core.places import locate
from pertinax._steps.snapshots import release_snapshot, take_snapshot
from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.paths import Path, path_text
from pertinax._tree.rebuild import refill
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.copies import copy_checkpoint, remove_unheld
from pertinax.checkpoint._adapt.holding import clean_snapshots
from pertinax.checkpoint._adapt.trees import MISSING, align
from pertinax.checkpoint._adapt.waiting import NO_STEP, Patience, Wanted, held_step
from pertinax.checkpoint.metadata.value import ArrayMetadata, ScalarMetadata, StringMetadata
from pertinax.checkpoint.path import step as step_lib
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs

__all__ = [
    "STANDARD_ARRAY_TYPES",
    "checkpoints_iterator",
    "construct_restore_args",
    "get_snapshot_dir_from_step_dir",
    "wait_for_new_checkpoint",
]

_LOG: Final = logging.getLogger(__name__)
_SNAPSHOTS: Final = "_SNAPSHOTS"
STANDARD_ARRAY_TYPES = (int, float, np.ndarray, jax.Array)


def construct_restore_args(
    target: Any, sharding_tree: Any = None, set_global_shape: bool = True
) -> Any:
    """A tree like `target` with the restore args that bring back such leaves.

    Leaves may be arrays, numbers, text, `jax.ShapeDtypeStruct`s, or the metadata of stored leaves.
    `sharding_tree` has a sharding (or its metadata, or None) for each leaf; without it leaves say
    so themselves. Metadata stay what they are: the devices are looked up when the leaf is restored.
    Raises `ValueError` for another leaf, numbers of numpy among them.

    >>> restore_args = construct_restore_args(abstract_state)
    >>> checkpointer.restore(path, item=abstract_state, restore_args=restore_args)
    """
    flat = flatten(target)
    for leaf, path in zip(flat.leaves, flat.paths, strict=True):
        if isinstance(leaf, complex | np.generic) and not isinstance(leaf, float):
            raise ValueError(
                f"Unsupported type: {type(leaf)} at {path_text(path)!r}: give a number of Python, "
                "or a RestoreArgs of your own"
            )
    shardings = None
    if sharding_tree is not None:
        found = align(target, sharding_tree, "sharding_tree")
        shardings = [None if one is MISSING else one for one in found]
    return refill(target, restore_args_of(flat, shardings, with_shape=set_global_shape))


def restore_args_of(
    flat: Flat, shardings: Sequence[Any] | None = None, *, with_shape: bool = True
) -> list[RestoreArgs]:
    """The restore args of each leaf of a target that was taken apart already."""
    if shardings is None:
        shardings = [getattr(leaf, "sharding", None) for leaf in flat.leaves]
    return [
        _args_of(leaf, sharding, path, with_shape)
        for leaf, sharding, path in zip(flat.leaves, shardings, flat.paths, strict=True)
    ]


def _args_of(leaf: Any, sharding: Any, path: Path, with_shape: bool) -> RestoreArgs:
    if isinstance(leaf, ScalarMetadata):
        return RestoreArgs(type(np.zeros((), leaf.dtype).item()), leaf.dtype)
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | ArrayMetadata):
        return _array_args(leaf, sharding, with_shape)
    if isinstance(leaf, np.ndarray):
        return RestoreArgs(np.ndarray, cast("np.ndarray[Any, Any]", leaf).dtype)
    if isinstance(leaf, int | float | complex | np.number | np.bool_):
        return RestoreArgs(type(leaf), getattr(leaf, "dtype", None))
    if isinstance(leaf, str | StringMetadata):
        return RestoreArgs(str)
    raise ValueError(f"Unsupported type: {type(leaf)} at {path_text(path)!r}")


def _array_args(leaf: Any, sharding: Any, with_shape: bool) -> RestoreArgs:
    if sharding is None and not isinstance(leaf, jax.Array):
        kind = np.ndarray if isinstance(leaf, ArrayMetadata) else None
        return RestoreArgs(kind, leaf.dtype)
    shape = tuple(leaf.shape) if with_shape else None
    return ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=sharding, global_shape=shape
    )


# ------------------------------------------------------------------------------------- evaluators


@contextlib.contextmanager
def wait_for_new_checkpoint(
    checkpoint_dir: epath.PathLike,
    *,
    until_step: int | None = None,
    seconds_to_sleep: float = 1,
    timeout: float | None = None,
    timeout_fn: Callable[[], bool] | None = None,
    step_prefix: str | None = None,
    step_format_fixed_length: int | None = None,
    step_name_format: step_lib.NameFormat[Any] | None = None,
    snapshot_dir: epath.PathLike | None = None,
) -> Iterator[int]:
    """Wait until there is a finished step of at least `until_step`: gives the newest, or -1.

    The step has a snapshot as long as the block runs: hard links where there are any, copies else.
    What is read from `get_snapshot_dir_from_step_dir` stays whole if the step is deleted meanwhile.
    All processes of a job call it; process 0 looks. What is there already is given at once, and the
    directory need not be there yet.

    Args:
        checkpoint_dir: where a manager saves.
        until_step: the least step; None means any.
        seconds_to_sleep: between two looks.
        timeout: give up after so many seconds; None means never.
        timeout_fn: asked when that time is over, and again after each further look, whether to
            give up.
        step_prefix, step_format_fixed_length, step_name_format: how steps are called.
        snapshot_dir: where the snapshot lies, instead of `_SNAPSHOTS` beside the steps.

    Raises `ValueError` if no snapshot can be made, or if there are steps, but none called so.

    >>> with wait_for_new_checkpoint(root, until_step=100) as step:
    ...     evaluate(get_snapshot_dir_from_step_dir(root / str(step)))
    """
    names = step_name_format or step_lib.standard_name_format(step_prefix, step_format_fixed_length)
    place = None if snapshot_dir is None else epath.Path(snapshot_dir)
    wanted = Wanted(
        epath.Path(checkpoint_dir),
        names,
        lambda path: get_snapshot_dir_from_step_dir(path, place),
        0 if until_step is None else until_step,
    )
    with held_step(wanted, Patience(seconds_to_sleep, timeout, timeout_fn)) as step:
        yield step


def checkpoints_iterator(
    checkpoint_dir: epath.PathLike,
    *,
    min_interval_secs: float = 0,
    seconds_to_sleep: float = 1,
    timeout: float | None = None,
    timeout_fn: Callable[[], bool] | None = None,
    step_prefix: str | None = None,
    step_format_fixed_length: int | None = None,
    step_name_format: step_lib.NameFormat[Any] | None = None,
) -> Iterator[int]:
    """Steps that another process saves, as they appear: the newest each time, never an older one.

    Each is held as in `wait_for_new_checkpoint` until the next is asked for. At the start snapshots
    are removed that nobody alive holds.

    Args:
        min_interval_secs: between two steps, at least.
        timeout: the end, when for so many seconds nothing new has come; None means never.
        timeout_fn: asked then; true is the end, false means to wait again.
        checkpoint_dir, seconds_to_sleep, step_prefix, step_format_fixed_length, step_name_format:
            as for `wait_for_new_checkpoint`.

    Raises `ValueError` as `wait_for_new_checkpoint` does.

    >>> for step in checkpoints_iterator(root, timeout=3600):
    ...     evaluate(get_snapshot_dir_from_step_dir(root / str(step)))
    """
    root = epath.Path(checkpoint_dir)
    if multihost.process_index() == 0:
        store, snapshots = locate(root / _SNAPSHOTS)
        clean_snapshots(store, snapshots)
    least = 0
    while True:
        with wait_for_new_checkpoint(
            root,
            until_step=least,
            seconds_to_sleep=seconds_to_sleep,
            timeout=timeout,
            timeout_fn=timeout_fn,
            step_prefix=step_prefix,
            step_format_fixed_length=step_format_fixed_length,
            step_name_format=step_name_format,
        ) as step:
            given_s = time.monotonic()
            if step != NO_STEP:
                yield step
        if step == NO_STEP:
            if timeout_fn is None or timeout_fn():
                return
            continue
        least = step + 1
        time.sleep(max(0.0, given_s + min_interval_secs - time.monotonic()))


def get_snapshot_dir_from_step_dir(
    step_dir: epath.PathLike, snapshot_dir: epath.PathLike | None = None
) -> epath.Path:
    """Where the snapshot of the step in `step_dir` lies while somebody holds it."""
    step_path = epath.Path(step_dir)
    parent = step_path.parent / _SNAPSHOTS if snapshot_dir is None else epath.Path(snapshot_dir)
    return parent / step_path.name


def _snapshot_checkpoint(  # pyright: ignore[reportUnusedFunction] - programs' tests use it
    checkpoint_dir: epath.Path,
    step: int,
    step_name_format: step_lib.NameFormat[Any],
    snapshot_dir: epath.Path | None = None,
) -> bool:
    """A snapshot that nobody holds: the next iterator removes it."""
    path = step_name_format.find_step(checkpoint_dir, step).path
    store, source = locate(path)
    place = locate(get_snapshot_dir_from_step_dir(path, snapshot_dir))[1]
    make = copy_checkpoint if files.is_remote(path) else take_snapshot
    make(store, source, place)
    return True


def _release_snapshot(  # pyright: ignore[reportUnusedFunction] - programs' tests use it
    checkpoint_dir: epath.Path,
    step: int,
    step_name_format: step_lib.NameFormat[Any],
    snapshot_dir: epath.Path | None = None,
) -> None:
    path = step_lib.build_step_path(checkpoint_dir, step_name_format, step)
    store, place = locate(get_snapshot_dir_from_step_dir(path, snapshot_dir))
    release = remove_unheld if files.is_remote(path) else release_snapshot
    if not release(store, place):
        _LOG.error("there is no snapshot to release path=%s", place)
