# SPDX-License-Identifier: Apache-2.0
"""The oldest releases that pyproject.toml promises to work with, as constraints for pip.

    python -m tests.packaging.bounds > constraints.txt

Knows the list of dependencies. Knows nothing of what they do. `make oldest` installs exactly these
and runs the tests on them: a bound that is too low is found there, and not by a user.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=(?P<version>[0-9.]+)")


def project() -> dict[str, Any]:
    """The table `[project]`."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def needed() -> list[str]:
    """What users install: always, and for object stores."""
    stated = project()
    return [*stated["dependencies"], *stated["optional-dependencies"]["cloud"]]


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Name -> oldest version. Raises `ValueError` for a requirement that states none."""
    bounds: dict[str, str] = {}
    for requirement in requirements:
        found = _BOUND.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no lower bound, or more than that")
        bounds[found["name"]] = found["version"]
    return bounds


def constraints(bounds: dict[str, str]) -> str:
    """A line for each: that release line, in its last bug-fix release (`numpy>=2.0` is 2.0.*)."""
    lines = [f"{name}=={version}.*" for name, version in bounds.items()]
    if "jax" in bounds:
        lines.append(f"jaxlib=={bounds['jax']}.*")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(constraints(lower_bounds(needed())), end="")
