# SPDX-License-Identifier: Apache-2.0
"""Every change to the disk goes through the store: what the store was told, and nothing else, is
what is there.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.crash.recording import on_disk, read_recording, recording, whole

pytestmark = pytest.mark.crash


def tree(mark: int) -> dict[str, Any]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return {
        "w": jax.device_put(jnp.full((8, 300), mark, jnp.float32), rows),
        "key": jax.random.key(mark),
        "n": mark,
        "host": np.full(7, mark, np.int16),
    }


def front(root: Path) -> None:
    pertinax.save(root / "a", tree(1))
    pertinax.save(root / "a", tree(2), exists="replace", compression="zstd")
    pertinax.save_async(root / "b", tree(3), layout="directory+zarr3").result()


def manager(root: Path) -> None:
    with pertinax.Manager(root / "run", keep=2) as steps:
        for step in range(1, 5):
            steps.save(step, tree(step), metrics={"loss": 1 / step})
        steps.wait()
        steps.pin(4, "best")
        steps.delete(3)


def orbax_checkpointers(root: Path) -> None:
    ocp.PyTreeCheckpointer().save(root / "a", tree(1))
    with ocp.StandardCheckpointer() as standard:
        standard.save(root / "b", tree(2))
        standard.wait_until_finished()
        standard.save(root / "b", tree(3), force=True)
        standard.wait_until_finished()
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
    with ocp.AsyncCheckpointer(handler) as background:
        background.save(root / "c", tree(4))


def orbax_manager(root: Path) -> None:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, best_fn=lambda metrics: metrics["loss"])
    with ocp.CheckpointManager(root / "run", options=options, metadata={"of": "run"}) as steps:
        for step in range(1, 5):
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(tree(step)), notes=ocp.args.JsonSave({"step": step})
            )
            steps.save(step, args=items, metrics={"loss": float(step)})
        steps.wait_until_finished()
        steps.delete(3)


def orbax_manager_moves(root: Path) -> None:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, todelete_subdir="gone", enable_background_delete=True
    )
    with ocp.CheckpointManager(root / "run", options=options) as steps:
        for step in range(3):
            steps.save(step, args=ocp.args.PyTreeSave(tree(step)))


PROGRAMS = [front, manager, orbax_checkpointers, orbax_manager, orbax_manager_moves]
# Calls that change names or open for writing, by the events of `sys.addaudithook`.
CHANGES = frozenset(
    "os.mkdir os.rename os.remove os.rmdir os.link os.symlink os.truncate os.chmod os.utime "
    "shutil.rmtree shutil.move shutil.copyfile".split()
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_what_the_store_was_told_is_what_is_there(tmp_path: Path, program: Any) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    with recording(tmp_path / "steps"):
        program(root)
    told = whole(read_recording(tmp_path / "steps"), root)
    assert told == on_disk(root)
    assert sum(map(len, told.values())) > 10_000


class _Audit:
    """Python's own notes of who opens, renames and removes below a directory. Hooks cannot be
    taken back, so this one can be told to look away.
    """

    def __init__(self) -> None:
        self.root = ""
        self.seen = 0
        self.strangers: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root:
            return
        writes = event == "open" and (arguments[2] or 0) & 0o3
        if not (writes or event in CHANGES):
            return
        if not any(str(one).startswith(self.root) for one in arguments[:2]):
            return
        self.seen += 1
        frame: Any = sys._getframe(1)
        while frame is not None and "pertinax" not in frame.f_code.co_filename:
            frame = frame.f_back
        where = "nobody" if frame is None else frame.f_code.co_filename
        if "/pertinax/_store/" not in where:
            self.strangers.append(f"{event} {arguments} by {where}")


@pytest.fixture(scope="module")
def audit() -> _Audit:
    return _Audit()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_nobody_but_the_store_touches_the_disk(tmp_path: Path, audit: _Audit, program: Any) -> None:
    audit.seen, audit.root = 0, str(tmp_path / "disk")
    try:
        program(tmp_path / "disk")
    finally:
        audit.root = ""
    strangers, audit.strangers = audit.strangers, []
    assert strangers == []
    assert audit.seen > 10


def test_the_audit_can_fail(tmp_path: Path, audit: _Audit) -> None:
    audit.root = str(tmp_path)
    try:
        (tmp_path / "f").write_bytes(b"1")
    finally:
        audit.root = ""
    assert audit.strangers.pop().startswith("open")
