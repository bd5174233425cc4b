# SPDX-License-Identifier: Apache-2.0
"""Temporary paths by themselves: made, matched, committed, or given up."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from pertinax import checkpoint as ocp
from pertinax.checkpoint.metadata import checkpoint_metadata_store
from pertinax.checkpoint.path import atomicity, step
from pertinax.checkpoint.path.atomicity import (
    AtomicRenameTemporaryPath,
    CommitFileTemporaryPath,
    create_all,
    get_default_temporary_path_class,
    on_commit_callback,
)

BOTH = pytest.mark.parametrize("cls", [AtomicRenameTemporaryPath, CommitFileTemporaryPath])
FileOptions = ocp.options.FileOptions


def place(root: Path, name: str = "it") -> epath.Path:
    return epath.Path(root) / name


def made(cls: Any, final: epath.Path, **options: Any) -> Any:
    path = cls.from_final(final, **options)
    assert asyncio.run(path.create()) == path.get()
    return path


@BOTH
def test_naming_touches_no_disk(cls: Any, tmp_path: Path):
    path = cls.from_final(place(tmp_path, "deep/it"))
    assert path.get_final() == place(tmp_path, "deep/it")
    assert path.get().parent == path.get_final().parent
    assert cls.match(path.get(), path.get_final())
    assert list(tmp_path.iterdir()) == []
    assert path.get().name in repr(path)
    assert path.get_final().name in repr(path)
    assert str(path.get_final().parent) in repr(path)


def test_what_is_a_temporary_name_of_what(tmp_path: Path):
    final = place(tmp_path)
    rename, marker = AtomicRenameTemporaryPath, CommitFileTemporaryPath
    suffix = atomicity.TMP_DIR_SUFFIX
    assert rename.match(place(tmp_path, f"it{suffix}7"), final)
    for name in ("it", f"it{suffix}", f"other{suffix}7", f"it{suffix}7/below", f"xit{suffix}7"):
        assert not rename.match(place(tmp_path, name), final)
    assert not rename.match(place(tmp_path.parent, f"it{suffix}7"), final)
    assert marker.match(final, final)
    assert not marker.match(place(tmp_path, f"it{suffix}7"), final)
    first, second = (atomicity._get_tmp_directory(final) for _ in range(2))
    assert first != second
    assert rename.match(first, final)


@BOTH
def test_it_appears_when_it_is_finished(cls: Any, tmp_path: Path):
    path = made(cls, place(tmp_path, "deep/it"))
    (path.get() / "below").mkdir()
    (path.get() / "below" / "file").write_text("x")
    renamed = cls is AtomicRenameTemporaryPath
    assert path.get_final().exists() != renamed
    path.finalize()
    assert (path.get_final() / "below" / "file").read_text() == "x"
    assert [child.name for child in path.get_final().parent.iterdir()] == ["it"]
    assert (path.get_final() / "commit_success.txt").exists() != renamed
    path.abandon()  # too late: what is visible stays
    assert (path.get_final() / "below" / "file").exists()


@BOTH
def test_it_goes_when_it_is_given_up(cls: Any, tmp_path: Path):
    path = made(cls, place(tmp_path))
    (path.get() / "file").write_text("x")
    path.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused(tmp_path: Path):
    path = made(AtomicRenameTemporaryPath, place(tmp_path))
    place(tmp_path).mkdir()
    (place(tmp_path) / "old").write_text("x")
    with pytest.raises(FileExistsError, match="already exists"):
        path.finalize()
    assert (place(tmp_path) / "old").exists()
    assert path.get().exists()
    with pytest.raises(FileExistsError):
        made(CommitFileTemporaryPath, place(tmp_path))


def test_what_another_save_left_under_the_same_name_gives_way(tmp_path: Path):
    path = AtomicRenameTemporaryPath.from_final(place(tmp_path))
    path.get().mkdir()
    (path.get() / "old").write_text("x")
    asyncio.run(path.create())
    assert list(path.get().iterdir()) == []


@BOTH
def test_the_mode_is_that_of_the_call_or_else_of_the_path(cls: Any, tmp_path: Path):
    umask = os.umask(0)
    try:
        for name, own, given, mode in (
            ("a", None, None, 0o777),
            ("b", 0o750, None, 0o750),
            ("c", 0o750, 0o700, 0o700),
        ):
            path = cls.from_final(place(tmp_path, name), file_options=FileOptions(own))
            asyncio.run(path.create(file_options=FileOptions(given)))
            assert Path(path.get()).stat().st_mode & 0o777 == mode
    finally:
        os.umask(umask)


@BOTH
def test_the_note_tells_when_it_was_begun_and_committed(cls: Any, tmp_path: Path):
    store = checkpoint_metadata_store(enable_write=True, blocking_write=True)
    path = made(cls, place(tmp_path), checkpoint_metadata_store=store)
    first = store.read(path.get())
    assert first.commit_timestamp_nsecs is None
    path.finalize()
    last = store.read(path.get_final())
    assert last.init_timestamp_nsecs == first.init_timestamp_nsecs < last.commit_timestamp_nsecs


def test_several_are_made_together(tmp_path: Path):
    paths = [AtomicRenameTemporaryPath.from_final(place(tmp_path, name)) for name in "abc"]
    asyncio.run(create_all(paths))
    assert all(path.get().is_dir() for path in paths)
    asyncio.run(create_all([]))


def test_only_the_primary_host_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keys: list[str] = []

    def barrier_of(**_: Any) -> Any:
        return lambda key, timeout_ms: keys.append(key)

    monkeypatch.setattr(ocp.multihost, "should_skip_process_sync", lambda: False)
    monkeypatch.setattr(ocp.multihost, "get_barrier_sync_fn", barrier_of)
    monkeypatch.setattr(ocp.multihost.counters, "tmp_directory_counter", lambda: "42")
    options = ocp.options.MultiprocessingOptions(primary_host=1)
    final = place(tmp_path)
    path = AtomicRenameTemporaryPath.from_final(final, multiprocessing_options=options)
    assert path.get().name == "it.orbax-checkpoint-tmp-42"  # the same on every process
    asyncio.run(create_all([path], multiprocessing_options=options))
    assert list(tmp_path.iterdir()) == []
    assert keys == ["create_tmp_directory:pre.it.42", "create_tmp_directory:post.it.42"]


def test_object_stores_commit_by_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    final = place(tmp_path)
    assert get_default_temporary_path_class(final) is AtomicRenameTemporaryPath
    assert get_default_temporary_path_class(epath.Path("gs://b/it")) is CommitFileTemporaryPath
    monkeypatch.setattr(step, "is_gcs_path", lambda _: True)
    assert get_default_temporary_path_class(final) is CommitFileTemporaryPath
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    seen: list[bool] = []

    class Looking(ocp.PyTreeCheckpointHandler):
        def save(self, directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save(directory, *args, **kwargs)
            seen.append(step.is_checkpoint_finalized(directory))

    ocp.Checkpointer(Looking()).save(final, {"a": 1})
    assert seen == [False]
    assert step.is_checkpoint_finalized(final)
    assert checkpointer.restore(final) == {"a": 1}
    (final / "commit_success.txt").unlink()
    with pytest.raises(ValueError, match="incomplete checkpoint"):
        checkpointer.restore(final)


def test_the_callback_commits(tmp_path: Path):
    path = made(AtomicRenameTemporaryPath, place(tmp_path))
    on_commit_callback(path, checkpoint_start_time=0.0)
    assert place(tmp_path).exists()


@pytest.mark.row("R209")
def test_processes_that_cannot_ask_each_other_count_and_one_alone_signs(tmp_path: Path):
    def names() -> list[str]:
        made = (AtomicRenameTemporaryPath.from_final(place(tmp_path)) for _ in range(20))
        return [path.get().name.removeprefix("it" + atomicity.TMP_DIR_SUFFIX) for path in made]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.process_count", lambda: 2)
        numbers = [int(name) for name in names()]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert len(set(names())) == 20  # and nobody else has them: see tests/store
