# SPDX-License-Identifier: Apache-2.0
"""The reference is what the code says today, and names all that is public.

Knows the pages and the modules. Knows nothing of Markdown.
"""

import importlib

import pytest

from tests.docs import reference


def test_the_pages_are_what_the_code_says() -> None:
    written = {one.name: one.read_text("utf-8") for one in reference.FOLDER.glob("*.md")}
    wanted = reference.pages()
    stale = sorted(name for name in wanted | written if wanted.get(name) != written.get(name))
    assert stale == [], "run `make reference`"


@pytest.mark.row("R141")
def test_every_public_module_has_a_page_with_all_that_it_exports() -> None:
    for module in reference.public_modules():
        name = module.__name__.removeprefix("pertinax.")
        titles = {
            line.removeprefix("## ").strip("`")
            for line in (reference.FOLDER / f"{name}.md").read_text("utf-8").splitlines()
            if line.startswith("## ")
        }
        offered = {
            one
            for one in getattr(module, "__all__", reference.exports(module))
            if not isinstance(getattr(module, one), type(importlib))
        }
        assert offered == titles, name


def test_a_class_that_two_modules_offer_is_described_once() -> None:
    door = (reference.FOLDER / "checkpoint.md").read_text("utf-8")
    handlers = (reference.FOLDER / "checkpoint.handlers.md").read_text("utf-8")
    assert "See [`checkpoint.handlers`](checkpoint.handlers.md)." in door
    assert "JsonCheckpointHandler(" in handlers
    assert "JsonCheckpointHandler(" not in door


@pytest.mark.row("R190")
def test_step_names_and_lookup_have_a_page() -> None:
    page = (reference.FOLDER / "checkpoint.path.step.md").read_text("utf-8")
    for name in ("standard_name_format", "composite_name_format", "find_step_path", "Metadata"):
        assert f"## `{name}`" in page
