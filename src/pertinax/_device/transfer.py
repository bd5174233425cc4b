# SPDX-License-Identifier: Apache-2.0
"""Transfer: arrays on their way from an accelerator into host memory.

Knows devices and the memories they can write to. Knows nothing of what becomes of the bytes.
"""

from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

_PINNED = "pinned_host"


def lies_on_host(platform: str | None) -> bool:
    """Whether arrays of such a platform (None: of no device at all) are in host memory already."""
    return platform is None or platform == "cpu"


def start_transfer(array: jax.Array, *, pinned: bool) -> jax.Array:
    """Begin to copy an array of one device; returns the array whose bytes are to be read.

    `pinned`: by way of page-locked memory, if the device has some, which it writes to faster.
    """
    device: Any = next(iter(array.devices()))
    if pinned and any(memory.kind == _PINNED for memory in device.addressable_memories()):
        return jax.device_put(array, SingleDeviceSharding(device, memory_kind=_PINNED))
    array.copy_to_host_async()
    return array
