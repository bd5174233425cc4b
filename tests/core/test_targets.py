# SPDX-License-Identifier: Apache-2.0
"""Loading into a target: everything must fit, all misfits are told at once, and every leniency
is a choice.
"""

import collections

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import pertinax
from pertinax._core.casts import cast_array, is_lossless
from pertinax.errors import InvalidOption, RestoreMismatch, UnsupportedLeaf
from pertinax.testing import trees as forest
from pertinax.testing.trees import differences, dtype_of, filled

TREE = {
    "w": jnp.arange(12.0).reshape(3, 4),
    "b": np.arange(3, dtype=np.int16),
    "k": jax.random.key(3),
    "s": "text",
    "y": b"bytes",
    "n": 7,
    "f": 2.5,
    "t": True,
    "c": 1j,
    "g": np.float32(1.5),
    "i": 1 << 100,
    "e": {},
}


@pytest.fixture
def saved(tmp_path):
    return pertinax.save(tmp_path / "c", TREE)


def misfits(path, target, **options):
    with pytest.raises(RestoreMismatch) as caught:
        pertinax.load(path, target, **options)
    for misfit in caught.value.misfits:
        assert misfit.path in str(caught.value)
    return {m.path: m.hint for m in caught.value.misfits}


def test_dots_ask_for_whatever_is_stored(saved):
    target = {name: ... for name in TREE if name != "e"} | {"e": {}}
    assert differences(TREE, pertinax.load(saved, target)) == []


def test_shapes_alone_are_target_enough(saved):
    target = TREE | {
        "w": jax.ShapeDtypeStruct((3, 4), jnp.float32),
        "k": jax.eval_shape(lambda: jax.random.key(0)),
    }
    assert differences(TREE, pertinax.load(saved, target)) == []


def test_every_misfit_is_told_at_once_with_both_sides_and_the_way_out(saved):
    target = {
        "w": jnp.zeros((3, 5)),
        "b": np.zeros(3, np.int32),
        "k": jax.random.key(0, impl="rbg"),
        "s": 5,
        "y": jnp.zeros(5),
        "n": "7",
        "f": 2,
        "t": 1,
        "c": 1.0,
        "g": np.int8(1),
        "i": np.int64(1),
        "new": np.zeros(2),
        "wx": 1,
    }
    found = misfits(saved, target)
    assert set(found) == set(target)
    assert found["w"] == 'shapes="pad" fills it up with zeros'
    assert found["b"] == 'cast="lossless" converts it'
    assert "make the target with that one" in found["k"]
    assert "stored as str" in found["s"]
    assert "stored as bytes" in found["y"]
    assert 'cast="lossy"' in found["f"]
    assert 'cast="lossy"' in found["g"]
    assert "too large" in found["i"]
    assert 'missing="keep"' in found["new"]
    other = misfits(saved, {"bias": 1, "wx": np.zeros(1)}, extra="ignore")
    assert "did you mean 'w'" in other["wx"]


def test_what_the_target_lacks_is_told_too(saved):
    assert misfits(saved, {"w": TREE["w"]}).keys() == TREE.keys() - {"w", "e"}
    assert list(pertinax.load(saved, {"w": TREE["w"]}, extra="ignore")) == ["w"]


def test_missing_leaves_can_be_kept_but_shapes_are_no_values(saved):
    new = np.arange(4)
    loaded = pertinax.load(
        saved, {"n": 0, "new": new, "none": None}, missing="keep", extra="ignore"
    )
    assert loaded["new"] is new
    assert loaded["n"] == 7
    target = {"n": 0, "new": jax.ShapeDtypeStruct((4,), jnp.int32), "dots": ...}
    assert set(misfits(saved, target, missing="keep", extra="ignore")) == {"new", "dots"}


@pytest.mark.parametrize(
    ("shapes", "wanted", "fits"),
    [
        ("cut", (2, 3), True),
        ("cut", (3, 5), False),
        ("pad", (5, 4), True),
        ("pad", (3, 3), False),
        ("fit", (2, 6), True),
        ("fit", (0, 6), True),
        ("fit", (3, 4), True),
        ("fit", (12,), False),
        ("error", (3, 3), False),
    ],
)
@pytest.mark.parametrize("kind", ["numpy", "jax", "sharded"])
def test_shapes_are_cut_and_padded_only_by_choice(saved, shapes, wanted, fits, kind):
    target = np.zeros(wanted, np.float32) if kind == "numpy" else jnp.zeros(wanted)
    if kind == "sharded":
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
        spec = ["x" if n and n % 8 == 0 else None for n in wanted]
        target = jax.device_put(
            target, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        )
    if not fits:
        with pytest.raises(RestoreMismatch):
            pertinax.load(saved, {"w": target}, shapes=shapes, extra="ignore")
        return
    loaded = np.asarray(pertinax.load(saved, {"w": target}, shapes=shapes, extra="ignore")["w"])
    expected = np.zeros(wanted, np.float32)
    rows, columns = min(3, wanted[0]), min(4, wanted[1])
    expected[:rows, :columns] = np.asarray(TREE["w"])[:rows, :columns]
    assert np.array_equal(loaded, expected)


@pytest.mark.parametrize("to", [(16,), (1000,), (24,)])
def test_padding_and_cutting_work_on_shards_and_chunks(tmp_path, to):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    host = np.arange(1, 81, dtype=np.float32)
    pertinax.save(tmp_path / "c", jax.device_put(host, sharding), chunk_bytes=20)
    target = jax.ShapeDtypeStruct(to, np.float32, sharding=sharding)
    loaded = pertinax.load(tmp_path / "c", target, shapes="fit")
    expected = np.zeros(to, np.float32)
    n = min(80, to[0])
    expected[:n] = host[:n]
    assert np.array_equal(np.asarray(loaded), expected)


EVERY = [*forest.PLAIN_DTYPES, *forest.EXTENSION_DTYPES]


@pytest.mark.parametrize("stored", EVERY)
def test_a_cast_that_is_called_lossless_keeps_every_value(stored):
    """Exact values are compared as Python's own numbers, which have no limits."""
    sample = filled((257,), stored, 5)
    if dtype_of(stored).kind in "iu":
        info = np.iinfo(stored)
        edges = [info.min, info.max, info.max - 1, min(info.max, 2**53 + 1)]
        sample = np.concatenate([sample, np.array(edges, stored)])
    for wanted in EVERY:
        if not is_lossless(stored, wanted):
            continue
        with np.errstate(all="ignore"):
            cast = cast_array(sample, wanted)
        for before, after in zip(sample, cast, strict=True):
            real, imaginary = exact(before)
            if not isinstance(real, tuple) and dtype_of(wanted).kind == "c":
                real, imaginary = exact(
                    np.complex128(before) if real == "nan" else dtype_of(wanted).type(before)
                )
                assert exact(before)[0] == real[0], (stored, wanted, before)
            assert (real, imaginary) == exact(after), (stored, wanted, before, after)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stored", [*EVERY, *forest.FOREIGN_DTYPES])
def test_any_dtype_is_read_as_any_other_if_one_insists(tmp_path, stored):
    wanted = {name: np.zeros(4, dtype_of(name)) for name in [*EVERY, *forest.FOREIGN_DTYPES]}
    sample = filled((4,), stored, 3)
    path = pertinax.save(tmp_path / "c", dict.fromkeys(wanted, sample))
    loaded = pertinax.load(path, wanted, cast="lossy")
    assert all(loaded[name].dtype == dtype_of(name) for name in wanted)


def exact(value):
    """The value as Python has it, to be compared across dtypes: sign of zero and NaN included."""
    if isinstance(value, np.complexfloating):
        return exact(value.real), exact(value.imag)
    if isinstance(value, np.bool_ | np.integer) or "int" in value.dtype.name:
        return int(value), 0.0
    number = float(value)
    if not np.isfinite(number):
        return str(number), 0.0
    return (int(number) if number.is_integer() else number), 0.0


def test_useful_casts_are_lossless_and_others_are_not():
    for stored, wanted in [
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float64"),
        ("int8", "int64"),
        ("uint8", "int16"),
        ("int8", "float16"),
        ("int32", "float64"),
        ("bool", "float32"),
        ("float32", "complex64"),
    ]:
        assert is_lossless(stored, wanted), (stored, wanted)
        assert not is_lossless(wanted, stored), (wanted, stored)
    assert not is_lossless("int32", "float32")
    assert not is_lossless("int64", "float64")
    assert not is_lossless("uint64", "float64")
    assert not is_lossless("int64", "complex128")
    assert not is_lossless("float16", "bfloat16")
    assert not is_lossless("datetime64[ns]", "int64")
    assert not is_lossless("datetime64[s]", "datetime64[ns]")


def test_casts_need_consent(tmp_path):
    path = pertinax.save(
        tmp_path / "c", {"a": np.array([1.5, 2.25]), "b": jnp.arange(3, dtype=jnp.bfloat16)}
    )
    narrow = {"a": np.zeros(2, np.float16), "b": np.zeros(3, np.float32)}
    assert set(misfits(path, narrow)) == {"a", "b"}
    assert set(misfits(path, narrow, cast="lossless")) == {"a"}
    loaded = pertinax.load(path, narrow, cast="lossy")
    assert loaded["a"].dtype == np.float16
    assert loaded["b"].dtype == np.float32
    assert loaded["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("stored", "target"),
    [
        (np.float64("nan"), 1),
        (np.float64("inf"), 1),
        (np.complex128(1 + 2j), 1.5),
        (np.complex128(1 + 2j), 1),
        (np.float32(3.7), 2),
        (ml_dtypes.bfloat16(3.5), 2),
        (np.float32(0.5), False),
        (1.5, np.zeros((), np.complex64)),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:.*cast.*")
def test_any_lossy_cast_to_a_scalar_gives_a_value_or_a_mismatch(tmp_path, stored, target):
    path = pertinax.save(tmp_path / "c", stored)
    try:
        loaded = pertinax.load(path, target, cast="lossy")
    except (RestoreMismatch, UnsupportedLeaf):
        return
    assert type(loaded) is type(target)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2"])
def test_small_integers_are_integers_when_read_as_scalars(tmp_path, dtype):
    path = pertinax.save(tmp_path / "c", np.array(1, dtype_of(dtype)))
    assert pertinax.load(path, 5) == 1
    with pytest.raises(RestoreMismatch):
        pertinax.load(path, 5.0)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "complex128"])
def test_jax_never_narrows_behind_our_back(tmp_path, dtype):
    path = pertinax.save(tmp_path / "c", {"x": np.ones(3, dtype)})
    narrow = {
        "int64": "int32",
        "uint64": "uint32",
        "float64": "float32",
        "complex128": "complex64",
    }[dtype]
    with pytest.raises(RestoreMismatch):
        pertinax.load(path, {"x": jnp.zeros(3, narrow)})
    wide = jax.ShapeDtypeStruct((3,), dtype)
    with pytest.raises(RestoreMismatch, match="jax_enable_x64"):
        pertinax.load(path, {"x": wide}, cast="lossy")
    assert pertinax.load(path, {"x": jnp.zeros(3, narrow)}, cast="lossy")["x"].dtype == narrow


def test_a_wide_array_of_jax_is_not_narrowed_either(tmp_path):
    if hasattr(jax, "enable_x64"):
        enable_x64 = jax.enable_x64
    else:  # JAX before 0.8
        from jax.experimental import enable_x64
    with enable_x64(True):
        path = pertinax.save(tmp_path / "c", {"x": jnp.arange(3, dtype="int64") + (1 << 40)})
        assert pertinax.load(path)["x"].dtype == "int64"
    with pytest.raises(RestoreMismatch, match="jax_enable_x64"):
        pertinax.load(path)
    assert pertinax.load(path, arrays="numpy")["x"][0] == 1 << 40


@pytest.mark.parametrize(
    "target",
    [
        object(),
        np.array(["a"]),
        np.array([None]),
        np.zeros(3, "V4"),
        np.longdouble(1),
        {1, 2},
        np.array("2020", "M8[Y]"),
        bytearray(b""),
    ],
    ids=lambda t: type(t).__name__ + str(getattr(t, "dtype", "")),
)
def test_a_target_that_no_leaf_can_become_is_an_error_of_ours(saved, target):
    with pytest.raises((UnsupportedLeaf, RestoreMismatch), match="b"):
        pertinax.load(saved, {"b": target}, extra="ignore")


def test_a_tuple_fits_a_list_and_a_dict_of_ints_by_position(tmp_path):
    path = pertinax.save(tmp_path / "c", [1, (2, 3)])
    assert pertinax.load(path, (0, [0, 0])) == (1, [2, 3])
    assert pertinax.load(path, {0: 0, 1: {0: 0, 1: 0}}) == {0: 1, 1: {0: 2, 1: 3}}


def test_keys_that_look_alike_find_their_own_leaf(tmp_path):
    tree = {
        1: "int",
        "1": "text",
        True if False else (1,): "tuple",
        2.0: "float",
        "2.0": "float text",
    }
    path = pertinax.save(tmp_path / "c", tree)
    assert pertinax.load(path, dict.fromkeys(tree, "")) == tree


def test_one_stored_leaf_never_fills_two_leaves_of_the_target(tmp_path):
    path = pertinax.save(tmp_path / "c", {"1": np.arange(3)})
    target = {1: np.zeros(3, int), "1": np.zeros(3, int)}
    assert set(misfits(path, target)) == {"1"}
    loaded = pertinax.load(path, target, missing="keep")
    assert loaded["1"].tolist() == [0, 1, 2]
    assert loaded[1].tolist() == [0, 0, 0]
    true = pertinax.save(tmp_path / "d", {True: 5})
    assert pertinax.load(true, {"True": 0}) == {"True": 5}


def test_the_containers_of_the_target_stay(tmp_path):
    path = pertinax.save(tmp_path / "c", {"a": {"x": 1, "y": 2}})
    target = collections.OrderedDict(a=collections.defaultdict(int, y=0, x=0))
    loaded = pertinax.load(path, target)
    assert type(loaded) is collections.OrderedDict
    assert list(loaded["a"].items()) == [("y", 2), ("x", 1)]
    assert loaded["a"].default_factory is int


def test_a_selection_leaves_the_rest_of_the_target_alone(saved):
    mine = np.zeros(3, np.int16)
    loaded = pertinax.load(saved, {"w": jnp.zeros((3, 4)), "b": mine, "absent": 3}, select="w")
    assert np.array_equal(loaded["w"], TREE["w"])
    assert loaded["b"] is mine
    assert loaded["absent"] == 3
    assert pertinax.load(saved, select=["n", "f"]) == {"n": 7, "f": 2.5}
    with pytest.raises(InvalidOption, match="matches none"):
        pertinax.load(saved, select="nothing")


def test_target_shardings_that_cannot_divide_are_misfits(saved):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    found = misfits(
        saved, {"w": jax.ShapeDtypeStruct((3, 4), np.float32, sharding=sharding)}, extra="ignore"
    )
    assert "does not divide" in found["w"]


def test_uncommitted_targets_come_back_uncommitted_and_committed_ones_committed(tmp_path):
    path = pertinax.save(tmp_path / "c", {"a": jnp.ones(3), "b": jnp.ones(3)})
    last = jax.devices()[-1]
    loaded = pertinax.load(path, {"a": jnp.zeros(3), "b": jax.device_put(jnp.zeros(3), last)})
    assert not loaded["a"].committed
    assert loaded["b"].committed
    assert loaded["b"].devices() == {last}


@pytest.mark.parametrize(
    "options",
    [
        {"missing": "ignore"},
        {"extra": True},
        {"cast": "yes"},
        {"shapes": None},
        {"arrays": "torch"},
        {"sharding": "auto"},
        {"item": "params"},
        {"select": []},
        {"select": 5},
        {"select": ["**", 5]},
    ],
    ids=str,
)
def test_options_without_meaning_are_refused(saved, options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        pertinax.load(saved, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"exists": "overwrite"},
        {"compression": "gzip"},
        {"chunk_bytes": 0},
        {"chunk_bytes": -1},
        {"chunk_bytes": [1, 2]},
        {"chunk_bytes": [0]},
        {"chunk_bytes": [-8]},
        {"chunk_bytes": 1e6},
        {"chunk_bytes": [1.5]},
        {"chunk_bytes": True},
    ],
    ids=str,
)
def test_options_of_a_save_without_meaning_are_refused_before_anything_is_written(
    tmp_path, options
):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        pertinax.save(tmp_path / "c", {"a": 1}, **options)
    with pytest.raises(InvalidOption, match="snapshot"):
        pertinax.save_async(tmp_path / "c", {"a": 1}, snapshot="borrow")
    assert list(tmp_path.iterdir()) == []
