# SPDX-License-Identifier: Apache-2.0
"""Reading and writing single arrays through TensorStore, for type handlers of programs.

    await serialization.async_serialize(array, serialization.get_tensorstore_spec("/data/x"))
    array = await serialization.async_deserialize(sharding, spec)

Knows names only. The library itself stores trees with its own engine.
"""

import functools
from typing import Any

from pertinax.checkpoint.serialization import tensorstore_utils as tensorstore_utils
from pertinax.checkpoint.serialization.limits import ByteLimiter as ByteLimiter
from pertinax.checkpoint.serialization.limits import LimitInFlightBytes as LimitInFlightBytes
from pertinax.checkpoint.serialization.limits import (
    UnlimitedInFlightBytes as UnlimitedInFlightBytes,
)
from pertinax.checkpoint.serialization.limits import get_byte_limiter as get_byte_limiter
from pertinax.checkpoint.serialization.limits import reserved_bytes as reserved_bytes
from pertinax.checkpoint.serialization.locations import get_tensorstore_spec as get_tensorstore_spec
from pertinax.checkpoint.serialization.locations import is_remote_storage as is_remote_storage
from pertinax.checkpoint.serialization.reading import async_deserialize as async_deserialize
from pertinax.checkpoint.serialization.reading import (
    create_async_array_from_callback as create_async_array_from_callback,
)
from pertinax.checkpoint.serialization.reading import (
    estimate_read_memory_footprint as estimate_read_memory_footprint,
)
from pertinax.checkpoint.serialization.transfer import get_unique_shards as get_unique_shards
from pertinax.checkpoint.serialization.transfer import shards_to_fragments as shards_to_fragments
from pertinax.checkpoint.serialization.transfer import (
    transfer_arrays_to_host as transfer_arrays_to_host,
)
from pertinax.checkpoint.serialization.writing import async_serialize as async_serialize
from pertinax.checkpoint.serialization.writing import (
    async_serialize_fragments as async_serialize_fragments,
)
from pertinax.checkpoint.serialization.writing import (
    estimate_write_memory_footprint as estimate_write_memory_footprint,
)


def __getattr__(name: str) -> Any:
    """`TS_CONTEXT`, made when it is first asked for: TensorStore is slow to import."""
    if name == "TS_CONTEXT":
        return _ts_context()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _ts_context() -> Any:
    return tensorstore_utils.get_ts_context(use_ocdbt=False)
