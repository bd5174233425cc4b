# SPDX-License-Identifier: Apache-2.0
"""Jobs of the real Orbax and of ours on one bucket: what two processes of one have saved, two
processes of the other restore.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes, states
from tests.objects.servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.interop]

NAMES = ("replicated", "rows", "columns", "both", "partly", "vector", "number", "truth")
"""What both libraries store alike."""
PLACES = {"ocdbt": True, "plain": False}
"""Checkpoints, and whether they are OCDBT."""


def _some(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: tree["arrays"][name] for name in NAMES}


def _save(root: str, library: Any) -> None:
    arrays = _some(states.state_on(states.mesh_of()))
    for name, ocdbt in PLACES.items():
        with library.PyTreeCheckpointer(use_ocdbt=ocdbt) as checkpointer:
            checkpointer.save(f"{root}/{name}", arrays)
    with library.CheckpointManager(f"{root}/steps") as manager:
        manager.save(7, args=library.args.StandardSave(arrays))
        manager.wait_until_finished()


def _restore(root: str, library: Any) -> Any:
    target = _some(states.target_on(states.mesh_of(turned=True)))
    args = library.checkpoint_utils.construct_restore_args(target)
    found = {}
    for name, ocdbt in PLACES.items():
        with library.PyTreeCheckpointer(use_ocdbt=ocdbt) as checkpointer:
            found[name] = checkpointer.restore(f"{root}/{name}", item=target, restore_args=args)
    with library.CheckpointManager(f"{root}/steps") as manager:
        steps = list(manager.all_steps())
        found["steps"] = manager.restore(7, args=library.args.StandardRestore(target))
    wrong = [
        f"{place} {name}"
        for place, arrays in found.items()
        for name in NAMES
        if not states.same(name, arrays[name], 0)
    ]
    return steps, wrong


def _theirs() -> Any:
    import fsspec
    import orbax.checkpoint

    for protocol in ("gs", "gcs"):  # epath would remember lists that others have made out of date
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    return orbax.checkpoint


def _work(environment: dict[str, str], root: str, what: str) -> Any:
    os.environ.update(environment)
    saves, by_orbax = what.startswith("save"), what.endswith("orbax")
    library = _theirs() if by_orbax else ocp
    return (_save if saves else _restore)(root, library)


def test_orbax_restores_in_two_processes_what_ours_have_saved(
    tmp_path: Path, gcs: ObjectServer
) -> None:
    root = f"{gcs.new_root()}/run"
    where = (gcs.environment, root)
    processes.run(_work, 2, *where, "save by ours", folder=tmp_path / "a", devices=2)
    answers = processes.run(_work, 2, *where, "restore by orbax", folder=tmp_path / "b", devices=2)
    assert answers == [([7], [])] * 2


def test_ours_restore_in_two_processes_what_orbax_has_saved(
    tmp_path: Path, gcs: ObjectServer
) -> None:
    root = f"{gcs.new_root()}/run"
    where = (gcs.environment, root)
    processes.run(_work, 2, *where, "save by orbax", folder=tmp_path / "a", devices=2)
    answers = processes.run(_work, 2, *where, "restore by ours", folder=tmp_path / "b", devices=2)
    assert answers == [([7], [])] * 2
    for place in PLACES:
        found = pertinax.load(f"{root}/{place}", arrays="numpy")
        for name in NAMES:
            np.testing.assert_array_equal(found[name], states.values_of(name))
