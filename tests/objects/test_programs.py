# SPDX-License-Identifier: Apache-2.0
"""Programs written for Orbax 0.8.0 that keep their steps in buckets, run after
`s/orbax/pertinax/`: each tells the same story, in a bucket of GCS and in one of S3.

What the real one told on our GCS server is kept in `told_by_orbax_0_8.json`; `run_all.py` tells it
anew, with `gcsfs` in the environment of Orbax 0.8.0.
"""

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.programs.test_programs import assert_same

HERE = Path(__file__).resolve().parent / "programs"
WORDS = Path(__file__).resolve().parents[1] / "checkpoint" / "programs"
TOLD: dict[str, list[Any]] = json.loads((HERE / "told_by_orbax_0_8.json").read_text("utf-8"))

pytestmark = pytest.mark.slow


def ours(name: str, root: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    source = (HERE / f"{name}.py").read_text("utf-8").replace("orbax", "pertinax")
    monkeypatch.syspath_prepend(str(WORDS))
    monkeypatch.setattr(sys, "argv", [name, root])
    import saying  # pyright: ignore[reportMissingImports] - of that folder

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, f"{name}.py", "exec"), {"__name__": "__main__"})
    return saying.heard()


@pytest.mark.interop
@pytest.mark.row("R004", "R063", "R093", "R122")
@pytest.mark.parametrize("name", TOLD)
def test_a_program_on_gcs_tells_the_same(gcs, name: str, monkeypatch: pytest.MonkeyPatch):
    mine = ours(name, f"{gcs.new_root()}/run", monkeypatch)
    assert [line[0] for line in mine] == [line[0] for line in TOLD[name]]
    for (what, told), (_, theirs) in zip(mine, TOLD[name], strict=True):
        assert_same(what, told, theirs)
