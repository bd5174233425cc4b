"""The checkpointer that goes on in the background.

Knows which part of a save the program waits for, and how the other part's failure reaches it. The
thread and the publication are the engine's.
"""

import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from pertinax._core.pending import Pending
from pertinax._store.draft import Draft
from pertinax.checkpoint._adapt.calls import save_args_of
from pertinax.checkpoint._adapt.publish import Place, begin, choose_place, publish
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.composite_checkpoint_handler import flat_futures
from pertinax.checkpoint.options import AsyncOptions, FileOptions, MultiprocessingOptions
from pertinax.typing import PathLike


class AsyncCheckpointer(Checkpointer):
    """Saves in the background.

    When `save` returns, the program may change or donate what it passed in. A failure in the
    background is raised once, by whichever comes next of `save`, `restore`, `wait_until_finished`,
    `check_for_errors` and `close`; if none does, it is written to stderr. Nothing of that save
    becomes visible.

    >>> checkpointer = AsyncCheckpointer(StandardCheckpointHandler())
    >>> checkpointer.save("runs/first", args=StandardSave(tree))
    >>> checkpointer.wait_until_finished()
    """

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
        if not isinstance(self._handler, AsyncCheckpointHandler):
            raise TypeError(
                f"{type(handler).__name__} cannot save in the background: "
                "give an AsyncCheckpointHandler, or use Checkpointer"
            )
        self._async_options = async_options or AsyncOptions()
        self._timeout_secs = (
            timeout_secs if timeout_secs is not None else self._async_options.timeout_secs
        )
        self._pending: Pending | None = None

    def save(self, directory: PathLike, *args: Any, force: bool = False, **kwargs: Any) -> None:
        """Begin to save; waits for the save before this one, and raises what went wrong with it.

        Raises `ValueError` if the directory is taken and `force` is false.
        """
        begun_ns, begun_s = time.time_ns(), time.monotonic()
        self.wait_until_finished()
        place = choose_place(directory, force=force)
        given = save_args_of(self._handler, args, kwargs)
        draft = begin(place, self._file_options)
        try:
            result = run_coroutine(self._handler.async_save(epath.Path(draft.path), args=given))
        except BaseException:
            draft.abandon()
            raise
        futures = list(flat_futures(result))
        self._pending = Pending(
            place.final,
            lambda _: self._finish(draft, place, futures, begun_ns),
            begun_s=begun_s,
            total_bytes=0,
        )

    def _finish(self, draft: Draft, place: Place, futures: Sequence[Future], begun_ns: int) -> None:
        """The background part.

        It ends only when every future has, so that nobody writes into an abandoned draft.
        """
        with draft:
            _wait_for_all(futures)
            self._handler.finalize(epath.Path(draft.path))
            callback = self._async_options.post_finalization_callback
            if callback is not None:
                callback()
            publish(draft, place, self._handler, begun_ns=begun_ns)
            self._meet(place.final)

    def _meet(self, final: str) -> None:
        barrier = self._async_options.barrier_sync_fn
        if barrier is not None:
            barrier(key=f"async_commit_complete.{final}", timeout_ms=self._timeout_secs * 1000)

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

    def wait_until_finished(self) -> None:
        """Wait for the save in the background. Raises what went wrong with it, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, then close the handler. Raises what went wrong in the background."""
        try:
            self.wait_until_finished()
        finally:
            super().close()


def _wait_for_all(futures: Sequence[Future]) -> None:
    """Wait for every future, then raise the first failure."""
    failures: list[BaseException] = []
    for future in futures:
        try:
            future.result()
        except BaseException as error:  # noqa: BLE001 - raised below, once nobody writes any more
            failures.append(error)
    if failures:
        raise failures[0]
