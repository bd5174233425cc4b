# SPDX-License-Identifier: Apache-2.0
"""The databases of several processes, made one.

Knows the function that the mirrored API has for it; the merging is done below, without TensorStore.
"""

import asyncio
import logging
from typing import Any, Final

from etils import epath

from pertinax._core.places import locate
from pertinax._formats.merged import merge_item

_LOG: Final = logging.getLogger(__name__)


async def merge_ocdbt_per_process_files(
    directory: epath.Path, ts_context: Any, use_zarr3: bool, enable_validation: bool = True
) -> None:
    """Make one database of those that processes have written below `directory`.

    Values stay where they are. `ts_context` is not needed. With `enable_validation`, raises
    `ValueError` for Zarr v2 arrays of which a part is missing.
    """
    if use_zarr3 and enable_validation:
        _LOG.warning("not validated directory=%s reason='absent chunks mean zero'", directory)
    store, path = locate(directory)
    done = store.stat(path) is not None and await asyncio.to_thread(
        merge_item, store, path, validate=enable_validation and not use_zarr3
    )
    if not done:
        _LOG.info("nothing to merge directory=%s", directory)
