# SPDX-License-Identifier: Apache-2.0
"""The checkpointer that goes on in the background.

Knows which part of a save the program waits for, and how the other part's failure reaches it. The
thread and the publication are the engine's.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import jax

from pertinax._core.pending import Pending
from pertinax._hosts import Round, handed_over
from pertinax.checkpoint._adapt.calls import save_args_of
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.publish import (
    Place,
    abandon,
    begin_round,
    choose_place,
    publish,
)
from pertinax.checkpoint._adapt.step_notes import StepNotes, background_notes
from pertinax.checkpoint._adapt.telling import teller
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs
from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.composite_checkpoint_handler import flat_futures
from pertinax.checkpoint.multihost import counters
from pertinax.checkpoint.options import AsyncOptions, FileOptions, MultiprocessingOptions
from pertinax.checkpoint.path.atomicity import TemporaryPath
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)
_DURATIONS = "/jax/checkpoint/write/async/"


class NotAsynchronous(TypeError, AssertionError):
    """The handler cannot save in the background."""


@dataclasses.dataclass(frozen=True)
class _AsyncManager:
    """What programs look up here: how long the background thread waits for other processes."""

    _timeout_secs: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Flight:
    """A save in the background; `suffix` ends the names of its meetings."""

    path: TemporaryPath
    place: Place
    futures: Sequence[Future]
    talk: Round
    meeting: Meeting
    number: str
    suffix: str


class AsyncCheckpointer(Checkpointer):
    """Saves in the background.

    When `save` returns, the program may change or donate what it passed in. A failure in the
    background is raised once, by whichever comes next of `save`, `restore`, `wait_until_finished`,
    `check_for_errors` and `close`; if none does, it is written to stderr. Nothing of that save
    becomes visible. Raises `TypeError` for a handler without `async_save`.

    >>> checkpointer = AsyncCheckpointer(StandardCheckpointHandler())
    >>> checkpointer.save("runs/first", args=StandardSave(tree))
    >>> checkpointer.wait_until_finished()
    """

    _INIT_EVENT: ClassVar[str] = "/jax/orbax/async_checkpointer/init"

    def __init__(
        self,
        handler: Any,
        timeout_secs: int | None = None,
        *,
        async_options: AsyncOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
        file_options: FileOptions | None = None,
        checkpoint_metadata_store: Any = None,
        temporary_path_class: Any = None,
    ) -> None:
        super().__init__(
            handler,
            multiprocessing_options=multiprocessing_options,
            file_options=file_options,
            checkpoint_metadata_store=checkpoint_metadata_store,
            temporary_path_class=temporary_path_class,
        )
        if not callable(getattr(self._handler, "async_save", None)):
            raise NotAsynchronous(
                f"{type(handler).__name__} cannot save in the background: "
                "give an AsyncCheckpointHandler, or use Checkpointer"
            )
        self._async_options = async_options or AsyncOptions()
        self._timeout_secs = (
            timeout_secs if timeout_secs is not None else self._async_options.timeout_secs
        )
        self._async_manager = _AsyncManager(self._timeout_secs)
        self._number = counters.async_save_counter()
        _LOG.info(
            "asynchronous checkpointer timeout_s=%d barrier=%s primary_host=%s",
            self._timeout_secs,
            self._async_options.barrier_sync_fn,
            self._multiprocessing_options.primary_host,
        )
        self._pending: Pending | None = None
        self._writer: int | None = None

    def _make_notes(self, store: Any) -> StepNotes:
        return background_notes(store)

    def save(self, directory: PathLike, *args: Any, force: bool = False, **kwargs: Any) -> None:
        """Begin to save; waits for the save before this one, and raises what went wrong with it.

        Raises `ValueError` if the directory is taken and `force` is false.
        """
        begun_ns, begun_s = time.time_ns(), time.monotonic()
        self.wait_until_finished()
        jax.monitoring.record_event("/jax/orbax/write/async/start")
        with contextlib.ExitStack() as stack:
            talk = stack.enter_context(
                begin_round(self._meeting, "checkpoint", directory, self._timeout_secs)
            )
            place = choose_place(directory, force=force, talk=talk)
            _LOG.info("%s save begins path=%s", teller(), place.final)
            given = save_args_of(self._handler, args, kwargs)
            with self._meeting.inside(talk, self.moved):
                path, result = run_coroutine(self._start(place, given, talk))
            futures = list(flat_futures(result))
            flight = self._flight(path, place, futures, talk)
            with handed_over(stack) as on_thread:

                def finish(_: Any) -> None:
                    with on_thread, self._meeting.inside(talk, self.moved):
                        self._finish(flight, begun_ns)

                try:
                    self._pending = Pending(
                        place.final,
                        finish,
                        begun_s=begun_s,
                        total_bytes=0,
                        moved_s=lambda: self.moved.at_s,
                    )
                except BaseException as error:  # no thread to be had
                    talk.fail(error)
                    with contextlib.suppress(BaseException):
                        _wait_for_all(futures)  # nobody may write into what goes now
                    abandon(path)
                    raise
        _record("blocking_duration_secs", time.monotonic() - begun_s)

    async def _start(
        self, place: Place, given: CheckpointArgs, talk: Round
    ) -> tuple[TemporaryPath, Any]:
        """The part that the program waits for, in one event loop."""
        path = await self._begin(place, talk)
        try:
            return path, await self._handler.async_save(path.get(), args=given)
        except BaseException as error:
            talk.fail(error)
            abandon(path)
            raise

    def _flight(
        self, path: TemporaryPath, place: Place, futures: Sequence[Future], talk: Round
    ) -> "_Flight":
        """What the background part needs to know."""
        barrier = self._async_options.barrier_sync_fn
        own = counters.async_save_counter()
        told = [self._number, own]
        if barrier is not None:  # a program's own way to wait needs one name on all processes
            told = talk.agree("number of the save", lambda: told)
        meeting = Meeting(self._multiprocessing_options, barrier=barrier, prefix=told[0])
        return _Flight(path, place, futures, talk, meeting, own, f"{place.name}.{told[1]}")

    def _finish(self, flight: "_Flight", begun_ns: int) -> None:
        """The background part.

        It ends only when every future has, so that nobody writes into an abandoned directory.
        """
        began_s = time.monotonic()
        self._writer = threading.get_ident()
        threading.current_thread().name = f"async_save_{flight.number}"
        final = flight.place.final
        try:
            _LOG.info("%s background save begins path=%s", teller(), final)
            _record("commit_future_count", len(flight.futures))
            _wait_for_all(flight.futures, self.moved)
            _LOG.info("%s all is written writes=%d path=%s", teller(), len(flight.futures), final)
            _record("commit_duration_sec", time.monotonic() - began_s)
            self._meet("async_write_complete", flight)
            if self._meeting.is_primary:
                self._commit(flight.path, flight.place, begun_ns)
            self._meet("async_commit_complete", flight)
        except BaseException as error:
            _LOG.exception("%s background save failed path=%s", teller(), final)
            flight.talk.fail(error)
            abandon(flight.path)
            raise
        finally:
            self._writer = None
        _LOG.info("%s background save is done path=%s", teller(), final)
        _record("total_duration_secs", time.time() - begun_ns / 1e9)
        _record("thread_duration_sec", time.monotonic() - began_s)

    def _commit(self, path: TemporaryPath, place: Place, begun_ns: int) -> None:
        _LOG.info("%s handler finalizes path=%s", teller(), place.final)
        self._handler.finalize(path.get())
        self.moved()
        callback = self._async_options.post_finalization_callback
        if callback is not None:
            _LOG.info("%s post_finalization_callback is called path=%s", teller(), place.final)
            callback()
        publish(path, place, self._handler, begun_ns=begun_ns)

    def _meet(self, point: str, flight: "_Flight") -> None:
        flight.meeting.gather(point, flight.suffix, talk=flight.talk, timeout_s=self._timeout_secs)

    def restore(self, directory: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Wait for the save in the background, then restore.

        Raises `FileNotFoundError` if there is no checkpoint, `ValueError` if it is unfinished or
        does not fit.
        """
        self.wait_until_finished()
        return super().restore(directory, *args, **kwargs)

    def check_for_errors(self) -> None:
        """Raise what went wrong in the background, if something did. Never waits."""
        if self._pending is not None and self._pending.done():
            self.wait_until_finished()

    def is_saving_here(self) -> bool:
        """Whether the calling thread is the one that saves in the background, as in a callback."""
        return self._writer == threading.get_ident()

    def wait_until_finished(self) -> None:
        """Wait for the save in the background. Raises what went wrong with it, once.

        Raises `StorageStalled`, which is a `TimeoutError`, when nothing has moved for half an hour;
        the save goes on then. The thread that saves does not wait for itself.
        """
        self.wait_for_end()

    def wait_for_end(self, timeout_s: float | None = None) -> None:
        """As `wait_until_finished`; with a limit it raises `TimeoutError` instead."""
        if self.is_saving_here():
            return
        pending = self._pending
        if pending is not None:
            _LOG.info("%s[wait_until_finished] waits path=%s", teller(), pending.path)
            error = pending.exception(timeout_s)  # raises while it goes on: it stays ours then
            if self._pending is pending:
                self._pending = None
                if error is not None:
                    raise error
            _LOG.info("%s[wait_until_finished] has waited path=%s", teller(), pending.path)
        self._notes.wait_until_finished()

    def close(self) -> None:
        """Wait, then close the handler. Raises what went wrong in the background.

        While nothing moves, nothing is closed: `StorageStalled`, and you may call it again.
        """
        try:
            self.wait_until_finished()
        finally:
            if self._pending is None:
                super().close()


def _record(name: str, value: float) -> None:
    jax.monitoring.record_event_duration_secs(_DURATIONS + name, value)


def _wait_for_all(futures: Sequence[Future], moved: Callable[[], None] = lambda: None) -> None:
    """Wait for every future, then raise the first failure. Each that ends has `moved` something."""
    failures: list[BaseException] = []
    for future in futures:
        try:
            future.result()
        except BaseException as error:  # noqa: BLE001 - raised below, once nobody writes any more
            failures.append(error)
        moved()
    if failures:
        raise failures[0]
