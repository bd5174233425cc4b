# SPDX-License-Identifier: Apache-2.0
"""Index: the notes of many steps in one file, so that ten thousand need not be opened.

Knows one file, `<root>/.pertinax/steps`, and how it is checked and replaced. Knows nothing of what
is done with rows. The file is a hint and nothing more: whoever uses a row compares it with the
directory of its step first, a file that is damaged, torn or missing is no index, and failing to
write one is no failure.
"""

import itertools
import json
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from pertinax._formats.crc import file_crc
from pertinax._store.contract import Store
from pertinax._store.leftovers import join_path
from pertinax._store.publishing import publishing

_LOG: Final = logging.getLogger(__name__)
_HEAD: Final = b"pertinax steps 1 "

PRIVATE_DIR: Final = ".pertinax"
"""What a root holds beside steps: this index, pins, and steps that evaluators hold."""


class Row(NamedTuple):
    """What is known of the step whose directory last changed at `changed_ns`."""

    changed_ns: int
    time_ns: int
    metrics: Any


class Index(NamedTuple):
    """Rows by the name of the step's directory. All of them were compared with the directories when
    the root had last changed at `root_ns`, if that is known.
    """

    rows: Mapping[str, Row]
    root_ns: int | None = None


def index_path(root: str) -> str:
    """Where the index of a root lies."""
    return join_path(join_path(root, PRIVATE_DIR), "steps")


def read_index(store: Store, root: str) -> Index:
    """The index of a root; an empty one if there is no good one."""
    try:
        with store.open(index_path(root)) as reader:
            data = reader.read(0, reader.length)
    except (OSError, EOFError):
        return Index({})
    try:
        return _decode(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        _LOG.info("index is not used root=%s error=%s", root, error)
        return Index({})


def write_index(store: Store, root: str, index: Index) -> None:
    """Put this in the place of whatever index there is. Not synced, and never raises `OSError`:
    what a power cut leaves of it is found out by its checksum.
    """
    path = index_path(root)
    publish = publishing(store)
    try:
        publish.make_dirs(join_path(root, PRIVATE_DIR))
        publish.replace_file(path, _encode(index))
    except OSError as error:  # a full disk, a read-only mount, another manager that was faster
        _LOG.info("no index was written root=%s error=%s", root, error)


def _encode(index: Index) -> bytes:
    rows = index.rows.values()
    columns = {
        "root_ns": index.root_ns,
        "names": list(index.rows),
        "changed_ns": [row.changed_ns for row in rows],
        "times_ns": [row.time_ns for row in rows],
        "metrics": [row.metrics for row in rows],
    }
    body = json.dumps(columns, separators=(",", ":")).encode()
    return b"%s%08x\n%s\n" % (_HEAD, file_crc(body), body)


def _decode(data: bytes) -> Index:
    head, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    if head != b"%s%08x" % (_HEAD, file_crc(body)):
        raise ValueError("its checksum is wrong")
    columns = cast("dict[str, Any]", json.loads(body))
    names, changed, times = columns["names"], columns["changed_ns"], columns["times_ns"]
    root_ns = columns["root_ns"]
    if not {*map(type, changed), *map(type, times), type(root_ns or 0)} <= {int}:
        raise ValueError("a time is no number")
    rows = zip(changed, times, columns["metrics"], strict=True)
    return Index(dict(zip(names, itertools.starmap(Row, rows), strict=True)), root_ns)
