# SPDX-License-Identifier: Apache-2.0
"""The order of a save: who is called when, what is on disk then, and who waits for whom."""

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from etils import epath

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint import multihost
from pertinax.checkpoint.metadata import checkpoint_metadata_store
from pertinax.checkpoint.path import atomicity

Log = list[str]


class Recorder(ocp.AsyncCheckpointHandler):
    """Writes one file, notes each call, and is its own future."""

    def __init__(self, log: Log, root: Path) -> None:
        self.log = log
        self.root = root

    def note(self, what: str) -> None:
        self.log.append(f"{what} visible={(self.root / 'it').exists()}")

    async def async_save(self, directory: Any, text: str) -> Any:
        self.note("async_save")
        (directory / "text").write_text(text)
        await asyncio.sleep(0)
        return [None, [self, [self]]]

    def result(self, timeout: float | None = None) -> None:
        self.note("result")

    def save(self, directory: Any, text: str) -> None:
        self.note("save")
        (directory / "text").write_text(text)

    def restore(self, directory: Any, *_: Any) -> str:
        self.note("restore")
        return (directory / "text").read_text()

    def finalize(self, directory: Any) -> None:
        assert isinstance(directory, epath.Path)
        self.note("finalize")

    def close(self) -> None:
        self.note("close")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Two processes, as far as waiting goes: the barriers that this one comes to."""
    barriers: Log = []

    def barrier_of(*, processes: Any = None) -> Any:
        def wait(*, key: str, timeout_ms: int) -> None:
            barriers.append(f"{key} {timeout_ms} {processes}")

        return wait

    monkeypatch.setattr(multihost, "should_skip_process_sync", lambda: False)
    monkeypatch.setattr(multihost, "get_barrier_sync_fn", barrier_of)
    return barriers


def test_a_save_that_waits(tmp_path: Path):
    log: ClassVar[Log] = []
    with ocp.Checkpointer(Recorder(log, tmp_path)) as checkpointer:
        checkpointer.save(tmp_path / "it", "words")
        assert checkpointer.restore(tmp_path / "it") == "words"
    assert log == [
        "save visible=False",
        "finalize visible=False",
        "restore visible=True",
        "close visible=True",
    ]


@pytest.mark.row("R106", "R248")
def test_a_save_in_the_background(tmp_path: Path):
    log: ClassVar[Log] = []
    handler = Recorder(log, tmp_path)
    options = ocp.AsyncOptions(post_finalization_callback=lambda: handler.note("callback"))
    with ocp.AsyncCheckpointer(handler, async_options=options) as checkpointer:
        checkpointer.save(tmp_path / "it", "words")
        checkpointer.wait_until_finished()
    assert log == [
        "async_save visible=False",
        "result visible=False",
        "result visible=False",
        "finalize visible=False",
        "callback visible=False",
        "close visible=True",
    ]


def test_processes_meet_around_what_each_of_them_does(two: Log, tmp_path: Path):
    class Joined(Recorder):
        def note(self, what: str) -> None:
            two.append(what)

    options = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix="mine")
    checkpointer = ocp.Checkpointer(Joined([], tmp_path), multiprocessing_options=options)
    checkpointer.save(tmp_path / "it", "words")
    checkpointer.restore(tmp_path / "it")
    number = two[0].split()[0].rpartition(".")[2]
    assert two == [
        f"mine_create_tmp_directory:pre.it.{number} 360000 None",
        f"mine_create_tmp_directory:post.it.{number} 360000 None",
        "save",
        "mine_Checkpointer:save.it 1200000 None",
        "finalize",
        "mine_Checkpointer:finalize.it 1200000 None",
        "restore",
        "mine_Checkpointer:restore.it 1200000 None",
    ]


def test_background_threads_meet_at_the_programs_barrier(two: Log, tmp_path: Path):
    class Joined(Recorder):
        def note(self, what: str) -> None:
            two.append(what)

    def barrier(*, key: str, timeout_ms: int) -> None:
        two.append(f"own {key.rpartition('.')[0]} {timeout_ms}")

    options = ocp.AsyncOptions(7, barrier, lambda: two.append("callback"))
    first = ocp.AsyncCheckpointer(Joined([], tmp_path), async_options=options)
    second = ocp.AsyncCheckpointer(Joined([], tmp_path), 9, async_options=options)
    first.save(tmp_path / "it", "words")
    first.close()
    own = [text for text in two if not text.startswith("create_tmp_directory")]
    prefix = own[3].split()[1].partition("_")[0]
    assert own == [
        "async_save",
        "result",
        "result",
        f"own {prefix}_async_write_complete.it 7000",
        "finalize",
        "callback",
        f"own {prefix}_async_commit_complete.it 7000",
        "close",
    ]
    two.clear()
    second.save(tmp_path / "other", "words")
    second.close()
    barriers = [text for text in two if text.startswith("own")]
    assert not any(text.startswith(f"own {prefix}_") for text in barriers)
    assert all(text.endswith(" 9000") for text in barriers)


def test_a_process_that_does_not_lead_publishes_nothing(two: Log, tmp_path: Path):
    log: ClassVar[Log] = []

    class Follower(Recorder):
        def save(self, directory: Any, text: str) -> None:
            self.note("save")

    options = ocp.options.MultiprocessingOptions(primary_host=1)
    checkpointer = ocp.Checkpointer(Follower(log, tmp_path), multiprocessing_options=options)
    checkpointer.save(tmp_path / "it", "words")
    assert log == ["save visible=False"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_alone_waits_at_no_barrier(tmp_path: Path):
    def barrier(**_: Any) -> None:
        raise AssertionError("there is nobody to wait for")

    options = ocp.AsyncOptions(barrier_sync_fn=barrier)
    with ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), async_options=options) as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": 1})
        assert checkpointer.restore(tmp_path / "it") == {"a": 1}


@pytest.mark.parametrize("where", ["finalize", "callback", "result", "async_save"])
def test_a_failure_anywhere_is_raised_once_and_leaves_nothing(where: str, tmp_path: Path):
    class Failing(Recorder):
        def note(self, what: str) -> None:
            if what == where:
                raise OSError(f"{what} failed")

    handler = Failing([], tmp_path)
    options = ocp.AsyncOptions(post_finalization_callback=lambda: handler.note("callback"))
    checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)

    def save() -> None:
        checkpointer.save(tmp_path / "it", "words")
        checkpointer.wait_until_finished()

    with pytest.raises(OSError, match=f"{where} failed"):
        save()
    checkpointer.wait_until_finished()
    checkpointer.check_for_errors()
    assert list(tmp_path.iterdir()) == []
    handler.note = lambda what: None
    save()
    assert checkpointer.restore(tmp_path / "it") == "words"
    checkpointer.close()


def test_arguments_that_do_not_fit_leave_nothing_on_disk(tmp_path: Path):
    for kind in (ocp.Checkpointer, ocp.AsyncCheckpointer):
        with kind(ocp.JsonCheckpointHandler()) as checkpointer:
            for call in ({}, {"itm": 1}, {"item": 1, "more": 2}):
                with pytest.raises(TypeError):
                    checkpointer.save(tmp_path / "it", **call)
    assert list(tmp_path.iterdir()) == []


# --- parts that a program can put in


class Marked(atomicity.AtomicRenameTemporaryPath):
    """A temporary path of the program's own, built on ours."""

    log: ClassVar[Log] = []

    async def create(self, **options: Any) -> Any:
        self.log.append("create")
        return await super().create(**options)

    def finalize(self) -> None:
        self.log.append("finalize")
        super().finalize()


class Foreign:
    """One that has nothing to do with ours: the contract alone."""

    log: ClassVar[Log] = []

    def __init__(self, final: Any, store: Any) -> None:
        self.final, self.store = final, store

    @classmethod
    def from_final(
        cls,
        final_path: Any,
        *,
        checkpoint_metadata_store: Any = None,
        file_options: Any = None,
        multiprocessing_options: Any = None,
    ) -> "Foreign":
        return cls(final_path, checkpoint_metadata_store)

    @classmethod
    def match(cls, temporary_path: Any, final_path: Any) -> bool:
        return temporary_path.name == f"{final_path.name}.hidden"

    def get(self) -> Any:
        return self.final.parent / f"{self.final.name}.hidden"

    def get_final(self) -> Any:
        return self.final

    async def create(self, *, file_options: Any = None) -> Any:
        self.log.append("create")
        self.get().mkdir(parents=True)
        return self.get()

    def finalize(self) -> None:
        self.log.append("finalize")
        self.store.update(checkpoint_path=self.get(), commit_timestamp_nsecs=12345)
        self.get().rename(self.final)


@pytest.mark.parametrize("kind", [ocp.Checkpointer, ocp.AsyncCheckpointer])
@pytest.mark.parametrize("path_class", [Marked, Foreign])
def test_a_program_may_commit_its_own_way(kind: Any, path_class: Any, tmp_path: Path):
    path_class.log.clear()
    store = checkpoint_metadata_store(enable_write=True, blocking_write=True)
    options: Any = {"temporary_path_class": path_class, "checkpoint_metadata_store": store}
    with kind(ocp.CompositeCheckpointHandler(), **options) as checkpointer:
        args = ocp.args.Composite(state=ocp.args.StandardSave({"a": 1}))
        for value in (1, 2):
            args = ocp.args.Composite(state=ocp.args.StandardSave({"a": value}))
            checkpointer.save(tmp_path / "it", args=args, force=True)
        assert checkpointer.restore(tmp_path / "it").state == {"a": 2}
        with pytest.raises(ValueError, match="already exists"):
            checkpointer.save(tmp_path / "it", args=args)
    assert path_class.log == ["create", "finalize"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert pertinax.verify(tmp_path / "it").ok
    commit = store.read(tmp_path / "it").commit_timestamp_nsecs
    assert (commit == 12345) == (path_class is Foreign)


def test_a_subclass_may_choose_the_temporary_path(tmp_path: Path):
    made: Log = []

    class Own(ocp.Checkpointer):
        async def create_temporary_path(self, directory: epath.Path) -> Any:
            path = await super().create_temporary_path(directory)
            made.append(path.get().name)
            return path

    Own(ocp.JsonCheckpointHandler()).save(tmp_path / "it", {"a": 1})
    assert len(made) == 1
    assert made[0].startswith("it.orbax-checkpoint-tmp-")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_store_that_writes_later_is_refused_by_who_does_not_wait(tmp_path: Path):
    later = checkpoint_metadata_store(enable_write=True)
    with pytest.raises(ValueError, match="must be blocking writer"):
        ocp.Checkpointer(ocp.JsonCheckpointHandler(), checkpoint_metadata_store=later)
    reader = checkpoint_metadata_store(enable_write=False)
    with pytest.raises(ValueError, match="must be blocking writer"):
        ocp.Checkpointer(ocp.JsonCheckpointHandler(), checkpoint_metadata_store=reader)
    with ocp.AsyncCheckpointer(
        ocp.JsonCheckpointHandler(), checkpoint_metadata_store=later
    ) as checkpointer:
        begun = time.time_ns()
        checkpointer.save(tmp_path / "it", {"a": 1})
        checkpointer.wait_until_finished()
        note = later.read(tmp_path / "it")
    assert begun <= note.init_timestamp_nsecs <= note.commit_timestamp_nsecs <= time.time_ns()


def test_a_timeout_given_directly_wins():
    options = ocp.AsyncOptions(timeout_secs=500)
    handler = ocp.JsonCheckpointHandler()
    for given, expected in ((None, 500), (7, 7)):
        checkpointer = ocp.AsyncCheckpointer(handler, given, async_options=options)
        assert checkpointer._async_manager._timeout_secs == expected
        checkpointer.close()
        handler = ocp.JsonCheckpointHandler()
    handler.close()


def test_a_handler_that_only_waits_is_no_handler_for_the_background():
    class Plain(ocp.CheckpointHandler):
        def save(self, directory: Any, *args: Any) -> None: ...

        def restore(self, directory: Any, *args: Any) -> Any: ...

    for error in (AssertionError, TypeError):  # Orbax fails an assertion
        with pytest.raises(error, match="in the background"):
            ocp.AsyncCheckpointer(Plain())


@pytest.mark.row("R276")
def test_the_thread_of_a_save_is_named_after_it(tmp_path: Path):
    names: Log = []
    options = ocp.AsyncOptions(
        post_finalization_callback=lambda: names.append(threading.current_thread().name)
    )
    with ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), async_options=options) as checkpointer:
        for i in range(2):
            checkpointer.save(tmp_path / str(i), i)
    assert all(name.startswith("async_save_") for name in names)
    assert len(set(names)) == 2


def test_the_version_is_told_once(caplog: pytest.LogCaptureFixture):
    from pertinax.checkpoint import abstract_checkpointer

    abstract_checkpointer._log_version.cache_clear()
    with caplog.at_level(logging.INFO, logger="pertinax"):
        for _ in range(3):
            ocp.PyTreeCheckpointer().close()
    assert sum(pertinax.__version__ in record.getMessage() for record in caplog.records) == 1
