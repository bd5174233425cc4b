# SPDX-License-Identifier: Apache-2.0
"""What users install: what it is called, what it needs, what it brings along.

Knows pyproject.toml and the wheel. Knows nothing of checkpoints. That the lower bounds are true is
shown by `make oldest`, which installs them and runs the tests; CI calls it.
"""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pertinax
from tests.packaging.bounds import ROOT, constraints, lower_bounds, needed, project

BLOCKED = ("flax", "pytest", "mock", "orbax", "hypothesis", "optax")
WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import pertinax, pertinax.checkpoint, pertinax.policies
import numpy as np
with pertinax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save({path!r}, {{"a": np.arange(3)}})
print(pertinax.load({path!r})["a"].sum())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What `pip install` would install, built from the sources as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-input"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def name_of(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement)[0].replace("-", "_")


@pytest.mark.slow
@pytest.mark.row("R020", "R038")
def test_the_wheel_needs_what_runs_and_nothing_of_tests(wheel: zipfile.ZipFile) -> None:
    (name,) = [one for one in wheel.namelist() if one.endswith("/METADATA")]
    lines = wheel.read(name).decode().splitlines()
    needs = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist")]
    always = {name_of(one) for one in needs if "extra ==" not in one}
    assert always == set(lower_bounds(project()["dependencies"]))
    assert not always & {"flax", "pytest", "hypothesis", "mock", "orbax_checkpoint"}
    tools = {name_of(one) for one in needs if re.search("extra == .dev.", one)}
    assert {"pytest", "hypothesis", "flax"} <= tools
    files = [one for one in wheel.namelist() if ".dist-info/" not in one]
    assert all(one.startswith("pertinax/") for one in files)
    assert "pertinax/py.typed" in files


@pytest.mark.slow
@pytest.mark.row("R020", "R038")
def test_it_saves_and_restores_where_no_test_tool_and_no_framework_is(tmp_path: Path) -> None:
    code = WITHOUT.format(blocked=BLOCKED, path=str(tmp_path / "c"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.row("R042")
def test_both_ways_to_import_the_door_give_one_module() -> None:
    import pertinax.checkpoint
    from pertinax import checkpoint

    assert checkpoint is pertinax.checkpoint
    assert sys.modules["pertinax.checkpoint"] is checkpoint


@pytest.mark.row("R044")
def test_ci_runs_tests_on_the_oldest_of_all_that_we_need() -> None:
    bounds = lower_bounds(needed())
    assert {"jax", "numpy", "tensorstore", "obstore"} <= bounds.keys()
    assert f"tensorstore=={bounds['tensorstore']}.*\n" in constraints(bounds)
    assert f"jaxlib=={bounds['jax']}.*\n" in constraints(bounds)
    recipe = (ROOT / "Makefile").read_text("utf-8")
    assert "-m tests.packaging.bounds > $(OLDEST)/constraints.txt" in recipe
    assert "-c $(OLDEST)/constraints.txt" in recipe
    assert "make oldest" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_a_requirement_without_a_lower_bound_is_refused() -> None:
    assert lower_bounds(["a[b]>=1.5", "c_d>=2"]) == {"a": "1.5", "c_d": "2"}
    for loose in ("jax", "jax<1", "jax>=1,<2"):
        with pytest.raises(ValueError, match="lower bound"):
            lower_bounds([loose])


@pytest.mark.row("R293")
def test_the_oldest_python_is_stated_and_is_the_one_that_runs_the_tests() -> None:
    """Python 3.10, the floor of Orbax 0.8, is refused at installation: JAX left it as well."""
    stated = project()
    assert stated["requires-python"] == ">=3.11"
    versions = [one for one in stated["classifiers"] if re.search(r"Python :: 3\.\d+", one)]
    assert versions == ["Programming Language :: Python :: 3.11"]
    assert sys.version_info >= (3, 11)


@pytest.mark.row("R294")
def test_annotations_are_written_as_they_are_today() -> None:
    old = {"Optional", "Union", "List", "Dict", "Tuple", "Set", "Type"}
    found: list[str] = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "typing":
                found += [f"{file.name}: {one.name}" for one in node.names if one.name in old]
    assert found == []


@pytest.mark.row("R167")
def test_what_newer_releases_of_jax_have_or_lack_is_looked_up_and_not_imported() -> None:
    """So the package is imported with the oldest JAX (`make oldest`) and with the newest."""
    moving = {"PositionalSharding", "GSPMDSharding", "shard_map", "enable_x64"}
    found: list[str] = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax"):
                found += [f"{file.name}: {one.name}" for one in node.names if one.name in moving]
    assert found == []


@pytest.mark.row("R157")
def test_every_source_file_names_its_licence_first() -> None:
    told = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    files = [ROOT / one for one in told] or sorted((ROOT / "src").rglob("*.py"))
    heads = {
        file: file.read_text("utf-8").removeprefix("#!/usr/bin/env python3\n") for file in files
    }
    line = f"# SPDX-License-Identifier: {project()['license']}\n"
    assert [str(file) for file, text in heads.items() if text and not text.startswith(line)] == []


@pytest.mark.row("R002")
def test_the_version_has_its_section_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    titles = [section.splitlines()[0] for section in sections]
    assert titles[0] == "[Unreleased]"
    released = [one for one in sections if one.startswith(f"[{pertinax.__version__}] - ")]
    assert len(released) == 1, f"no section for {pertinax.__version__}"
    assert re.match(r"\[[0-9.]+\] - \d{4}-\d\d-\d\d\n", released[0])
    assert re.search(r"^### (Added|Changed|Fixed)$\n\n- ", released[0], flags=re.MULTILINE)
