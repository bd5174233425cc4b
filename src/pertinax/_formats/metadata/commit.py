# SPDX-License-Identifier: Apache-2.0
"""`commit_success.txt`: the marker of a finished checkpoint where renames are not atomic.

Knows its text. Knows nothing of stores.
"""

COMMIT_FILE = "commit_success.txt"


def encode_commit(directory: str, write_id: str | None = None) -> bytes:
    """The marker for `directory`, its final name; with `write_id` it is known again by its writer.

    Readers ask only whether there is one.
    """
    text = f"Checkpoint commit was successful to {directory}"
    if write_id is not None:
        text += f" (write {write_id})"
    return text.encode("utf-8", "surrogateescape")
