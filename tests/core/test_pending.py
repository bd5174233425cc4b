# SPDX-License-Identifier: Apache-2.0
"""A save in flight: its result, its failure, its end; and nobody forgets it."""

import os
import subprocess
import sys
import textwrap
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointExists, CheckpointNotFound, InvalidOption, StorageError
from pertinax.testing import FaultyStore


class GatedStore:
    """Begins to write only when the gate is opened."""

    def __init__(self):
        self.inner = MemoryStore()
        self.gate = threading.Event()

    def create(self, path, length=0):
        assert self.gate.wait(60)
        return self.inner.create(path, length)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_nothing_is_visible_until_it_is_done():
    store = GatedStore()
    pending = pertinax.save_async("/c", {"a": np.arange(9)}, store=store)
    assert not pending.done()
    assert "writing" in repr(pending)
    with pytest.raises(CheckpointNotFound):
        pertinax.load("/c", store=store.inner)
    with pytest.raises(TimeoutError, match=r"not done after 0\.01 s"):
        pending.result(timeout_s=0.01)
    store.gate.set()
    assert pending.result() == "/c"
    assert pending.result() == "/c"
    assert pending.exception() is None
    assert pending.done()
    assert "done" in repr(pending)
    assert pertinax.load("/c", store=store.inner)["a"].tolist() == list(range(9))


def broken():
    return FaultyStore(MemoryStore(), fail_at=6, error=OSError(5, "Input/output error"))


def test_a_failure_is_raised_each_time_one_asks_and_told_once(capsys):
    pending = pertinax.save_async("/c", {"a": np.arange(9)}, store=broken())
    for _ in range(2):
        with pytest.raises(StorageError, match="Input/output error"):
            pending.result()
    assert isinstance(pending.exception(), StorageError)
    assert "failed" in repr(pending)
    del pending
    assert "FAILED" not in capsys.readouterr().err


@pytest.mark.wd("Kw-21")
def test_a_failure_that_nobody_asks_for_reaches_stderr(capsys):
    ended = threading.Event()
    pending = pertinax.save_async(
        "/c", {"a": np.arange(9)}, store=broken(), on_done=lambda _: ended.set()
    )
    assert ended.wait(60)
    for thread in threading.enumerate():
        if thread.name == "pertinax-save":
            thread.join()
    del pending
    said = capsys.readouterr().err
    assert said.count("the save to /c FAILED and nobody asked") == 1
    assert "Input/output error" in said


def test_a_callback_gets_the_handle_when_all_is_over():
    got = []

    def note(pending):
        got.append(
            (
                pending.done(),
                pending.result(),
                pending.statistics(),
                threading.current_thread().name,
            )
        )

    pending = pertinax.save_async("/c", {"a": np.arange(50_000)}, store=MemoryStore(), on_done=note)
    pending.result()
    ((done, path, statistics, thread),) = got
    assert done
    assert path == "/c"
    assert thread == "pertinax-save"
    assert statistics.written_bytes == statistics.total_bytes >= 400_000
    assert statistics.blocked_s >= 0
    assert pending.statistics().wrote_s == statistics.wrote_s


def test_a_callback_may_use_the_handle_before_the_caller_has_it():
    """The thread may be done before `save_async` has returned."""
    for _ in range(50):
        got = []
        pending = pertinax.save_async(
            "/c", 1, store=MemoryStore(), on_done=lambda p, got=got: got.append(p.statistics())
        )
        pending.result()
        assert len(got) == 1


def test_progress_is_told_from_zero_to_all():
    told = []
    tree = {"a": np.arange(3_000_000), "b": jnp.arange(9)}
    pertinax.save(
        "/c", tree, store=MemoryStore(), progress=lambda done, total: told.append((done, total))
    )
    assert {total for _, total in told} == {told[0][1]}
    assert max(done for done, _ in told) == told[0][1]
    assert len(told) >= 3


def test_exists_is_said_at_once_or_at_the_end():
    store = GatedStore()
    store.gate.set()
    pertinax.save("/c", 1, store=store)
    with pytest.raises(CheckpointExists):
        pertinax.save_async("/c", 2, store=store)
    assert pertinax.save_async("/c", 2, store=store, exists="skip").result() == "/c"
    assert pertinax.load("/c", store=store) == 1
    store.gate.clear()
    pending = pertinax.save_async("/d", 3, store=store)
    pertinax.save("/d", 4, store=store.inner)
    store.gate.set()
    with pytest.raises(CheckpointExists):
        pending.result()
    assert pertinax.load("/d", store=store) == 4
    store.gate.clear()
    pending = pertinax.save_async("/d2", 5, store=store, exists="skip")
    pertinax.save("/d2", 6, store=store.inner)
    store.gate.set()
    assert pending.result() == "/d2"
    assert pertinax.load("/d2", store=store) == 6
    assert sorted(entry.name for entry in store.list_dir("/")) == ["c", "d", "d2"]
    with pytest.raises(InvalidOption):
        pertinax.save_async("/e", 3, store=store, exists="no")


def test_many_saves_in_flight_do_not_mix():
    store = GatedStore()
    flight = [
        pertinax.save_async(f"/c{i}", {"a": np.full(20_000, i), "i": i}, store=store)
        for i in range(8)
    ]
    store.gate.set()
    for i, pending in enumerate(flight):
        assert pending.result() == f"/c{i}"
        loaded = pertinax.load(f"/c{i}", store=store.inner)
        assert loaded["i"] == i
        assert (loaded["a"] == i).all()


def child(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "raise RuntimeError('boom')"])
def test_a_program_that_ends_finishes_its_saves(tmp_path, ending):
    code = f"""
        import sys, numpy as np, pertinax
        pending = pertinax.save_async(sys.argv[1], {{"a": np.arange(4_000_000), "n": 5}})
        del pending
        pertinax.save_async(sys.argv[1] + "2", {{"a": np.arange(4_000_000)}}, compression="zstd")
        {ending}
    """
    result = child(code, tmp_path / "c")
    assert result.returncode == {"": 0, "raise SystemExit(3)": 3}.get(ending, 1), result.stderr
    assert (pertinax.load(tmp_path / "c")["a"] == np.arange(4_000_000)).all()
    assert pertinax.verify(tmp_path / "c2").ok
    assert sorted(os.listdir(tmp_path)) == ["c", "c2"]


@pytest.mark.parametrize("keep", [True, False])
def test_a_program_that_ends_tells_of_a_failed_save(tmp_path, keep):
    code = f"""
        import sys, numpy as np, pertinax
        from pertinax.testing import FaultyStore
        from pertinax._store.memory import MemoryStore
        store = FaultyStore(MemoryStore(), fail_at=9, error=OSError(5, "Input/output error"))
        pending = pertinax.save_async("/c", {{"a": np.arange(400_000)}}, store=store)
        {"" if keep else "del pending"}
    """
    result = child(code)
    assert result.stderr.count("the save to /c FAILED and nobody asked") == 1, result.stderr


def test_a_program_may_save_when_the_interpreter_is_ending(tmp_path):
    code = """
        import atexit, sys, threading, numpy as np, pertinax
        pertinax.save(sys.argv[1] + "0", {"a": 1})
        def late():
            pertinax.save(sys.argv[1] + "1", {"a": np.arange(200_000)})
        thread = threading.Thread(target=late)
        thread.start()
    """
    result = child(code, tmp_path / "c")
    assert result.returncode == 0, result.stderr
    assert pertinax.load(tmp_path / "c1")["a"][-1] == 199_999


@pytest.mark.parametrize("ending", ["os._exit(4)", "os.kill(os.getpid(), 15)"])
def test_a_program_that_ends_at_once_leaves_what_was_there(tmp_path, ending):
    code = f"""
        import os, sys, numpy as np, pertinax
        pertinax.save(sys.argv[1], {{"n": 1}})
        pertinax.save_async(sys.argv[1], {{"n": 2, "a": np.arange(4_000_000)}}, exists="replace")
        {ending}
    """
    result = child(code, tmp_path / "c")
    assert result.returncode in (4, -15), result.stderr
    assert pertinax.load(tmp_path / "c")["n"] in (1, 2)
    assert pertinax.verify(tmp_path / "c").ok
    pertinax.save(tmp_path / "c", {"n": 3}, exists="replace")
    assert pertinax.load(tmp_path / "c") == {"n": 3}
    assert os.listdir(tmp_path) == ["c"]
