# SPDX-License-Identifier: Apache-2.0
"""What the pages tell users to type works, and prints what they say.

Knows pages and examples. Knows nothing of checkpoints.
"""

import contextlib
import dataclasses
import doctest
import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Example, all_pages, examples, links, user_pages

_LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.slow
@pytest.mark.parametrize("page", user_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs_in_order_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Classes that a page defines must be found by the name of their module, as in a program.
    module = types.ModuleType("page_" + page.stem.replace("-", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    for example in examples(page.read_text("utf-8")):
        printed = run(example, page, module.__dict__)
        if example.output is not None:
            matches = doctest.OutputChecker().check_output(example.output, printed, _LIKE)
            told = f"{page}:{example.line}\n--- the page says\n{example.output}"
            assert matches, f"{told}--- it printed\n{printed}"


def run(example: Example, page: Path, names: dict[str, Any]) -> str:
    """What the example prints. One that raises on purpose must, and prints type and message."""
    # Padding lets a traceback show the line of the page.
    code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if example.raises is None:
            exec(code, names)
        else:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - the page names it
                exec(code, names)
            assert caught.type.__name__ == example.raises, caught.value
            print(f"{caught.type.__name__}: {caught.value}")
    return printed.getvalue()


@pytest.mark.row("R158")
def test_an_example_that_raises_says_so_and_any_other_exception_fails() -> None:
    raising = "```python raises=KeyError\n{}['a']\n```\n\n```text\nKeyError: 'a'\n```\n"
    page = raising + "\n```python\n1 / 0\n```\n"
    meant, other = examples(page)
    assert meant.raises == "KeyError"
    assert run(meant, ROOT, {}) == meant.output
    with pytest.raises(ZeroDivisionError):
        run(other, ROOT, {})
    with pytest.raises(AssertionError, match="division"):
        run(dataclasses.replace(other, raises="KeyError"), ROOT, {})


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert dead == []


def anchors(page: Path) -> set[str]:
    titles = [
        line.lstrip("#").strip() for line in page.read_text("utf-8").splitlines() if line[:1] == "#"
    ]
    kept = ("".join(c for c in title.lower() if c.isalnum() or c in " -_") for title in titles)
    return {title.replace(" ", "-") for title in kept}


def test_troubleshooting_has_a_section_for_every_error() -> None:
    import pertinax

    named = {
        name
        for name, value in vars(pertinax.errors).items()
        if isinstance(value, type) and issubclass(value, pertinax.errors.PertinaxError)
    }
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    missing = {name for name in named if f"\n## {name}\n" not in text}
    assert missing == {"PertinaxError"}


def test_the_loop_in_the_readme_has_at_most_ten_lines() -> None:
    loops = [
        e for e in examples((ROOT / "README.md").read_text("utf-8")) if "manager.resume" in e.code
    ]
    assert [len(loop.code.splitlines()) for loop in loops] == [8]
    assert all(len(loop.code.splitlines()) <= 10 for loop in loops)
