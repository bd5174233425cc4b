# SPDX-License-Identifier: Apache-2.0
"""Imports go down only, pure layers stay pure, and no module holds state (design laws 1 to 3)."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import house
from tests.test_house import GOOD, judge


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in `root`, with the contracts beside it."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", "pyproject.toml"]
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)


def a_house(root: Path, modules: dict[str, str]) -> Path:
    """A package `pertinax` made of `modules` alone, beside our contracts."""
    shutil.copy(house.ROOT / "pyproject.toml", root)
    for path, text in {"__init__.py": "", **modules}.items():
        file = root / "src" / "pertinax" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (file.parent / "__init__.py").touch()
    return root


def test_imports_go_down_only():
    run = lint_imports(house.ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("_tree/leaves.py", "_plan.boxes"),
        ("_store/local.py", "_formats.ledger"),
        ("_store/local.py", "_hosts.barrier"),
        ("_core/save.py", "_steps.manager"),
        ("_core/save.py", "testing.crash"),
        ("_steps/manager.py", "checkpoint.args"),
        ("_steps/manager.py", "testing.crash"),
        ("testing/crash.py", "_core.save"),
        ("errors.py", "_tree.leaves"),
    ],
)
def test_an_import_that_goes_up_is_refused(tmp_path: Path, lower: str, upper: str):
    target = upper.replace(".", "/") + ".py"
    a_house(tmp_path, {target: "", lower: f"import pertinax.{upper}\n"})
    run = lint_imports(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "BROKEN" in run.stdout


def test_an_import_that_goes_down_is_fine(tmp_path: Path):
    a_house(tmp_path, {"_tree/leaves.py": "", "_plan/boxes.py": "import pertinax._tree.leaves\n"})
    run = lint_imports(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_new_room_needs_a_place_among_the_layers(tmp_path: Path):
    run = lint_imports(a_house(tmp_path, {"_attic/box.py": ""}))
    assert run.returncode == 1, run.stdout + run.stderr
    assert "pertinax._attic" in run.stdout


def test_every_room_is_named_in_the_contract():
    contracts = tomllib.loads((house.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = " ".join(contracts["contracts"][0]["layers"])
    rooms = {
        p.stem for p in house.PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert {
        room for room in rooms if not room.startswith("__") and f"({room})" not in layers
    } == set()


@pytest.mark.parametrize(
    "statement",
    [
        "cache = {}",
        "_seen = set()",
        "SIZES: Final = [1, 2]",
        "SIZES: dict[str, int] = {'a': 1}",
        "SIZES: Mapping[str, list] = defaultdict(list)",
        "_ids = itertools.count()",
        "_lock = threading.Lock()",
        "_pool = concurrent.futures.ThreadPoolExecutor(4)",
        "_alive = weakref.WeakSet()",
        "a, b = [], 1",
        "if True:\n    handlers = {k: 1 for k in 'ab'}",
        "try:\n    import x\nexcept ImportError:\n    missing = []",
        "class C:\n    registry = {}",
        "def f():\n    global answer\n    answer = 1",
    ],
)
def test_state_in_a_module_is_refused_except_in_the_registry_of_the_orbax_door(statement: str):
    assert judge(GOOD + statement + "\n") == {"state"}
    assert judge(GOOD + statement + "\n", house.STATEFUL_MODULE) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "__all__ = ['a']",
        "NAMES = ('a', 'b')",
        "NAMES = frozenset({'a'})",
        "SIZES = MappingProxyType({'a': 1})",
        "SIZES: Mapping[str, int] = {'a': 1}",
        "SIZES: Final[Mapping[str, int]] = {'a': 1}",
        "log = logging.getLogger(__name__)",
        "Buffer = bytes | bytearray",
        "T = TypeVar('T')",
        "DEFAULTS = SaveOptions()",
        "class C:\n    __slots__ = ['x']\n    x: list = field(default_factory=list)",
        "def f():\n    found = []\n    return found",
    ],
)
def test_constants_and_locals_are_no_state(statement: str):
    assert judge(GOOD + statement + "\n") == set()


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("_plan/write.py", "import os"),
        ("_plan/write.py", "import jax"),
        ("_plan/write.py", "from jax import tree_util"),
        ("_plan/write.py", "import concurrent.futures"),
        ("_plan/write.py", "def f():\n    from time import monotonic"),
        ("_tree/flatten.py", "import jax"),
        ("_tree/flatten.py", "from jax import numpy"),
        ("_tree/flatten.py", "import io"),
        ("_tree/flatten.py", "def f():\n    return open('x')"),
    ],
)
def test_the_pure_layers_may_not_reach_outside(path: str, statement: str):
    assert judge(GOOD + statement + "\n", path) == {"purity"}


def test_the_tree_layer_may_use_the_trees_of_jax_and_others_may_use_anything():
    for statement in (
        "import jax.tree_util",
        "from jax import tree_util",
        "from jax.tree_util import x",
    ):
        assert judge(f"{GOOD}{statement}\n", "_tree/flatten.py") == set()
    assert judge(GOOD + "import os, jax, time\n", "_device/stage.py") == set()


def test_nothing_inside_imports_the_front_door():
    for statement in ("import pertinax", "from pertinax import save"):
        assert judge(f"{GOOD}{statement}\n", "_core/save.py") == {"door"}
        assert judge(f"{GOOD}{statement}\n", "checkpoint/args.py") == set()
    assert judge(GOOD + "from pertinax import errors\n", "_core/save.py") == set()
