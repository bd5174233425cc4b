# SPDX-License-Identifier: Apache-2.0
"""Orbax's items from hostile hands: golden checkpoints, damaged."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pertinax
from pertinax._formats.orbax import read_orbax_item
from pertinax._store.local import LocalStore
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint, NotACheckpoint
from tests.formats.reading import read_leaf

GOLDEN = Path(__file__).parent.parent / "golden" / "orbax-0.12.8"
STORE = LocalStore()
CASES = [
    f"{tree}-{how}" for tree in ("plain", "layouts") for how in ("ocdbt-zarr2", "directory-zarr3")
]


@pytest.fixture
def item(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    copy = tmp_path / "item"
    shutil.copytree(GOLDEN / request.param, copy)
    return copy


def on(case: str):
    return pytest.mark.parametrize("item", [case], indirect=True)


def read(item: Path) -> None:
    manifest = read_orbax_item(STORE, str(item))
    for i, leaf in enumerate(manifest.leaves):
        if leaf.codec != "none":
            read_leaf(STORE, str(item), manifest, i)


@pytest.mark.parametrize("case", CASES)
def test_any_file_may_be_damaged_anywhere(tmp_path: Path, case: str):
    item = tmp_path / "item"
    shutil.copytree(GOLDEN / case, item)
    files = sorted(path for path in item.rglob("*") if path.is_file() and path.stat().st_size)

    @settings(max_examples=150)
    @given(st.sampled_from(files), st.floats(0, 1), st.binary(min_size=1, max_size=4))
    def damage(file: Path, where: float, noise: bytes):
        good = file.read_bytes()
        at = int(where * len(good))
        file.write_bytes(good[:at] + noise + good[at + len(noise) :])
        try:
            read(item)
        except (CorruptCheckpoint, NotACheckpoint):
            return
        finally:
            file.write_bytes(good)

    damage()


@on("plain-directory-zarr2")
def test_a_missing_chunk_is_corrupt_and_names_the_leaf(item: Path):
    (item / "list.3" / "0").unlink()
    assert read_orbax_item(STORE, str(item)).partial  # it may be one process's part
    with pytest.raises(CorruptCheckpoint, match="1 of 1 chunks are missing") as caught:
        pertinax.load(item)
    assert caught.value.file == "list.3"


@on("plain-directory-zarr3")
def test_missing_array_metadata_is_corrupt_and_names_the_leaf(item: Path):
    shutil.rmtree(item / "list.3")
    with pytest.raises(CorruptCheckpoint, match="metadata is missing") as caught:
        read_orbax_item(STORE, str(item))
    assert caught.value.leaf == "list.3"


@on("plain-directory-zarr3")
def test_a_missing_chunk_of_zarr_3_is_fill(item: Path):
    """Of Orbax 0.8, that is; later ones store all chunks, and say so."""
    (item / "list.3" / "c" / "0").unlink()
    metadata = json.loads((item / "_METADATA").read_text())
    if metadata.pop("store_array_data_equal_to_fill_value", False):
        with pytest.raises(CorruptCheckpoint, match="1 of 1 chunks are missing"):
            pertinax.load(item)
        (item / "_METADATA").write_text(json.dumps(metadata))
    manifest = read_orbax_item(STORE, str(item))
    position = [leaf.name for leaf in manifest.leaves].index("list.3")
    assert read_leaf(STORE, str(item), manifest, position).tolist() == [0]


@on("layouts-ocdbt-zarr2")
def test_a_shortened_data_file_is_corrupt(item: Path):
    for file in (item / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptCheckpoint, match="the file has only"):
        read_orbax_item(STORE, str(item))


@on("layouts-ocdbt-zarr2")
def test_an_unmerged_save_is_said_to_be_unfinished(item: Path):
    (item / "manifest.ocdbt").unlink()
    with pytest.raises(CorruptCheckpoint, match="unmerged"):
        read_orbax_item(STORE, str(item))


@pytest.mark.parametrize("evil", ["../outside", "/etc", "a/../../b", "a//b", "..", "a\0b"])
@on("root-directory-zarr2")
def test_no_name_leads_out_of_the_item(item: Path, evil: str):
    metadata = json.loads((item / "_METADATA").read_text())
    (entry,) = metadata["tree_metadata"].values()
    entry["key_metadata"] = [{"key": evil, "key_type": 2}]
    (item / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(CorruptCheckpoint, match="leads out of the checkpoint"):
        read_orbax_item(STORE, str(item))


@on("strings-ocdbt-zarr2")
def test_a_lost_file_of_strings_is_corrupt(item: Path):
    (item / "_strings.json").unlink()
    with pytest.raises(CorruptCheckpoint, match="missing, with 2 strings"):
        read_orbax_item(STORE, str(item))


@on("plain-ocdbt-zarr2")
def test_leaves_without_an_array_that_a_foreign_handler_wrote_are_foreign(item: Path):
    text = (item / "_METADATA").read_text()
    (item / "_METADATA").write_text(
        text.replace('"None", "skip_deserialize": true', '"mine", "skip_deserialize": false')
    )
    manifest = read_orbax_item(STORE, str(item))
    foreign = [(leaf.name, leaf.codec) for leaf in manifest.leaves if leaf.kind == "foreign"]
    assert foreign == [("empties.none", "none")]


def test_what_is_no_item_is_said_so(tmp_path: Path):
    with pytest.raises(CheckpointNotFound):
        read_orbax_item(STORE, str(tmp_path / "nothing"))
    with pytest.raises(NotACheckpoint, match="has no _METADATA"):
        read_orbax_item(STORE, str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotACheckpoint, match="is a file"):
        read_orbax_item(STORE, str(tmp_path / "file"))


@pytest.mark.parametrize("file", ["_sharding", "_strings.json", "manifest.ocdbt", "_METADATA"])
@on("plain-ocdbt-zarr2")
def test_a_directory_in_place_of_a_file_is_corrupt(item: Path, file: str):
    (item / file).unlink(missing_ok=True)
    (item / file).mkdir()
    with pytest.raises(CorruptCheckpoint) as caught:
        read_orbax_item(STORE, str(item))
    assert caught.value.file == file
