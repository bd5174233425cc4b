# SPDX-License-Identifier: Apache-2.0
"""An independent reader, written from the page on the ledger, agrees with what was saved.

Knows `ledger_reader` and trees. Knows nothing of how pertinax reads.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from crc32c import crc32c
from jax.sharding import NamedSharding, PartitionSpec

import pertinax
from tests.docs import ledger_reader
from tests.golden.make_pertinax import HERE, golden_tree
from tests.golden.test_pertinax import CHECKPOINTS, MANAGED


def state() -> dict[Any, Any]:
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    spread = NamedSharding(mesh, PartitionSpec("a", "b"))
    rng = np.random.default_rng(0)
    return {
        "sharded": jax.device_put(rng.normal(size=(8, 6)).astype(np.float32), spread),
        "large": jnp.asarray(rng.normal(size=(700, 600)), jnp.float32),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "narrow": np.arange(4).astype(ml_dtypes.uint4),
        "foreign order": np.arange(3, dtype=">f4"),
        "days": np.array(["2026-01-01", "NaT"], "datetime64[D]"),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.int8),
        "keys": jax.random.split(jax.random.key(3), 2),
        "plain": [True, 7, -2.5, 1 + 2j, "text", b"bytes", None, 2**70],
        3: (np.int64(4), {"inner": ()}),
    }


def same(read: Any, saved: Any) -> None:
    if isinstance(saved, dict):
        assert list(read) == list(saved)
        for key, value in saved.items():
            same(read[key], value)
    elif isinstance(saved, list | tuple):
        assert type(read) is type(saved)
        for one, other in zip(read, saved, strict=True):
            same(one, other)
    elif isinstance(saved, jax.Array) and jnp.issubdtype(saved.dtype, jax.dtypes.prng_key):
        impl, data = read
        assert impl == "threefry2x32"
        same(data, np.asarray(jax.random.key_data(saved)))
    elif isinstance(saved, jax.Array | np.ndarray | np.generic):
        saved = np.asarray(saved)
        assert read.dtype == saved.dtype
        assert read.shape == saved.shape
        assert np.asarray(read).tobytes() == saved.tobytes()
    else:
        assert type(read) is type(saved)
        assert read == saved


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [None, 64])
def test_the_reader_of_the_page_reads_what_we_write(
    tmp_path: Path, compression: Any, chunk_bytes: int | None
) -> None:
    if chunk_bytes is not None:
        chunk_bytes = 4096 if compression == "zstd" else chunk_bytes * 64
    saved = state()
    pertinax.save(tmp_path / "a", saved, compression=compression, chunk_bytes=chunk_bytes)
    same(ledger_reader.read(tmp_path / "a"), saved)


@pytest.mark.parametrize("layout", ["ocdbt+zarr3", "directory+zarr2", "directory+zarr3"])
def test_the_reader_of_the_page_does_not_care_about_the_layout(tmp_path: Path, layout: Any) -> None:
    saved = state()
    pertinax.save(tmp_path / "a", saved, layout=layout, chunk_bytes=4096, compression="zstd")
    same(ledger_reader.read(tmp_path / "a"), saved)


def test_the_reader_of_the_page_reads_a_step_of_a_manager(tmp_path: Path) -> None:
    with pertinax.Manager(tmp_path) as manager:
        manager.save(7, state(), metrics={"loss": 0.5})
    same(ledger_reader.read(tmp_path / "7")["default"], state())


def test_the_reader_of_the_page_notices_a_flipped_bit(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "a", {"w": np.arange(1000.0)})
    (file,) = (tmp_path / "a" / "d").iterdir()
    content = bytearray(file.read_bytes())
    content[77] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match="block at 0 is damaged"):
        ledger_reader.read(tmp_path / "a")


def test_the_reader_stays_a_short_program_of_its_own() -> None:
    text = Path(ledger_reader.__file__).read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert "import pertinax" not in text
    assert "from pertinax" not in text


def leaves(tree: Any) -> Iterator[Any]:
    """What is in the containers, whatever class those have; a key of JAX as the page has it."""
    if hasattr(tree, "_asdict"):  # a stranger has not its class
        tree = tree._asdict()
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    elif isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        yield from (str(jax.random.key_impl(tree)), jax.random.key_data(tree))
    else:
        yield tree


@pytest.mark.parametrize("path", [*CHECKPOINTS, *MANAGED], ids=lambda path: path.name)
def test_the_reader_of_the_page_reads_every_golden_checkpoint(path: Path) -> None:
    place = path / "3" / "default" if path in MANAGED else path
    read = ledger_reader.read(place)
    wanted = golden_tree()
    assert isinstance(read, dict)
    assert list(read) == list(wanted)
    for name, value in wanted.items():
        found, expected = list(leaves(read[name])), list(leaves(value))
        same(found, expected)


PARTS = [HERE / "pertinax-2" / str(process) / "part" for process in (0, 1)]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("process", [0, 1])
def test_of_a_part_the_reader_gives_the_boxes_that_it_holds(process: int) -> None:
    read = ledger_reader.read(PARTS[process])
    start = 2 * process
    ((where, box),) = read["rows"].items()
    assert where == (start, 0)
    same(box, ROWS[start : start + 2])
    same({name: read[name] for name in ("host", "name")}, {"host": np.arange(3), "name": "part"})


@pytest.mark.parametrize("order", [1, -1])
def test_all_parts_together_are_the_whole(order: int) -> None:
    read = ledger_reader.read(*PARTS[::order])
    same(read, {"rows": ROWS, "host": np.arange(3), "name": "part"})


def test_parts_of_different_saves_are_not_mixed(tmp_path: Path) -> None:
    other = Path(pertinax.save(tmp_path / "other", {"rows": ROWS, "host": np.arange(3)}))
    with pytest.raises(ValueError, match="different saves"):
        ledger_reader.read(PARTS[0], other)


def test_a_whole_checkpoint_of_which_a_chunk_is_missing_is_refused(tmp_path: Path) -> None:
    """It says so itself: then it would be of version 2."""
    path = tmp_path / "part"
    shutil.copytree(PARTS[0], path)
    body = (path / "pertinax.json").read_bytes()[:-21]
    body = body.replace(b'"pertinax":2', b'"pertinax":1').replace(b'"partial":true,', b"")
    (path / "pertinax.json").write_bytes(body + b',"crc32c":"%08x"}' % crc32c(body))
    with pytest.raises(ValueError, match="chunks are missing"):
        ledger_reader.read(path)
    with pytest.raises(pertinax.errors.CorruptCheckpoint):
        pertinax.load(path)


def test_a_newer_version_is_refused_by_the_reader_and_by_us(tmp_path: Path) -> None:
    """By its number, before anything else of it is believed."""
    ledger = Path(pertinax.save(tmp_path / "a", {"w": np.arange(3)})) / "pertinax.json"
    body = ledger.read_bytes()[:-21].replace(b'"pertinax":1', b'"pertinax":99')
    ledger.write_bytes(body + b',"crc32c":"%08x"}' % crc32c(body))
    with pytest.raises(ValueError, match="another version"):
        ledger_reader.read(tmp_path / "a")
    for verb in (pertinax.load, pertinax.describe, pertinax.verify):
        with pytest.raises(pertinax.errors.NewerFormat, match="upgrade"):
            verb(tmp_path / "a")
