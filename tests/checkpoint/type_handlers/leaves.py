# SPDX-License-Identifier: Apache-2.0
"""Types of leaves that no library knows, and handlers for them; for our library and for Orbax.

Knows the protocol, which is the same in both. Holds no tests.
"""

import concurrent.futures
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pertinax import checkpoint as door


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Name:
    text: str


def point_handler(ocp: Any = door, **attributes: Any) -> Any:
    """A handler of `Point`s that keeps a file for each, and notes what it was told."""

    class PointHandler(ocp.type_handlers.TypeHandler):
        calls: list[tuple[str, Sequence[Any], Any]]

        def __init__(self) -> None:
            self.calls = []
            self.pool = concurrent.futures.ThreadPoolExecutor(1)

        def typestr(self) -> str:
            return "Point"

        async def metadata(self, infos: Sequence[Any]) -> Any:
            self.calls.append(("metadata", list(infos), None))
            return [ocp.metadata.Metadata(name=i.name, directory=i.parent_dir) for i in infos]

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            self.calls.append(("serialize", list(infos), args))
            texts = [json.dumps([value.x, value.y]) for value in values]
            return [
                self.pool.submit(_write, file_of(info), text)
                for info, text in zip(infos, texts, strict=True)
            ]

        async def deserialize(self, infos: Any, args: Any = None) -> Any:
            self.calls.append(("deserialize", list(infos), args))
            return [Point(*json.loads(file_of(info).read_text())) for info in infos]

        def memory_size(self, values: Any) -> Any:
            return [(16, 16) for _ in values]

    handler = PointHandler()
    for name, value in attributes.items():
        setattr(handler, name, value)
    return handler


def file_of(info: Any) -> Path:
    return Path(info.parent_dir) / f"{info.name}.point"


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def negating(handler: type) -> Any:
    """A stock handler that stores the opposite of what it is given."""

    class Negating(handler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            return await super().serialize([-value for value in values], infos, args)

        async def deserialize(self, infos: Any, args: Any = None) -> Any:
            return [-value for value in await super().deserialize(infos, args)]

    return Negating()


def with_stock(ocp: Any, *handlers: Any) -> Any:
    """A registry of stock handlers, and of `handlers` in place of some."""
    import jax

    th = ocp.type_handlers
    stock = [
        (int, th.ScalarHandler()),
        (float, th.ScalarHandler()),
        (np.number, th.ScalarHandler()),
        (np.ndarray, th.NumpyHandler()),
        (jax.Array, th.ArrayHandler()),
        (str, th.StringHandler()),
    ]
    # Those of the program come last: of several handlers of one name the last one reads.
    registry = th.create_type_handler_registry(*stock)
    for ty, handler in handlers:
        registry.add(ty, handler, override=True)
    return registry


def checkpointer(registry: Any, **options: Any) -> Any:
    return door.Checkpointer(
        door.PyTreeCheckpointHandler(type_handler_registry=registry, **options)
    )
