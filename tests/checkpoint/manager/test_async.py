# SPDX-License-Identifier: Apache-2.0
"""Saves in the background: what is known while they go on, and what a failure leaves."""

import concurrent.futures
import subprocess
import sys
import threading

import pytest

from tests.checkpoint.manager.sides import names, same, tree


@pytest.fixture
def slow(ours):
    """A handler that writes when it is told to, and fails when it is told that."""

    class Slow(ours.AsyncCheckpointHandler):
        def __init__(self):
            self.go = threading.Event()
            self.go.set()
            self.fail = False
            self.closed = 0

        def _write(self, directory, text):
            assert self.go.wait(60)
            if self.fail:
                raise OSError(28, "no room, says the test")
            (directory / "text").write_text(text)

        async def async_save(self, directory, args):
            pool = concurrent.futures.ThreadPoolExecutor(1)
            return [pool.submit(self._write, directory, args.item)]

        def save(self, directory, args):
            self._write(directory, args.item)

        def restore(self, directory, args=None):
            return (directory / "text").read_text()

        def close(self):
            self.closed += 1

    import dataclasses

    @ours.args.register_with_handler(Slow, for_save=True, for_restore=True)
    @dataclasses.dataclass
    class Text(ours.args.CheckpointArgs):
        item: str = ""

    Slow.Args = Text
    return Slow()


@pytest.fixture
def manager(ours, slow, root):
    def make(**options):
        chosen = ours.CheckpointManagerOptions(**options)
        return ours.CheckpointManager(root, options=chosen, item_handlers=slow)

    return make


def save(manager, slow, step, **more):
    return manager.save(step, args=slow.Args(f"text {step}"), **more)


@pytest.mark.wd("W-09", "W-10")
@pytest.mark.row("R033")
def test_a_step_is_known_at_once_and_visible_when_it_is_whole(manager, slow, root):
    with manager() as one:
        slow.go.clear()
        assert save(one, slow, 3)
        assert one.is_saving_in_progress()
        assert (one.all_steps(), one.latest_step()) == ([3], 3)
        one.reload()
        assert one.all_steps() == [3]
        assert not one.should_save(3)
        (unfinished,) = names(root)
        assert unfinished.startswith("3.orbax-checkpoint-tmp-")
        slow.go.set()
        one.wait_until_finished()
        assert not one.is_saving_in_progress()
        assert names(root) == ["3"]
        one.wait_until_finished()


@pytest.mark.wd("W-09", "W-13")
def test_restore_and_delete_wait_for_the_save(manager, slow, root):
    with manager() as one:
        slow.go.clear()
        save(one, slow, 3)
        threading.Timer(0.05, slow.go.set).start()
        assert one.restore(3) == "text 3"
        slow.go.clear()
        save(one, slow, 4)
        threading.Timer(0.05, slow.go.set).start()
        one.delete(4)
        assert one.all_steps() == [3]
    assert names(root) == ["3"]


def test_old_steps_go_only_when_the_new_one_is_visible(manager, slow, root):
    with manager(max_to_keep=1) as one:
        save(one, slow, 1)
        one.wait_until_finished()
        slow.go.clear()
        save(one, slow, 2)
        assert one.all_steps() == [2]
        assert "1" in names(root)
        slow.go.set()
        one.wait_until_finished()
        assert names(root) == ["2"]


@pytest.mark.wd("W-07", "W-10", "Kw-14")
@pytest.mark.row("R123")
@pytest.mark.parametrize("keep", [None, 0, 1])
def test_a_failed_save_leaves_what_is_known_equal_to_the_disk(manager, slow, root, keep):
    with manager(max_to_keep=keep) as one:
        if keep != 0:
            save(one, slow, 1)
            one.wait_until_finished()
        before = names(root)
        slow.fail = True
        save(one, slow, 2)
        with pytest.raises(OSError, match="no room"):
            one.wait_until_finished()
        assert [str(step) for step in one.all_steps()] == before == names(root)
        one.wait_until_finished()  # it has been heard of
        one.check_for_errors()
        slow.fail = False
        assert save(one, slow, 2)
        one.wait_until_finished()
        expected = {None: [1, 2], 0: [], 1: [2]}[keep]
        assert one.all_steps() == expected
        assert names(root) == [str(step) for step in expected]


@pytest.mark.row("R123")
def test_the_next_save_hears_of_a_failure_and_does_nothing(manager, slow, root):
    with manager() as one:
        slow.fail = True
        save(one, slow, 1)
        with pytest.raises(OSError, match="no room"):
            save(one, slow, 2)
        assert one.all_steps() == []
        slow.fail = False
        assert save(one, slow, 2)
    assert names(root) == ["2"]


def poll(check):
    while True:
        check()


@pytest.mark.wd("W-11")
def test_errors_are_reported_without_waiting(manager, slow):
    with manager() as one:
        slow.go.clear()
        slow.fail = True
        save(one, slow, 1)
        one.check_for_errors()
        slow.go.set()
        with pytest.raises(OSError, match="no room"):
            poll(one.check_for_errors)
        one.check_for_errors()


@pytest.mark.wd("W-16", "Kw-14")
def test_close_releases_everything_also_after_a_failure(manager, slow, root):
    one = manager()
    slow.fail = True
    save(one, slow, 1)
    with pytest.raises(OSError, match="no room"):
        one.close()
    assert slow.closed == 1
    one.close()
    with pytest.raises(RuntimeError, match="closed"):
        save(one, slow, 2)


@pytest.mark.wd("W-16")
def test_leaving_the_block_raises_the_failure_but_never_hides_another(manager, slow):
    slow.fail = True
    with pytest.raises(OSError, match="no room"), manager() as one:
        save(one, slow, 1)
    with pytest.raises(ZeroDivisionError) as caught, manager() as one:
        _ = save(one, slow, 1) / 0
    assert any("no room" in note for note in caught.value.__notes__)


def test_all_who_wait_hear_of_a_failure_until_its_owner_has(manager, slow):
    with manager() as one, concurrent.futures.ThreadPoolExecutor(10) as pool:
        slow.go.clear()
        slow.fail = True
        save(one, slow, 1)
        waiting = [pool.submit(one.wait_until_finished) for _ in range(10)]
        slow.go.set()
        for future in waiting:
            with pytest.raises(OSError, match="no room"):
                future.result(60)
        for call in (one.wait_until_finished, lambda: one.restore(0)):
            with pytest.raises(OSError, match="no room"):
                pool.submit(call).result(60)
        with pytest.raises(OSError, match="no room"):
            one.wait_until_finished()
        one.wait_until_finished()
        pool.submit(one.wait_until_finished).result(60)


@pytest.mark.row("R260")
def test_many_threads_may_wait_for_one_save(manager, slow):
    with manager() as one, concurrent.futures.ThreadPoolExecutor(10) as pool:
        slow.go.clear()
        save(one, slow, 1)
        waiting = [pool.submit(one.wait_until_finished) for _ in range(10)]
        slow.go.set()
        one.wait_until_finished()
        assert [future.result(60) for future in waiting] == [None] * 10


@pytest.mark.row("R275", "R276")
def test_the_thread_that_saved_owns_the_failure_whichever_it_is(manager, slow):
    with manager() as one, concurrent.futures.ThreadPoolExecutor(1) as worker:
        slow.fail = True
        assert worker.submit(save, one, slow, 1).result(60)
        for _ in range(3):  # the main thread may look as often as it likes
            with pytest.raises(OSError, match="no room"):
                one.wait_until_finished()
        with pytest.raises(OSError, match="no room"):
            worker.submit(one.wait_until_finished).result(60)
        one.wait_until_finished()
        worker.submit(one.wait_until_finished).result(60)
        assert one.all_steps() == []


@pytest.mark.row("R277")
def test_others_may_wait_while_a_thread_saves(manager, slow, root):
    begun = threading.Event()

    def work(one):
        save(one, slow, 1)
        begun.set()
        one.wait_until_finished()

    with manager() as one, concurrent.futures.ThreadPoolExecutor(1) as worker:
        slow.go.clear()
        saving = worker.submit(work, one)
        assert begun.wait(60)
        assert names(root) != ["1"]
        slow.go.set()
        one.wait_until_finished()
        assert names(root) == ["1"]
        saving.result(60)


@pytest.mark.wd("W-10", "Kw-14")
def test_any_thread_may_save(manager, slow, root):
    with manager() as one, concurrent.futures.ThreadPoolExecutor(4) as pool:
        saved = [pool.submit(save, one, slow, step, force=True) for step in range(8)]
        assert all(future.result(60) for future in saved)
        one.wait_until_finished()
        assert one.all_steps() == list(range(8))
    assert names(root) == [str(step) for step in range(8)]


def test_a_synchronous_save_is_done_when_it_returns(manager, slow, root):
    with manager(enable_async_checkpointing=False, max_to_keep=1) as one:
        assert save(one, slow, 1)
        assert not one.is_saving_in_progress()
        slow.fail = True
        with pytest.raises(OSError, match="no room"):
            save(one, slow, 2)
        assert one.all_steps() == [1]
        assert names(root) == ["1"]
        slow.fail = False
        assert save(one, slow, 2)
        assert names(root) == ["2"]


@pytest.mark.row("R144")
def test_a_callback_runs_before_the_step_is_visible_and_may_stop_it(ours, root):
    seen = []

    def callback():
        seen.append(names(root))
        if len(seen) == 2:
            raise RuntimeError("stopped by the callback")

    chosen = ours.CheckpointManagerOptions(
        async_options=ours.AsyncOptions(timeout_secs=17, post_finalization_callback=callback)
    )
    with ours.CheckpointManager(root, options=chosen) as manager:
        assert manager._checkpointer._async_manager._timeout_secs == 17
        manager.save(0, args=ours.args.StandardSave(tree()))
        manager.wait_until_finished()
        manager.save(1, args=ours.args.StandardSave(tree()))
        with pytest.raises(RuntimeError, match="stopped"):
            manager.wait_until_finished()
        assert manager.all_steps() == [0]
    assert "0" not in seen[0]
    assert names(root) == ["0"]


@pytest.mark.row("R134")
@pytest.mark.parametrize("wait", ["manager", "checkpointer"])
def test_a_callback_that_waits_for_its_own_save_does_not_wait_for_ever(ours, root, wait):
    waited = []

    def callback():
        one.wait_until_finished()
        waited.append(names(root) if root.exists() else [])

    options = ours.AsyncOptions(post_finalization_callback=callback)
    args = ours.args.StandardSave(tree())
    if wait == "manager":
        chosen = ours.CheckpointManagerOptions(async_options=options)
        with ours.CheckpointManager(root, options=chosen) as one:
            one.save(0, args=args)
            one.wait_until_finished()
            assert one.all_steps() == [0]
    else:
        handler = ours.StandardCheckpointHandler()
        with ours.AsyncCheckpointer(handler, async_options=options) as one:
            one.save(root, args=args)
            one.wait_until_finished()
            assert root.exists()
    assert len(waited) == 1


def test_a_root_that_became_a_file_fails_the_save_and_nothing_else(ours, root):
    with ours.CheckpointManager(root) as manager:
        root.rmdir()
        root.write_text("in the way")
        with pytest.raises(OSError, match="root"):
            manager.save(0, args=ours.args.StandardSave(tree()))
        root.unlink()
        root.mkdir()
        assert manager.save(0, args=ours.args.StandardSave(tree(2)))
        assert same(manager.restore(0), tree(2))


def test_a_step_whose_save_was_not_published_deletes_nothing(ours, root, monkeypatch):
    from pertinax.checkpoint.path.atomicity import AtomicRenameTemporaryPath

    options = ours.CheckpointManagerOptions(max_to_keep=1)
    with ours.CheckpointManager(root, options=options) as manager:
        manager.save(0, args=ours.args.StandardSave(tree()))
        manager.wait_until_finished()
        with monkeypatch.context() as patch:
            patch.setattr(AtomicRenameTemporaryPath, "finalize", lambda _: None)
            manager.save(1, args=ours.args.StandardSave(tree()))
            manager.wait_until_finished()
        assert "0" in names(root)
        manager.reload()
        assert manager.all_steps() == [0]
        assert manager.save(1, args=ours.args.StandardSave(tree()))
    assert [name for name in names(root) if "tmp" not in name] == ["1"]


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from pertinax import checkpoint as ocp
root = sys.argv[1]
with ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
    manager.save(0, args=ocp.args.StandardSave({"w": jnp.ones(10)}))
    manager.wait_until_finished()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
    try:
        manager.save(1, args=ocp.args.StandardSave({"w": jnp.ones(1 << 20)}))
        manager.wait_until_finished()
    except OSError as error:
        print(type(error).__name__, manager.all_steps())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    manager.save(2, args=ocp.args.StandardSave({"w": jnp.ones(1 << 20)}))
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_costs_the_new_step_only(root):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, root], capture_output=True, text=True, check=True
    )
    assert "[0]" in done.stdout
    assert names(root) == ["2"]
