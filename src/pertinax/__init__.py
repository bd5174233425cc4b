# SPDX-License-Identifier: Apache-2.0
"""Pertinax keeps the state of JAX training runs: it holds fast.

    import pertinax

    pertinax.save("runs/a", state)            # durable, checksummed, all or nothing
    state = pertinax.load("runs/a")           # exactly what was saved, every byte verified
    state = pertinax.load("runs/a", target)   # into these types, shapes and shardings

Training loops use `Manager`; programs written for Orbax use `pertinax.checkpoint`.
"""

import typing as _typing

from pertinax import errors
from pertinax._core.describe import Description, describe
from pertinax._core.load import load
from pertinax._core.pending import Pending
from pertinax._core.save import save, save_async
from pertinax._core.verify import Verification, verify
from pertinax._version import VERSION as __version__  # noqa: N811 - the name that packages have

if _typing.TYPE_CHECKING:
    from pertinax import policies
    from pertinax._steps.manager import Manager
    from pertinax._store.objects.store import ObjectStore
    from pertinax._tiers.manager import TieredManager

__all__ = [
    "Description",
    "Manager",
    "ObjectStore",
    "Pending",
    "TieredManager",
    "Verification",
    "__version__",
    "describe",
    "errors",
    "load",
    "policies",
    "save",
    "save_async",
    "verify",
]

for _public in (Description, Pending, Verification, describe, load, save, save_async, verify):
    _public.__module__ = __name__  # tracebacks, pickles and help() show where people find them
del _public


def __getattr__(name: str) -> _typing.Any:
    """Managers and policies take a third of the time of an import: they come when asked for."""
    if name == "Manager":
        from pertinax._steps.manager import Manager

        globals()[name] = Manager
        return Manager
    if name == "TieredManager":
        from pertinax._tiers.manager import TieredManager

        globals()[name] = TieredManager
        return TieredManager
    if name == "ObjectStore":
        from pertinax._store.objects.store import ObjectStore

        globals()[name] = ObjectStore
        return ObjectStore
    if name == "policies":
        import importlib

        return importlib.import_module("pertinax.policies")
    raise AttributeError(f"module 'pertinax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
