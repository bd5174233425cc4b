"""Layouts: in which files, and in which dialect of Zarr, arrays are kept.

Knows the choices. Knows nothing of how each is written (`database`, `directory`, `zarr`).
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

from pertinax._formats.zarr.array import METADATA_KEY, Driver

Container = Literal["ocdbt", "directory"]
LayoutName = Literal["ocdbt+zarr2", "ocdbt+zarr3", "directory+zarr2", "directory+zarr3"]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)


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
