# SPDX-License-Identifier: Apache-2.0
"""The specs we hand to TensorStore are those that Orbax 0.8.0 hands to it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pertinax.checkpoint import serialization
from pertinax.checkpoint.serialization import tensorstore_utils
from tests.checkpoint.serialization import spec_cases

OLD = Path(__file__).parents[3] / ".venv-orbax-0.8" / "bin" / "python"
ANSWERS = json.loads(spec_cases.RECORD.read_text("utf-8"))


@pytest.mark.parametrize(
    ("case", "theirs"),
    list(zip(spec_cases.CASES, ANSWERS, strict=True)),
    ids=[f"{i}-{case[0]}" for i, case in enumerate(spec_cases.CASES)],
)
def test_every_answer_is_that_of_orbax(case: Any, theirs: Any):
    mine = spec_cases.answer(serialization, tensorstore_utils, case)
    if case == ("get_tensorstore_spec", ["gs://b", True], {}):
        assert mine == {"error": "ValueError"}  # they make a database of `gs:` out of it
    else:
        assert mine == theirs


@pytest.mark.slow
@pytest.mark.interop
def test_the_answers_are_those_of_the_real_orbax(tmp_path: Path):
    if not OLD.exists():
        pytest.skip("no environment with Orbax 0.8.0; `make golden` makes it")
    copy = tmp_path / "spec_cases.py"
    copy.write_text(Path(spec_cases.__file__).read_text("utf-8"), "utf-8")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([OLD, copy], check=True, timeout=120, env=environment)
    assert json.loads(copy.with_name(spec_cases.RECORD.name).read_text("utf-8")) == ANSWERS


@pytest.mark.row("R045")
def test_reads_of_a_database_are_coalesced_and_its_nodes_are_cached():
    place = tensorstore_utils.build_kvstore_tspec("/tmp/x", "a")
    assert place["experimental_read_coalescing_threshold_bytes"] == 1_000_000
    assert place["experimental_read_coalescing_merged_bytes"] == 500_000_000_000
    assert place["experimental_read_coalescing_interval"] == "1ms"
    spec = tensorstore_utils.get_ts_context().spec.to_json()
    assert spec[place["cache_pool"]] == {"total_bytes_limit": 100_000_000}
    assert spec["file_io_concurrency"] == {"limit": 128}


def test_contexts_are_new_and_say_what_the_specs_need():
    contexts = [tensorstore_utils.get_ts_context(use_ocdbt=False) for _ in range(2)]
    assert contexts[0] is not contexts[1]
    assert contexts[0].spec.to_json() == {"file_io_concurrency": {"limit": 128}}
    assert serialization.TS_CONTEXT is serialization.TS_CONTEXT
    assert serialization.TS_CONTEXT.spec.to_json() == contexts[0].spec.to_json()
    with pytest.raises(AttributeError, match="NO_CONTEXT"):
        _ = serialization.NO_CONTEXT


def test_another_driver_can_be_set_for_local_paths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorstore_utils, "DEFAULT_DRIVER", "memory")
    place = tensorstore_utils.build_kvstore_tspec("/x", "a")
    assert place["base"] == {"driver": "memory", "path": "/x"}
    place = tensorstore_utils.build_kvstore_tspec("/x", "a", use_ocdbt=False)
    assert place == {"driver": "memory", "path": "/x/a"}


def test_dtypes_may_be_given_as_classes():
    spec = tensorstore_utils.ArrayWriteSpec(
        "/x",
        "a",
        global_shape=(4,),
        write_shape=(2,),
        dtype=np.float32,
        use_ocdbt=True,
        target_dtype=jnp.bfloat16,
    )
    assert (spec.json["dtype"], spec.json["base"]["dtype"]) == ("float32", "bfloat16")
    assert spec.metadata.dtype == jnp.bfloat16


def test_s3_is_reached_as_google_cloud_storage_is():
    build = tensorstore_utils.build_kvstore_tspec
    assert build("s3://b/c", "a", process_id=1)["base"] == "s3://b/c/ocdbt.process_1"
    assert build("s3:/b/c", "a", use_ocdbt=False) == {"driver": "s3", "bucket": "b", "path": "c/a"}
    for path in ("s3://b", "gs://b"):
        with pytest.raises(ValueError, match="bucket"):
            build(path, use_ocdbt=False)
    with pytest.raises(ValueError, match="bucket"):
        tensorstore_utils._get_kvstore_for_gcs("/not/in/the/cloud")


@pytest.mark.parametrize(("size", "phrase"), [(-1, "must be >= 0")])
def test_a_negative_data_file_size_is_refused(size: int, phrase: str):
    with pytest.raises(ValueError, match=phrase):
        tensorstore_utils.add_ocdbt_write_options({}, size)


def test_shapes_in_a_write_spec_are_tuples():
    sizes: Any = {"global_shape": (8, 8), "write_shape": (4, 8), "dtype": np.dtype("float32")}
    spec = tensorstore_utils.ArrayWriteSpec("/d", "a", **sizes, use_ocdbt=True).json["metadata"]
    assert (spec["shape"], spec["chunks"]) == ((8, 8), (4, 8))
    spec = tensorstore_utils.ArrayWriteSpec("/d", "a", **sizes, use_ocdbt=True, use_zarr3=True)
    assert spec.json["metadata"]["codecs"][0]["configuration"]["chunk_shape"] == (4, 8)


def test_the_metadata_of_a_write_cannot_be_changed():
    spec = tensorstore_utils.ArrayWriteSpec(
        "/x", "a", global_shape=(4,), write_shape=(2,), dtype=np.dtype("f4"), use_ocdbt=False
    )
    with pytest.raises(AttributeError):
        spec.metadata.shape = (5,)
