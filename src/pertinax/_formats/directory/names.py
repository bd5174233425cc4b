# SPDX-License-Identifier: Apache-2.0
"""Names as files: whether a leaf can have a directory of its own.

Knows what file systems refuse and which names the item itself needs. Knows nothing of stores.
"""

from collections.abc import Iterable

_MAX_PART = 255
RESERVED_NAMES = frozenset(
    {
        "_METADATA",
        "_CHECKPOINT_METADATA",
        "_sharding",
        "_strings.json",
        "array_metadatas",
        "commit_success.txt",
        "manifest.ocdbt",
        "pertinax.json",
    }
)


def is_inside(name: str) -> bool:
    """Whether `name`, relative to a directory, surely stays in it."""
    return "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def unfit_names(
    names: Iterable[str], metadata_key: str, *, taken: str | None = None
) -> dict[str, str]:
    """Names that cannot be directories beside each other and beside the item's own files, and why.

    The empty name of a tree that is a single leaf is fit: its files lie in the item itself. `taken`
    is one more name that stands for something else.
    """
    every = set(names)
    unfit: dict[str, str] = {}
    for name in every:
        reason = _unfit(name, every, metadata_key) if name else None
        if name and name.split("/")[0] == taken:
            reason = f"readers look for a file {taken!r}"
        if reason is not None:
            unfit[name] = reason
    return unfit


def _unfit(name: str, every: set[str], metadata_key: str) -> str | None:
    if not is_inside(name):
        return "its path has an empty part, `.`, `..` or a NUL"
    if "\\" in name:
        return "it has a backslash"
    parts = name.split("/")
    if any(len(part.encode("utf-8", "surrogatepass")) > _MAX_PART for part in parts):
        return f"a part of its path is longer than {_MAX_PART} bytes"
    if parts[0] in RESERVED_NAMES or parts[0].startswith("ocdbt.process_"):
        return f"{parts[0]!r} is a file of the checkpoint itself"
    for cut in range(len(parts)):
        below, leaf = parts[cut], "/".join(parts[:cut])
        if leaf in every and (below in ("c", metadata_key) or below.replace(".", "").isdigit()):
            return f"{below!r} is a file of the leaf {leaf!r}"
    return None
