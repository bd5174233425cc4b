# SPDX-License-Identifier: Apache-2.0
"""Selecting: which leaves a glob means.

Knows paths as text. `*` and `?` stay within one key, `**` crosses keys, and a pattern that names a
container means all below it. Knows nothing of leaves.
"""

import re
from collections.abc import Sequence

from pertinax._tree.paths import Path, path_text


def select_paths(paths: Sequence[Path], patterns: str | Sequence[str]) -> list[bool]:
    """For each path whether some pattern matches it.

    Raises `ValueError` for a pattern that matches nothing, and if there is no pattern.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    if not listed:
        raise ValueError("no pattern, so nothing would be read")
    texts = [path_text(path) for path in paths]
    chosen = [False] * len(texts)
    for pattern in listed:
        matcher = re.compile(_regex(pattern.strip("/")))
        hits = [matcher.fullmatch(text) is not None for text in texts]
        if not any(hits):
            raise ValueError(f"{pattern!r} matches none of {len(texts)} leaves")
        chosen = [a or b for a, b in zip(chosen, hits, strict=True)]
    return chosen


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    meaning = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(meaning.get(part, re.escape(part)) for part in parts) + "(?:/.*)?"
