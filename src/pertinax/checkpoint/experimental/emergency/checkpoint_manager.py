# SPDX-License-Identifier: Apache-2.0
"""The emergency manager: saves near each host often, to shared storage seldom, and comes back after
hosts were lost.

Knows the mirrored API. The work is done by the engine's two tiers; each piece of a step comes from
wherever it is.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import jax
from etils import epath
from jax.sharding import Mesh

from pertinax._core.closing import close_after
from pertinax._core.options import LoadOptions
from pertinax._hosts import this_job
from pertinax._tiers.manager import TieredManager
from pertinax._tiers.restoring import Regained, look_into
from pertinax.checkpoint import multihost
from pertinax.checkpoint import type_handlers as type_handlers_lib
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.emergency import naming_of, note_mesh, target_of, with_dtypes
from pertinax.checkpoint.abstract_checkpoint_manager import AbstractCheckpointManager
from pertinax.checkpoint.checkpoint_args import CheckpointArgs
from pertinax.checkpoint.checkpoint_manager import StepAlreadyExistsError
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import PyTreeCheckpointHandler
from pertinax.checkpoint.logging.abstract_logger import AbstractLogger
from pertinax.checkpoint.logging.standard_logger import StandardLogger
from pertinax.checkpoint.logging.step_statistics import EmergencyRestoreStepStatistics
from pertinax.checkpoint.multihost import multislice
from pertinax.checkpoint.options import AsyncOptions
from pertinax.checkpoint.options import MultiprocessingOptions as _SavingOptions
from pertinax.checkpoint.path import step as step_lib
from pertinax.errors import CheckpointNotFound

__all__ = [
    "CheckpointManager",
    "CheckpointManagerOptions",
    "LocalCheckpointOptions",
    "MultiprocessingOptions",
    "PersistentCheckpointOptions",
    "local_checkpoint_handler",
]

_LOG: Final = logging.getLogger(__name__)
_METRICS: Final = "/orbax/emergency/checkpoint/read/"


@dataclass
class LocalCheckpointOptions:
    """How the storage near each process is used.

    Attributes:
        save_interval_steps: save when this divides the step.
        max_to_keep: how many steps stay, beside the one that is being written.
        read_only: never write there.
        should_save_fn: decides instead of the interval, from the step and the latest local step.
        debug_use_full_global_mesh: means nothing any more: all processes keep their shards.
    """

    save_interval_steps: int = 10
    max_to_keep: int = 1
    read_only: bool = False
    should_save_fn: Callable[[int, int | None], bool] | None = None
    debug_use_full_global_mesh: bool = False


@dataclass
class PersistentCheckpointOptions:
    """How the storage is used that outlives the processes.

    Attributes:
        save_interval_steps: save when this divides the step.
        max_to_keep: how many steps stay; None: all.
        should_save_fn: decides instead of the interval, from the step and the latest such step.
    """

    save_interval_steps: int = 1000
    max_to_keep: int | None = None
    should_save_fn: Callable[[int, int | None], bool] | None = None


@dataclass
class MultiprocessingOptions:
    """How long processes wait for each other, in seconds, when they exchange what they know."""

    coordination_timeout_secs: int = 120


@dataclass
class CheckpointManagerOptions:
    """How the two tiers are used.

    Attributes:
        local, persistent: the options of each tier.
        replica_axis_index: the axis of the mesh that tells replicas apart.
        step_name_format: how directories of steps are called, in both tiers.
        cleanup_tmp_directories: at the start, remove unpublished saves in the persistent tier too.
        enable_async_checkpointing: save in the background.
        async_options: how that waits.
        multiprocessing_options: how long exchanges wait.
    """

    local: LocalCheckpointOptions = field(default_factory=LocalCheckpointOptions)
    persistent: PersistentCheckpointOptions = field(default_factory=PersistentCheckpointOptions)
    replica_axis_index: int = 0
    step_name_format: step_lib.NameFormat[Any] = field(
        default_factory=step_lib.standard_name_format
    )
    cleanup_tmp_directories: bool = False
    enable_async_checkpointing: bool = True
    async_options: AsyncOptions | None = None
    multiprocessing_options: MultiprocessingOptions | None = None


def local_checkpoint_handler(
    multiprocessing_options: _SavingOptions | None = None,
) -> PyTreeCheckpointHandler:
    """A handler for trees of which each process saves what it holds.

    Raises `ValueError` for options with a primary host.
    """
    options = multiprocessing_options or _SavingOptions(primary_host=None)
    if options.primary_host is not None:
        raise ValueError(
            f"each process leads itself in local storage: primary_host={options.primary_host} must "
            "be None"
        )
    registry = type_handlers_lib.create_type_handler_registry(
        (jax.Array, type_handlers_lib.ArrayHandler(primary_host=None, replica_id=None))
    )
    return PyTreeCheckpointHandler(
        use_ocdbt=True,
        use_zarr3=True,
        multiprocessing_options=options,
        type_handler_registry=registry,
    )


class CheckpointManager(AbstractCheckpointManager):
    """Saves often near each host and seldom to shared storage; restores from wherever a step is.

    Every process keeps the shards that it holds in its local directory. A restore takes each piece
    from the process's own storage, from that of another process which has it, or from persistent
    storage; which host had which place before does not count. All processes make the same calls.

    Args:
        local_directory: storage of this process alone; it exists.
        persistent_directory: storage that all processes see; it exists, or lies in an object store.
        global_mesh: all replicas.
        abstract_state: the tree as it is restored without args: leaves with shape, dtype and
            sharding.
        options: how the tiers are used.
        metadata: not kept.
        logger: hears of each restore.

    Raises `AssertionError` if the mesh has no such axis or a single replica, and `ValueError` if a
    directory is not there.
    """

    def __init__(
        self,
        local_directory: epath.PathLike,
        persistent_directory: epath.PathLike,
        global_mesh: Mesh,
        abstract_state: Any,
        *,
        options: CheckpointManagerOptions | None = None,
        metadata: dict[str, Any] | None = None,
        logger: AbstractLogger | None = None,
    ) -> None:
        jax.monitoring.record_event("/jax/orbax/checkpoint_manager/init")
        self._options = options or CheckpointManagerOptions()
        self._mesh = global_mesh
        self._abstract_state = abstract_state
        self._logger = logger or StandardLogger()
        self._local_directory = epath.Path(local_directory)
        self._persistent_directory = epath.Path(persistent_directory)
        _check_mesh(global_mesh, self._options.replica_axis_index)
        for directory in (self._local_directory, self._persistent_directory):
            # In an object store, a directory with nothing in it is none.
            if not files.is_remote(directory) and not files.exists(directory):
                raise ValueError(f"Path {directory} does not exist.")
        me = multihost.process_index()
        self.in_primary_slice = multislice.in_slice(
            me, global_mesh, replica_axis_index=self._options.replica_axis_index
        )
        note_mesh(self._persistent_directory, global_mesh)
        alone: dict[str, Any] = {"primary_host": None, "active_processes": {me}}
        step_lib.cleanup_tmp_directories(self._local_directory, **alone)
        if self._options.cleanup_tmp_directories:
            step_lib.cleanup_tmp_directories(self._persistent_directory)
        self._tiers = self._make_tiers()
        self._near: list[int] = []
        self._durable: list[int] = []
        self._before: tuple[list[int], list[int]] = ([], [])
        self.reload()

    def _make_tiers(self) -> TieredManager:
        options = self._options
        keep = options.persistent.max_to_keep
        return TieredManager(
            self._local_directory,
            self._persistent_directory,
            keep_local=None if options.local.read_only else max(1, options.local.max_to_keep),
            keep=None if keep is None else max(1, keep),
            background=options.enable_async_checkpointing,
            layout="ocdbt+zarr3",
            naming=naming_of(options.step_name_format),
            timeout_s=self._timeout_s,
        )

    @property
    def _timeout_s(self) -> float:
        waiting = self._options.multiprocessing_options or MultiprocessingOptions()
        return waiting.coordination_timeout_secs

    @property
    def global_mesh(self) -> Mesh:
        """All replicas."""
        return self._mesh

    # ---------------------------------------------------------------------------------------- steps

    def all_steps(self, read: bool = False) -> list[int]:
        """The steps that can be restored, ascending; with `read` after another look, which all
        processes take together.
        """
        if read:
            self.reload()
        return sorted({*self._near, *self._durable})

    def latest_step(self) -> int | None:
        """The largest of them, or None."""
        return max(self.all_steps(), default=None)

    def reload(self) -> None:
        """Look again, on all processes together."""
        self._tiers.wait()
        self._near, self._durable = self._tiers.restorer.tiers()

    def reached_preemption(self, step: int) -> bool:
        """Whether the job will be stopped soon and `step` is where all processes know it."""
        return multihost.reached_preemption(step)

    # --------------------------------------------------------------------------------------- saving

    def should_save(self, step: int) -> bool:
        """Whether some tier wants the step; the answer is the same on all processes."""
        return any(self._wanting(step))

    def _wanting(self, step: int) -> tuple[bool, bool]:
        local, persistent = self._options.local, self._options.persistent
        if self.reached_preemption(step):
            return not local.read_only, True

        def decide() -> list[bool]:
            near = not local.read_only and _is_due(step, self._near, local)
            return [near, _is_due(step, self._durable, persistent)]

        job = this_job()
        if job.topology.alone or (local.should_save_fn or persistent.should_save_fn) is None:
            near, durable = decide()
        else:  # functions of the program may differ; the primary's counts
            with job.begin("should save", str(self._persistent_directory)) as talk:
                near, durable = talk.agree("ask", decide)
        return near, durable

    def save(  # pyright: ignore[reportIncompatibleMethodOverride] - the mirrored signature
        self,
        step: int,
        args: CheckpointArgs | None = None,
        metrics: Any = None,
        force: bool | None = False,
    ) -> bool:
        """Save in each tier that wants the step, or, with `force`, in both; True if any did.

        `args` are those of a tree: `args.PyTreeSave` or `args.StandardSave`. Raises the failure of
        an earlier save; `StepAlreadyExistsError`; `ValueError` for other args.
        """
        step = int(step)
        item = getattr(args, "item", None)
        if item is None:
            raise ValueError("Must provide `args` for `save`: those of one tree, as PyTreeSave")
        if this_job().topology.alone:  # else all must hear of it at the same step
            self._hearing(self._tiers.raise_failure)
        near, durable = self._wanting(step)
        if force:
            near, durable = not self._options.local.read_only, True
        if not (near or durable):
            return False
        if (near and step in self._near) or (durable and step in self._durable):
            raise StepAlreadyExistsError(f"step {step} is saved already")
        item = with_dtypes(item, getattr(args, "save_args", None))
        self._hearing(lambda: self._tiers.save(step, item, tiers=(near, durable)))
        before_near, before_durable = self._before
        self._before = (
            self._near if near else before_near,
            self._durable if durable else before_durable,
        )
        if near:
            self._near = [*self._near, step][-max(1, self._options.local.max_to_keep) :]
        if durable:
            keep = self._options.persistent.max_to_keep
            self._durable = [*self._durable, step][-(keep or 0) :]
        return True

    def _hearing(self, call: Callable[[], Any]) -> None:
        """If it turns out that a save has failed, its step is none, and all is as before."""
        try:
            call()
        except BaseException:
            near, durable = self._tiers.failed_steps
            if near in self._near:
                self._near = self._before[0]
            if durable in self._durable:
                self._durable = self._before[1]
            raise

    # ------------------------------------------------------------------------------------ restoring

    def restore(  # pyright: ignore[reportIncompatibleMethodOverride] - the mirrored signature
        self,
        step: int | None,
        args: CheckpointArgs | None = None,
        directory: epath.PathLike | None = None,
    ) -> Any:
        """A step, like the abstract state, on all processes; each piece from wherever it is.

        `args` (`PyTreeRestore`, `StandardRestore`) may ask for other dtypes, shapes or shardings.
        `directory` is searched instead of both tiers. Raises `ValueError` without a step,
        `FileNotFoundError` if neither tier has it.
        """
        if step is None:
            raise ValueError("`step` must be given")
        stats = EmergencyRestoreStepStatistics(
            step=int(step), in_primary_slice=self.in_primary_slice
        )
        stats.checkpoint_manager_start_time = stats.checkpointer_start_time = time.time()
        target = target_of(
            self._abstract_state, getattr(args, "item", None), getattr(args, "restore_args", None)
        )
        options = LoadOptions(cast="lossy", shapes="fit")
        self._hearing(self._tiers.wait)
        restorer = self._tiers.restorer
        if directory is not None:
            naming = naming_of(self._options.step_name_format)
            restorer = look_into(directory, naming, timeout_s=self._timeout_s)
        found = restorer.restore(target, int(step), options)
        if found is None:
            if directory is not None:
                raise CheckpointNotFound(f"{directory} does not have step {step} whole")
            raise CheckpointNotFound(
                f"step {step} is neither whole in the local storage of all processes nor in "
                f"{self._persistent_directory}"
            )
        self._tell(found, stats, directory)
        return found.tree

    def _tell(
        self,
        found: Regained,
        stats: EmergencyRestoreStepStatistics,
        directory: epath.PathLike | None,
    ) -> None:
        """What happened here, for JAX's listeners and for the log."""
        near = found.own_bytes > 0 or found.peer_bytes > 0
        if near:
            record = jax.monitoring.record_event_duration_secs
            record(f"{_METRICS}broadcast_duration_secs", found.exchange_s)
            if found.had_part and found.peer_bytes:
                record(f"{_METRICS}transfer_global_shard_duration_secs", found.exchange_s)
        used = self._local_directory if found.had_part else self._persistent_directory
        stats.directory = str(directory or used)
        stats.is_restoring_slice = found.had_part
        stats.checkpointer_duration_secs = found.read_s
        stats.broadcast_duration_secs = found.exchange_s
        now, began = time.time(), stats.checkpoint_manager_start_time or 0.0
        stats.broadcast_start_time = began + found.read_s
        stats.checkpoint_manager_duration_secs = now - began
        self._logger.log_entry(vars(stats).copy())

    # ------------------------------------------------------------------------------------- the end

    def wait_until_finished(self) -> None:
        """Wait until what was saved is in its tier, and raise a failure."""
        self._hearing(self._tiers.wait)

    def check_for_errors(self) -> None:
        """Raise the failure of a save that has ended. Never waits, nor asks other processes: they
        may hear of it at another step. `save` and `wait_until_finished` raise it on all alike.
        """
        self._hearing(self._tiers.raise_failure)

    def is_saving_in_progress(self) -> bool:
        """Whether a save goes on in the background. Never waits."""
        return self._tiers.busy

    def close(self) -> None:
        """Wait, and give everything back."""
        self._tiers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_after(self.close, error)

    # ------------------------------------------------------- what two tiers have no one answer to

    @property
    def directory(self) -> epath.Path:
        """Not offered: there are two."""
        raise NotImplementedError("there are two directories: a local and a persistent one")

    def best_step(self) -> int | None:
        """Not offered."""
        raise NotImplementedError("steps are not judged by metrics in two tiers")

    def delete(self, step: int) -> None:
        """Not offered."""
        raise NotImplementedError("steps go by the options of their tier")

    def item_metadata(self, step: int) -> Any:
        """Not offered."""
        raise NotImplementedError("parts of one process have no metadata of the whole")

    def metadata(self) -> dict[str, Any]:
        """Not offered."""
        raise NotImplementedError("two tiers keep no metadata of a root")

    def metrics(self, step: int) -> Any:
        """Not offered."""
        raise NotImplementedError("two tiers keep no metrics")


def _check_mesh(mesh: Mesh, axis: int) -> None:
    """Before anything is written."""
    rank = len(mesh.devices.shape)
    assert 0 <= axis < rank, (  # noqa: S101 - the mirrored API raises this kind of error
        f"replica_axis_index={axis} is not an axis of a mesh of rank {rank}"
    )
    assert mesh.devices.shape[axis] >= 2, (  # noqa: S101 - likewise
        f"a mesh of {mesh.devices.shape} has one replica along axis {axis}: at least 2 are needed"
    )


def _is_due(
    step: int, known: Sequence[int], tier: LocalCheckpointOptions | PersistentCheckpointOptions
) -> bool:
    latest = max(known, default=None)
    if latest is not None and latest >= step:
        return False
    if tier.should_save_fn is not None:
        return bool(tier.should_save_fn(step, latest))
    return latest is None or step % tier.save_interval_steps == 0
