# SPDX-License-Identifier: Apache-2.0
"""A checkpointer for trees, in one word.

Knows which handler it stands for. Knows nothing else.
"""

from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import PyTreeCheckpointHandler
from pertinax.checkpoint.options import MultiprocessingOptions


class PyTreeCheckpointer(Checkpointer):
    """`Checkpointer(PyTreeCheckpointHandler())`.

    >>> PyTreeCheckpointer().save("runs/first", {"w": weights})
    """

    def __init__(
        self, primary_host: int | None = 0, use_ocdbt: bool = True, use_zarr3: bool = False
    ) -> None:
        options = MultiprocessingOptions(primary_host=primary_host)
        handler = PyTreeCheckpointHandler(
            use_ocdbt=use_ocdbt, use_zarr3=use_zarr3, multiprocessing_options=options
        )
        super().__init__(handler, multiprocessing_options=options)
