# SPDX-License-Identifier: Apache-2.0
"""Transformations and old items: our answers are those of Orbax 0.8.0.

Needs the environment `.venv-orbax-0.8` (`make golden` makes one); without it there is nothing here.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pertinax import checkpoint as door
from tests.checkpoint.data import old_items

HERE = Path(__file__).parent
OLD = HERE.parents[2] / ".venv-orbax-0.8" / "bin" / "python"
pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(not OLD.exists(), reason="needs the environment of Orbax 0.8.0"),
]


def make_items(place: Path) -> Path:
    place.mkdir()
    for name in ("without_metadata", "with_metadata", "placeholders_only", "in_database"):
        getattr(old_items, name)(place / name)
    for name in ("directories_only", "names_only"):
        old_items.directories_only(place / name)
    return place


@pytest.mark.row("R001", "R046", "R047", "R245")
def test_questions_have_the_answers_of_0_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    items = make_items(tmp_path / "items")
    of_transforms = HERE.parents[1] / "checkpoint" / "data"
    for place in (HERE, of_transforms):
        monkeypatch.syspath_prepend(str(place))
    cases: Any = importlib.import_module("cases")
    command = [OLD, HERE / "ask.py", items, tmp_path / "theirs", of_transforms]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    asked = cases.questions(door, items, tmp_path / "ours")
    ours = json.loads(json.dumps({name: cases.answer(ask) for name, ask in asked}))
    assert sorted(ours) == sorted(theirs)
    assert {n: a for n, a in ours.items() if a != theirs[n]} == {
        n: a for n, a in theirs.items() if a != ours[n]
    }
    for name in ("cases", "transform_cases"):
        sys.modules.pop(name, None)
