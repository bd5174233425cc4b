# SPDX-License-Identifier: Apache-2.0
"""Names that Orbax once had are nowhere in the door; the page says what to use instead."""

import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp

PAGE = Path(__file__).resolve().parents[3] / "docs" / "coming-from-orbax.md"

# Where it would be, its name, what to use instead (empty: nothing is needed).
GONE = [
    ("CheckpointManager", "update", ""),
    ("", "lazy_utils", "`restore`"),
    ("", "LazyValue", "`restore`"),
    ("checkpoint_utils", "restore_args_from_target", "`construct_restore_args`"),
    ("type_handlers", "create_coordinator_server_and_context", ""),
    ("type_handlers", "start_coordinator_server_and_create_context", ""),
    ("utils", "create_coordinator_server_and_context", ""),
    ("", "checkpoint_manager_context", "`with`"),
    ("", "checkpointer_context", "`with`"),
    ("", "async_checkpointer_context", "`with`"),
    ("type_handlers", "is_supported_aggregation_type", "`is_supported_type`"),
    ("type_handlers", "is_supported_empty_aggregation_type", "`is_supported_empty_value`"),
    ("metadata", "CheckpointMetadata", "`StepMetadata`"),
    ("handlers", "PyTreeCheckpointHandlerImpl", "`BasePyTreeCheckpointHandler`"),
]
GONE_KEYWORDS = [
    ("PyTreeCheckpointHandler", "ocdbt_merge"),
    ("PyTreeCheckpointHandler", "restore_with_serialized_types"),
    ("PyTreeCheckpointHandler", "write_tree_metadata"),
    ("SaveArgs", "write_chunk_shape"),
    ("SaveArgs", "read_chunk_shape"),
    ("SaveArgs", "enable_pinned_host_transfer"),
    ("RestoreArgs", "lazy"),
]


@pytest.mark.row("R031", "R079", "R082", "R088", "R181", "R183", "R185", "R212", "R288", "R300")
@pytest.mark.parametrize(("home", "name", "instead"), GONE)
def test_a_name_is_gone_and_the_page_says_what_to_use(home: str, name: str, instead: str):
    assert not hasattr(getattr(ocp, home) if home else ocp, name)
    line = next((line for line in PAGE.read_text("utf-8").splitlines() if f"`{name}`" in line), "")
    assert instead in line
    assert line, f"docs/coming-from-orbax.md does not mention {name}"


@pytest.mark.row("R082", "R130", "R211", "R213", "R287")
@pytest.mark.parametrize(("cls", "keyword"), GONE_KEYWORDS)
def test_a_keyword_is_gone(cls: str, keyword: str):
    with pytest.raises(TypeError, match=keyword):
        getattr(ocp, cls)(**{keyword: True})


@pytest.mark.row("R288")
def test_the_predicates_have_their_new_names():
    is_supported_type, is_empty = (
        ocp.type_handlers.is_supported_type,
        ocp.type_handlers.is_supported_empty_value,
    )
    assert is_supported_type(np.ones(2))
    assert not is_supported_type(object())
    assert all(map(is_empty, ({}, [], (), None)))
    assert not is_empty({"a": 1})


@pytest.mark.row("R032")
def test_there_is_no_global_device_array_but_jax_arrays():
    sources = Path(inspect.getfile(pertinax)).parent.rglob("*.py")
    words = ("GlobalDeviceArray", "global_device_array", "gda")
    assert not [p for p in sources if any(word in p.read_text("utf-8") for word in words)]


@pytest.mark.row("R032")
def test_arrays_of_all_devices_come_back_as_such(tmp_path: Path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
    layout: Any = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    array = jax.device_put(np.arange(16.0, dtype=np.float32), layout)
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"x": array})
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "it")["x"]
    assert isinstance(found, jax.Array)
    assert found.sharding == layout
    assert np.array_equal(found, array)
