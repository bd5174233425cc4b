# SPDX-License-Identifier: Apache-2.0
"""A note about a whole root, written once.

Knows one JSON mapping and its directory. Knows nothing of steps.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, cast, final

from etils import epath

from pertinax.checkpoint import args as args_lib
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint.checkpointer import Checkpointer
from pertinax.checkpoint.handlers.json_checkpoint_handler import JsonCheckpointHandler

_LOG: Final = logging.getLogger(__name__)
METADATA_ITEM_NAME: Final = "metadata"
# Orbax 0.12 keeps the note of the program in here, beside one of its own.
_NEWER_FILE: Final = "_ROOT_METADATA"


@final
class RootMetadata:
    """The note: what is stored counts; what was given counts until something is."""

    def __init__(
        self,
        directory: epath.Path,
        given: Mapping[str, Any] | None,
        options: CheckpointManagerOptions,
    ) -> None:
        self.path = directory / METADATA_ITEM_NAME
        self._given = given
        self._options = options
        self._known: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raise `TypeError` for a note that JSON cannot hold."""
        if self._given is not None:
            json.dumps(self._given)

    def save(self) -> None:
        """Store what was given, unless there is a note already."""
        if self._given is None or self._options.read_only:
            return
        options = self._options.multiprocessing_options
        point = "CheckpointManager:check_metadata_existence"
        with Meeting(options).begin(point, str(self.path)) as talk:
            # Who looks a little later must not find what another has just written.
            there = talk.agree("there", lambda: files.exists(self.path))
        if there:
            stored = self.get()
            if stored != json.loads(json.dumps(self._given)):
                _LOG.warning("the root has metadata already: %r stays as it is", stored)
            return
        checkpointer = Checkpointer(
            JsonCheckpointHandler(),
            multiprocessing_options=options,
            file_options=self._options.file_options,
        )
        try:
            checkpointer.save(self.path, args=args_lib.JsonSave(self._given))
        finally:
            checkpointer.close()

    def get(self) -> Mapping[str, Any]:
        """The note, or an empty mapping. Read once."""
        if self._known is None:
            stored = self._read()
            self._known = dict(self._given or {}) if stored is None else stored
        return self._known

    def _read(self) -> Mapping[str, Any] | None:
        if files.exists(self.path / METADATA_ITEM_NAME):
            return _load(self.path / METADATA_ITEM_NAME)
        if files.exists(self.path / _NEWER_FILE):
            return _load(self.path / _NEWER_FILE).get("custom_metadata") or {}
        return None


def _load(file: epath.Path) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", json.loads(files.read_bytes(file)))
