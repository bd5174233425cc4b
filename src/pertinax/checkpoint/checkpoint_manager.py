# SPDX-License-Identifier: Apache-2.0
"""The manager: many checkpoints of one training run under one root.

Knows the order of things in a save and a restore. Knows nothing of formats, of what is kept
(`_adapt/retention.py`), of what is known (`known_steps.py`), of items (`manager_items.py`), of how
steps go (`removal.py`) or how a save ends in the background (`finalizer.py`).
"""

import contextlib
import logging
import operator
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import jax
from etils import epath

from pertinax._core.closing import close_after
from pertinax.checkpoint import args as args_lib
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt.finalizer import Finalizer
from pertinax.checkpoint._adapt.item_mode import ItemMode
from pertinax.checkpoint._adapt.known_steps import CheckpointInfo, KnownSteps, SavedWork
from pertinax.checkpoint._adapt.manager_items import (
    DEFAULT_ITEM_NAME,
    DESCRIPTOR_ITEM_NAME,
    METRIC_ITEM_NAME,
    Backing,
    Told,
    build_backing,
    check_args,
    is_async_checkpointer,
)
from pertinax.checkpoint._adapt.manager_options import (
    CheckpointManagerOptions,
    check_best_mode,
    is_on_interval,
    quality_of,
)
from pertinax.checkpoint._adapt.measured import stored_metrics
from pertinax.checkpoint._adapt.metrics import checked_metrics
from pertinax.checkpoint._adapt.places import Places, is_visible, plain_step, prepare_root
from pertinax.checkpoint._adapt.root_metadata import METADATA_ITEM_NAME, RootMetadata
from pertinax.checkpoint._adapt.telemetry import record_stage
from pertinax.checkpoint._adapt.telling import teller
from pertinax.checkpoint.abstract_checkpoint_manager import AbstractCheckpointManager
from pertinax.checkpoint.abstract_checkpointer import AbstractCheckpointer
from pertinax.checkpoint.async_checkpointer import AsyncCheckpointer
from pertinax.checkpoint.checkpoint_args import CheckpointArgs
from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler
from pertinax.checkpoint.handlers.handler_registration import CheckpointHandlerRegistry
from pertinax.checkpoint.logging.abstract_logger import AbstractLogger
from pertinax.checkpoint.logging.standard_logger import StandardLogger
from pertinax.checkpoint.logging.step_statistics import RestoreStepStatistics, SaveStepStatistics
from pertinax.checkpoint.options import AsyncOptions, FileOptions, MultiprocessingOptions

__all__ = [
    "DEFAULT_ITEM_NAME",
    "DESCRIPTOR_ITEM_NAME",
    "METADATA_ITEM_NAME",
    "METRIC_ITEM_NAME",
    "RESERVED_ITEM_NAMES",
    "AbstractCheckpointManager",
    "AbstractCheckpointer",
    "AsyncOptions",
    "CheckpointDirs",
    "CheckpointHandlersDict",
    "CheckpointInfo",
    "CheckpointManager",
    "CheckpointManagerOptions",
    "CheckpointersDict",
    "FileOptions",
    "MultiprocessingOptions",
    "PyTree",
    "RestoreParams",
    "SaveParams",
    "StepAlreadyExistsError",
    "is_async_checkpointer",
]

PyTree = Any
CheckpointDirs = tuple[str, str]
SaveParams = Mapping[str, Any]
RestoreParams = SaveParams
CheckpointersDict = dict[str, AbstractCheckpointer]
CheckpointHandlersDict = dict[str, CheckpointHandler]
RESERVED_ITEM_NAMES: Sequence[str] = [DESCRIPTOR_ITEM_NAME, METRIC_ITEM_NAME]

_Given = tuple[Any, Any, Any, Any]  # items, keywords for them, args; metrics, or another root
_LOG: Final = logging.getLogger(__name__)


class StepAlreadyExistsError(ValueError):
    """The step was saved before; steps never change."""


class CheckpointManager(AbstractCheckpointManager):
    """Saves, keeps, lists, restores and removes the steps of a training run under one root.

    Saves go on in the background unless the options say otherwise: `wait_until_finished` before you
    rely on the files, or use the manager as a context. A failed save is raised by the next call
    that waits, and leaves what is known of the root equal to what is there.

    >>> with CheckpointManager(root, options=CheckpointManagerOptions(max_to_keep=3)) as manager:
    ...     for step in range(manager.latest_step() or 0, 1000):
    ...         state = train(state)
    ...         manager.save(step, args=args.StandardSave(state))
    """

    def __init__(
        self,
        directory: epath.PathLike,
        checkpointers: AbstractCheckpointer | CheckpointersDict | None = None,
        options: CheckpointManagerOptions | None = None,
        metadata: Mapping[str, Any] | None = None,
        item_names: Iterable[str] | None = None,
        item_handlers: CheckpointHandler | CheckpointHandlersDict | None = None,
        logger: AbstractLogger | None = None,
        handler_registry: CheckpointHandlerRegistry | None = None,
    ) -> None:
        jax.monitoring.record_event("/jax/orbax/checkpoint_manager/init")
        self._options = options or CheckpointManagerOptions()
        check_best_mode(self._options.best_mode)
        self._directory = epath.Path(directory)
        self._root_metadata = RootMetadata(self._directory, metadata, self._options)
        self._root_metadata.check()
        self._logger = logger or StandardLogger()
        self._quality = quality_of(self._options)
        self._places = Places(self._directory, self._options)
        told = Told(checkpointers, item_names, item_handlers, handler_registry)
        self._backing: Backing = build_backing(told, self._options)
        self._mode = ItemMode(self._backing)
        self._finalizer = Finalizer(
            lambda: max(self._removal.moved_s, self._checkpointer.moved.at_s)
        )
        self._saving = threading.RLock()
        self._preempted: tuple[int, bool] | None = None
        self._closed = False
        try:
            with self._places.operation("CheckpointManager:init"):
                prepare_root(self._directory, self._options)
                self._known = KnownSteps(self._directory, self._options)
                self._known.load()
                self._root_metadata.save()
            self._removal = self._places.removal()
        except BaseException:
            self._checkpointer.close()
            raise
        about = (self._directory, len(self._known.infos), self._options)
        _LOG.info("manager directory=%s steps=%d options=%s", *about)

    # ---------------------------------------------------------------------------------- properties

    @property
    def directory(self) -> epath.Path:
        """The root."""
        return self._directory

    @property
    def _checkpointer(self) -> Checkpointer:
        return self._backing.checkpointer

    @property
    def _default_item(self) -> bool | None:
        return self._mode.default_item

    @property
    def _checkpoints(self) -> list[CheckpointInfo]:
        return self._known.infos

    def _metadata_path(self) -> epath.Path:
        return self._root_metadata.path

    # --------------------------------------------------------------------------------- known steps

    def all_steps(self, read: bool = False) -> list[int]:
        """The known steps in ascending order, the one being saved among them.

        `read` is deprecated: call `reload` first.
        """
        if read:
            _LOG.warning("all_steps(read=True) is deprecated: call reload()")
            self.reload()
        return self._known.steps()

    def latest_step(self) -> int | None:
        """The largest known step, the one being saved included; None if there is none."""
        return self._known.latest()

    def best_step(self) -> int | None:
        """The step with the best metrics, the newest among equals; None if no step has any.

        Without `best_fn`, the latest step.
        """
        return self._known.best()

    def reload(self) -> None:
        """Look at the disk again: somebody else may save or delete steps."""
        self._known.load()

    # -------------------------------------------------------------------------------------- saving

    def reached_preemption(self, step: int) -> bool:
        """Whether the job will be stopped soon and `step` is where all processes know it.

        Save, wait and leave then. False if JAX does not run as several processes.
        """
        if self._preempted is not None and self._preempted[0] == step:
            return self._preempted[1]  # one question for each save
        return multihost.reached_preemption(step)

    def should_save(self, step: int) -> bool:
        """Whether `save` would save. Preemption says yes, else `should_save_fn` or intervals."""
        options = self._options
        if options.read_only:
            _LOG.warning("read_only: step %s is not saved", step)
            return False
        if self.reached_preemption(step):
            return True
        latest = self.latest_step()
        if latest is not None and latest >= step:
            return False
        if options.should_save_fn is not None:
            return bool(options.should_save_fn(step, latest))
        if latest is None:
            return True
        return is_on_interval(options, step)

    def save(
        self,
        step: int,
        items: Any = None,
        save_kwargs: Any = None,
        metrics: Any = None,
        force: bool = False,
        args: CheckpointArgs | None = None,
    ) -> bool:
        """Save a step, if it is time to; True if the save was begun (or, if synchronous, is done).

        Call it on all processes. `args` are those of one item, or `args.Composite` of several by
        name; `items` and `save_kwargs` are the old way to say the same. `metrics` are stored if
        `best_fn` is set: numbers of any kind, in dictionaries and lists. With `force` it is time.

        Raises the failure of the save before; `StepAlreadyExistsError`; `ValueError` or `TypeError`
        for arguments that cannot be saved, before anything is written.
        """
        stats = SaveStepStatistics(directory=str(self._directory))
        stats.checkpoint_manager_blocking_start_time = time.time()
        stats.step = step = plain_step(step)
        if items is None and args is None:
            raise ValueError("Must provide `args` for `save`.")
        check_args(items, args)
        self._mode.check_save(args)
        with self._saving:
            return self._save(stats, step, (items, save_kwargs, args, metrics), force=force)

    def _save(self, stats: SaveStepStatistics, step: int, what: _Given, *, force: bool) -> bool:
        if self._options.read_only:
            _LOG.warning("read_only: step %d is not saved", step)
            return False
        self._preempted = None
        self._preempted = (step, self.reached_preemption(step))
        try:
            if not force and not self._is_due(step):
                return False
            stats.reached_preemption = self._preempted[1]
        finally:
            self._preempted = None
        if stats.reached_preemption:
            stats.preemption_received_at = time.time()
            _LOG.warning("%s the job will be stopped soon", teller(step))
        with self._places.operation("CheckpointManager:save"):
            return self._save_now(stats, step, what, force=force)

    def _save_now(self, stats: SaveStepStatistics, step: int, what: _Given, *, force: bool) -> bool:
        if self._closed:
            raise RuntimeError("this manager is closed and saves nothing any more: make a new one")
        self._wait_for_previous(stats)
        if self._known.find(step) is not None:
            if stats.reached_preemption and not force:
                _LOG.info("preemption at step=%d, which is saved already", step)
                return False
            raise StepAlreadyExistsError(f"step {step} is saved already in {self._directory}")
        items, kwargs, args, metrics = what
        composite = self._mode.save_args(items, kwargs, args)
        measured = checked_metrics(metrics, self._quality)
        if self._quality is not None and measured is not None:
            composite = composite | {METRIC_ITEM_NAME: args_lib.JsonSave(measured)}
        if not composite:
            raise ValueError("there is nothing to save: `args` has no items")
        self._write(stats, step, args_lib.Composite(**composite))
        self._mode.saved(items, args)
        self._finish(stats, step, measured)
        begun = stats.checkpoint_manager_blocking_start_time or 0.0
        stats.checkpoint_manager_blocking_duration_secs = time.time() - begun
        self._logger.log_entry(vars(stats).copy())
        return True

    def _is_due(self, step: int) -> bool:
        due = self.should_save(step)
        if self._options.should_save_fn is None:
            return due  # else it may go by the clock: what the primary's says counts
        return bool(self._places.agreed("CheckpointManager:should_save", step, lambda: due))

    def _wait_for_previous(self, stats: SaveStepStatistics) -> None:
        stats.wait_for_prev_start_time = time.time()
        self._finalizer.wait(settle=True)
        stats.wait_for_prev_duration_secs = time.time() - stats.wait_for_prev_start_time
        record_stage("wait_for_prev_duration_secs", stats.wait_for_prev_duration_secs)

    def _write(self, stats: SaveStepStatistics, step: int, args: args_lib.Composite) -> None:
        stats.checkpointer_blocking_start_time = begun = time.time()
        self._removal.make_room()
        path = self._places.clear(step)
        _LOG.info("%s save begins path=%s", teller(step), path)
        self._checkpointer.save(path, args=args)
        stats.checkpointer_blocking_duration_secs = time.time() - begun

    def _finish(self, stats: SaveStepStatistics, step: int, metrics: Any) -> None:
        stats.get_old_steps_start_time = begun = time.time()
        work = SavedWork(self._known.infos, counts=stats.reached_preemption)
        doomed = self._known.begin(step, metrics)
        stats.get_old_steps_duration_secs = time.time() - begun
        record_stage("get_old_steps_duration_secs", stats.get_old_steps_duration_secs)
        record_stage("old_steps_examined_count", len(self._known.infos) + len(doomed))
        stats.synchronous = not isinstance(self._checkpointer, AsyncCheckpointer)
        if stats.synchronous:
            self._finalize(step, doomed, work)
            self._removal.settle()
        else:
            self._finalizer.start(lambda: self._finalize(step, doomed, work), step)

    def _finalize(self, step: int, doomed: list[int], work: SavedWork) -> None:
        """Wait until the step is visible; only then may others go."""
        _LOG.info("%s save is being finalized", teller(step))
        try:
            if isinstance(self._checkpointer, AsyncCheckpointer):
                self._checkpointer.wait_for_end(threading.TIMEOUT_MAX)
        except BaseException:
            self._known.fail()
            raise
        self._known.succeed()
        work.record()
        begun, gone = time.time(), []
        try:
            gone = self._places.agreed(
                "CheckpointManager:finalize", step, lambda: self._remove(step, doomed)
            )
        finally:
            self._known.settle(gone)
        self._places.meet("CheckpointManager:finalize", step)
        record_stage("remove_steps_duration_secs", time.time() - begun)
        _LOG.info("%s save is done path=%s", teller(step), self._places.new(step))

    def _remove(self, step: int, doomed: list[int]) -> list[int]:
        if doomed and not is_visible(self._places.known(step)):
            _LOG.error("step=%d is not visible after its save: nothing is deleted", step)
            return []
        self._removal.settle()  # of what is out of sight, only one save's share takes up room
        places = {old: self._places.known(old) for old in doomed}
        return [old for old in doomed if self._removal.remove(places[old], later=True)]

    # ----------------------------------------------------------------------------------- restoring

    def restore(
        self,
        step: int | None,
        items: Any = None,
        restore_kwargs: Any = None,
        directory: epath.PathLike | None = None,
        args: CheckpointArgs | None = None,
    ) -> Any:
        """What was saved at `step`, or, if it is None, at the latest.

        Without `args` everything comes back as it was saved: the object itself, or a `Composite` of
        all items. `directory` is another root to read from. Waits for the save in the background.

        Raises `FileNotFoundError` without such a step, `KeyError` without such an item.
        """
        stats = RestoreStepStatistics(directory=str(directory or self._directory))
        stats.checkpoint_manager_start_time = time.time()
        check_args(items, args)
        self._mode.check_restore(args)
        with self._places.operation("CheckpointManager:restore"):
            return self._restore(stats, step, (items, restore_kwargs, args, directory))

    def _restore(self, stats: RestoreStepStatistics, step: int | None, what: _Given) -> Any:
        items, kwargs, args, directory = what
        self.wait_until_finished()
        root = self._directory if directory is None else epath.Path(directory)
        if step is None:
            step = self.latest_step() if directory is None else self._places.latest(root)
        if step is None:
            raise FileNotFoundError(f"No steps found in {root}.")
        stats.step = step = operator.index(step)
        path = self._places.stored(step, root)
        stats.checkpointer_start_time = time.time()
        _LOG.info("%s restore begins path=%s", teller(step), path)
        restored = self._mode.restore(path, items, kwargs, args)
        now = time.time()
        _LOG.info("%s restore is done path=%s", teller(step), path)
        stats.checkpointer_duration_secs = now - stats.checkpointer_start_time
        stats.checkpoint_manager_duration_secs = now - (stats.checkpoint_manager_start_time or now)
        self._logger.log_entry(vars(stats).copy())
        return restored

    def item_metadata(self, step: int) -> Any:
        """What is known of the items of `step` without reading them: of the one, or of all by name.

        None for an item that nobody has said how to read, or that knows nothing of itself. Raises
        `FileNotFoundError` without such a step.
        """
        if self._known.is_in_flight(step):
            self.wait_until_finished()
        return self._mode.metadata(self._places.stored(operator.index(step), self._directory))

    def metadata(self) -> Mapping[str, Any]:
        """What was noted about the whole root when it was begun; empty if nothing was."""
        return self._root_metadata.get()

    def metrics(self, step: int) -> Any:
        """What was measured at `step`; None if nothing was, or `best_fn` is not set."""
        if self._quality is None or step < 0:
            return None
        info = self._known.find(step)
        if info is not None and self._known.is_in_flight(step):
            return info.metrics
        return stored_metrics(self._places.known(plain_step(step)))

    # ------------------------------------------------------------------------- the end of one thing

    def delete(self, step: int) -> None:
        """Remove `step`. Raises `ValueError` if there is no such step, `OSError` if it stays."""
        if self._options.read_only:
            _LOG.warning("read_only: step %s is not deleted", step)
            return
        if self._known.find(step) is None:
            raise ValueError(f"Requested deleting a non-existent step: {step}.")
        if self._known.is_in_flight(step):
            self.wait_until_finished()
        path = self._places.known(plain_step(step))
        point = "CheckpointManager:deleted_step"
        if not self._places.agreed(point, step, lambda: self._removal.remove(path)):
            raise OSError(f"step {step} cannot be removed from {self._directory}: the log says why")
        self._known.discard(step)

    def wait_until_finished(self) -> None:
        """Wait for the save in the background and for what it removes. Raises its failure, or
        `StorageStalled` when nothing has moved for half an hour; it goes on then.

        (The next save waits for the save alone, and not until the bytes of old steps are gone.)

        Any number of threads may wait. All hear of a failure, until the thread that saved, or the
        next save, has heard of it. The thread that saves does not wait for itself.
        """
        if (
            isinstance(self._checkpointer, AsyncCheckpointer)
            and self._checkpointer.is_saving_here()
        ):
            return
        self._finalizer.wait()
        self._removal.settle()

    def check_for_errors(self) -> None:
        """Raise the failure of a save in the background that has ended. Never waits."""
        if self._finalizer.error() is not None:
            self._finalizer.wait()

    def is_saving_in_progress(self) -> bool:
        """Whether a save goes on in the background. Never waits."""
        return self._finalizer.in_progress()

    def close(self) -> None:
        """Wait for the save and give everything back, also if the save has failed; then raise that.

        May be called twice. Restoring still works afterwards.
        """
        self._closed = True
        with contextlib.ExitStack() as last_to_first:
            last_to_first.callback(self._known.close)
            last_to_first.callback(self._removal.close)
            last_to_first.callback(self._checkpointer.close)
            last_to_first.callback(self._finalizer.wait, settle=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_after(self.close, error)
