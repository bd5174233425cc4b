# SPDX-License-Identifier: Apache-2.0
"""JSON of unknown origin: parse it, and take it apart without surprises.

Knows that every file may be damaged or hostile, and turns whatever is wrong with one into
`CorruptCheckpoint`. Knows nothing of what the files mean.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from pertinax.errors import CorruptCheckpoint

_MAX_TEXT = 80


@dataclass(frozen=True, slots=True)
class Json:
    """A parsed JSON value that remembers its file, so that every complaint can name it."""

    value: Any
    file: str

    @classmethod
    def parse(cls, data: bytes, file: str) -> "Json":
        """The value that `data` spells. Raises `CorruptCheckpoint` if it spells none."""
        try:
            return cls(json.loads(data.decode()), file)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON: {error!s:.{_MAX_TEXT}}"
            raise CorruptCheckpoint(reason, file=file) from None

    def corrupt(self, reason: str) -> NoReturn:
        """Say what is wrong with the file."""
        raise CorruptCheckpoint(reason, file=self.file)

    def wrong(self, expected: str) -> NoReturn:
        """Say what should have stood in place of this value."""
        self.corrupt(f"expected {expected}, found {_short(self.value)}")

    def object(self) -> dict[str, "Json"]:
        """The fields of an object."""
        if not isinstance(self.value, dict):
            self.wrong("an object")
        fields = cast("dict[str, Any]", self.value)
        return {name: Json(value, self.file) for name, value in fields.items()}

    def field(self, name: str) -> "Json":
        """One field of an object; a missing one reads as null."""
        if not isinstance(self.value, dict):
            self.wrong(f"an object with {name!r}")
        return Json(cast("dict[str, Any]", self.value).get(name), self.file)

    def array(self) -> list["Json"]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            self.wrong("an array")
        return [Json(value, self.file) for value in cast("list[Any]", self.value)]

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.wrong("a string")
        return self.value

    def flag(self, default: bool) -> bool:  # noqa: FBT001 - the default is the argument
        """A boolean; null reads as `default`."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            self.wrong("true or false")
        return self.value

    def integer(self, low: int, high: int) -> int:
        """An integer within `low..high`."""
        value = self.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.wrong(f"an integer in {low}..{high}")
        return value

    def shape(self, low: int, high: int, rank: int) -> tuple[int, ...]:
        """An array of at most `rank` integers."""
        if not isinstance(self.value, list) or len(cast("list[Any]", self.value)) > rank:
            self.wrong(f"an array of at most {rank} integers")
        return tuple(item.integer(low, high) for item in self.array())


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | dict) else type(value).__name__
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def join_json(one: bytes, other: bytes, file: str) -> bytes:
    """Two objects as one, objects inside them joined likewise; compact, keys in order.

    Where both have something, that of `other` counts. Raises `CorruptCheckpoint`.
    """
    joined = _join(Json.parse(one, file).value, Json.parse(other, file).value)
    text = json.dumps(joined, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def _join(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    out = dict(cast("dict[str, Any]", one))
    for key, value in cast("dict[str, Any]", other).items():
        out[key] = _join(out[key], value) if key in out else value
    return out
