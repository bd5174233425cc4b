# SPDX-License-Identifier: Apache-2.0
"""Meshes of very many devices, written short: as numbers in base64 instead of a line for each.

Knows the text of a layout as far as its mesh goes, and that every spec of a ledger has one. Knows
nothing of devices. What cannot be written short stays as it is.
"""

import base64
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

SHORT_FROM: Final = 4096
"""Texts below this many characters are left alone: about 300 devices."""
WHOLE_UP_TO: Final = 16 << 20
"""Characters of layouts in one file of Orbax's, which has a text for each array: beyond, the ids of
devices are left out."""
_MESH: Final = ', "device_mesh": {'
_ID: Final = re.compile(r'"id": (\d{1,18})\}')


class Shortener:
    """Makes texts short; each distinct one once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def short(self, text: str) -> str:
        """The text with its mesh as `{"ids": <base64>}`: little-endian integers of 64 bits."""
        if len(text) < SHORT_FROM or _MESH not in text:
            return text
        if text not in self._known:
            ids = np.array(_ID.findall(text.partition(_MESH)[2]), "<i8")
            ids = base64.b64encode(ids).decode()
            written = text.partition(_MESH)[0] + _MESH + f'"ids": "{ids}"}}}}'
            self._known[text] = written if _means(written, text) else text
        return self._known[text]

    def long(self, text: str) -> str:
        """The inverse. Raises `ValueError` for a mesh that cannot be."""
        if _MESH + '"ids": ' not in text:
            return text
        if text not in self._known:
            self._known[text] = _lengthened(text)
        return self._known[text]


def _means(written: str, text: str) -> bool:
    try:
        return _lengthened(written) == text
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _lengthened(text: str) -> str:
    fields = json.loads(text)
    shape = fields["shape"]
    ids = np.frombuffer(base64.b64decode(fields["device_mesh"]["ids"], validate=True), "<i8")
    if not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) != len(ids):
        raise ValueError(f"a mesh of {len(ids)} devices in the shape {shape!r:.80}")
    return text.partition(_MESH)[0] + _MESH + f'"mesh": {json.dumps(_nested(ids, shape))}}}}}'


def _nested(ids: Any, shape: Sequence[int]) -> Any:
    return _as_dicts(ids.reshape(shape).tolist())


def _as_dicts(ids: Any) -> Any:
    return [_as_dicts(part) for part in ids] if isinstance(ids, list) else {"id": ids}


def without_ids(text: str) -> str:
    """The text without its mesh: readers take the devices of a job in their own order then."""
    return text.partition(_MESH)[0] + "}" if _MESH in text else text
