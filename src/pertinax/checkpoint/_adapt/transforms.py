# SPDX-License-Identifier: Apache-2.0
"""Transformations: which of them holds for a key, and where its value comes from.

Knows the fields of a `Transform` and how keys are matched. Knows nothing of values: these are in
memory already, or still in a checkpoint.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pertinax.checkpoint.tree import to_flat_dict

_LOG: Final = logging.getLogger(__name__)
Names = tuple[str, ...]
"""The keys of a leaf as text."""


class Choice(NamedTuple):
    """What becomes of a key: the value at `source` of the original, or, without one, that of the
    function that takes several. `rule` is the `Transform`.
    """

    source: Names | None
    rule: Any


class _Untransformed:
    value_fn = None
    multi_value_fn = None


UNTRANSFORMED: Final = _Untransformed()
"""The rule for keys that no `Transform` speaks of."""


class Named:
    """The leaves of the original by the names of their keys, and by these joined with `/`."""

    def __init__(self, values: Mapping[Names, Any]) -> None:
        self.values = values
        self._joined: dict[str, list[Names]] = {}
        for names in values:
            self._joined.setdefault("/".join(names), []).append(names)

    def find(self, key: Names | str) -> Names | None:
        """The names of a leaf, given them or their text; None if it is not there.

        Raises `ValueError` if the text means several leaves, since keys may contain a `/`.
        """
        if not isinstance(key, str):
            if key in self.values:
                return key
            key = "/".join(key)
        found = self._joined.get(key, [])
        if len(found) > 1:
            raise ValueError(f"{key!r} is ambiguous, give a tuple: it may mean any of {found}")
        return found[0] if found else None

    def matching(self, pattern: str) -> list[Names]:
        """All leaves whose joined names match as a whole."""
        compiled = re.compile(pattern)
        return [
            names
            for text, several in self._joined.items()
            if compiled.fullmatch(text)
            for names in several
        ]


class Rules:
    """The transformations of one call."""

    def __init__(self, transformations: Any) -> None:
        flat: dict[str, Any] = to_flat_dict(transformations, sep="/")
        self._rules = [(re.compile(key), rule) for key, rule in flat.items()]
        for key, rule in flat.items():
            if not hasattr(rule, "use_fallback"):
                raise ValueError(f"the transformation of {key!r} is no Transform: {rule!r:.80}")

    def check_for_restore(self) -> None:
        """Raise `ValueError` for functions whose inputs cannot be known before they are read."""
        for _, rule in self._rules:
            if rule.multi_value_fn is None:
                continue
            if not hasattr(rule, "multi_value_fn_input_args"):
                raise ValueError(
                    f"Must use RestoreTransform in order to use multi_value_fn during restore: "
                    f"{rule}"
                )
            if not rule.multi_value_fn_input_args:
                raise ValueError(
                    "a multi_value_fn during restore needs multi_value_fn_input_args, which say "
                    f"what to read for it: {rule}"
                )

    def choose(self, path: Names, original: Named, *, default_to_original: bool) -> Choice | None:
        """Where the value of `path` in the new tree comes from; None if it stays as it is there.

        Raises `ValueError` if it should come from a key that the original does not have.
        """
        text = "/".join(path)
        found = [(match, rule) for key, rule in self._rules if (match := key.fullmatch(text))]
        if len(found) > 1:
            _LOG.info("several transformations match key=%r, the last one counts", text)
        if not found:
            own = original.find(path) if default_to_original else None
            return None if own is None else Choice(own, UNTRANSFORMED)
        match, rule = found[-1]
        if rule.multi_value_fn is not None:
            return Choice(None, rule)
        if rule.use_fallback and default_to_original:
            return None
        wanted = _expanded(match, rule.original_key) or path
        source = original.find(wanted)
        if source is None:
            shown = wanted if isinstance(wanted, str) else "/".join(wanted)
            why = " (`use_fallback` requested)" if rule.use_fallback else f", needed for {text!r}"
            raise ValueError(f'Transformation key "{shown}" not found in origin tree{why}')
        return Choice(source, rule)


def _expanded(match: "re.Match[str]", key: str | Sequence[str] | None) -> Names | str | None:
    """The original key with the groups of the match in it."""
    if key is None:
        return None
    if isinstance(key, str):
        return match.expand(key)
    return tuple(match.expand(part) for part in key)
