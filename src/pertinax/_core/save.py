# SPDX-License-Identifier: Apache-2.0
"""Saving one tree to one path.

Knows the order of a save and what `exists` means. Knows nothing of steps or policies.
"""

import contextlib
import time
from collections.abc import Callable, Sequence

from pertinax._core.options import Compression, SaveOptions, Snapshotting
from pertinax._core.pending import Pending
from pertinax._core.places import locate
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents, Progress, write_checkpoint
from pertinax._formats.detect import detect
from pertinax._formats.layout import LayoutName
from pertinax._hosts import Round, decide_for_all, handed_over, this_job
from pertinax._store.contract import Store
from pertinax._store.draft import Exists
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import parent_of
from pertinax._store.publishing import publishing
from pertinax.errors import CheckpointExists, InvalidOption, NotACheckpoint
from pertinax.typing import PathLike, PyTree


def save(
    path: PathLike,
    tree: PyTree,
    *,
    exists: Exists = "error",
    compression: Compression = "none",
    chunk_bytes: int | Sequence[int | None] | None = None,
    layout: LayoutName = "ocdbt+zarr2",
    read_back: bool = False,
    budget_bytes: int | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> str:
    """Write `tree` to `path`; when this returns, the checkpoint is durable and visible. Returns the
    absolute path.

    The checkpoint appears as a whole or not at all, whatever happens meanwhile, and every byte of
    it is checksummed. Leaves may be `jax.Array` (any sharding, typed PRNG keys), numpy arrays and
    scalars, and Python's bool, int, float, complex, str, bytes and None, in any containers that JAX
    knows, with dictionary keys of any plain type.

    Args:
        path: a directory to be made; text, `~`, `file://` or a path object, relative or absolute.
        tree: what to save.
        exists: if the path is taken: `"error"`, `"replace"` it (the old one stays until the new one
            is whole) or `"skip"` the save.
        compression: of array bytes: `"none"` (fastest on any good disk) or `"zstd"`.
        chunk_bytes: upper bound of one stored chunk; None: one chunk for each shard.
        layout: how arrays are filed, for those who open them with other programs: `"ocdbt+zarr2"`
            or `"ocdbt+zarr3"`, a database in few files; `"directory+zarr2"` or
            `"directory+zarr3"`, a directory for each array and a file for each chunk.
        read_back: whether all files are read from the disk again, and compared, before the
            checkpoint becomes visible: finds storage that says "written" and keeps something else.
        budget_bytes: how much memory the save may use beside the state; None: 1 GiB. A chunk that
            is larger by itself, and compressed or cut out of a shard, goes alone.
        store: where to write, if not this machine's files.
        progress: called with bytes written and bytes in all, from the writing threads.

    Raises:
        CheckpointExists: the path is taken.
        NotACheckpoint: `exists="replace"`, and what lies there is no checkpoint.
        UnsupportedLeaf: a leaf cannot be stored; nothing was written.
        StorageFull, StorageError: the disk said no; nothing visible was left.
        CorruptCheckpoint: `read_back` found other bytes than were written; nothing visible was
            left.

    >>> pertinax.save("runs/first", {"w": jnp.ones((2, 3)), "step": 1})
    """
    options = SaveOptions(
        exists=exists,
        compression=compression,
        chunk_bytes=chunk_bytes,
        layout=layout,
        read_back=read_back,
        budget_bytes=budget_bytes,
    )
    where, final = locate(path, store)
    options = options.on(where)
    with _begin(final) as talk:
        if not _is_taken(where, final, options, talk):
            contents = Contents({"": prepare(tree, options, "borrow", talk.topology)})
            _write(where, final, contents, options, progress, talk=talk)
    return final


def save_async(
    path: PathLike,
    tree: PyTree,
    *,
    exists: Exists = "error",
    snapshot: Snapshotting = "hold",
    compression: Compression = "none",
    chunk_bytes: int | Sequence[int | None] | None = None,
    layout: LayoutName = "ocdbt+zarr2",
    read_back: bool = False,
    budget_bytes: int | None = None,
    store: Store | None = None,
    on_done: Callable[[Pending], None] | None = None,
) -> Pending:
    """Begin to write `tree` to `path` and return at once; training goes on while a thread writes.

    When this returns, you may donate or delete every array and overwrite every numpy array that you
    passed in: small leaves and numpy arrays have been copied, large JAX arrays are held by the
    runtime until they are written. Memory that JAX *aliases* from numpy (`jax.device_put` of an
    aligned array on a CPU) must not be written to by JAX's own contract; if it is, the save notices
    (a sample is compared) and fails. `snapshot="copy"` copies everything. What is copied is beside
    the budget.

    Args and errors are those of `save`; those found while writing are raised by `Pending.result()`.
    `on_done` is called with the handle when the save has ended, on the writer thread.

    >>> pending = pertinax.save_async("runs/second", {"w": jnp.ones((2, 3))})
    >>> pending.result()    # now it is durable and visible
    """
    begun_s = time.monotonic()
    options = SaveOptions(
        exists=exists,
        snapshot=snapshot,
        compression=compression,
        chunk_bytes=chunk_bytes,
        layout=layout,
        read_back=read_back,
        budget_bytes=budget_bytes,
    )
    where, final = locate(path, store)
    options = options.on(where)
    with contextlib.ExitStack() as stack:
        talk = stack.enter_context(_begin(final))
        if _is_taken(where, final, options, talk):
            return Pending(final, lambda _: None, begun_s=begun_s, total_bytes=0, on_done=on_done)
        contents = Contents({"": prepare(tree, options, snapshot, talk.topology)})
        with handed_over(stack) as on_thread:

            def work(progress: Progress) -> None:
                with on_thread:
                    _write(where, final, contents, options, progress, talk=talk)

            return Pending(
                final, work, begun_s=begun_s, total_bytes=contents.total_bytes, on_done=on_done
            )


def _write(
    store: Store,
    final: str,
    contents: Contents,
    options: SaveOptions,
    progress: Progress | None,
    *,
    talk: Round,
) -> None:
    """Write, after making room: what dead processes left beside the path is of no use."""
    if talk.topology.is_primary:
        with contextlib.suppress(OSError):  # if it cannot be cleaned, that is no reason not to save
            publishing(store).clean_beside(final)
    try:
        write_checkpoint(store, final, contents, options, progress, talk=talk)
    except CheckpointExists:
        if options.exists != "skip":  # somebody else was faster, and that is fine
            raise


def _begin(final: str) -> Round:
    """The save as an operation of all processes; saves below one directory keep their order."""
    return this_job().begin("save", parent_of(final))


def _is_taken(store: Store, final: str, options: SaveOptions, talk: Round) -> bool:
    """Whether to skip, by what the primary sees. Raises `CheckpointExists` or `NotACheckpoint`, on
    every process, before any work is done.
    """
    return decide_for_all(
        talk,
        "look at the target",
        lambda: _looks_taken(store, final, options),
        CheckpointExists,
        InvalidOption,
        NotACheckpoint,
        about=final,
    )


def _looks_taken(store: Store, final: str, options: SaveOptions) -> bool:
    """Whether to skip. Raises `CheckpointExists` before any work is done."""
    with storage_errors("look at the target", final, names_too=True):
        publish = publishing(store)
        if publish.find_visible(final) is None and publish.look(final) in ("missing", "unfinished"):
            return False
        if options.exists == "replace":
            if not publish.replaces:
                raise InvalidOption(
                    f'exists="replace": there is something at {final}, and in an object store '
                    "nothing can be replaced without a moment in which neither is there: choose "
                    "another path, or delete it first (Manager.delete, or your cloud's own tools); "
                    "for the latest of many under one name: Manager(..., keep=1)"
                )
            _check_replaceable(store, final)
            return False
    if options.exists == "skip":
        return True
    ways = 'exists="replace" or exists="skip"' if publish.replaces else 'exists="skip"'
    raise CheckpointExists(f"there is something at {final}: choose another path, or {ways}")


def _check_replaceable(store: Store, final: str) -> None:
    """Raise `NotACheckpoint` where replacing would delete something else than a checkpoint."""
    found = detect(store, final)
    if found.kind == "other" and not _is_empty_dir(store, final):
        raise NotACheckpoint(
            f'{final} {found.reason}. exists="replace" replaces checkpoints only: remove it '
            f"yourself, or choose another path"
        )


def _is_empty_dir(store: Store, path: str) -> bool:
    found = store.stat(path)
    return found is not None and found.is_dir and not store.list_dir(path)
