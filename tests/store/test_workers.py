# SPDX-License-Identifier: Apache-2.0
"""The pool of threads: what waits for it may be interrupted."""

import threading
from typing import Any

import pytest

from pertinax._store import workers as module
from pertinax._store.workers import Workers


def test_an_interrupted_wait_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, done = threading.Event(), threading.Event(), list[int]()

    def interrupt(*_: Any, **__: Any) -> None:
        begun.wait()
        raise KeyboardInterrupt

    def first() -> None:
        begun.set()
        gate.wait()

    monkeypatch.setattr(module, "wait", interrupt)
    with Workers(1, "test") as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.run_all([first, *(lambda i=i: done.append(i) for i in range(100))])
        gate.set()
    assert done == []


def test_of_several_failures_that_of_the_first_task_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited, gate = module.wait, threading.Event()

    def wait_and_open(*args: Any, **options: Any) -> Any:
        try:
            return waited(*args, **options)
        finally:
            gate.set()

    def early() -> None:
        gate.wait()  # until the failure of the other has been seen
        raise ValueError("early in the list")

    def late() -> None:
        raise ValueError("late in the list")

    monkeypatch.setattr(module, "wait", wait_and_open)
    with Workers(2, "test") as workers, pytest.raises(ValueError, match="early in the list"):
        workers.run_all([early, late])
