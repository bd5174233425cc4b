"""The pool of threads: what waits for it may be interrupted."""

import _thread
import threading

import pytest

from pertinax._store.workers import Workers


def test_an_interrupted_wait_cancels_what_has_not_begun() -> None:
    gate, done = threading.Event(), list[int]()

    def interrupt() -> None:
        _thread.interrupt_main()
        gate.wait(30)

    with Workers(1, "test") as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.run_all([interrupt, *(lambda i=i: done.append(i) for i in range(100))])
        gate.set()
    assert done == []
