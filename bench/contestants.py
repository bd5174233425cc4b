# SPDX-License-Identifier: Apache-2.0
"""Contestants: the programs that save and restore a state.

Knows how each is used by its own documentation. Knows nothing of clocks. All are equally durable:
those that do not sync what they wrote have `sync_tree` done for them, inside the measured time.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from crc32c import crc32c

Wait = Callable[[], None]
_ALIGNMENT = 64


def sync_tree(path: str) -> None:
    """Make every file and directory from `path` on durable, and its name in the parent."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)
    if os.path.isfile(path):
        _sync(path)
    _sync(os.path.dirname(path))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _done() -> None:
    """Nothing to wait for."""


class Contestant:
    """One program.

    Attributes:
        name: in tables and in the results.
        asynchronous: whether `begin` returns before the checkpoint is durable.
        saves: whether its saves are measured, or only its restores.
    """

    name = ""
    asynchronous = False
    saves = True

    def begin(self, path: str, tree: Any) -> Wait:
        """Start (or do) the save; the checkpoint is durable when what is returned has returned."""
        raise NotImplementedError

    def restore(self, path: str, target: Any) -> Any:
        """The state as `jax.Array`s in the layout that `target` asks for."""
        raise NotImplementedError

    def close(self) -> None:
        """Free threads and the like."""


def _to_devices(arrays: Sequence[np.ndarray], target: Any) -> Any:
    """All arrays to their devices in one call, as the leaves of `target`."""
    specs, treedef = jax.tree.flatten(target)
    placed = jax.device_put(list(arrays), [spec.sharding for spec in specs])
    return jax.tree.unflatten(treedef, placed)


# --- the floor


class FloorRead(Contestant):
    """The plainest program: all bytes into one file, fsync; read back into fresh memory."""

    name = "floor"

    def begin(self, path: str, tree: Any) -> Wait:
        os.mkdir(path)
        buffers: list[Any] = []
        for leaf in jax.tree.leaves(tree):
            size = 0
            for piece in _pieces(leaf):
                data = np.asarray(piece).reshape(-1).view(np.uint8)
                buffers.append(data)
                size += data.nbytes
            if size % _ALIGNMENT:
                buffers.append(bytes(-size % _ALIGNMENT))
        descriptor = os.open(f"{path}/data", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(descriptor, buffers)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync(path)
        _sync(os.path.dirname(path))
        return _done

    def restore(self, path: str, target: Any) -> Any:
        specs = jax.tree.leaves(target)
        total = sum(_padded(spec) for spec in specs)
        buffer = _aligned(total)
        descriptor = os.open(f"{path}/data", os.O_RDONLY)
        try:
            at = 0
            while at < total:
                at += os.preadv(descriptor, [buffer[at : at + (1 << 30)]], at)
        finally:
            os.close(descriptor)
        return _to_devices(_cut(buffer, specs), target)


class FloorMap(FloorRead):
    """The other floor for a restore: map the file, bring its pages in, one CRC-32C pass over it."""

    name = "floor (map)"
    saves = False

    def restore(self, path: str, target: Any) -> Any:
        descriptor = os.open(f"{path}/data", os.O_RDONLY)
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
            memory = mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        crc32c(memory)
        return _to_devices(_cut(np.frombuffer(memory, np.uint8), jax.tree.leaves(target)), target)


def _pieces(leaf: jax.Array) -> list[jax.Array]:
    """The shards of an array, each once, in the order of its first dimension."""
    if len(leaf.sharding.device_set) == 1:
        return [leaf]
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    return [shard.data for shard in sorted(shards, key=lambda shard: shard.index[0].start or 0)]


def _write_all(descriptor: int, buffers: list[Any]) -> None:
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    at = 0
    while at < len(views):
        count = os.writev(descriptor, views[at : at + 1024])
        while at < len(views) and count >= views[at].nbytes:
            count -= views[at].nbytes
            at += 1
        if count:
            views[at] = views[at][count:]


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


def _padded(spec: Any) -> int:
    return -(-spec.size * spec.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def _cut(buffer: np.ndarray, specs: Sequence[Any]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    at = 0
    for spec in specs:
        size = spec.size * spec.dtype.itemsize
        arrays.append(buffer[at : at + size].view(spec.dtype).reshape(spec.shape))
        at += _padded(spec)
    return arrays


# --- plain files


class NumpyFiles(Contestant):
    """`numpy.save` of each leaf into a file of its own."""

    name = "numpy files"

    def begin(self, path: str, tree: Any) -> Wait:
        os.mkdir(path)
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            np.save(f"{path}/{i}.npy", np.asarray(leaf))
        sync_tree(path)
        return _done

    def restore(self, path: str, target: Any) -> Any:
        specs = jax.tree.leaves(target)
        arrays = [np.load(f"{path}/{i}.npy").view(spec.dtype) for i, spec in enumerate(specs)]
        return _to_devices(arrays, target)


class Safetensors(Contestant):
    """`safetensors.numpy`: one file, no checksums."""

    name = "safetensors"

    def begin(self, path: str, tree: Any) -> Wait:
        from safetensors.numpy import save_file

        os.mkdir(path)
        leaves = jax.tree.leaves(tree)
        arrays = {f"{i:06d}": _storable(np.asarray(leaf)) for i, leaf in enumerate(leaves)}
        save_file(arrays, f"{path}/data.safetensors")
        sync_tree(path)
        return _done

    def restore(self, path: str, target: Any) -> Any:
        from safetensors.numpy import load_file

        found = load_file(f"{path}/data.safetensors")
        specs = jax.tree.leaves(target)
        arrays = [found[f"{i:06d}"].view(spec.dtype) for i, spec in enumerate(specs)]
        return _to_devices(arrays, target)


def _storable(array: np.ndarray) -> np.ndarray:
    """`safetensors.numpy` knows no bfloat16: such bits go as uint16."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


# --- Orbax, and whoever has its API


class Standard(Contestant):
    """`StandardCheckpointer` of Orbax, or of our door to its API, with its defaults."""

    asynchronous = True

    def __init__(self, name: str, ocp: Any, *, durable: bool) -> None:
        self.name = name
        self._checkpointer = ocp.StandardCheckpointer()
        self._durable = durable

    def begin(self, path: str, tree: Any) -> Wait:
        self._checkpointer.save(path, tree)

        def wait() -> None:
            self._checkpointer.wait_until_finished()
            if not self._durable:
                sync_tree(path)

        return wait

    def restore(self, path: str, target: Any) -> Any:
        return self._checkpointer.restore(path, target)

    def close(self) -> None:
        self._checkpointer.close()


class OrbaxPyTree(Contestant):
    """`PyTreeCheckpointer` of Orbax with its defaults: it blocks until all is written."""

    name = "Orbax PyTree"

    def __init__(self, ocp: Any) -> None:
        self._ocp = ocp
        self._checkpointer = ocp.PyTreeCheckpointer()

    def begin(self, path: str, tree: Any) -> Wait:
        self._checkpointer.save(path, tree)
        sync_tree(path)
        return _done

    def restore(self, path: str, target: Any) -> Any:
        restore_args = self._ocp.checkpoint_utils.construct_restore_args(target)
        return self._checkpointer.restore(path, item=target, restore_args=restore_args)

    def close(self) -> None:
        self._checkpointer.close()


# --- ours


class Pertinax(Contestant):
    """`pertinax.save` and `pertinax.load` with a target."""

    name = "pertinax"

    def begin(self, path: str, tree: Any) -> Wait:
        import pertinax

        pertinax.save(path, tree)
        return _done

    def restore(self, path: str, target: Any) -> Any:
        import pertinax

        return pertinax.load(path, target)


class PertinaxAsync(Contestant):
    """`pertinax.save_async`; its restores take no target, unless another layout is wanted."""

    name = "pertinax (async)"
    asynchronous = True

    def begin(self, path: str, tree: Any) -> Wait:
        import pertinax

        pending = pertinax.save_async(path, tree)
        return lambda: pending.result() and None

    def restore(self, path: str, target: Any) -> Any:
        import pertinax

        if len(jax.tree.leaves(target)[0].sharding.device_set) > 1:
            return pertinax.load(path, sharding=jax.tree.leaves(target)[0].sharding)
        return pertinax.load(path)


def all_contestants() -> tuple[list[Contestant], dict[str, str]]:
    """Who takes part, and who does not and why."""
    found: list[Contestant] = [FloorRead(), FloorMap(), NumpyFiles()]
    absent: dict[str, str] = {}
    try:
        import safetensors.numpy  # noqa: F401

        found.append(Safetensors())
    except ImportError as error:
        absent[Safetensors.name] = str(error)
    try:
        from orbax import checkpoint as orbax

        found += [Standard("Orbax Standard", orbax, durable=False), OrbaxPyTree(orbax)]
    except ImportError as error:
        absent["Orbax"] = str(error)
    found += [Pertinax(), PertinaxAsync()]
    try:
        from pertinax import checkpoint as door

        found.append(Standard("pertinax.checkpoint", door, durable=True))
    except (ImportError, AttributeError) as error:
        absent["pertinax.checkpoint"] = f"{type(error).__name__}: {error}"
    return found, absent
