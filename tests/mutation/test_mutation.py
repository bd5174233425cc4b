# SPDX-License-Identifier: Apache-2.0
"""The tool that tests tests finds those that test nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.changes import changed, changes_of
from tests.mutation.run import EQUIVALENT, ROOT, Target, read_equivalent

WEIGHED = '''
LIMIT = 20

def is_heavy(weight, limit=10):
    """Whether it is."""
    return weight > limit

def is_light(weight):
    return weight < 5

def allowed(weight):
    return weight < LIMIT

def said():
    print("heavy")
    return 3
'''
TESTED = """
from weighed import allowed, is_heavy, is_light

def test_heavy_is_more_than_the_limit():
    assert [is_heavy(n) for n in (9, 10, 11, 12)] == [False, False, True, True]

def test_light_is_something():
    is_light(3)

def test_allowed():
    assert not allowed(20)

def test_said():
    code = "import sys, weighed; sys.exit(weighed.said() != 3)"
    assert subprocess.run([sys.executable, "-c", code], cwd=sys.path[0]).returncode == 0
"""


def try_changes(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.mutation.run", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_test_that_checks_nothing_lets_changes_survive_and_one_that_checks_does_not(tmp_path):
    module, tests = tmp_path / "weighed.py", tmp_path / "test_weighed.py"
    module.write_text(WEIGHED)
    tests.write_text(f"import subprocess, sys\nsys.path.insert(0, {str(tmp_path)!r})\n{TESTED}")
    listed, results = tmp_path / "listed.txt", tmp_path / "results"
    listed.write_text("")
    arguments = (module, "--tests", tests, "--results", results, "--equivalent", listed)
    status, said = try_changes(*arguments)
    survivors = [
        line.split(": ", 1)[1] for line in said.splitlines() if line.startswith(str(module))
    ]
    assert survivors == [
        "is_light :: return weight < 5 :: 5 + 1",
        "is_light :: return weight < 5 :: Lt -> LtE",
        "is_light :: return weight < 5 :: return None",
        "allowed :: return weight < LIMIT :: return None",
        "said :: return 3 :: 3 + 1  (no test comes here)",
    ], said
    assert status == 1
    assert "10 changes, 5 noticed, 0 equivalent, 5 survive" in said  # `LIMIT` and `limit=10`, too

    listed.write_text(f"[{module.name}]\n" + "".join(f"{one}\n  so\n" for one in survivors[:4]))
    status, said = try_changes(*arguments, "--everywhere")  # also in processes that tests start
    assert status == 0, said
    assert "6 noticed, 4 equivalent, 0 survive" in said


def test_what_can_be_changed_is_changed_once():
    source = "def f(a, b):\n" + "".join(
        f"    {line}\n"
        for line in (
            "if not a:",
            "    return b",
            "with a:",
            "    a.b = 1",
            "while True:",
            "    break",
            "try:",
            "    a += b",
            "except OSError:",
            "    b()",
            "return [x for x in a if x in b and a]",
        )
    )
    found = changes_of(source)
    texts = {one.words: one for one in found}
    assert set(texts) == {
        *("not dropped", "if always", "if never", "return None", "return None", "with dropped: a"),
        *("1 + 1", "dropped: a.b = 1", "while never", "True -> False", "dropped: break"),
        *("Add -> Sub", "dropped: a += b", "not caught", "dropped: b()", "In -> NotIn"),
        *("And -> Or", "filter dropped: x in b and a"),
    }
    codes = {changed(source, one.number, "f.py").co_consts[0] for one in found}
    assert len(codes) >= len(found) - 2  # `while False` and `while never` are the same
    assert texts["not caught"].reach == (10, 10)


def test_log_lines_errors_types_and_promises_are_left_alone():
    source = '''
"""What it knows."""
_LOG.warning("no", 1)
@final(slots=True)
class A:
    """An A."""
    b: Literal[1]
    def c(self, d=1):
        """Does c."""
        ...
    def e(self):
        """Does e."""
        raise ValueError(1)
'''
    assert [one.words for one in changes_of(source)] == ["dropped: raise"]


def test_each_change_that_is_listed_as_equivalent_can_still_be_made_and_says_why():
    listed = read_equivalent(EQUIVALENT.read_text())
    keys = {
        (target.short, one.key)
        for module in {module for module, _ in listed}
        for target in [Target(ROOT / "src" / "pertinax" / module)]
        for one in target.changes
    }
    assert not listed.keys() - keys
    assert all(listed.values())


@pytest.mark.slow
def test_of_what_decides_whether_a_checkpoint_is_there_no_change_goes_unnoticed(tmp_path: Path):
    store = ROOT / "src" / "pertinax" / "_store"
    modules = [store / "draft.py"]
    names = ("test_draft.py", "test_when_it_fails.py", "test_races.py")
    tests = [ROOT / "tests" / "store" / name for name in names]
    arguments = ("--tests", *tests, "--results", tmp_path / "results", "--sample", 10, "--seed", 7)
    status, said = try_changes(*modules, *arguments)
    assert status == 0, said
