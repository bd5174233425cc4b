# SPDX-License-Identifier: Apache-2.0
"""One save after the other: each knows how the one before has ended, and who was told."""

import errno
import threading
from typing import Any

import pytest

from pertinax import Manager
from pertinax._core.open import DEFAULT_ITEM, open_checkpoint
from pertinax._core.options import SaveOptions
from pertinax._hosts import Alone, Monologue
from pertinax._steps.line import SaveLine
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointExists, InvalidOption, StorageError
from tests.steps.trees import ROOT, Intercepted, fill, names, same, state


class Broken:
    """Files cannot be created while it is on, and not before `go`."""

    def __init__(self) -> None:
        self.on, self.go = True, threading.Event()
        self.go.set()

    def __call__(self, method: str, path: str) -> None:
        if method == "create":
            assert self.go.wait(60)
            if self.on:
                raise OSError(errno.EIO, "broken", path)


def test_a_line_knows_of_its_failure_until_somebody_was_told_and_then_of_the_step() -> None:
    broken = Broken()
    store: Any = Intercepted(MemoryStore(), broken)
    with Manager(ROOT, store=store) as manager:
        line = manager._line
        assert (line.busy, line.failed, line.failed_step) == (False, False, None)
        broken.go.clear()
        pending = manager.save(1, state(1))
        assert pending is not None
        assert (line.busy, line.failed, line.failed_step) == (True, False, None)
        assert line.is_writing(1)
        assert not line.is_writing(2)
        line.raise_failure()  # there is none so far
        line.settle_if(2)
        broken.go.set()
        pending._thread.join()
        assert (line.busy, line.failed, line.failed_step) == (False, True, None)
        assert not line.is_writing(1)
        line.settle_if(1)  # it is not being written any more
        with pytest.raises(StorageError):
            line.settle_if(None)
        assert (line.busy, line.failed, line.failed_step) == (False, False, 1)
        line.raise_failure()
        broken.on = False
        manager.save(2, state(2))
        manager.wait()
        assert (line.busy, line.failed, line.failed_step) == (False, False, None)


def test_a_save_that_is_refused_leaves_the_line_as_it_was() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    with Manager(ROOT, store=disk, background=False) as manager:
        manager.save(2, state(2))
        last, saves = manager._writer.last, manager.statistics()
        for wrong, metrics in ((CheckpointExists, None), (InvalidOption, {"loss": "low"})):
            with pytest.raises(wrong):
                manager.save(1, state(1), metrics=metrics)  # type: ignore[arg-type]
        assert manager._writer.last == last
        assert manager.statistics().last == saves.last
        assert manager.statistics().failures == 0


def test_without_a_thread_to_be_had_a_save_fails_and_counts_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    start = threading.Thread.start
    out_of_threads = [True]

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pertinax-save" and out_of_threads[0]:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Manager(ROOT, store=disk) as manager:
        last = manager._writer.last
        with pytest.raises(RuntimeError, match="new thread"):
            manager.save(2, state(2))
        assert manager._writer.last == last
        found = manager.statistics()
        assert (found.saves, found.failures, found.wrote_s) == (0, 1, 0.0)
        assert found.last is not None
        assert found.last.error == "RuntimeError: can't start new thread"
        assert not manager._line.busy
        out_of_threads[0] = False
        manager.save(2, state(2))
    assert names(disk) == ["1", "2"]


def test_a_save_that_fails_is_not_the_last_that_was_made() -> None:
    broken = Broken()
    disk = MemoryStore()
    store: Any = Intercepted(disk, broken)
    with Manager(ROOT, store=store, clock=lambda: 1000.0) as manager:
        broken.on = False
        manager.save(1, state(1))
        manager.wait()
        assert manager._writer.last == (1, 1000.0)
        broken.on = True
        with pytest.raises(StorageError):
            manager.save(2, state(2)).result()  # type: ignore[union-attr]
        assert manager._writer.last == (1, 1000.0)


def test_facts_go_into_the_ledger_beside_those_of_the_save() -> None:
    disk = MemoryStore()
    settled: list[bool] = []
    with Manager(ROOT, store=disk) as manager:
        line = manager._line

        def begin(step: int, **more: Any) -> None:
            line.begin(step, state(step), None, SaveOptions(), 5.0, **more)

        begin(1)
        begin(2, facts={"save_id": "x"}, settled=lambda: settled.append(line.busy))
        line.settle()
        assert settled == [False]
        bare, told = (
            open_checkpoint(f"{ROOT}/{step}", DEFAULT_ITEM, disk).manifest.facts for step in (1, 2)
        )
        assert same(manager.load(2), state(2))
    assert told.keys() == bare.keys() > {"save_id", "writer"}
    assert told["save_id"] == "x" != bare["save_id"]


def test_how_long_to_wait_for_the_save_in_flight_can_be_said() -> None:
    broken = Broken()
    broken.on = False
    store: Any = Intercepted(MemoryStore(), broken)
    with Manager(ROOT, store=store) as manager:
        broken.go.clear()
        manager.save(1, state(1))
        with pytest.raises(TimeoutError, match=r"not done after 0\.01 s"):
            manager._line.settle(0.01)
        broken.go.set()
        manager._line.settle(60)
        manager._line.settle(0)


@pytest.mark.parametrize("subject", [None, "the near tier of all of us"])
def test_the_others_know_a_line_by_its_root_or_as_it_was_told(subject: str | None) -> None:
    heard: list[tuple[str, str]] = []

    class Leaving(Monologue):  # type: ignore[misc]
        def __exit__(self, *_: object) -> None:
            heard.append(("left", threading.current_thread().name))

    class Listening:
        topology = Alone().topology

        def begin(self, kind: str, subject: str, **_: Any) -> Monologue:
            heard.append((kind, subject))
            return Leaving()

    disk = MemoryStore()
    with Manager(ROOT, store=disk) as manager:
        line = SaveLine(manager._writer, Listening(), subject=subject)
        line.begin(1, state(1), None, SaveOptions(), 5.0).result()
    assert heard == [("save", subject or ROOT), ("left", "pertinax-save")]
    assert names(disk) == ["1"]
