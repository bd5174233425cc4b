# SPDX-License-Identifier: Apache-2.0
"""What the pages name in running text exists: code there is not run, and would get old unseen.

Knows the public names. Knows nothing of what a page says about them.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pertinax
import pertinax.testing
from pertinax import checkpoint as ocp
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from tests.docs.pages import ROOT, all_pages, user_pages

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_NAME = re.compile(r"\b(?:pertinax|ocp)(?:\.[A-Za-z_]\w*)+")
_CALL = re.compile(r"([A-Za-z_][\w.]*)\(([^()]*)")
_KEYWORD = re.compile(r"(?:^|[\s,(])(\w+)=")
_FILES = ("pertinax.json",)
_PATH = re.compile(r"[\w.{},*-]+(?:/[\w.{},*-]*)+")
_BASES = (ROOT, ROOT / "src" / "pertinax", ROOT / "tests", ROOT / "docs")

# Where names without a module in front are looked for, and what variables on the pages are.
_PLACES: tuple[Any, ...] = (
    *(pertinax, pertinax.policies, pertinax.errors, pertinax.testing, emergency),
    *(ocp, ocp.args, ocp.type_handlers, ocp.checkpoint_utils, ocp.options, ocp.utils),
    *(ocp.multihost, ocp.path.step, ocp.CheckpointManager, pertinax.Manager),
)
_VARIABLES = {
    "manager": (pertinax.Manager, ocp.CheckpointManager),
    "run": (pertinax.Manager,),
    "step": (),
}

# Pages name these to say that they are gone.
GONE = {
    "RestoreArgs(lazy=)",
    "SaveArgs(write_chunk_shape=, read_chunk_shape=)",
    "PyTreeCheckpointHandler(ocdbt_merge=, restore_with_serialized_types=, write_tree_metadata=)",
}


def spoken() -> Iterator[tuple[str, str]]:
    """Pages, and the code in their running text. The parity page quotes Orbax's own words."""
    for page in user_pages():
        if page.name != "parity.md" and page.parent.name != "reference":
            for code in _CODE.findall(_FENCED.sub("", page.read_text("utf-8"))):
                yield str(page.relative_to(ROOT)), code


def find(name: str) -> list[Any]:
    """All that a name may mean."""
    first, *rest = name.split(".")
    roots = {"pertinax": (pertinax,), "ocp": (ocp,), **_VARIABLES}.get(first)
    if roots is None:
        roots, rest = _PLACES, [first, *rest]
    found: list[Any] = []
    for root in roots:
        meant: Any = root
        for part in rest:
            meant = getattr(meant, part, None)
        found += [] if meant is None else [meant]
    return found


def takes(call: Any, keywords: list[str]) -> bool:
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return True
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return anything or set(keywords) <= set(parameters)


def wrong_in(code: str) -> str:
    """What is wrong with a piece of code; empty if nothing is."""
    for name in _NAME.findall(code):
        if not name.startswith(_FILES) and not find(name):
            return f"there is no {name}"
    for name, arguments in _CALL.findall(code):
        keywords = _KEYWORD.findall(arguments)
        if keywords and not any(takes(one, keywords) for one in find(name)):
            return f"{name} takes no {keywords}"
    return ""


def test_names_and_options_in_running_text_exist() -> None:
    told = list(spoken())
    assert sum("(" in code for _, code in told) > 100
    wrong = {(page, code, why) for page, code in told if (why := wrong_in(code))}
    assert {one for one in wrong if one[1] not in GONE} == set()
    assert {code for _, code, _ in wrong} == GONE


def test_what_does_not_exist_is_found_out() -> None:
    assert wrong_in('pertinax.load("ckpt", as_numpy=True)') == "pertinax.load takes no ['as_numpy']"
    assert wrong_in("ocp.no_such_name") == "there is no ocp.no_such_name"
    assert wrong_in("no_such_function(x=1)")
    assert wrong_in('manager.save(step, state, forced=True, exists="skip")')
    assert not wrong_in('manager.save(step, state, force=True, exists="skip")')
    assert not isinstance(find("pertinax.Manager")[0], ModuleType)


def dead_paths(code: str) -> list[str]:
    """Paths into this repository that lead nowhere; what begins otherwise may be anything."""
    if not _PATH.fullmatch(code):
        return []
    before, brace, rest = code.partition("{")
    choices, _, after = rest.partition("}")
    paths = [f"{before}{one}{after}" for one in choices.split(",")] if brace else [code]
    homes = [base for base in _BASES if (base / code.partition("/")[0]).is_dir()]
    return [path for path in paths if homes and not any(_there(base, path) for base in homes)]


def _there(base: Path, path: str) -> bool:
    """Modules may be named without their ending."""
    return any(base.glob(path)) or (base / f"{path}.py").exists()


def test_files_that_pages_name_are_there() -> None:
    told = [
        (str(page.relative_to(ROOT)), code)
        for page in all_pages()
        for code in _CODE.findall(_FENCED.sub("", page.read_text("utf-8")))
    ]
    dead = [(page, path) for page, code in told for path in dead_paths(code)]
    assert not dead, dead
    assert sum(bool(_PATH.fullmatch(code)) for _, code in told) > 100
    assert dead_paths("tests/emergency/") == ["tests/emergency/"]
    assert dead_paths("_core/{save,nowhere}.py") == ["_core/nowhere.py"]
