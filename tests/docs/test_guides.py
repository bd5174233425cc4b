# SPDX-License-Identifier: Apache-2.0
"""The guides of the Orbax door say what its users were promised.

Knows which page must speak of what. Knows nothing of how; that all code on them runs is a test of
its own (`test_docs_code`).
"""

import re

import pytest

from tests.docs.pages import ROOT, examples, links

DOOR = ROOT / "docs" / "orbax-door"


def code_of(page: str) -> str:
    """All code of a page that is run, except what raises on purpose."""
    text = (DOOR / f"{page}.md").read_text("utf-8")
    return "\n".join(one.code for one in examples(text) if one.raises is None)


MUST_SHOW = {
    "getting-started": "StandardCheckpointer() .save( .restore( to_shape_dtype_struct Composite(",
    "training-recipe": """
        NamedSharding CheckpointManagerOptions( save_interval_steps max_to_keep reached_preemption
        shardings(other) StandardRestore(""",
    "pytrees": """
        StandardRestore( PyTreeRestore( PyTreeCheckpointHandler( dtype= strict=False global_shape=
        sharding= to_shape_dtype_struct save_concurrent_gb""",
    "migrating-manager": "ocp.PyTreeCheckpointer() items= args=ocp.args.Composite(",
    "api-overview": "item_handlers= CheckpointHandlerRegistry() handler_registry= Composite(",
    "custom-handlers": "register_with_handler CheckpointArgs AsyncCheckpointHandler TypeHandler",
    "transformations": "original_key= value_fn= multi_value_fn= use_fallback=True merge_trees(",
    "preemption": "reached_preemption( wait_until_finished()",
    "async": "AsyncCheckpointer( wait_until_finished() AsyncOptions(",
    "performance": "chunk_byte_size= ocdbt_target_data_file_size=",
}


def lacks(page: str) -> list[str]:
    """What a guide must show in code that runs, and does not."""
    code = code_of(page)
    return [name for name in MUST_SHOW[page].split() if name not in code]


@pytest.mark.row("R010", "R159")
def test_getting_started_saves_and_restores_a_tree() -> None:
    assert lacks("getting-started") == []


@pytest.mark.row("R024")
def test_the_training_recipe_is_complete() -> None:
    assert lacks("training-recipe") == []


@pytest.mark.row("R014", "R027", "R159", "R192")
def test_the_guide_to_trees_shows_both_handlers_and_what_a_restore_may_change() -> None:
    assert lacks("pytrees") == []


@pytest.mark.row("R138")
def test_old_and_new_calls_of_the_manager_run_side_by_side() -> None:
    assert lacks("migrating-manager") == []


@pytest.mark.row("R141", "R150")
def test_the_overview_configures_handlers_for_items() -> None:
    assert lacks("api-overview") == []


@pytest.mark.row("R151")
def test_the_guide_to_handlers_teaches_args() -> None:
    assert lacks("custom-handlers") == []


@pytest.mark.parametrize("page", ["transformations", "preemption", "async", "performance"])
def test_a_guide_runs_code_about_what_it_must_explain(page: str) -> None:
    assert lacks(page) == []


def test_the_first_example_is_under_ten_lines_of_saving_and_restoring() -> None:
    first = next(examples((DOOR / "getting-started.md").read_text("utf-8"))).code
    assert len([line for line in first.splitlines() if line.strip()]) <= 10


@pytest.mark.row("R223")
def test_the_page_of_files_prints_the_listing_of_a_real_save() -> None:
    shown = [one for one in examples((DOOR / "format.md").read_text("utf-8")) if one.output]
    listing = next(one for one in shown if "rglob" in one.code)
    assert "manager.save(" in listing.code
    assert {"_METADATA", "manifest.ocdbt", "pertinax.json"} <= set((listing.output or "").split())


@pytest.mark.row("R097")
def test_the_page_on_performance_has_tables_with_the_script_that_made_them() -> None:
    text = (DOOR / "performance.md").read_text("utf-8")
    assert "bench/run.py" in text
    assert "../benchmarks.md" in links(text)
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert [image for image in images if not (DOOR / image).exists()] == []


@pytest.mark.row("R154")
def test_announcements_are_dated_and_name_every_deprecation() -> None:
    text = (DOOR / "announcements.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d{4}-\d\d-\d\d \|", line)]
    dates = [row.split("|")[1].strip() for row in rows]
    assert dates == sorted(dates, reverse=True)
    told = "\n".join(rows)
    deprecated = """transformations checkpointers all_steps(read=True) aggregate=True
        checkpoint_manager_context checkpointer_context async_checkpointer_context"""
    assert [name for name in deprecated.split() if name not in told] == []
