# SPDX-License-Identifier: Apache-2.0
"""Old checkpoints stay readable, bit for bit. `make_orbax.py` wrote them, with Orbax itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from pertinax._formats.detect import detect
from pertinax._formats.orbax import read_orbax_item
from pertinax._store.local import LocalStore
from pertinax._tree.skeleton import leaf_paths
from tests.formats.reading import read_leaf

HERE = Path(__file__).parent
CASES = sorted(path.with_suffix("") for path in HERE.glob("orbax-*/*.json"))
STORE = LocalStore()


def test_there_are_golden_checkpoints_of_both_generations():
    assert {path.parent.name for path in CASES} == {"orbax-0.8.0", "orbax-0.12.8"}


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_golden_checkpoint_reads_bit_for_bit(case: Path):
    items = [case / "1" / "state", case / "2" / "state"] if case.name == "managed" else [case]
    for item in items:
        check_item(str(item), case)


def check_item(item: str, case: Path):
    assert detect(STORE, item).kind == "orbax"
    manifest = read_orbax_item(STORE, item)
    expected = json.loads(case.with_suffix(".json").read_text())
    arrays = np.load(case.with_suffix(".npz"))
    assert leaf_paths(manifest.root) == [leaf.path for leaf in manifest.leaves]
    assert len(manifest.leaves) == len(expected)
    for i, (leaf, row) in enumerate(zip(manifest.leaves, expected, strict=True)):
        assert [list(key) for key in leaf.path] == row["path"]
        assert leaf.kind == row["kind"], leaf
        if leaf.kind == "str":
            assert manifest.values[i] == row["text"]
            continue
        assert (leaf.dtype, list(leaf.shape)) == (row["dtype"], row["shape"]), leaf
        found = read_leaf(STORE, item, manifest, i)
        assert found.dtype.name == leaf.dtype
        assert found.tobytes() == arrays[str(i)].tobytes(), leaf


@pytest.mark.parametrize("version", ["0.8.0", "0.12.8"])
def test_a_managed_root_its_steps_and_its_items_are_told_apart(version: str):
    root = str(HERE / f"orbax-{version}" / "managed")
    found = detect(STORE, root)
    assert found.kind == "other"
    assert "Manager(" in found.reason
    step = detect(STORE, f"{root}/2")
    assert step.kind == "step"
    assert dict(step.items) == {"config": "other", "metrics": "other", "state": "orbax"}


def test_typed_keys_are_recognised():
    manifest = read_orbax_item(STORE, str(HERE / "orbax-0.12.8" / "keys-ocdbt-zarr2"))
    impls = {leaf.name: leaf.impl for leaf in manifest.leaves}
    assert impls == {"many": "threefry2x32", "old": None, "one": "threefry2x32", "rbg": "rbg"}


def test_large_chunks_of_golden_checkpoints_lie_out_of_line():
    for version in ("0.8.0", "0.12.8"):
        for case in ("layouts-ocdbt-zarr2", "files-ocdbt-zarr2", "layouts-ocdbt-zarr3"):
            manifest = read_orbax_item(STORE, str(HERE / f"orbax-{version}" / case))
            assert sum(name.startswith("ocdbt.process_0/d/") for name in manifest.chunks.files) > 0
