# SPDX-License-Identifier: Apache-2.0
"""What lies in a bucket, at its root as well, and with no more requests than it takes."""

from pertinax._store.objects.publishing import MarkerPublishing
from pertinax._store.objects.store import MARKER
from tests.objects.buckets import FRONT, Memory, Shelf
from tests.objects.scenes import at


def on(*keys: str) -> tuple[MarkerPublishing, Memory]:
    shelf = Shelf()
    for key in keys:
        shelf.store(key, b"x")
    memory = Memory(shelf)
    return at(memory), memory


def test_an_item_is_visible_with_its_step_whatever_is_in_it():
    found, _ = on(f"run/7/{MARKER}", "run/7/deep/d/0", "run/7/flat/_METADATA", "run/8/flat/x")
    for item in ("deep", "flat"):
        assert found.find_visible(f"{FRONT}/run/7/{item}/") == f"{FRONT}/run/7/{item}"
        assert found.look(f"{FRONT}/run/7/{item}") == "visible"
    assert found.find_visible(f"{FRONT}/run/7/absent") is None
    assert found.find_visible(f"{FRONT}/run/8/flat") is None


def test_a_bucket_itself_is_no_checkpoint_and_nobody_is_asked():
    found, memory = on(MARKER, f"default/{MARKER}")
    assert found.find_visible(FRONT) is None
    assert found.find_visible(f"{FRONT}/") is None
    assert memory.log == []


def test_an_item_directly_in_a_bucket_has_no_step_to_ask_for():
    found, memory = on(MARKER, "default/x")
    assert found.find_visible(f"{FRONT}/default") is None
    assert memory.log == [("head", f"default/{MARKER}")]


def test_an_empty_bucket_is_empty_after_one_listing():
    found, memory = on()
    assert found.look(FRONT) == "missing"
    assert memory.log == [("list", "")]
    assert found.list_root(FRONT) == []


def test_an_object_where_a_directory_is_meant_is_something_else():
    found, _ = on("run/7")
    assert found.look(f"{FRONT}/run/7") == "other"
    assert found.look(f"{FRONT}/run/8") == "missing"


def test_steps_at_the_root_of_a_bucket_are_listed_by_their_names():
    found, memory = on(f"10/{MARKER}", "10/default/x", f"9/default/{MARKER}", MARKER, "8")
    assert dict(found.times(FRONT)) == {"10": memory.shelf.objects[f"10/{MARKER}"][1]}
    assert [(one.name, one.is_dir) for one in found.list_root(FRONT)] == [("10", True)]
