# SPDX-License-Identifier: Apache-2.0
"""Opening: from a path to the manifest of what lies there.

Knows how checkpoints are told apart and which files vouch for which. Knows nothing of arrays or of
targets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from pertinax._core.places import locate
from pertinax._formats.crc import file_crc
from pertinax._formats.detect import AGGREGATE_FILE, Detected, detect
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.manifest import FileRecord, Manifest
from pertinax._formats.metadata.commit import COMMIT_FILE, says_vouched
from pertinax._formats.vouching import measure
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.publishing import Look, publishing
from pertinax.errors import (
    CheckpointNotFound,
    CorruptCheckpoint,
    InvalidOption,
    NotACheckpoint,
    PertinaxError,
    UnfinishedCheckpoint,
)
from pertinax.typing import PathLike

T = TypeVar("T")
_TRIES = 10  # each is lost only to another save that was published meanwhile

DEFAULT_ITEM = "default"
"""The item that a manager writes a plain tree into; Orbax calls it so."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that was found: `directory` holds the item, `path` is what people call it.

    `second` has what the manifest describes and its chunks do not have. `step` is the ledger of the
    step that the item belongs to.
    """

    store: Store
    path: str
    directory: str
    manifest: Manifest
    second: "SecondReading | None" = None
    step: Manifest | None = None


@dataclass(frozen=True, slots=True)
class SecondReading:
    """The same item by Orbax's account: for some leaves of ours, by position, their position there.

    Nothing vouches for its chunks but the ledger, for whole files.
    """

    opened: Opened
    leaves: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a path. `directory` differs from `path` where a replacement was interrupted."""

    store: Store
    path: str
    directory: str
    detected: Detected


def _is_good(result: object) -> bool:  # noqa: ARG001 - whatever was read without an error
    return True


def read_settled(
    path: PathLike,
    store: Store | None,
    read: Callable[[], T],
    *,
    is_good: Callable[[T], bool] = _is_good,
) -> T:
    """What `read` returns. Where another process replaces the checkpoint while it is read, it is
    read again.

    A reader opens several files by name, and a replacement in between leads it from the old
    checkpoint into the new one. What is missing then is not lost. Where nothing can be replaced, it
    may be deleted and written anew: there it costs less to read again what is not good. Raises
    what `read` does; other errors of the disk become `StorageError`.
    """
    where, text = locate(path, store)
    replaces = publishing(where).replaces
    with storage_errors("read the checkpoint", text, names_too=True):
        for left in reversed(range(_TRIES if replaces else 2)):
            before = _state(where, text) if replaces else None
            try:
                result = read()
            except (CorruptCheckpoint, NotACheckpoint, FileNotFoundError) as error:
                if left and not (replaces and _state(where, text) == before):
                    continue
                if isinstance(error, PertinaxError):
                    raise
                raise CheckpointNotFound(
                    f"the checkpoint, or a part of it, is gone: {error.filename}"
                ) from error
            if not left or is_good(result) or (replaces and _state(where, text) == before):
                return result
    raise AssertionError("the last try returns or raises")


def _state(store: Store, path: str) -> object:
    """Different for each save to `path`: when its directory was filled, and the random names of its
    data files.
    """
    directory = publishing(store).find_visible(path)
    view = store if directory is None else publishing(store).view(directory)
    found = None if directory is None else view.stat(directory)
    if directory is None or found is None:
        return None
    try:
        names = sorted(entry.name for entry in view.list_dir(f"{directory}/d"))
    except OSError:
        names = []
    return directory, found.mtime_ns, names


def find(path: PathLike, store: Store | None = None) -> Found:
    """Look at a path. Raises `CheckpointNotFound`, `UnfinishedCheckpoint` or `NotACheckpoint`."""
    where, text = locate(path, store)
    publish = publishing(where)
    seen = publish.find_visible(text)
    directory = _other(publish.look(text), text) if seen is None else seen
    where = publish.view(directory)
    detected = detect(where, directory) if directory == text else detect_aside(where, directory)
    if detected.kind == "missing":
        raise CheckpointNotFound(f"there is no checkpoint at {text}")
    if detected.kind == "unfinished":
        raise UnfinishedCheckpoint(
            f"{text} belongs to a save that was never published: it may lack anything. Load a "
            "finished one beside it"
        )
    if seen is None and detected.kind != "other" and publish.find_visible(text) is None:
        raise UnfinishedCheckpoint(f"{text} has no {COMMIT_FILE}: whoever wrote it did not finish")
    if detected.kind == "other":
        raise NotACheckpoint(f"{text} is no checkpoint: it {detected.reason}")
    return Found(where, text, directory, detected)


def _other(look: Look, text: str) -> str:
    """What is not visible may still be something. Raises `CheckpointNotFound` if it is nothing."""
    if look == "unfinished":
        raise UnfinishedCheckpoint(
            f"{text} is being written, or its writer has died: it has no {COMMIT_FILE}, and may "
            "lack anything else"
        )
    if look == "missing":
        raise CheckpointNotFound(f"there is no checkpoint at {text}")
    return text


def detect_aside(store: Store, directory: str) -> Detected:
    """A whole checkpoint whose name was taken from it by an interrupted replacement."""
    return detect(store, directory, aside=True)


def open_checkpoint(path: PathLike, item: str | None = None, store: Store | None = None) -> Opened:
    """Open the tree at a path: the checkpoint itself, or one item of a step.

    Raises, beside what `find` does, `CorruptCheckpoint`, `NewerFormat`, and `InvalidOption` if
    `item` is not there or there are several and none is named.
    """
    return open_found(find(path, store), item)


def open_found(found: Found, item: str | None = None) -> Opened:
    """Open the tree of what was found, as `open_checkpoint` does."""
    if found.detected.kind != "step":
        if item is not None:
            raise InvalidOption(f"{found.path} is a single tree and has no item {item!r}")
        return open_item(
            found.store, found.path, found.directory, found.detected.kind == "pertinax"
        )
    name = _choose(found, item)
    kind = dict(found.detected.items)[name]
    step = read_step_ledger(found)
    record = None if step is None else _record_of(found, step, f"{name}/{LEDGER_FILE}")
    directory = f"{found.directory}/{name}"
    path = f"{found.path}/{name}"
    opened = open_item(found.store, path, directory, kind == "pertinax", vouched=record)
    return replace(opened, step=step)


def _choose(found: Found, item: str | None) -> str:
    trees = [name for name, kind in found.detected.items if kind != "other"]
    if item is not None:
        if item not in trees:
            others = [name for name, kind in found.detected.items if kind == "other"]
            hint = f" ({', '.join(others)} hold no arrays)" if others else ""
            raise InvalidOption(
                f"{found.path} has no tree called {item!r}: there is "
                f"{', '.join(trees) or 'none'}{hint}"
            )
        return item
    if len(trees) == 1:
        return trees[0]
    if DEFAULT_ITEM in trees:
        return DEFAULT_ITEM
    if not trees:
        names = ", ".join(name for name, _ in found.detected.items) or "nothing"
        raise NotACheckpoint(f"{found.path} holds no tree of arrays: it has {names}")
    raise InvalidOption(f"{found.path} has several trees: say which with item=: {', '.join(trees)}")


def open_item(
    store: Store,
    path: str,
    directory: str,
    ours: bool,  # noqa: FBT001 - said by `detect`
    *,
    aggregate_file: str = AGGREGATE_FILE,
    vouched: FileRecord | None = None,
) -> Opened:
    """Open the item in `directory`; `ours`: it has a ledger to check its bytes with, which must be
    the one that a step has `vouched` for.
    """
    if ours or vouched is not None:
        data = read_file(store, directory, LEDGER_FILE)
        if vouched is not None:
            _compare(FileRecord(vouched.name, len(data), file_crc(data)), vouched)
        manifest = decode_ledger(data)
        if "items" in manifest.facts:
            raise CorruptCheckpoint(
                "the ledger of a step stands where that of an item should", file=LEDGER_FILE
            )
        opened = Opened(store, path, directory, manifest)
        if any(leaf.typestr is not None for leaf in manifest.leaves):
            from pertinax._core.second_reading import with_second_reading

            return with_second_reading(opened)
        return opened
    manifest = read_foreign(store, directory, aggregate_file=aggregate_file)
    return Opened(store, path, directory, manifest)


def read_foreign(
    store: Store,
    directory: str,
    *,
    aggregate_file: str = AGGREGATE_FILE,
    by_directories: bool = False,
) -> Manifest:
    """The manifest of an item that Orbax wrote; the options are those of `read_orbax_item`."""
    # Its readers are a fifth of the library: they are loaded when the first such item is met.
    from pertinax._formats.orbax import read_orbax_item

    return read_orbax_item(
        store, directory, aggregate_file=aggregate_file, by_directories=by_directories
    )


def read_file(store: Store, directory: str, name: str) -> bytes:
    """A whole small file. Raises `CorruptCheckpoint` if it is not there."""
    try:
        with store.open(f"{directory}/{name}") as reader:
            return reader.read(0, reader.length)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CorruptCheckpoint("the file is missing", file=name) from error
    except EOFError as error:
        raise CorruptCheckpoint(
            "the file was cut or replaced while it was read", file=name
        ) from error


def read_step_ledger(found: Found) -> Manifest | None:
    """The ledger of a step; None for one that never had any.

    Raises `CorruptCheckpoint`, also if it is gone and the marker beside it tells of it.
    """
    if found.store.stat(f"{found.directory}/{LEDGER_FILE}") is not None:
        return decode_ledger(read_file(found.store, found.directory, LEDGER_FILE))
    if found.store.stat(f"{found.directory}/{COMMIT_FILE}") is not None and says_vouched(
        read_file(found.store, found.directory, COMMIT_FILE)
    ):
        raise CorruptCheckpoint("the file is missing", file=LEDGER_FILE)
    return None


def check_step(found: Found, name: str) -> None:
    """If the step has a ledger, the file `name` below it must be the one that it vouches for."""
    step = read_step_ledger(found)
    record = None if step is None else _record_of(found, step, name)
    if record is not None:
        check_file(found.store, found.directory, record)


def _record_of(found: Found, step: Manifest, name: str) -> FileRecord | None:
    """What the ledger of a step says of a file; None if it says nothing.

    That catches an item that was copied in from another step: whole in itself, and still wrong.
    """
    for record in step.files:
        if record.name == name:
            return record
    is_ledger = name.endswith(f"/{LEDGER_FILE}")
    if is_ledger and found.store.stat(f"{found.directory}/{name}") is not None:
        raise CorruptCheckpoint(f"it does not vouch for {name!r}, which is there", file=LEDGER_FILE)
    return None


def check_file(store: Store, directory: str, record: FileRecord) -> bytes:
    """The content of a file, which must match its record. Raises `CorruptCheckpoint`."""
    data = read_file(store, directory, record.name)
    _compare(FileRecord(record.name, len(data), file_crc(data)), record)
    return data


def check_large_file(store: Store, directory: str, record: FileRecord) -> None:
    """The same for a file of any size, which is read in pieces."""
    try:
        found = measure(store, directory, record.name)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CorruptCheckpoint("the file is missing", file=record.name) from error
    except EOFError as error:
        raise CorruptCheckpoint(
            "the file was cut or replaced while it was read", file=record.name
        ) from error
    _compare(found, record)


def _compare(found: FileRecord, record: FileRecord) -> None:
    if found.length != record.length:
        reason = f"{found.length} bytes, written were {record.length}"
    elif found.crc != record.crc:
        reason = f"checksum is {found.crc:08x}, written was {record.crc:08x}"
    else:
        return
    raise CorruptCheckpoint(reason, file=record.name, start=0, stop=found.length)
