# SPDX-License-Identifier: Apache-2.0
"""Tests in several processes, and the settings of the whole program that tests change for a while.

Knows the counters, barriers and registries of the door. Knows nothing of what a test does.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

from pertinax.checkpoint import multihost, type_handlers
from pertinax.checkpoint.multihost import counters
from pertinax.checkpoint.serialization import tensorstore_utils

T = TypeVar("T", bound=type)


def barrier_compatible_test(cls: T) -> T:
    """Class decorator: each `test...` method has names of barriers and counters of its own.

    So test cases may repeat names, and processes may run them in another order.
    """
    for name in dir(cls):
        method = getattr(cls, name)
        if name.startswith("test") and callable(method):
            setattr(cls, name, _alone(method))
    return cls


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _own_names(self.id() if hasattr(self, "id") else method.__qualname__):
            return method(self, *args, **kwargs)

    return run


@contextlib.contextmanager
def _own_names(test: str) -> Iterator[None]:
    hook = "_unique_barrier_key"
    before = getattr(multihost, hook)

    def named(key: str) -> str:
        return f"{before(key)}.{test}"

    with contextlib.ExitStack() as changes:
        changes.enter_context(mock.patch.object(multihost, hook, named))
        for name in vars(counters):
            if name.endswith("_counter"):
                changes.enter_context(mock.patch.object(counters, name, _counter_of(test)))
        yield


def _counter_of(test: str) -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"{test}_{next(numbers)}"


def sync_global_processes(name: str) -> None:
    """Wait until all processes have come to `name`."""
    multihost.sync_global_processes(name)


def set_tensorstore_driver_for_test() -> None:
    """Let specs of local paths name the ordinary file driver."""
    tensorstore_utils.DEFAULT_DRIVER = "file"


@contextlib.contextmanager
def register_type_handler(
    ty: Any, handler: Any, func: Callable[[Any], bool] | None
) -> Iterator[None]:
    """In the block, `handler` stores leaves of type `ty`, in place of what did before."""
    with _registry_restored():
        type_handlers.register_type_handler(ty, handler, func=func, override=True)
        yield


@contextlib.contextmanager
def ocdbt_checkpoint_context(use_ocdbt: bool, ts_context: Any) -> Iterator[None]:
    """In the block, numbers and arrays have fresh stock handlers."""
    with _registry_restored():
        type_handlers.register_standard_handlers_with_options(
            use_ocdbt=use_ocdbt, ts_context=ts_context
        )
        yield


@contextlib.contextmanager
def _registry_restored() -> Iterator[None]:
    """Whatever is registered in the block, is so only there."""
    registry: Any = type_handlers.GLOBAL_TYPE_HANDLER_REGISTRY
    before = {name: value.copy() for name, value in vars(registry).items()}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(registry, name, value)
