# SPDX-License-Identifier: Apache-2.0
"""The checkpointer that waits.

Knows the order of a save: name, temporary path, handler, finalize, publish. The engine does each of
them.
"""

import logging
import time
from typing import Any, ClassVar, Final

import jax
from etils import epath

from pertinax._core.places import locate
from pertinax._hosts import Round
from pertinax.checkpoint._adapt.calls import construct_args, restore_args_of, save_args_of
from pertinax.checkpoint._adapt.legacy import get_legacy_handler_wrapper, with_args
from pertinax.checkpoint._adapt.meeting import LastMove, Meeting
from pertinax.checkpoint._adapt.publish import (
    Place,
    abandon,
    begin_round,
    choose_place,
    clear_for,
    find_finished,
    publish,
)
from pertinax.checkpoint._adapt.step_notes import StepNotes, blocking_notes
from pertinax.checkpoint._adapt.stored import check_files
from pertinax.checkpoint._adapt.telling import teller
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.abstract_checkpointer import AbstractCheckpointer
from pertinax.checkpoint.checkpoint_args import CheckpointArgs
from pertinax.checkpoint.handlers.composite_checkpoint_handler import CompositeCheckpointHandler
from pertinax.checkpoint.options import FileOptions, MultiprocessingOptions
from pertinax.checkpoint.path import atomicity
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)

__all__ = [
    "CheckpointArgs",
    "Checkpointer",
    "construct_checkpoint_args",
    "get_legacy_handler_wrapper",
]


def construct_checkpoint_args(
    handler: Any, for_save: bool, *args: Any, **kwargs: Any
) -> CheckpointArgs:
    """The args object in a call of `save` or `restore`, or the one that its arguments make.

    Raises `TypeError` for arguments that the handler's args class does not take.
    """
    return construct_args(handler, args, kwargs, for_save=for_save)


_PATIENCE_S: Final = 1200.0
"""How long processes wait for one another, as Orbax does."""


class Checkpointer(AbstractCheckpointer):
    """Saves and restores through a handler.

    When `save` returns, the checkpoint is durable and visible. A save appears as a whole or not at
    all, whatever happens meanwhile; `force=True` replaces an older checkpoint just as safely.
    Raises `ValueError` for a `checkpoint_metadata_store` that writes in the background.

    >>> checkpointer = Checkpointer(PyTreeCheckpointHandler())
    >>> checkpointer.save("runs/first", args=PyTreeSave(tree))
    >>> tree = checkpointer.restore("runs/first")
    """

    _INIT_EVENT: ClassVar[str] = "/jax/orbax/checkpointer/init"

    def __init__(
        self,
        handler: Any,
        *,
        multiprocessing_options: MultiprocessingOptions | None = None,
        file_options: FileOptions | None = None,
        checkpoint_metadata_store: Any = None,
        temporary_path_class: Any = None,
    ) -> None:
        super().__init__()
        self._multiprocessing_options = multiprocessing_options or MultiprocessingOptions()
        self._meeting = Meeting(self._multiprocessing_options)
        self._meeting.check()
        self._handler: Any = with_args(handler)
        self._file_options = file_options or FileOptions()
        self._notes = self._make_notes(checkpoint_metadata_store)
        self._temporary_path_class = temporary_path_class
        self._owner: str | None = None  # of the directory that is made next
        self.moved = LastMove()
        jax.monitoring.record_event(self._INIT_EVENT)

    def _make_notes(self, store: Any) -> StepNotes:
        return blocking_notes(store)

    @property
    def handler(self) -> Any:
        """The handler; one without args of its own stands here in a wrapper."""
        return self._handler

    async def create_temporary_path(self, directory: epath.Path) -> atomicity.TemporaryPath:
        """Make the directory in which the checkpoint `directory` will be written."""
        final = epath.Path(directory)
        path = self._path_class(final).from_final(
            final,
            checkpoint_metadata_store=self._notes.store,
            file_options=self._file_options,
            multiprocessing_options=self._multiprocessing_options,
        )
        if self._owner is not None and isinstance(path, atomicity.AtomicRenameTemporaryPath):
            path.sign(self._owner)
        try:
            await atomicity.create_all(
                [path], multiprocessing_options=self._multiprocessing_options
            )
        except BaseException:
            abandon(path)  # nobody writes into it yet
            raise
        return path

    def _path_class(self, final: epath.Path) -> type[Any]:
        return self._temporary_path_class or atomicity.get_default_temporary_path_class(final)

    async def _begin(self, place: Place, talk: Round) -> atomicity.TemporaryPath:
        final = epath.Path(place.final)
        clear_for(self._path_class(final), place, talk)
        self._owner = place.owner
        return await self.create_temporary_path(final)

    def save(self, directory: PathLike, *args: Any, force: bool = False, **kwargs: Any) -> None:
        """Save what `args` say, or the arguments that the handler's args class takes.

        Raises `ValueError` if the directory is taken and `force` is false.
        """
        begun_ns = time.time_ns()
        jax.monitoring.record_event("/jax/orbax/write/start")
        with (
            begin_round(self._meeting, "checkpoint", directory, _PATIENCE_S) as talk,
            self._meeting.inside(talk),
        ):
            place = choose_place(directory, force=force, talk=talk)
            _LOG.info("%s save begins path=%s", teller(), place.final)
            given = save_args_of(self._handler, args, kwargs)
            _LOG.debug("%s handler=%s args=%s", teller(), type(self._handler), type(given))
            path = run_coroutine(self._begin(place, talk))
            try:
                self._handler.save(path.get(), args=given)
                self._meeting.gather("Checkpointer:save", place.name, talk=talk)
                if self._meeting.is_primary:
                    self._handler.finalize(path.get())
                    publish(path, place, self._handler, begun_ns=begun_ns)
                self._meeting.gather("Checkpointer:finalize", place.name, talk=talk)
            except BaseException as error:
                talk.fail(error)
                abandon(path)
                raise
        _LOG.info("%s save is done path=%s", teller(), place.final)

    def restore(self, directory: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Restore what `args` ask for.

        Raises `FileNotFoundError` if there is no checkpoint, `ValueError` if it is unfinished or
        does not fit.
        """
        with (
            begin_round(self._meeting, "restore", directory, _PATIENCE_S) as talk,
            self._meeting.inside(talk),
        ):
            found = find_finished(directory)
            _LOG.info("%s restore begins path=%s", teller(), found)
            given = restore_args_of(self._handler, args, kwargs)
            handler: Any = self._handler
            if not isinstance(handler, CompositeCheckpointHandler):  # which does it item by item
                check_files(found)
            restored = self._handler.restore(found, args=given)
            self._meeting.gather("Checkpointer:restore", found.name, talk=talk)
        _LOG.info("%s restore is done path=%s", teller(), found)
        return restored

    def metadata(self, directory: PathLike) -> Any | None:
        """What the handler knows of the checkpoint without reading its values."""
        return self._handler.metadata(epath.Path(locate(directory)[1]))

    def close(self) -> None:
        """Close the handler, then the store of notes."""
        try:
            self._handler.close()
        finally:
            self._notes.close()
