# SPDX-License-Identifier: Apache-2.0
"""Each example of extending the library runs to its end, which asserts what it shows."""

import runpy
import sys
from pathlib import Path

import pytest

from pertinax import checkpoint as ocp

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "extending").glob("*.py"))


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.stem)
def test_an_extension_does_what_it_shows(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    registry = ocp.type_handlers.GLOBAL_TYPE_HANDLER_REGISTRY
    monkeypatch.setattr(registry, "_type_registry", list(registry._type_registry))
    monkeypatch.setattr(sys, "argv", [str(program)])
    runpy.run_path(str(program), run_name="__main__")
    assert list(tmp_path.iterdir()) == [], "an example cleans up after itself"
