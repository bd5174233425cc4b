# SPDX-License-Identifier: Apache-2.0
"""The options of the manager: checked at birth, and translated into what the engine understands.

Knows every field that the mirrored API has and which values mean something. Knows nothing of disks.
"""

import datetime as dt
import logging
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pertinax._steps.naming import PlainNaming
from pertinax.checkpoint._adapt.retention import ManagerRetention, Quality
from pertinax.checkpoint.options import AsyncOptions, FileOptions, MultiprocessingOptions
from pertinax.checkpoint.path import step as step_lib

_LOG: Final = logging.getLogger(__name__)
# What a manager that only reads does not do, and the values that say so.
_READ_ONLY_VALUES: Final = (
    *(("max_to_keep", None), ("keep_time_interval", None), ("keep_period", None)),
    *(("todelete_subdir", None), ("should_save_fn", None)),
    *(("create", False), ("cleanup_tmp_directories", False), ("save_on_steps", frozenset[int]())),
)


@dataclass
class CheckpointManagerOptions:
    """How a manager saves, keeps, names and deletes. Every field can be given by name.

    Attributes:
        save_interval_steps: save when this divides the step.
        max_to_keep: how many steps stay; None keeps all and makes the other keep options idle.
        keep_time_interval: beyond `max_to_keep`, steps at least this far apart stay.
        keep_period: beyond `max_to_keep`, steps that this divides stay.
        best_fn: how good a step is, from its metrics; steps then stay by quality, not by age.
        best_mode: whether `"max"` or `"min"` of it is good.
        keep_checkpoints_without_metrics: steps without metrics stay; else they go first.
        step_prefix: directories are called `<prefix>_<step>`.
        step_format_fixed_length: numbers are padded with zeros to this length.
        step_name_format: names of any kind, instead of the two above.
        create: make the root and its parents if they are not there.
        cleanup_tmp_directories: at the start, remove what unpublished saves left in the root.
            What dead processes of ours left there is removed in any case.
        save_on_steps: also save at these steps.
        single_host_load_and_broadcast: the primary host lists the root and tells the others what it
            has found; `reload` is then a call of all processes.
        todelete_subdir: move removed steps into this directory of the root instead.
        enable_background_delete: delete in a thread of its own.
        read_only: never write or delete; options that would are reset, each with a warning.
        enable_async_checkpointing: save in the background.
        async_options: how that waits.
        multiprocessing_options: who takes part.
        should_save_fn: decides instead of the intervals, from the step and the latest step.
        file_options: permission bits of directories.
        temporary_path_class: how an unfinished step is called and published; handed to the
            checkpointer.
    """

    save_interval_steps: int = 1
    max_to_keep: int | None = None
    keep_time_interval: dt.timedelta | None = None
    keep_period: int | None = None
    best_fn: Callable[[Any], Any] | None = None
    best_mode: str = "max"
    keep_checkpoints_without_metrics: bool = True
    step_prefix: str | None = None
    step_format_fixed_length: int | None = None
    step_name_format: step_lib.NameFormat[Any] | None = None
    create: bool = True
    cleanup_tmp_directories: bool = False
    save_on_steps: Container[int] | None = None
    single_host_load_and_broadcast: bool = False
    todelete_subdir: str | None = None
    enable_background_delete: bool = False
    read_only: bool = False
    enable_async_checkpointing: bool = True
    async_options: AsyncOptions | None = None
    multiprocessing_options: MultiprocessingOptions = field(default_factory=MultiprocessingOptions)
    should_save_fn: Callable[[int, int | None], bool] | None = None
    file_options: FileOptions = field(default_factory=FileOptions)
    temporary_path_class: type[Any] | None = None

    def __post_init__(self) -> None:
        check_best_mode(self.best_mode)
        if self.max_to_keep is not None and self.max_to_keep < 0:
            raise ValueError(
                f"Setting of `max_to_keep` must be None or non-negative, not {self.max_to_keep}"
            )
        self._check_todelete_subdir()
        # A container cannot be listed, but what is asked for membership need not be.
        if self.save_on_steps is None or isinstance(self.save_on_steps, Iterable):
            steps = cast("Iterable[int]", self.save_on_steps or ())
            self.save_on_steps = frozenset(steps)
        if self.read_only:
            self._stop_writing()
        elif self.max_to_keep is None and (self.keep_period or self.keep_time_interval):
            _LOG.warning("without max_to_keep all steps stay: other keep options change nothing")

    def _check_todelete_subdir(self) -> None:
        name = self.todelete_subdir
        if name is None:
            return
        if not name or "/" in name or name in (".", ".."):
            raise ValueError(f"todelete_subdir={name!r} is no name of a directory")
        naming = PlainNaming(self.step_prefix, self.step_format_fixed_length or None)
        if self.step_name_format is None and naming.step(name) is not None:
            raise ValueError(f"todelete_subdir={name!r} would be taken for a step")

    def _stop_writing(self) -> None:
        wanted = dict[str, Any](_READ_ONLY_VALUES)
        if self.save_interval_steps > 0:
            wanted["save_interval_steps"] = 0
        for name, value in wanted.items():
            if getattr(self, name) != value:
                _LOG.warning("read_only: %s=%r becomes %r", name, getattr(self, name), value)
                setattr(self, name, value)


def check_best_mode(mode: str) -> None:
    """Raise `ValueError` for a mode that is neither end."""
    if mode not in ("max", "min"):
        raise ValueError(f"`best_mode` must be one of 'max' and 'min', not {mode!r}")


def is_on_interval(options: CheckpointManagerOptions, step: int) -> bool:
    """Whether `step` is one of those that are saved regularly."""
    interval, extra = options.save_interval_steps, options.save_on_steps or ()
    return step in extra or bool(interval and step % interval == 0)


def name_format_of(options: CheckpointManagerOptions) -> step_lib.NameFormat[Any]:
    """How the steps of a manager with these options are called."""
    return options.step_name_format or step_lib.standard_name_format(
        options.step_prefix, options.step_format_fixed_length
    )


def quality_of(options: CheckpointManagerOptions) -> Quality | None:
    """What makes a step good, if metrics are tracked."""
    if options.best_fn is None:
        return None
    return Quality(options.best_fn, "min" if options.best_mode == "min" else "max")


def retention_of(options: CheckpointManagerOptions) -> ManagerRetention:
    """Which steps stay."""
    interval = options.keep_time_interval
    return ManagerRetention(
        max_to_keep=options.max_to_keep,
        interval_ns=None if interval is None else nanoseconds(interval),
        period=options.keep_period,
        quality=quality_of(options),
        keep_without_metrics=options.keep_checkpoints_without_metrics,
    )


def nanoseconds(interval: dt.timedelta) -> int:
    """An interval without rounding: whole hours must compare as whole hours."""
    return interval // dt.timedelta(microseconds=1) * 1000
