# SPDX-License-Identifier: Apache-2.0
"""`_strings.json`: string leaves, each at the JSON pointer that its parameter name makes.

Knows pointers: `/` in a name nests objects, and `~` is an escape that names must not contain. Knows
nothing of trees.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pertinax._formats.metadata.text import Json

STRINGS_FILE = "_strings.json"
_MAX_DEPTH = 200


def encode_strings(texts: Mapping[str, str]) -> bytes:
    """`_strings.json` from parameter names and values; compact, keys in order.

    Raises `ValueError` when a name contains `~`, is nested too deep, or continues another;
    `orbax_names` makes none of these.
    """
    root: dict[str, Any] = {}
    for name, text in texts.items():
        *outer, last = name.split("/")
        if "~" in name or len(outer) > _MAX_DEPTH:
            raise ValueError(f"no place for a string named {name!r:.80}")
        here = root
        for part in outer:
            below = here.setdefault(part, {})
            if isinstance(below, str):
                raise ValueError(f"the string {name!r:.80} continues the name of another")
            here = cast("dict[str, Any]", below)
        if last in here:
            raise ValueError(f"the string {name!r:.80} has the place of another")
        here[last] = text
    text = json.dumps(root, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    # Lone surrogates cannot be UTF-8; their escapes happen to be those of JSON.
    return text.encode("utf-8", "backslashreplace")


def decode_strings(data: bytes, names: Iterable[str], file: str = STRINGS_FILE) -> dict[str, str]:
    """The strings called `names`. Raises `CorruptCheckpoint` if one is missing or no string."""
    top = Json.parse(data, file)
    texts: dict[str, str] = {}
    for name in names:
        value: Any = top.value
        for part in name.split("/"):
            value = _below(value, part.replace("~1", "/").replace("~0", "~"))
        if not isinstance(value, str):
            top.corrupt(f"expected a string at {name!r:.80}, found {type(value).__name__}")
        texts[name] = value
    return texts


def _below(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).get(part)
    if isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 10:
        items = cast("list[Any]", value)
        return items[int(part)] if int(part) < len(items) else None
    return None
