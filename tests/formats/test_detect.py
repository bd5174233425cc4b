# SPDX-License-Identifier: Apache-2.0
import pytest

from pertinax._formats.detect import UNPUBLISHED_MARK, detect
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore


def disk(*files: str, **contents: bytes) -> MemoryStore:
    store = MemoryStore()
    for file in files:
        parts = file.strip("/").split("/")
        for cut in range(1, len(parts)):
            if store.stat("/" + "/".join(parts[:cut])) is None:
                store.make_dir("/" + "/".join(parts[:cut]))
        if file.endswith("/"):
            store.make_dir(file.rstrip("/"))
            continue
        with store.create(file) as writer:
            writer.write_at(0, [contents.get(parts[-1], b"{}")])
    return store


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["/c/_METADATA", "/c/manifest.ocdbt"], "orbax"),
        (["/c/_METADATA", "/c/pertinax.json"], "pertinax"),
        (["/c/pertinax.json", "/c/d/0"], "pertinax"),
        (["/c/default/_METADATA", "/c/metrics/metrics"], "step"),
        (["/c/run-a/_METADATA", "/c/notes"], "other"),
        (["/c/_CHECKPOINT_METADATA", "/c/state/_METADATA"], "step"),
        (["/c/_CHECKPOINT_METADATA", "/c/0/_METADATA"], "step"),
        (["/c/"], "other"),
        (["/c"], "other"),
        (["/x"], "missing"),
        (["/c/_METADATA/x"], "other"),
    ],
)
def test_a_path_is_recognised(files, kind):
    assert detect(disk(*files), "/c").kind == kind


def test_an_item_that_lost_its_ledger_is_not_taken_for_orbax():
    store = disk("/c/_METADATA", _METADATA=b'{"tree_metadata": {}, "pertinax": 1}')
    assert detect(store, "/c").kind == "pertinax"


@pytest.mark.parametrize("name", ["1.orbax-checkpoint-tmp-7", "1.orbax-checkpoint-tmp"])
def test_an_unpublished_save_is_unfinished_whatever_is_in_it(name):
    assert detect(disk(f"/{name}/_METADATA"), f"/{name}").kind == "unfinished"
    assert detect(disk("/x"), f"/{name}").kind == "missing"


def test_the_items_of_a_step_are_listed():
    store = disk(
        "/c/_CHECKPOINT_METADATA",
        "/c/b/_METADATA",
        "/c/a/metadata",
        "/c/x.orbax-checkpoint-tmp-1/_METADATA",
    )
    assert detect(store, "/c/").items == (("a", "other"), ("b", "orbax"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["/c/run-a/_METADATA", "/c/run-b/_METADATA"], "load /c/run-a"),
        (["/c/"], "empty"),
        (["/c"], "is a file"),
        (
            ["/c/1/s/_METADATA", "/c/10/s/_METADATA", "/c/2/s/_METADATA"],
            "Manager('/c'), or one of them, /c/10",
        ),
        (["/c/step_1/s/_METADATA", "/c/metadata/metadata"], "or one of them, /c/step_1"),
        (["/c/1.orbax-checkpoint-tmp-0/x"], "never published"),
        (["/c/.zarray"], "bare array"),
        (["/c/model.txt"], "model.txt"),
        ([f"/c/{i}" for i in range(1, 6)], "it has 1, 2, 3, 4, 5"),
        ([f"/c/{i}" for i in range(1, 7)], "it has 1, 2, 3, 4, 5, ..."),
        ([f"/c/i{i}/_METADATA" for i in range(1, 6)], "(i1, i2, i3, i4, i5): load"),
        ([f"/c/i{i}/_METADATA" for i in range(1, 7)], "(i1, i2, i3, i4, i5, ...): load"),
        ([f"/c/{i}/s/_METADATA" for i in range(1, 6)], "steps (1, 2, 3, 4, 5): use"),
        ([f"/c/{i}/s/_METADATA" for i in range(1, 7)], "steps (1, 2, ..., 5, 6): use"),
    ],
)
def test_what_is_no_checkpoint_is_explained(files, words):
    found = detect(disk(*files), "/c")
    assert found.kind == "other"
    assert words in found.reason


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ([f"/c/{i}" for i in range(1, 6)], "it has 1, 2, 3, 4, 5"),
        (["/c/a/x", "/c/run-b/_METADATA"], "holds checkpoints (run-b): load /c/run-b"),
        (
            ["/c/a_1/s/_METADATA", "/c/b_0/s/_METADATA"],
            "steps (b_0, a_1): use Manager('/c'), or one of them, /c/a_1",
        ),
        (["/c/1/x", "/c/2/x", "/c/a/x", "/c/b/x"], "it has 1, 2, a, b"),
        (
            [f"/c/{i}{UNPUBLISHED_MARK}/x" for i in range(4)],
            f"published: 0{UNPUBLISHED_MARK}, 1{UNPUBLISHED_MARK}, 2{UNPUBLISHED_MARK}",
        ),
    ],
)
def test_no_more_is_said_than_there_is(files, end):
    assert detect(disk(*files), "/c").reason.endswith(end)


def test_arrays_without_a_tree_are_named_up_to_five():
    reason = detect(disk("/c/a/.zarray", "/c/b/notes", "/c/c/zarr.json"), "/c").reason
    assert reason.startswith("has arrays (a, c) but no _METADATA")
    reason = detect(disk(*(f"/c/{one}/.zarray" for one in "abcdef")), "/c").reason
    assert reason.startswith("has arrays (a, b, c, d, e) but no _METADATA")


@pytest.mark.parametrize("start", [b"", b" " * 4000])
def test_a_ledger_alone_says_in_its_first_words_what_it_stands_above(start):
    above = b'{"items":["a"], "container":"ocdbt"}'
    item = b'{"container":"ocdbt", "facts":{"items":["a"]}}'
    files = ("/c/pertinax.json", "/c/a/_METADATA")
    assert detect(disk(*files, **{"pertinax.json": start + above}), "/c").kind == "step"
    assert detect(disk(*files, **{"pertinax.json": start + item}), "/c").kind == "pertinax"


@pytest.mark.parametrize("before", [0, 40, 4000])
def test_a_mark_is_found_at_the_end_of_a_file_of_any_length(before):
    text = b'{"tree_metadata": {%s}, "pertinax": 1}' % (b" " * before)
    assert detect(disk("/c/_METADATA", _METADATA=text), "/c").kind == "pertinax"
    assert detect(disk("/c/_METADATA", _METADATA=text[:-1]), "/c").kind == "orbax"


def test_a_tree_in_one_file_is_told_from_a_text_of_that_name():
    """By the head of a map, a list or a tuple in MessagePack."""
    heads = {*range(0x80, 0xA0), 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), *range(0xDC, 0xE0)}
    for head in range(256):
        kind = detect(disk("/c/checkpoint", checkpoint=bytes((head, 1))), "/c").kind
        assert kind == ("orbax" if head in heads else "other"), hex(head)
    assert detect(disk("/c/checkpoint", checkpoint=b""), "/c").kind == "other"


def test_a_link_of_that_name_to_a_directory_is_no_tree(tmp_path):
    (tmp_path / "c" / "sub").mkdir(parents=True)
    (tmp_path / "c" / "checkpoint").symlink_to("sub")
    assert detect(LocalStore(), str(tmp_path / "c")).kind == "other"
