# SPDX-License-Identifier: Apache-2.0
import ml_dtypes
import numpy as np
import pytest

from pertinax._formats.zarr import dtypes

ML_NAMES = [
    name
    for name in dir(ml_dtypes)
    if isinstance(getattr(ml_dtypes, name), type) and name not in ("finfo", "iinfo")
]


@pytest.mark.parametrize("name", ML_NAMES)
def test_every_type_of_ml_dtypes_can_be_stored_in_as_many_bytes(name: str):
    kind = np.dtype(getattr(ml_dtypes, name))
    assert dtypes.numpy_dtype(name) == kind
    assert dtypes.numpy_dtype(dtypes.storage_dtype(name)).itemsize == kind.itemsize


@pytest.mark.parametrize("name", ["datetime64[ns]", "timedelta64[10ms]", "datetime64[D]"])
def test_times_are_stored_as_int64(name: str):
    assert dtypes.storage_dtype(np.dtype(name).name) == "int64"
    assert dtypes.numpy_dtype(name) == np.dtype(name)


@pytest.mark.parametrize(
    "name",
    [
        "object",
        "O",
        "<U5",
        "S3",
        "V8",
        "f4, f4",
        "__import__('os')",
        "",
        "datetime64[ns]; x",
        "longdouble",
    ],
)
def test_names_outside_the_table_are_refused(name: str):
    with pytest.raises(ValueError, match="no such dtype"):
        dtypes.numpy_dtype(name)
    with pytest.raises(ValueError, match="cannot be stored"):
        dtypes.storage_dtype(name)


def test_v2_names_round_trip_and_big_endian_is_understood():
    for name in ("bool", "int4", "uint8", "float32", "complex128", "bfloat16", "float8_e5m2fnuz"):
        assert dtypes.from_v2(dtypes.to_v2(name)) == name
    assert dtypes.from_v2(">f4") == ">f4"
    assert dtypes.numpy_dtype(">f4") == np.dtype(">f4")
    assert dtypes.native_name(">f4") == "float32"
    assert dtypes.from_v2("<U5") is None
    assert dtypes.from_v3(">f4") is None
