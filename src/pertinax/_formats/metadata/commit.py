# SPDX-License-Identifier: Apache-2.0
"""`commit_success.txt`: the marker of a finished checkpoint where renames are not atomic.

Knows its text. Knows nothing of stores.
"""

COMMIT_FILE = "commit_success.txt"
_VOUCHED = b"; vouched for by pertinax.json"
_TAIL_BYTES = 128


def encode_commit(directory: str, write_id: str | None = None, *, vouched: bool = False) -> bytes:
    """The marker for `directory`, its final name; with `write_id` it is known again by its writer,
    and `vouched` tells that a ledger of the step belongs beside it.

    Readers of Orbax ask only whether there is one.
    """
    text = f"Checkpoint commit was successful to {directory}".encode("utf-8", "surrogateescape")
    if vouched:
        text += _VOUCHED
    if write_id is not None:
        text += f" (write {write_id})".encode()
    return text


def says_vouched(text: bytes) -> bool:
    """Whether a marker tells of a ledger. A directory's name before it may be anything."""
    return _VOUCHED in text[-_TAIL_BYTES:]
