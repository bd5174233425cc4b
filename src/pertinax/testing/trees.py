# SPDX-License-Identifier: Apache-2.0
"""Trees to try a checkpoint with: hypothesis strategies for leaves and containers, and an exact
comparison.

Knows every kind of leaf and node that plain Python can rebuild, and what "the same" means for
them. Knows nothing of checkpoints. Needs `hypothesis`, which `pertinax` itself does not.

    @given(trees())
    def test_my_storage_keeps_trees(tree):
        assert differences(tree, there_and_back(tree)) == []
"""

import collections
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

PLAIN_DTYPES: Final = tuple(
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 "
    "float16 float32 float64 complex64 complex128".split()
)
EXTENSION_DTYPES: Final = tuple(
    name
    for name in (
        "bfloat16 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz "
        "float8_e5m2 float8_e5m2fnuz "
        "float8_e8m0fnu float6_e2m3fn float6_e3m2fn float4_e2m1fn int1 int2 int4 uint1 uint2 uint4"
    ).split()
    if hasattr(ml_dtypes, name)
)
FOREIGN_DTYPES: Final = (
    ">i2",
    ">u4",
    ">i8",
    ">f4",
    ">f8",
    ">c16",
    "datetime64[ns]",
    "timedelta64[s]",
)
JAX_DTYPES: Final = (
    *(
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "float16",
        "float32",
        "complex64",
    ),
    *(
        name
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int2")
        if hasattr(ml_dtypes, name)
    ),
)


class Pair(NamedTuple):
    """A namedtuple that every process which imports this module can rebuild."""

    first: Any
    second: Any


def dtype_of(name: str) -> "np.dtype[Any]":
    """The dtype called `name`, those of `ml_dtypes` included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def filled(shape: tuple[int, ...], dtype: str, seed: int) -> "np.ndarray[Any, Any]":
    """An array whose bytes are random, within what the dtype may hold; NaNs of all kinds are
    among them.
    """
    kind = dtype_of(dtype)
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape, dtype=np.int64))
    raw = rng.integers(0, 256, size * kind.itemsize, np.uint8)
    bits = _bits_of(dtype)
    if bits < 8:
        raw &= (1 << bits) - 1
    if bits < 8 and dtype.startswith("int"):  # the unused bits repeat the sign
        raw = np.where(raw >> (bits - 1), raw | (0xFF << bits & 0xFF), raw).astype(np.uint8)
    return raw.view(kind).reshape(shape)


def _bits_of(dtype: str) -> int:
    if dtype == "bool":
        return 1
    for prefix, bits in (("float6", 6), ("float4", 4)):
        if dtype.startswith(prefix):
            return bits
    digits = dtype.removeprefix("u").removeprefix("int")
    return int(digits) if digits in ("1", "2", "4") else 8


def shapes(max_rank: int = 3, max_side: int = 9) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of small arrays; rank 0 and dimensions of length 0 are among them."""
    return st.lists(st.integers(0, max_side), max_size=max_rank).map(tuple)


def numpy_arrays() -> st.SearchStrategy["np.ndarray[Any, Any]"]:
    """Numpy arrays of every dtype that can be stored."""
    dtypes = st.sampled_from([*PLAIN_DTYPES, *EXTENSION_DTYPES, *FOREIGN_DTYPES])
    return st.builds(filled, shapes(), dtypes, st.integers(0, 1 << 32))


def numpy_scalars() -> st.SearchStrategy[Any]:
    """Scalars of numpy."""
    dtypes = st.sampled_from([*PLAIN_DTYPES, *EXTENSION_DTYPES])
    return st.builds(_scalar, dtypes, st.integers(0, 1 << 32))


def _scalar(dtype: str, seed: int) -> Any:
    return filled((1,), dtype, seed)[0]


def jax_arrays() -> st.SearchStrategy[jax.Array]:
    """Arrays on the default device."""
    return st.builds(_on_device, shapes(), st.sampled_from(JAX_DTYPES), st.integers(0, 1 << 32))


def _on_device(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    return jnp.asarray(filled(shape, dtype, seed))


def prng_keys() -> st.SearchStrategy[jax.Array]:
    """Typed PRNG keys, one or an array of them."""
    impls = st.sampled_from(["threefry2x32", "rbg", "unsafe_rbg"])
    return st.builds(_keys, st.integers(0, 1 << 31), impls, st.sampled_from([None, 1, 3, (2, 2)]))


def _keys(seed: int, impl: str, shape: Any) -> jax.Array:
    key = jax.random.key(seed, impl=impl)
    return key if shape is None else jax.random.split(key, shape)


def plain_values() -> st.SearchStrategy[Any]:
    """Python's own leaves: numbers of any size, text of any kind, bytes."""
    return st.one_of(
        st.booleans(),
        st.integers(),
        st.integers(-(1 << 200), 1 << 200),
        st.floats(),
        st.complex_numbers(),
        st.text(st.characters(codec=None), max_size=20),
        st.binary(max_size=20),
    )


def leaves() -> st.SearchStrategy[Any]:
    """Every kind of leaf."""
    return st.one_of(plain_values(), numpy_arrays(), numpy_scalars(), jax_arrays(), prng_keys())


def dict_keys() -> st.SearchStrategy[Any]:
    """Every kind of dictionary key that is restored as it was."""
    plain = st.one_of(
        st.text(st.characters(codec=None), max_size=6),
        st.sampled_from(["a", "b", "a.b", "a/b", "~", "~1", "0", "1", "", "None", "True"]),
        st.integers(-3, 3),
        st.integers(),
        st.booleans(),
        st.none(),
        st.binary(max_size=3),
        st.floats(allow_nan=False),
        st.complex_numbers(allow_nan=False),
    )
    return plain | st.tuples(plain, plain) | st.just(())


def trees(
    leaf: st.SearchStrategy[Any] | None = None,
    key: st.SearchStrategy[Any] | None = None,
    *,
    max_leaves: int = 12,
) -> st.SearchStrategy[Any]:
    """Trees of all containers that plain Python can rebuild; None and empty containers are among
    them.
    """
    keys = dict_keys() if key is None else key
    ends = st.none() | (leaves() if leaf is None else leaf)

    def containers(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        mappings = st.dictionaries(keys, below, max_size=4)
        return st.one_of(
            mappings,
            mappings.map(collections.OrderedDict),
            mappings.map(lambda items: collections.defaultdict(list, items)),
            st.lists(below, max_size=4),
            st.lists(below, max_size=4).map(tuple),
            st.builds(Pair, below, below),
        )

    return st.recursive(ends, containers, max_leaves=max_leaves)


@st.composite
def shardings(draw: st.DrawFn, shape: tuple[int, ...]) -> Sharding:
    """Shardings of an array of `shape` over one or more local devices, replicated along what is
    left.
    """
    devices = jax.devices()
    count = draw(st.integers(1, len(devices)))
    chosen = draw(st.permutations(devices))[:count]
    sides = draw(st.sampled_from(_factorings(count)))
    names = [f"m{i}" for i in range(len(sides))]
    spec: list[Any] = [None] * len(shape)
    for name, side in zip(names, sides, strict=True):
        fits = [d for d, n in enumerate(shape) if n % (side * _spread(spec[d], names, sides)) == 0]
        place = draw(st.sampled_from([None, *fits]))
        if place is not None:
            spec[place] = name if spec[place] is None else (*_as_tuple(spec[place]), name)
    mesh = Mesh(np.array(chosen, dtype=object).reshape(sides), tuple(names))
    return NamedSharding(mesh, PartitionSpec(*spec))


def _as_tuple(part: Any) -> tuple[str, ...]:
    return part if isinstance(part, tuple) else (part,)


def _spread(part: Any, names: list[str], sides: tuple[int, ...]) -> int:
    if part is None:
        return 1
    return int(np.prod([sides[names.index(name)] for name in _as_tuple(part)]))


def _factorings(count: int) -> list[tuple[int, ...]]:
    found = [(count,)]
    found += [(a, count // a) for a in range(2, count) if count % a == 0]
    return [*found, (2, 2, 2)] if count == 8 else found


# --- the same, to the bit and to the type


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where two trees differ: types, keys, order of keys, dtypes, shapes, and every bit of every
    leaf.
    """
    return list(_differ(wanted, found, path or "."))


def _differ(wanted: Any, found: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, jax.Array) and isinstance(found, jax.Array):
        yield from _differ_jax(wanted, found, path)
    elif type(wanted) is not type(found):
        yield f"{path}: {type(found).__name__} instead of {type(wanted).__name__}"
    elif isinstance(wanted, np.ndarray | np.generic):
        yield from _differ_numpy(np.asarray(wanted), np.asarray(found), path)
    elif isinstance(wanted, dict):
        yield from _differ_dict(cast("dict[Any, Any]", wanted), cast("dict[Any, Any]", found), path)
    elif isinstance(wanted, list | tuple):
        ours, theirs = cast("list[Any]", wanted), cast("list[Any]", found)
        if len(ours) != len(theirs):
            yield f"{path}: {len(theirs)} elements instead of {len(ours)}"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            yield from _differ(a, b, f"{path}/{i}")
    elif _text_of(wanted) != _text_of(found):
        yield f"{path}: {found!r:.60} instead of {wanted!r:.60}"


def _text_of(value: Any) -> Any:
    """Floats by their bits: -0.0 is not 0.0, and a NaN is a NaN."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, complex):
        return value.real.hex(), value.imag.hex()
    return value


def _differ_dict(wanted: dict[Any, Any], found: dict[Any, Any], path: str) -> Iterator[str]:
    ours = [(type(key), _text_of(key)) for key in wanted]
    theirs = [(type(key), _text_of(key)) for key in found]
    if ours != theirs:
        yield f"{path}: keys {list(found)!r:.60} instead of {list(wanted)!r:.60}"
        return
    if isinstance(wanted, collections.defaultdict):
        ours_make, theirs_make = wanted.default_factory, cast("Any", found).default_factory
        if ours_make is not theirs_make:
            yield f"{path}: another default factory"
    for (key, a), b in zip(wanted.items(), found.values(), strict=True):
        yield from _differ(a, b, f"{path}/{key}")


def _differ_jax(wanted: jax.Array, found: jax.Array, path: str) -> Iterator[str]:
    if wanted.dtype != found.dtype:
        yield f"{path}: {found.dtype} instead of {wanted.dtype}"
        return
    if jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        wanted, found = jax.random.key_data(wanted), jax.random.key_data(found)
    yield from _differ_numpy(np.asarray(wanted), np.asarray(found), path)


def _differ_numpy(
    wanted: "np.ndarray[Any, Any]", found: "np.ndarray[Any, Any]", path: str
) -> Iterator[str]:
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        theirs, ours = (f"{x.dtype}{list(x.shape)}" for x in (found, wanted))
        yield f"{path}: {theirs} instead of {ours}"
    elif wanted.tobytes() != found.tobytes():
        yield f"{path}: other elements of {wanted.dtype}{list(wanted.shape)}"
