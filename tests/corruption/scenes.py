# SPDX-License-Identifier: Apache-2.0
"""Checkpoints to be damaged, and the ways in which disks and people damage them."""

import random

import jax
import jax.numpy as jnp
import numpy as np

import pertinax
from pertinax._core.options import SaveOptions
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents, write_checkpoint
from pertinax._plan.topology import ALONE
from pertinax._store.memory import DirNode, FileNode, MemoryStore
from pertinax.testing._journal import copy_tree
from pertinax.testing.trees import Pair

PATH = "/c"


def plain(mark):
    return {"w": jnp.arange(900, dtype=jnp.float32) + mark, "n": mark}


def rich(mark):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return {
        "mark": mark,
        "text": f"text {mark}",
        "long": mark << 90,
        "bytes": bytes([mark]) * 40,
        "key": jax.random.key(mark),
        "keys": jax.random.split(jax.random.key(mark, impl="rbg"), 3),
        "sharded": jax.device_put(np.arange(640, dtype=np.int32) + mark, sharding),
        "large": np.arange(20_000, dtype=np.int32) * mark,
        "bf16": jnp.full((7, 3), mark, jnp.bfloat16),
        "pair": Pair([{}], (None, 1.5)),
    }


def save_bare(store, tree, **options):
    pertinax.save(PATH, tree, store=store, **options)


def save_step(store, tree, **options):
    """A step as a manager or the Orbax door writes it: items in directories of their own."""
    options = SaveOptions(**options)
    items = {
        "default": prepare(tree, options, "borrow", ALONE),
        "metrics": {"metrics": b'{"loss": 1.5}'},
    }
    write_checkpoint(store, PATH, Contents(items), options)


def made(save, tree, **options):
    store = MemoryStore()
    save(store, tree, **options)
    return store


def files(store):
    """Paths of all files."""
    found = []

    def walk(node, path):
        for name, child in sorted(node.names.items()):
            if isinstance(child, DirNode):
                walk(child, f"{path}/{name}")
            else:
                found.append(f"{path}/{name}")

    walk(store.root, "")
    return found


def copy(store):
    return MemoryStore(copy_tree(store.root))


def same_kind(path, others):
    """The file of another checkpoint that stands for this one: data files have random names."""
    if path in others:
        return path
    return next(other for other in others if other.rpartition("/")[0] == path.rpartition("/")[0])


def offsets(length, limit, rng):
    if length <= limit:
        return range(length)
    edges = {0, 1, length // 2, length - 2, length - 1}
    return sorted(edges | {rng.randrange(length) for _ in range(limit - len(edges))})


def damages(store, stale, limit, seed=0):
    """Names of mutations, each with a store that bears it. The stores are used up one after the
    other.
    """
    rng = random.Random(seed)
    paths, old = files(store), files(stale)
    for path in paths:
        content = bytes(store.find(path).content)
        for at in offsets(len(content), limit, rng):
            flipped = bytearray(content)
            flipped[at] ^= 1 << rng.randrange(8)
            yield f"bit at {at} of {path}", with_content(store, path, flipped)
        for start in range(0, len(content), 512)[:8]:
            blank = bytearray(content)
            blank[start : start + 512] = bytes(len(blank[start : start + 512]))
            if blank != content:
                yield f"zeros at {start} of {path}", with_content(store, path, blank)
        for length in {0, 1, len(content) // 2, len(content) - 1, max(0, len(content) - 4096)} - {
            len(content)
        }:
            yield f"{path} cut to {length}", with_content(store, path, content[:length])
        for more in (b"\0", b"x", bytes(4096), content):
            if more:
                yield f"{path} longer by {len(more)}", with_content(store, path, content + more)
        other = stale.find(same_kind(path, old)).content
        if other != content:
            yield f"stale {path}", with_content(store, path, other)
        for swapped in paths:
            if swapped > path and store.find(swapped).content != content:
                yield f"{path} swapped with {swapped}", with_swapped(store, path, swapped)
        for kind in ("gone", "directory", "filled directory"):
            yield f"{path} {kind}", with_node(store, path, kind)


def with_content(store, path, content):
    out = copy(store)
    out.find(path).content[:] = content
    return out


def with_swapped(store, one, other):
    out = copy(store)
    a, b = out.find(one), out.find(other)
    a.content, b.content = b.content, a.content
    return out


def with_node(store, path, kind):
    out = copy(store)
    holder, name = out.parent(path)
    del holder.names[name]
    if kind != "gone":
        holder.names[name] = DirNode({} if kind == "directory" else {"x": FileNode(b"y")})
    return out
