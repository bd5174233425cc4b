# SPDX-License-Identifier: Apache-2.0
import pytest

from pertinax._formats.detect import detect
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
