"""The checkpointer that waits.

Knows the order of a save: name, draft, handler, finalize, publish. The engine does each of them.
"""

import time
from typing import Any

from etils import epath

from pertinax._core.places import locate
from pertinax.checkpoint._adapt.calls import restore_args_of, save_args_of
from pertinax.checkpoint._adapt.legacy import with_args
from pertinax.checkpoint._adapt.publish import begin, choose_place, find_finished, publish
from pertinax.checkpoint._adapt.stored import check_files
from pertinax.checkpoint.abstract_checkpointer import AbstractCheckpointer
from pertinax.checkpoint.handlers.composite_checkpoint_handler import CompositeCheckpointHandler
from pertinax.checkpoint.options import FileOptions, MultiprocessingOptions
from pertinax.typing import PathLike


class Checkpointer(AbstractCheckpointer):
    """Saves and restores through a handler.

    When `save` returns, the checkpoint is durable and visible. A save appears as a whole or not at
    all, whatever happens meanwhile; `force=True` replaces an older checkpoint just as safely.
    `temporary_path_class` and `checkpoint_metadata_store` are accepted and not needed.

    >>> checkpointer = Checkpointer(PyTreeCheckpointHandler())
    >>> checkpointer.save("runs/first", args=PyTreeSave(tree))
    >>> tree = checkpointer.restore("runs/first")
    """

    def __init__(
        self,
        handler: Any,
        *,
        multiprocessing_options: MultiprocessingOptions | None = None,
        file_options: FileOptions | None = None,
        checkpoint_metadata_store: Any = None,
        temporary_path_class: Any = None,
    ) -> None:
        self._handler: Any = with_args(handler)
        self._multiprocessing_options = multiprocessing_options or MultiprocessingOptions()
        self._file_options = file_options or FileOptions()

    @property
    def handler(self) -> Any:
        """The handler; one without args of its own stands here in a wrapper."""
        return self._handler

    def save(self, directory: PathLike, *args: Any, force: bool = False, **kwargs: Any) -> None:
        """Save what `args` say, or the arguments that the handler's args class takes.

        Raises `ValueError` if the directory is taken and `force` is false.
        """
        begun_ns = time.time_ns()
        place = choose_place(directory, force=force)
        given = save_args_of(self._handler, args, kwargs)
        with begin(place, self._file_options) as draft:
            inside = epath.Path(draft.path)
            self._handler.save(inside, args=given)
            self._handler.finalize(inside)
            publish(draft, place, self._handler, begun_ns=begun_ns)

    def restore(self, directory: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Restore what `args` ask for.

        Raises `FileNotFoundError` if there is no checkpoint, `ValueError` if it is unfinished or
        does not fit.
        """
        found = find_finished(directory)
        handler: Any = self._handler
        if not isinstance(handler, CompositeCheckpointHandler):  # which does it item by item
            check_files(found)
        return self._handler.restore(found, args=restore_args_of(self._handler, args, kwargs))

    def metadata(self, directory: PathLike) -> Any | None:
        """What the handler knows of the checkpoint without reading its values."""
        return self._handler.metadata(epath.Path(locate(directory)[1]))

    def close(self) -> None:
        """Close the handler."""
        self._handler.close()
