"""`commit_success.txt`: the marker of a finished checkpoint where renames are not atomic.

Knows its text. Knows nothing of stores.
"""

COMMIT_FILE = "commit_success.txt"


def encode_commit(directory: str) -> bytes:
    """The marker for `directory`, its final name."""
    return f"Checkpoint commit was successful to {directory}".encode("utf-8", "surrogateescape")
