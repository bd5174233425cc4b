# SPDX-License-Identifier: Apache-2.0
"""Trees with handlers of the program: Orbax with the same handlers reads ours, and we read its."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door
from tests.checkpoint.type_handlers.leaves import (
    Point,
    checkpointer,
    negating,
    point_handler,
    with_stock,
)

pytestmark = pytest.mark.interop
OLD = Path(__file__).parents[3] / ".venv-orbax-0.8" / "bin" / "python"
LAYOUTS = [(ocdbt, zarr3) for ocdbt in (True, False) for zarr3 in (False, True)]
layouts = pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), LAYOUTS)


def tree() -> Any:
    return {
        "p": Point(1, 2),
        "l": [Point(3, 4)],
        "n": np.arange(3000.0),
        "small": np.arange(3),
        "j": jnp.arange(4.0),
        "i": 7,
        "s": "text",
    }


def registry_for(ocp: Any) -> Any:
    handlers = ((Point, point_handler(ocp)), (np.ndarray, negating(ocp.type_handlers.NumpyHandler)))
    return with_stock(ocp, *handlers)


def same(found: Any) -> None:
    assert found["p"] == Point(1, 2)
    assert found["l"] == [Point(3, 4)]
    assert found["n"].tolist() == list(range(3000))
    assert found["small"].tolist() == [0, 1, 2]
    assert found["j"].tolist() == [0, 1, 2, 3]
    assert (found["i"], found["s"]) == (7, "text")


@layouts
def test_orbax_reads_ours(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    import orbax.checkpoint as orbax

    options = {"use_ocdbt": use_ocdbt, "use_zarr3": use_zarr3}
    checkpointer(registry_for(door), **options).save(tmp_path / "a", tree())
    handler = orbax.PyTreeCheckpointHandler(type_handler_registry=registry_for(orbax))
    same(orbax.Checkpointer(handler).restore(tmp_path / "a"))


@layouts
def test_we_read_orbaxs(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    import orbax.checkpoint as orbax

    theirs = orbax.PyTreeCheckpointHandler(
        type_handler_registry=registry_for(orbax), use_ocdbt=use_ocdbt, use_zarr3=use_zarr3
    )
    with orbax.Checkpointer(theirs) as saver:
        saver.save(tmp_path / "a", tree())
    with checkpointer(registry_for(door)) as reader:
        same(reader.restore(tmp_path / "a"))
        assert reader.metadata(tmp_path / "a")["n"].shape == (3000,)
        assert type(reader.metadata(tmp_path / "a")["p"]) is door.metadata.Metadata
    assert pertinax.load(tmp_path / "a", select="s") == {"s": "text"}
    assert not pertinax.verify(tmp_path / "a").verified


OLD_PROGRAM = """
import json, sys
from pathlib import Path
import jax, numpy as np
import orbax.checkpoint as ocp

th = ocp.type_handlers

class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

class PointHandler(th.TypeHandler):
    def typestr(self):
        return "Point"
    async def metadata(self, infos):
        return [None for _ in infos]
    async def serialize(self, values, infos, args=None):
        for value, info in zip(values, infos):
            Path(info.parent_dir, info.name + ".point").write_text(json.dumps([value.x, value.y]))
        return []
    async def deserialize(self, infos, args=None):
        texts = [Path(i.parent_dir, i.name + ".point").read_text() for i in infos]
        return [Point(*json.loads(text)) for text in texts]

class Negating(th.NumpyHandler):
    async def serialize(self, values, infos, args=None):
        return await super().serialize([-value for value in values], infos, args)
    async def deserialize(self, infos, args=None):
        return [-value for value in await super().deserialize(infos, args)]

th.register_type_handler(Point, PointHandler())
th.register_type_handler(np.ndarray, Negating(), override=True)
checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=sys.argv[3] == "True"))
if sys.argv[1] == "save":
    tree = {"p": Point(1, 2), "l": [Point(3, 4)], "n": np.arange(3000.0), "small": np.arange(3),
            "i": 7, "s": "text", "j": jax.numpy.arange(4.0)}
    checkpointer.save(sys.argv[2], tree)
else:
    sharding = jax.numpy.ones(1).sharding
    names = "p", "n", "small", "i", "s"
    args = {name: ocp.RestoreArgs() for name in names}
    args["j"] = ocp.ArrayRestoreArgs(sharding=sharding)
    args["l"] = [ocp.RestoreArgs()]
    found = checkpointer.restore(sys.argv[2], restore_args=args)
    plain = {key: getattr(found[key], "tolist", lambda: found[key])() for key in (*names[1:], "j")}
    plain["p"], plain["l"] = vars(found["p"]), [vars(one) for one in found["l"]]
    print(json.dumps(plain))
"""


def run_old(*arguments: object) -> str:
    if not OLD.exists():
        pytest.skip("no environment with Orbax 0.8.0; `make golden` makes it")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [str(OLD), "-c", OLD_PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_orbax_0_8_0_reads_ours_and_we_read_its(tmp_path: Path, use_ocdbt: bool):
    checkpointer(registry_for(door), use_ocdbt=use_ocdbt).save(tmp_path / "ours", tree())
    run_old("save", tmp_path / "theirs", use_ocdbt)
    found = json.loads(run_old("restore", tmp_path / "ours", use_ocdbt).splitlines()[-1])
    assert found["p"] == {"x": 1, "y": 2}
    assert found["l"] == [{"x": 3, "y": 4}]
    assert (found["n"], found["small"]) == (list(range(3000)), [0, 1, 2])
    assert (found["i"], found["s"], found["j"]) == (7, "text", [0, 1, 2, 3])
    args = jax.tree.map(lambda _: door.RestoreArgs(), tree())
    args["j"] = door.ArrayRestoreArgs(sharding=jnp.ones(1).sharding)
    with checkpointer(registry_for(door)) as reader:
        same(reader.restore(tmp_path / "theirs", restore_args=args))
