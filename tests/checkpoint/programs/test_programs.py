# SPDX-License-Identifier: Apache-2.0
"""Programs written for Orbax 0.8.0, run after `s/orbax/pertinax/`: each tells the same story.

What the real one told is kept in `told_by_orbax_0_8.json`; where its environment is, it is asked
again. An error counts as the same if it is also of the builtin class that theirs is, and if its
text has the words that the program looks for, wherever theirs has them.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import pytest

from pertinax.checkpoint.type_handlers import GLOBAL_TYPE_HANDLER_REGISTRY as REGISTRY

HERE = Path(__file__).resolve().parent
RECORD = HERE / "told_by_orbax_0_8.json"
OLD = Path(__file__).parents[3] / ".venv-orbax-0.8" / "bin" / "python"
LONG = {
    *("evaluators", "manager_handlers", "manager_items", "manager_metrics", "manager_random"),
    "manager_retention",
}
TOLD: dict[str, list[Any]] = json.loads(RECORD.read_text("utf-8"))


def ours(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    source = (HERE / f"{name}.py").read_text("utf-8").replace("orbax", "pertinax")
    # What is on disk and in dashboards has Orbax's name here too.
    for text in (".{}-checkpoint-tmp", "/jax/{}/"):
        source = source.replace(text.format("pertinax"), text.format("orbax"))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(sys, "argv", [name, str(root)])
    import saying  # pyright: ignore[reportMissingImports] - of this folder

    # A program may register type handlers for itself.
    entries = list(REGISTRY._type_registry)
    monkeypatch.setattr(REGISTRY, "_type_registry", entries)
    monkeypatch.setattr(REGISTRY, "_by_typestr", dict(REGISTRY._by_typestr))
    scope: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, f"{name}.py", "exec"), scope)
    if name == "monitored":
        jax.monitoring.unregister_event_listener(scope["event"])
        jax.monitoring.unregister_event_duration_listener(scope["duration"])
    return saying.heard()


def assert_same(name: str, mine: Any, theirs: Any) -> None:
    if isinstance(theirs, dict) and "raises" in theirs:
        assert isinstance(mine, dict), (name, mine, theirs)
        assert theirs["raises"][0] in mine.get("raises", ()), (name, mine, theirs)
        assert mine["says"] == theirs["says"], (name, mine)
    else:
        assert mine == theirs, name


@pytest.mark.row("R103", "R104", "R120", "R124", "R125", "R142", "R248", "R269", "R270", "R298")
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in TOLD]
)
def test_a_program_tells_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine = ours(name, tmp_path, monkeypatch)
    assert [line[0] for line in mine] == [line[0] for line in TOLD[name]]
    for (what, told), (_, theirs) in zip(mine, TOLD[name], strict=True):
        assert_same(what, told, theirs)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.skipif(
    not OLD.exists(), reason="Orbax 0.8.0 needs an environment of its own: `make golden` makes it"
)
def test_orbax_0_8_tells_what_is_kept(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [OLD, HERE / "run_all.py", tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == TOLD
