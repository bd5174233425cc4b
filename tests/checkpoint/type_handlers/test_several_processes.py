# SPDX-License-Identifier: Apache-2.0
"""Type handlers of the program in a job of several processes: each writes a part of the item."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint import type_handlers as th
from tests.checkpoint.type_handlers.leaves import Point, negating, with_stock
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


class PartsHandler(th.TypeHandler):
    """Each process writes a file; when all have, one of them writes an index."""

    def typestr(self) -> str:
        return "parts"

    async def metadata(self, infos: Any) -> Any:
        return [ocp.metadata.Metadata(info.name, info.parent_dir) for info in infos]

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        for value, info in zip(values, infos, strict=True):
            path = info.parent_dir / f"{info.name}.{jax.process_index()}.part"
            path.write_text(f"{value.x} {value.y}")
        return []

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        out = []
        for info in infos:
            names = (info.parent_dir / "parts.index").read_text().split()
            own = [info.parent_dir / name for name in names if name.startswith(f"{info.name}.")]
            texts = {path.read_text() for path in own}
            out.append(Point(*map(int, texts.pop().split())))
            assert not texts
        return out

    def finalize(self, directory: Any) -> None:
        names = sorted(path.name for path in Path(directory).glob("*.part"))
        with (Path(directory) / "parts.index").open("x") as index:
            index.write("\n".join(names))


def registry(*, fails_on: int | None = None) -> Any:
    class Failing(PartsHandler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            if jax.process_index() == fails_on:
                raise OSError("no disk here")
            return await super().serialize(values, infos, args)

    return with_stock(
        ocp,
        (Point, Failing()),
        (np.ndarray, negating(th.NumpyHandler)),
        (jax.Array, negating(th.ArrayHandler)),
    )


def tree(mesh: Any, *, arrays: bool) -> Any:
    points = {"p": Point(1, 2), "l": [Point(3, 4)]}
    if not arrays:
        return points
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names[0]))
    value = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    sharded = jax.make_array_from_callback(value.shape, spread, lambda index: value[index])
    return {**points, "j": sharded, "n": np.arange(3000), "i": 5, "s": "text"}


def work(root: str, use_ocdbt: bool, arrays: bool) -> Any:
    mesh = states.mesh_of()
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry(), use_ocdbt=use_ocdbt)
    saved = tree(mesh, arrays=arrays)
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(f"{root}/a", args=ocp.args.PyTreeSave(saved))
        checkpointer.wait_until_finished()
        args = jax.tree.map(lambda _: ocp.RestoreArgs(), saved)
        if arrays:
            args["j"] = ocp.ArrayRestoreArgs(sharding=saved["j"].sharding)
        found = checkpointer.restore(f"{root}/a", args=ocp.args.PyTreeRestore(restore_args=args))
    answer = [found["p"] == Point(1, 2), found["l"] == [Point(3, 4)]]
    if arrays:
        answer += [
            bool(jnp.all(jnp.equal(shard.data, other.data)))
            for shard, other in zip(
                found["j"].addressable_shards, saved["j"].addressable_shards, strict=True
            )
        ]
        answer += [found["n"].tolist() == list(range(3000)), found["i"] == 5, found["s"] == "text"]
    return answer


@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize("arrays", [True, False])
def test_handlers_of_all_processes_write_one_item(tmp_path: Path, use_ocdbt: bool, arrays: bool):
    root = tmp_path / "run"
    root.mkdir()
    told = processes.run(work, 2, str(root), use_ocdbt, arrays, folder=tmp_path / "job", devices=2)
    assert all(all(answers) for answers in told), told
    index = (root / "a" / "parts.index").read_text().split()
    assert index == ["l.0.0.part", "l.0.1.part", "p.0.part", "p.1.part"]
    assert pertinax.verify(root / "a").ok
    if not arrays:
        return
    databases = {path.name for path in (root / "a").glob("ocdbt.process_*")}
    assert databases == ({"ocdbt.process_0", "ocdbt.process_1"} if use_ocdbt else set())
    alone = pertinax.load(root / "a", select=["j", "n", "i"])
    assert np.array_equal(alone["j"], -np.arange(64.0).reshape(8, 8))
    assert alone["n"].tolist() == [-n for n in range(3000)]
    (root / "a" / "p.1.part").write_text("9 9")
    assert not pertinax.verify(root / "a", on_damage="report").ok


def fail(root: str) -> str:
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry(fails_on=1))
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(f"{root}/a", tree(states.mesh_of(), arrays=True))
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return "saved"


def test_a_handler_that_fails_on_one_process_fails_the_save_on_all(tmp_path: Path):
    root = tmp_path / "run"
    root.mkdir()
    told = processes.run(fail, 2, str(root), folder=tmp_path / "job", devices=2)
    assert all("no disk here" in text for text in told), told
    assert list(root.iterdir()) == []
