# SPDX-License-Identifier: Apache-2.0
"""The type handler of text: all of an item's strings in one JSON file.

Knows JSON pointers by way of TensorStore's `json` driver. Trees of plain leaves do not come here:
the engine stores them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from etils import epath

from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.metadata.value import Metadata, StringMetadata
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec
from pertinax.checkpoint.type_handlers.contract import (
    ParamInfo,
    TypeHandler,
    check_input_arguments,
)
from pertinax.checkpoint.type_handlers.leaf_args import RestoreArgs, SaveArgs
from pertinax.checkpoint.type_handlers.specs import json_tspec
from pertinax.checkpoint.type_handlers.stored_arrays import all_of

_DEFAULT_FILENAME = "_strings.json"


class StringHandler(TypeHandler):
    """Stores text in `filename`, by default `_strings.json`; the primary host of the infos does."""

    def __init__(self, filename: str | None = None) -> None:
        self._filename = filename or _DEFAULT_FILENAME

    def typestr(self) -> str:
        """`string`."""
        return "string"

    def is_plain(self) -> bool:
        """Whether the engine stores leaves just as this handler would."""
        return self._filename == _DEFAULT_FILENAME

    async def metadata(self, infos: Sequence[ParamInfo]) -> Sequence[Metadata]:
        """Names; of text there is nothing else to say."""
        return [StringMetadata(info.name, info.parent_dir) for info in infos]

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[ParamInfo],
        args: Sequence[SaveArgs] | None = None,
    ) -> Sequence[Future]:
        """Begin to write the text."""
        check_input_arguments(values, infos)
        own = [i for i, info in enumerate(infos) if info.is_written_here]
        if not own:
            return []
        texts, places = [str(values[i]) for i in own], [infos[i] for i in own]
        return [start(lambda: asyncio.run(self._write(texts, places)), "pertinax-string-handler")]

    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """The text. Raises `ValueError` if the file, or a string in it, is missing."""
        check_input_arguments(infos)
        context = tensorstore_utils.get_ts_context(use_ocdbt=False)

        async def read(info: ParamInfo) -> str:
            array = await _open(self._get_json_tspec(info), context, None)
            return str((await array.read()).item())

        return await all_of(read, infos)

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        """The bytes of each text as UTF-8; only process 0 writes them, as far as one knows."""
        writes = multihost.leads(0)
        sizes = [len(value.encode("utf-8", "surrogatepass")) for value in values]
        return [(size if writes else 0, size) for size in sizes]

    async def _write(self, texts: Sequence[str], infos: Sequence[ParamInfo]) -> None:
        import tensorstore

        context = tensorstore_utils.get_ts_context(use_ocdbt=False)
        transaction = cast("Any", tensorstore).Transaction()

        async def write(text: str, info: ParamInfo) -> None:
            array = await _open(self._get_json_tspec(info), context, transaction)
            await array.write(text)

        try:
            await all_of(write, texts, infos)
        except BaseException:
            transaction.abort()
            raise
        await transaction.commit_async()

    def _get_json_tspec(self, info: ParamInfo) -> JsonSpec:
        """Where one string is. Raises `ValueError` if the info does not say."""
        directory = (
            info.parent_dir if info.parent_dir is not None else info.path and info.path.parent
        )
        if directory is None or info.name is None:
            raise ValueError(f"cannot tell where a string is: it needs parent_dir and name; {info}")
        return json_tspec(epath.Path(directory).as_posix(), self._filename, info.name)


async def _open(spec: JsonSpec, context: Any, transaction: Any) -> Any:
    import tensorstore

    ts = cast("Any", tensorstore)
    return await ts.open(ts.Spec(spec), open=True, context=context, transaction=transaction)
