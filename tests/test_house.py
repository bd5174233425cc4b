# SPDX-License-Identifier: Apache-2.0
"""The house keeps its own rules, and each rule can fail."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import house

ORIGINALITY = house.ROOT.parent / "shared" / "tools" / "originality.py"


def judge(source: str, path: str = "_store/local.py") -> set[str]:
    module = house.Module.parse(path, source)
    return {finding.rule for rule in house.RULES for finding in rule(module)}


def test_source_keeps_budgets_names_docstrings_state_and_purity():
    exceptions = house.read_exceptions(house.EXCEPTIONS.read_text("utf-8"))
    findings = house.inspect(house.read_modules(), exceptions)
    assert not findings, "\n" + "\n".join(map(str, findings))


GOOD = '"""Does one thing. Knows little. Knows nothing of the rest."""\n'


def test_a_good_module_passes():
    assert judge(GOOD + "LIMIT = 3\n\n\ndef double(x: int) -> int:\n    return 2 * x\n") == set()


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("file", GOOD + "LIMIT = 1\n" * 500),
        ("function", GOOD + "def f():\n" + "    g()\n" * 60),
        ("class", GOOD + "class C:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(16))),
        ("params", GOOD + "def f(a, b, c, d, e, f, *, g): ...\n"),
        ("params", GOOD + "class C:\n    def m(self, a, b, c, d, e, f): ...\n"),
        (
            "nesting",
            GOOD + "def f():\n"
            "    for a in x:\n"
            "        with a:\n"
            "            if a:\n"
            "                while a:\n"
            "                    try: b()\n"
            "                    finally: c()\n",
        ),
        ("docstring", "LIMIT = 1\n"),
        ("docstring", '"""Only a title."""\n'),
    ],
)
def test_each_budget_can_fail(rule: str, source: str):
    assert judge(source) == {rule}


def test_what_just_fits_a_budget_passes():
    doc = '    """' + "long\n" * 50 + '"""\n'
    assert judge(GOOD + "def f():\n" + doc + "    g()\n" * 59) == set()
    assert judge(GOOD + "class C:\n    def m(self, a, b, c, d, e, *, f): ...\n") == set()
    chain = "".join(f"    elif x == {i}: g()\n" for i in range(9))
    assert judge(GOOD + "def f():\n    if x: g()\n" + chain) == set()
    overloads = "    @typing.overload\n    def m(self): ...\n" * 20
    assert judge(GOOD + "class C:\n" + overloads) == set()


@pytest.mark.parametrize(
    "name", ["utils.py", "_common/x.py", "helpers.py", "base_store.py", "tree_lib.py"]
)
def test_empty_names_are_refused_except_where_orbax_has_them(name: str):
    assert judge(GOOD, f"_store/{name}") == {"name"}
    assert judge(GOOD, f"checkpoint/{name}") == set()


def test_an_exception_excuses_one_place_for_a_reason_and_must_be_needed():
    module = house.Module.parse("_store/local.py", GOOD + "def f():\n" + "    g()\n" * 60)
    excused = house.read_exceptions("# why\n\nfunction _store/local.py:f a table of forty cases\n")
    assert house.inspect([module], excused) == []
    fine = house.Module.parse("_store/local.py", GOOD)
    assert [f.message for f in house.inspect([fine], excused)] == [
        "is excused in tests/budget_exceptions.txt without need"
    ]


@pytest.mark.parametrize(
    "line", ["function _store/local.py:f", "state _store/local.py it has to be so"]
)
def test_an_exception_without_reason_or_from_a_law_is_refused(line: str):
    with pytest.raises(ValueError, match="not an exception with a reason"):
        house.read_exceptions(line)


def test_the_map_in_contributing_shows_every_room():
    text = (house.ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {
        p.name + "/" for p in house.PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"
    }
    rooms |= {p.name for p in house.PACKAGE.glob("*.py")}
    missing = sorted(room for room in rooms if not re.search(rf"(?<![\w.]){re.escape(room)}", text))
    assert not missing, f"CONTRIBUTING.md does not name {missing}"


def test_every_module_lies_in_a_package():
    folders = {path.parent for path in house.PACKAGE.rglob("*.py")}
    missing = [
        str(f.relative_to(house.ROOT)) for f in sorted(folders) if not (f / "__init__.py").exists()
    ]
    assert not missing, f"no __init__.py in {missing}"


@pytest.mark.slow
def test_no_passage_reads_the_same_as_orbax(tmp_path: Path):
    if not ORIGINALITY.exists():
        pytest.skip("../shared/tools is not beside this clone; users have no such folder")
    orbax = (
        importlib.util.find_spec("orbax.checkpoint") if importlib.util.find_spec("orbax") else None
    )
    if orbax is None or orbax.origin is None:
        pytest.skip("orbax-checkpoint is not installed: nothing to compare with")
    # The tool passes over whatever lies in a `.venv`, so show it Orbax under another path.
    (tmp_path / "orbax").symlink_to(Path(orbax.origin).parent.parent)
    run = subprocess.run(
        [sys.executable, str(ORIGINALITY), str(house.ROOT / "src")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    compared = re.search(r"against (\d+)", run.stdout)
    assert compared, run.stdout
    assert int(compared[1]) > 100, "the tool did not see Orbax"
