# SPDX-License-Identifier: Apache-2.0
"""Snapshots: the bytes of a plan's pieces, held still while the program goes on.

Knows which memory may change under us and which may not. Knows nothing of files.

- Small pieces of any kind are copied, side by side, into one buffer that is laid out like the file;
  if the caller waits, then only as much of it at a time as is being written.
- Large numpy arrays are copied when the caller goes on (`save_async`), and only then.
- Large arrays on a CPU are held: JAX keeps a buffer whose view is alive, through `delete()` and
  donation. Where JAX itself aliases numpy memory, the caller could still write into it, against
  JAX's contract; a sampled fingerprint tells, and the save fails rather than store bytes that
  nobody meant.
- Arrays on accelerators are copied to the host; all copies are started before the first is waited
  for.
"""

import math
import mmap
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pertinax._device import transfer
from pertinax._device.inspect import LiveLeaf
from pertinax._plan.write import SMALL_BYTES, Piece, WritePlan
from pertinax._tree.paths import Path, path_text
from pertinax.errors import SnapshotChanged

Mode = Literal["hold", "copy", "borrow"]
"""`hold`: as the module says. `copy`: copy every array. `borrow`: the caller waits, so copy nothing
that can be read."""

_SAMPLES = 1 << 15
_EDGE_BYTES = 512
_HUGE_PAGE_BYTES = 1 << 21


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A sample of the bytes of a held array."""

    path: Path
    array: NDArray[Any]
    step: int
    sample: bytes

    def check(self) -> None:
        """Raise `SnapshotChanged` if the sampled bytes are different now."""
        if _sample(self.array, self.step) != self.sample:
            raise SnapshotChanged(
                f"leaf {path_text(self.path)!r} shares its memory with a numpy array that was "
                "written to while it was "
                "being saved; nothing was published. Copy the array before jax.device_put, do not "
                "write into it "
                f'until the save is done, or save with snapshot="copy"'
            )


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Small pieces of a plan that stay where they are."""

    offsets: Sequence[int]
    arrays: Sequence[Callable[[], NDArray[Any]]]

    def image(self, start: int, stop: int) -> memoryview:
        """A copy of those between two offsets, laid out like the file; none may be cut in two."""
        out = fresh_buffer(stop - start)
        for i in range(bisect_left(self.offsets, start), bisect_left(self.offsets, stop)):
            data, at = self.arrays[i]().tobytes(), self.offsets[i] - start
            out[at : at + len(data)] = data
        return out


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Bytes in plan order: `packed` is the image of all small pieces, `large[i]` the array of the
    i-th large piece.

    A large array may be strided (a chunk cut out of a shard): the writer makes it contiguous, one
    at a time.
    """

    packed: memoryview | Borrowed
    large: tuple[NDArray[Any], ...]
    fingerprints: tuple[Fingerprint, ...]

    def image(self, start: int, stop: int) -> memoryview:
        """The image of the small pieces from one offset to another, both those of pieces."""
        if isinstance(self.packed, Borrowed):
            return self.packed.image(start, stop)
        return self.packed[start:stop]

    def check(self) -> None:
        """Raise `SnapshotChanged` if a held array was written to since the snapshot was taken."""
        for fingerprint in self.fingerprints:
            fingerprint.check()


def take(
    plan: WritePlan,
    leaves: Sequence[LiveLeaf],
    paths: Sequence[Path],
    mode: Mode,
    *,
    pinned: bool = False,
) -> Snapshot:
    """Hold the bytes of all pieces of `plan`: every array may then be donated or deleted.

    `pinned`: large arrays come from accelerators by way of page-locked memory.
    """
    leaves = [_on_the_way(leaf, pinned=pinned) for leaf in leaves]
    hosts = _Hosts(leaves, mode)
    small = plan.pieces[: plan.packed]
    offsets: list[int] = plan.offsets[: plan.packed].tolist()
    if mode == "borrow":
        packed = Borrowed(offsets, [partial(_small, leaves[piece.leaf], piece) for piece in small])
    else:
        packed = fresh_buffer(plan.packed_bytes)
        for piece, offset in zip(small, offsets, strict=True):
            data = _small(leaves[piece.leaf], piece).tobytes()
            packed[offset : offset + piece.length] = data
    large: list[NDArray[Any]] = []
    for piece in plan.pieces[plan.packed :]:
        array = hosts.array(piece.leaf, piece.source)
        within = _within(piece.box, leaves[piece.leaf].box_of_source(piece.source))
        large.append(array if array.shape == piece.box.shape else array[within])
    return Snapshot(packed, tuple(large), hosts.fingerprints(paths) if mode == "hold" else ())


def _small(leaf: LiveLeaf, piece: Piece) -> NDArray[Any]:
    """The elements of a small piece, as files have them."""
    array = np.asarray(leaf.sources[piece.source])
    if array.shape != piece.box.shape:
        array = array[_within(piece.box, leaf.box_of_source(piece.source))]
    return little_endian(array)


class _Hosts:
    """Host arrays of sources, made once each: several pieces may be cut from one."""

    def __init__(self, leaves: Sequence[LiveLeaf], mode: Mode) -> None:
        self._leaves = leaves
        self._mode = mode
        self._arrays: dict[tuple[int, int], NDArray[Any]] = {}
        self._held: list[tuple[int, NDArray[Any]]] = []

    def array(self, leaf: int, source: int) -> NDArray[Any]:
        key = (leaf, source)
        if key not in self._arrays:
            self._arrays[key] = self._fetch(leaf, self._leaves[leaf].sources[source])
        return self._arrays[key]

    def _fetch(self, leaf: int, value: Any) -> NDArray[Any]:
        array = little_endian(np.asarray(value))
        if self._mode == "borrow":
            return array
        if self._mode == "copy" or isinstance(value, np.ndarray):
            return copy_of(array)
        if self._leaves[leaf].platform == "cpu":
            self._held.append((leaf, array))
        return array

    def fingerprints(self, paths: Sequence[Path]) -> tuple[Fingerprint, ...]:
        total = sum(array.nbytes for _, array in self._held)
        step = max(1, total // _SAMPLES // 8) | 1
        return tuple(
            Fingerprint(paths[leaf], array, step, _sample(array, step))
            for leaf, array in self._held
        )


def _on_the_way(leaf: LiveLeaf, *, pinned: bool) -> LiveLeaf:
    """The leaf with sources that are in host memory, or soon will be."""
    if transfer.lies_on_host(leaf.platform):
        return leaf
    sources = [
        transfer.start_transfer(source, pinned=pinned and source.nbytes >= SMALL_BYTES)
        for source in leaf.sources
    ]
    return leaf._replace(sources=tuple(sources))


def _within(box: Any, owned: Any) -> tuple[slice, ...]:
    return box.relative_to(owned.start).slices


def _sample(array: NDArray[Any], step: int) -> bytes:
    """Both ends of the bytes, and 8 bytes in every `8 * step`."""
    data = array.reshape(-1).view(np.uint8)
    words = data[: data.size // 8 * 8].view(np.uint64)
    return data[:_EDGE_BYTES].tobytes() + data[-_EDGE_BYTES:].tobytes() + words[::step].tobytes()


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its bytes in the order in which files have them."""
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.str[0] == ">" else array


def copy_of(array: NDArray[Any]) -> NDArray[Any]:
    """A C-ordered copy in memory that is quick to touch for the first time."""
    copy = fresh_array(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def fresh_array(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """A new array of zeros in such memory, which JAX uses as it is."""
    return np.frombuffer(fresh_buffer(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def fresh_buffer(length: int) -> memoryview:
    """New zeroed memory, aligned for JAX. Large buffers ask for huge pages: the first touch of
    small ones is dear.
    """
    if length < _HUGE_PAGE_BYTES:
        raw = np.zeros(length + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return memoryview(raw)[start : start + length]
    # Private: Python's own choice for anonymous memory is shared, which never gets huge pages.
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
