# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints for tests of publishing: written, looked at, and judged whole or not."""

import uuid

from pertinax._store.objects.publishing import MarkerPublishing
from pertinax._store.objects.store import ATTEMPT, MARKER
from pertinax._store.publishing import AnyDraft
from tests.objects.buckets import FRONT, Memory, Shelf, bucket

ROOT = "run"
FINAL = f"{FRONT}/{ROOT}/7"
PLACE = f"{ROOT}/7"
LEASE_S = 60.0


def at(requests: Memory) -> MarkerPublishing:
    return bucket(requests, lease_s=LEASE_S).publishing()


def fill(draft: AnyDraft, tag: str) -> None:
    """Two data files with names of their own, two with names that every writer uses."""
    unique = [f"default/d/{uuid.uuid4().hex}" for _ in range(2)]
    for name in unique:
        draft.write_file(name, f"{tag} data".encode())
    draft.write_file("default/_METADATA", f"{tag}\n{unique[0]}\n{unique[1]}".encode())
    draft.write_file(f"default/{MARKER}", b"item")
    draft.write_file("pertinax.json", tag.encode())
    draft.write_file(MARKER, f"{tag} {draft.write_id}".encode())


def save(requests: Memory, tag: str, final: str = FINAL) -> None:
    with at(requests).open_draft(final) as draft:
        fill(draft, tag)
        draft.commit(replace=False)


def delete(requests: Memory, final: str = FINAL) -> None:
    at(requests).discard(final)


def visible_tag(shelf: Shelf) -> str | None:
    """Whose checkpoint is visible; fails if it is not whole."""
    content = shelf.content()
    marker = content.get(f"{PLACE}/{MARKER}")
    if marker is None:
        return None
    tag = marker.decode().split()[0]
    said, *unique = content[f"{PLACE}/default/_METADATA"].decode().split("\n")
    assert said == tag
    assert content[f"{PLACE}/pertinax.json"].decode() == tag
    assert content[f"{PLACE}/default/{MARKER}"] == b"item"
    for name in unique:
        assert content[f"{PLACE}/{name}"].decode() == f"{tag} data"
    return tag


def is_clean(shelf: Shelf) -> bool:
    """Whether nothing lies at the place but a whole checkpoint, or nothing at all."""
    keys = [key for key in shelf.content() if key.startswith(f"{PLACE}/")]
    assert not any(ATTEMPT in key for key in keys), keys
    return len(keys) == (0 if visible_tag(shelf) is None else 6)
