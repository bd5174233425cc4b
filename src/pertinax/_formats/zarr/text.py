# SPDX-License-Identifier: Apache-2.0
"""Array metadata of either Zarr version, for callers that do not care which.

Knows `v2` and `v3`. Knows nothing of how they spell anything.
"""

from collections.abc import Iterable

from pertinax._formats.manifest import Codec
from pertinax._formats.zarr import v2, v3
from pertinax._formats.zarr.array import ArrayMetadata, Driver
from pertinax._plan.boxes import Shape

ArraySpec = tuple[Shape, Shape, str, Codec]
"""Shape, chunk shape, storage dtype and codec of an array to be written."""


def parse_metadata(driver: Driver, data: bytes, file: str) -> ArrayMetadata:
    """What the metadata of an array says; raises as `v2.parse` and `v3.parse` do."""
    return (v2 if driver == "zarr" else v3).parse(data, file)


def encode_metadata(driver: Driver, arrays: Iterable[ArraySpec]) -> list[bytes]:
    """The metadata of many arrays, of which most are alike: each distinct one is encoded once."""
    module = v2 if driver == "zarr" else v3
    known: dict[ArraySpec, bytes] = {}
    out: list[bytes] = []
    for array in arrays:
        text = known.get(array)
        if text is None:
            text = known[array] = module.encode(*array)
        out.append(text)
    return out
