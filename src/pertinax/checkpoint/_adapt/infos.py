"""Infos: what a program's function is told of a stored leaf.

Knows the fields of the mirrored API. Knows nothing of how they are found.
"""

import dataclasses
from typing import Any

from etils import epath


@dataclasses.dataclass
class ParamInfo:
    """One stored leaf: its `name` (keys joined by dots), the item it is in, and its layout."""

    name: str | None = None
    path: epath.Path | None = None
    parent_dir: epath.Path | None = None
    skip_deserialize: bool | None = None
    byte_limiter: Any = None
    is_ocdbt_checkpoint: bool | None = None
    use_zarr3: bool | None = False
    ocdbt_target_data_file_size: int | None = None
    ts_context: Any = None
    value_typestr: str | None = None
    enable_pinned_host_transfer: bool = True
