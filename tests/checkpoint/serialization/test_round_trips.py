# SPDX-License-Identifier: Apache-2.0
"""Arrays written and read through TensorStore: every layout, any sharding, within the limit."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.experimental.array_serialization.serialization as jax_serialization
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from pertinax.checkpoint import serialization
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from pertinax.checkpoint.serialization import LimitInFlightBytes
from pertinax.checkpoint.serialization.tensorstore_utils import ArrayWriteSpec, get_ts_context

pytestmark = pytest.mark.interop
P = PartitionSpec


def layout(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b")), spec)


def array(spec: PartitionSpec, dtype: Any = jnp.float32) -> jax.Array:
    return jax.device_put(jnp.arange(32).astype(dtype).reshape(8, 4), layout(spec))


def plain(root: Path) -> Any:
    return serialization.get_tensorstore_spec(str(root / "x"))


def database(root: Path) -> Any:
    return serialization.get_tensorstore_spec(str(root / "x"), ocdbt=True)


def version_3(root: Path) -> Any:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / "x")}}


def written_by_spec(**options: Any) -> Any:
    def build(root: Path) -> Any:
        return ArrayWriteSpec(
            str(root), "x", global_shape=(8, 4), write_shape=(2, 4), dtype=np.dtype("f4"), **options
        ).json

    return build


LAYOUTS = [
    plain,
    database,
    version_3,
    written_by_spec(use_ocdbt=True),
    written_by_spec(use_ocdbt=True, process_id=0, ocdbt_target_data_file_size=64),
    written_by_spec(use_ocdbt=False, use_zarr3=True, chunk_byte_size=16),
    written_by_spec(use_ocdbt=True, use_zarr3=True, target_dtype=np.dtype("f8")),
]


def read(sharding: Any, spec: Any, *given: Any, **options: Any) -> jax.Array:
    return asyncio.run(serialization.async_deserialize(sharding, spec, *given, **options))


def write(value: jax.Array, spec: Any, **options: Any) -> None:
    asyncio.run(serialization.async_serialize(value, spec, **options))


class Recording(LimitInFlightBytes):
    """What was asked for, and the most that was out at once."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.asked: list[int] = []
        self.out = self.most = 0

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        await super().wait_for_bytes(requested_bytes)
        self.asked.append(requested_bytes)
        self.out += requested_bytes
        self.most = max(self.most, self.out)

    async def release_bytes(self, requested_bytes: int) -> None:
        self.out -= requested_bytes
        await super().release_bytes(requested_bytes)


@pytest.mark.row("R234")
@pytest.mark.parametrize("where", LAYOUTS)
def test_an_array_comes_back_in_any_sharding(
    where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # JAX's own code for it is not used.
    for name in ("async_serialize", "async_deserialize"):
        monkeypatch.setattr(jax_serialization, name, None, raising=False)
    spec, value = where(tmp_path), array(P("a"))
    write(value, spec)
    for target in (P(), P("a"), P("b", "a"), P(("b", "a"))):
        found = read(layout(target), spec)
        assert found.sharding == layout(target)
        assert (found.dtype, found.tolist()) == (value.dtype, value.tolist())
    alone = SingleDeviceSharding(jax.devices()[3])
    assert read(alone, spec).sharding == alone


@pytest.mark.parametrize("written", [P(), P("a"), P("b", "a")])
def test_a_spec_without_metadata_gets_a_chunk_for_each_shard(written: Any, tmp_path: Path):
    spec = plain(tmp_path)
    value = array(written)
    write(value, spec)
    assert spec == plain(tmp_path)  # the caller's spec stays as it was
    stored = ts.open(spec, open=True).result()
    assert stored.chunk_layout.read_chunk.shape == value.sharding.shard_shape(value.shape)
    assert stored.spec().to_json()["metadata"]["compressor"]["id"] == "zstd"


@pytest.mark.parametrize(
    "dtype",
    [jnp.bool_, jnp.int8, jnp.uint32, jnp.bfloat16, jnp.float8_e5m2, jnp.int4, jnp.complex64],
)
def test_every_dtype_of_the_format_comes_back(dtype: Any, tmp_path: Path):
    value = array(P("a"), dtype)
    write(value, plain(tmp_path))
    found = read(layout(P("b")), plain(tmp_path))
    assert found.dtype == value.dtype
    assert np.array_equal(np.asarray(found), np.asarray(value))


def test_scalars_and_empty_arrays_come_back(tmp_path: Path):
    sharding = SingleDeviceSharding(jax.devices()[0])
    for i, value in enumerate((jnp.float32(2.5), jnp.zeros((0, 3)), jnp.arange(3))):
        spec = serialization.get_tensorstore_spec(str(tmp_path / str(i)))
        write(value, spec)
        found = read(sharding, spec)
        assert (found.shape, found.tolist()) == (value.shape, value.tolist())


def test_a_dtype_can_be_asked_for(tmp_path: Path):
    write(array(P("a")), plain(tmp_path))
    found = read(layout(P("a")), plain(tmp_path), dtype=jnp.bfloat16)
    assert (found.dtype, found.tolist()) == (jnp.bfloat16, array(P()).tolist())


@pytest.mark.row("R307")
@pytest.mark.parametrize("target", [P(), P("a"), P("b")])
@pytest.mark.parametrize("shape", [(4, 4), (16, 4), (8, 2), (8, 6), (12, 2)])
def test_another_shape_is_an_error_unless_it_may_be_cut_and_padded(
    shape: Any, target: Any, tmp_path: Path
):
    value = array(P("a"))
    write(value, plain(tmp_path))
    with pytest.raises(ValueError, match="not compatible with the stored shape"):
        read(layout(target), plain(tmp_path), shape)
    found = read(layout(target), plain(tmp_path), shape, strict=False)
    expected = np.zeros(shape, "f4")
    rows, columns = min(shape[0], 8), min(shape[1], 4)
    expected[:rows, :columns] = np.asarray(value)[:rows, :columns]
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("strict", [True, False])
def test_another_number_of_dimensions_is_always_an_error(strict: bool, tmp_path: Path):
    write(array(P("a")), plain(tmp_path))
    for shape in ((32,), (8, 4, 1)):
        with pytest.raises(ValueError, match="not compatible with the stored shape"):
            read(layout(P()), plain(tmp_path), shape, strict=strict)


@pytest.mark.parametrize(
    "sharding", [None, "a", NamedSharding(AbstractMesh((2,), ("a",)), PartitionSpec("a"))]
)
def test_only_a_sharding_on_devices_can_be_read_to(sharding: Any, tmp_path: Path):
    write(array(P("a")), plain(tmp_path))
    with pytest.raises(ValueError, match=r"concrete `jax\.sharding\.Sharding`"):
        read(sharding, plain(tmp_path))


def test_what_tensorstore_says_is_raised(tmp_path: Path):
    with pytest.raises(ValueError, match="NOT_FOUND"):
        read(layout(P()), plain(tmp_path))


def test_a_replicated_array_is_read_once(tmp_path: Path):
    write(array(P("a")), plain(tmp_path))
    for target, reads in ((P(), [128]), (P("b"), [64, 64]), (P("a"), [32] * 4)):
        limiter = Recording(1 << 20)
        read(layout(target), plain(tmp_path), byte_limiter=limiter)
        assert limiter.asked == reads


def test_reads_and_writes_keep_to_the_limit(tmp_path: Path):
    writing, reading = Recording(65), Recording(65)
    write(array(P("a")), plain(tmp_path), byte_limiter=writing)
    read(layout(P("a")), plain(tmp_path), byte_limiter=reading)
    for limiter in (writing, reading):
        assert (limiter.asked, limiter.most, limiter.out) == ([32] * 4, 64, 0)
    with pytest.raises(ValueError, match="Requested more bytes"):
        write(array(P("a")), plain(tmp_path), byte_limiter=LimitInFlightBytes(31))
    with pytest.raises(ValueError, match="Requested more bytes"):
        read(layout(P("a")), plain(tmp_path), byte_limiter=LimitInFlightBytes(31))
    write(array(P("a")), plain(tmp_path), byte_limiter=LimitInFlightBytes(32))  # one at a time


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (np.s_[:, :], 128),
        (np.s_[1:3, 1:2], 64),
        (np.s_[7:8], 32),
        (np.s_[2:4], 32),
        (np.s_[0:0], 0),
    ],
)
def test_a_read_is_estimated_by_the_chunks_it_touches(region: Any, expected: int, tmp_path: Path):
    write(array(P("a")), plain(tmp_path))  # chunks of two rows
    stored = ts.open(plain(tmp_path), open=True).result()
    assert serialization.estimate_read_memory_footprint(stored, stored[region].domain) == expected


def test_other_estimates_are_the_bytes_themselves():
    unchunked = ts.array(np.zeros((4, 4)))
    assert serialization.estimate_read_memory_footprint(unchunked, unchunked[1:3].domain) == 64
    assert serialization.estimate_write_memory_footprint(np.zeros((3, 2), np.int16)) == 12


@pytest.mark.row("R309")
def test_a_process_writes_its_own_part_of_an_array(tmp_path: Path):
    value = array(P("a"))
    (all_of_it,) = serialization.transfer_arrays_to_host([value], 0)
    spec = ArrayWriteSpec(
        str(tmp_path),
        "x",
        global_shape=(8, 4),
        write_shape=(2, 4),
        dtype=np.dtype("f4"),
        use_ocdbt=False,
    ).json
    halves = [
        Fragments(all_of_it.shape, all_of_it.dtype, all_of_it.fragments[part])
        for part in (np.s_[:2], np.s_[2:])
    ]
    # As the primary process, then as another one, which must not create the array again.
    asyncio.run(serialization.async_serialize_fragments(halves[0], spec))
    chunks = {path.name for path in (tmp_path / "x").iterdir()}
    assert chunks == {".zarray", "0.0", "1.0"}
    asyncio.run(serialization.async_serialize_fragments(halves[1], spec, primary_host=1))
    assert read(layout(P()), spec).tolist() == value.tolist()


def test_a_spec_must_say_what_to_make(tmp_path: Path):
    (fragments,) = serialization.transfer_arrays_to_host([array(P("a"))], 0)
    metadata = {"shape": [8, 4], "chunks": [2, 4]}
    for missing, spec in (
        ("metadata", {**plain(tmp_path), "dtype": "float32"}),
        ("dtype", {**plain(tmp_path), "metadata": metadata}),
    ):
        with pytest.raises(KeyError, match=f"{missing}` is missing"):
            asyncio.run(serialization.async_serialize_fragments(fragments, spec))


def test_every_write_has_ended_when_a_failure_is_told(tmp_path: Path):
    class Failing(Recording):
        async def wait_for_bytes(self, requested_bytes: int) -> None:
            await super().wait_for_bytes(requested_bytes)
            if len(self.asked) == 2:
                self.out -= requested_bytes
                raise OSError("no more memory")

    limiter = Failing(1 << 20)
    with pytest.raises(OSError, match="no more memory"):
        write(array(P("a")), plain(tmp_path), byte_limiter=limiter)
    assert len(limiter.asked) == 4
    assert limiter.out == 0


def test_all_writes_of_a_transaction_appear_together(tmp_path: Path):
    spec = ArrayWriteSpec(
        str(tmp_path),
        "x",
        global_shape=(8, 4),
        write_shape=(2, 4),
        dtype=np.dtype("f4"),
        use_ocdbt=True,
    ).json
    transaction = ts.Transaction(atomic=True)
    context = get_ts_context()
    write(array(P("a")), spec, context=context, transaction=transaction)
    assert not (tmp_path / "manifest.ocdbt").exists()
    transaction.commit_async().result()
    assert (tmp_path / "manifest.ocdbt").exists()
    assert read(layout(P()), spec, context=context).tolist() == array(P()).tolist()


@pytest.mark.row("R239")
def test_a_path_that_is_overwritten_is_read_anew(tmp_path: Path):
    for i in range(3):
        value = jax.device_put(jnp.full((8, 4), i), layout(P("a")))
        write(value, database(tmp_path))
        assert read(layout(P("a")), database(tmp_path)).tolist() == value.tolist()


@pytest.mark.row("R051")
def test_arrays_are_read_from_two_threads_in_turn(tmp_path: Path):
    write(array(P("a")), plain(tmp_path))
    limiter = LimitInFlightBytes(64)  # made by neither of them
    threads: set[int] = set()

    def program() -> Any:
        threads.add(threading.get_ident())
        return read(layout(P("a")), plain(tmp_path), byte_limiter=limiter).tolist()

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        found = [pool.submit(program).result() for pool in (one, other, one, other)]
    assert found == [array(P()).tolist()] * 4
    assert len(threads) == 2


def test_metadata_can_be_taken_from_the_spec(tmp_path: Path):
    spec = ArrayWriteSpec(
        str(tmp_path),
        "x",
        global_shape=(8, 4),
        write_shape=(2, 4),
        dtype=np.dtype("f4"),
        use_ocdbt=False,
    ).json
    write(array(P("a")), spec)
    (tmp_path / "x" / ".zarray").unlink()
    assert read(layout(P()), spec, assume_metadata=True).tolist() == array(P()).tolist()
    with pytest.raises(ValueError, match="NOT_FOUND"):
        read(layout(P()), spec)


def test_an_array_is_made_of_what_a_callback_gives_for_each_device():
    seen: dict[Any, Any] = {}

    async def part(index: Any, device: Any) -> jax.Array:
        seen[device] = index
        return jax.device_put(np.full((2, 4), index[0].start or 0), device)

    found = asyncio.run(
        serialization.create_async_array_from_callback((8, 4), layout(P("a")), part)
    )
    assert len(seen) == 8
    assert np.asarray(found)[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]


def test_a_stepped_fragment_is_written_where_it_belongs(tmp_path: Path):
    spec = ArrayWriteSpec(
        str(tmp_path),
        "x",
        global_shape=(6,),
        write_shape=(6,),
        dtype=np.dtype("i4"),
        use_ocdbt=False,
    ).json
    odd = Fragment(index=np.s_[1:6:2,], value=np.array([1, 3, 5], "i4"))
    even = Fragment(index=np.s_[0:6:2,], value=np.array([0, 2, 4], "i4"))
    pieces = Fragments((6,), np.dtype("i4"), [odd, even])
    asyncio.run(serialization.async_serialize_fragments(pieces, spec))
    assert read(SingleDeviceSharding(jax.devices()[0]), spec).tolist() == list(range(6))
