# SPDX-License-Identifier: Apache-2.0
"""The pages for users, taken apart into code, expected output and links.

Knows Markdown as far as we write it. Knows nothing of what pages say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)(?: raises=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Example:
    """A block of Python, the line it begins at, what it prints (None: nobody says), and the name of
    the exception that it raises on purpose (None: it raises nothing).
    """

    line: int
    code: str
    output: str | None
    raises: str | None = None


def user_pages() -> list[Path]:
    """The README and all guides; design notes are for ourselves."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(page for page in pages if page.parent.name != "design")]


def all_pages() -> list[Path]:
    """Every Markdown page that we hand out."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def examples(text: str) -> Iterator[Example]:
    """Python blocks in order; a block `text` right behind one is what it prints."""
    blocks = list(_FENCE.finditer(text))
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):
        if block[1] != "python":
            continue
        output = None
        if following is not None and following[1] == "text":
            between = text[block.end() : following.start()]
            output = following[3] if not between.strip() else None
        yield Example(text.count("\n", 0, block.start()) + 2, block[3], output, block[2])


def links(text: str) -> list[str]:
    """Targets of links outside of code, those to the web left out."""
    prose = _FENCE.sub("", text)
    return [link for link in _LINK.findall(prose) if "://" not in link]
