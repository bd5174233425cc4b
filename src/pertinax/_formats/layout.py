# SPDX-License-Identifier: Apache-2.0
"""Layouts: in which files, and in which dialect of Zarr, arrays are kept.

Knows the choices. Knows nothing of how each is written (`database`, `directory`, `zarr`).
"""

from dataclasses import dataclass
from typing import Literal, Self

from pertinax._formats.zarr.array import METADATA_KEY, Driver

Container = Literal["ocdbt", "directory"]
LayoutName = Literal["ocdbt+zarr2", "ocdbt+zarr3", "directory+zarr2", "directory+zarr3"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the arrays of an item are kept.

    Attributes:
        container: `ocdbt` one database in few files; `directory` one file for each key.
        driver: `zarr` for version 2, `zarr3` for version 3.
        taken: what no leaf may be called in a directory, because readers look for a file there.
    """

    container: Container = "ocdbt"
    driver: Driver = "zarr"
    taken: str | None = "checkpoint"

    @classmethod
    def named(cls, name: LayoutName, taken: str | None = "checkpoint") -> Self:
        """The layout that people call `name`."""
        container, _, zarr = name.partition("+")
        return cls(
            "ocdbt" if container == "ocdbt" else "directory",
            "zarr" if zarr == "zarr2" else "zarr3",
            taken,
        )

    @property
    def metadata_key(self) -> str:
        """The last part of the key of an array's metadata."""
        return METADATA_KEY[self.driver]


DEFAULT_LAYOUT = Layout()


def layout_name(*, use_ocdbt: bool, use_zarr3: bool) -> LayoutName:
    """The name of a layout, by the two choices that it is made of."""
    if use_ocdbt:
        return "ocdbt+zarr3" if use_zarr3 else "ocdbt+zarr2"
    return "directory+zarr3" if use_zarr3 else "directory+zarr2"
