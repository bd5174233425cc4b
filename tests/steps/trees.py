# SPDX-License-Identifier: Apache-2.0
"""Small states with a number in them, and stores to keep them in."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pertinax import Manager
from pertinax._store.contract import Store
from pertinax._store.owner import TMP_MARK

ROOT = "/runs/a"


def state(step: int) -> dict[str, Any]:
    return {"w": np.arange(6, dtype=np.float32).reshape(2, 3) + step, "step": step}


def same(one: Any, other: Any) -> bool:
    """Bit for bit, type for type."""
    (a, one_form), (b, other_form) = jax.tree.flatten(one), jax.tree.flatten(other)
    return one_form == other_form and all(_same_leaf(x, y) for x, y in zip(a, b, strict=True))


def _same_leaf(x: Any, y: Any) -> bool:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    a, b = np.asarray(x), np.asarray(y)
    return (
        type(x) is type(y)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.tobytes() == b.tobytes()
    )


def fill(store: Store, steps: list[int], **options: Any) -> None:
    """Save some steps into `ROOT`."""
    with Manager(ROOT, store=store, background=False, **options) as manager:
        for step in steps:
            manager.save(step, state(step), metrics={"loss": float(step)})


def names(store: Store, root: str = ROOT) -> list[str]:
    return sorted(entry.name for entry in store.list_dir(root))


def hidden(store: Store, root: str = ROOT) -> list[str]:
    return [name for name in names(store, root) if TMP_MARK in name]


def told(error: BaseException) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", [])])


class Intercepted:
    """A store that lets a test look on: `before(method, path)` is called ahead of each call."""

    def __init__(self, inner: Store, before: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._before = before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(path: str, *rest: Any, **options: Any) -> Any:
            self._before(name, path)
            return method(path, *rest, **options)

        return call


class Lying:
    """A disk that says it has written what it has not: the files that `wrong` picks, by their
    number and path, keep another first byte.
    """

    def __init__(self, inner: Store, wrong: Callable[[int, str], bool]) -> None:
        self._inner = inner
        self._wrong = wrong
        self.created: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, path: str, length: int = 0) -> Any:
        self.created.append(path)
        writer = self._inner.create(path, length)
        return _LyingWriter(writer) if self._wrong(len(self.created) - 1, path) else writer


class _LyingWriter:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)

    def write_at(self, offset: int, buffers: Any) -> None:
        content = bytearray(b"".join(memoryview(one).cast("B") for one in buffers))
        if offset == 0:
            content[0] ^= 1
        self._inner.write_at(offset, [content])
