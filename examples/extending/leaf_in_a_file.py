# SPDX-License-Identifier: Apache-2.0
"""A type of leaf that keeps a file of its own in the checkpoint.

    python examples/extending/leaf_in_a_file.py [DIRECTORY]

Once a handler is registered for a type, values of that type may stand anywhere in a tree. The
handler gets all of them in one call, and is told with each where to write. Its files are
checksummed like all others: what was damaged never reaches `deserialize`.
"""

import concurrent.futures
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint.type_handlers import ParamInfo, TypeHandler


@dataclass(frozen=True)
class Vocabulary:
    """The words of a tokenizer; their order is their meaning."""

    words: tuple[str, ...]


class VocabularyHandler(TypeHandler):
    """Keeps one word a line."""

    def __init__(self) -> None:
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def typestr(self) -> str:
        return "my_project.Vocabulary"  # recorded for each leaf; it finds the handler again

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[ParamInfo], args: Any = None
    ) -> list[concurrent.futures.Future[int]]:
        """The values never change, so there is nothing to copy before this returns."""
        return [
            self._writer.submit(_file_of(info).write_text, "\n".join(value.words), "utf-8")
            for value, info in zip(values, infos, strict=True)
        ]

    async def deserialize(self, infos: Sequence[ParamInfo], args: Any = None) -> list[Vocabulary]:
        texts = [_file_of(info).read_text("utf-8") for info in infos]
        return [Vocabulary(tuple(text.split("\n"))) for text in texts]

    def memory_size(self, values: Sequence[Any]) -> list[tuple[int, int]]:
        """What is written and read for each; not needed, but then nobody has to guess."""
        sizes = [sum(len(word) + 1 for word in value.words) for value in values]
        return [(size, size) for size in sizes]

    async def metadata(self, infos: Sequence[ParamInfo]) -> list[ocp.metadata.Metadata]:
        return [ocp.metadata.Metadata(info.name, info.parent_dir) for info in infos]


def _file_of(info: ParamInfo) -> Path:
    return Path(info.parent_dir) / f"{info.name}.words"


def main(directory: Path) -> None:
    registry = ocp.type_handlers.create_type_handler_registry(
        (Vocabulary, VocabularyHandler()),
        *((kind, ocp.type_handlers.get_type_handler(kind)) for kind in (int, jnp.ndarray)),
    )
    state = {"step": 3, "embedding": jnp.ones((3, 2)), "words": Vocabulary(("the", "a", "of"))}
    with ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    ) as checkpointer:
        checkpointer.save(directory / "model", state)
        assert checkpointer.restore(directory / "model")["words"] == state["words"]

    assert pertinax.verify(directory / "model").ok
    (directory / "model" / "words.words").write_text("the\nan\nof", "utf-8")
    try:
        ocp.PyTreeCheckpointHandler(type_handler_registry=registry).restore(directory / "model")
    except pertinax.errors.CorruptCheckpoint as error:
        print("the words came back; and when somebody changed one:", error)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
