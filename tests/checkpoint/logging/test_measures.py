# SPDX-License-Identifier: Apache-2.0
"""Rates, warnings that are not repeated, and what TensorStore has counted."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pertinax import checkpoint as ocp
from pertinax.checkpoint import _registry
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, ParamInfo


@pytest.fixture
def heard() -> Iterator[dict[str, float]]:
    found: dict[str, float] = {}

    def listen(name: str, value: float, **_: Any) -> None:
        found[name] = value

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.row("R263", "R268")
@pytest.mark.parametrize("background", [True, False])
def test_rates_of_both_parts_of_a_save_and_of_a_restore(heard, tmp_path, background):
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=background)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(0, args=ocp.args.StandardSave({"a": jnp.arange(4.0)}))
        manager.wait_until_finished()
        manager.restore(0, args=ocp.args.StandardRestore())
    for name in ("write/blocking_bytes_per_sec", "write/bytes_per_sec", "read/bytes_per_sec"):
        assert heard[f"/jax/checkpoint/{name}"] > 0


@pytest.mark.row("R161")
def test_the_warning_about_aggregate_comes_once_in_twelve_hours(monkeypatch, caplog):
    monkeypatch.setattr(_registry, "LAST_SAID", _registry.LAST_SAID)
    _registry.LAST_SAID.clear()

    def warnings() -> int:
        for _ in range(3):
            ocp.SaveArgs(aggregate=True)
        return sum("aggregate" in record.getMessage() for record in caplog.records)

    assert warnings() == 1
    (key,) = _registry.LAST_SAID
    almost_s = 12 * 3600 - 60
    _registry.LAST_SAID[key] -= almost_s
    assert warnings() == 1
    _registry.LAST_SAID[key] -= 120
    assert warnings() == 2


def infos_in(directory: Path, value_type: str) -> list[ParamInfo]:
    context = tensorstore_utils.get_ts_context(use_ocdbt=False)
    place = epath.Path(directory)
    return [
        ParamInfo(
            name=name,
            path=place / name,
            parent_dir=place,
            is_ocdbt_checkpoint=False,
            ts_context=context,
            value_typestr=value_type,
        )
        for name in ("first", "second")
    ]


@pytest.mark.row("R273")
@pytest.mark.parametrize("kind", ["np.ndarray", "jax.Array", "scalar"])
def test_type_handlers_tell_what_tensorstore_counts(tmp_path, caplog, kind):
    handler = ocp.type_handlers.get_type_handler(
        {"np.ndarray": np.ndarray, "jax.Array": jax.Array, "scalar": int}[kind]
    )
    make: Any = {"np.ndarray": np.arange, "jax.Array": jnp.arange, "scalar": int}[kind]
    infos = infos_in(tmp_path, kind)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    args = [ArrayRestoreArgs(sharding=sharding)] * 2 if kind == "jax.Array" else None

    def write() -> None:
        for future in asyncio.run(handler.serialize([make(3), make(4)], infos)):
            future.result()

    def read() -> None:
        asyncio.run(handler.deserialize(infos, args))

    with caplog.at_level(logging.INFO):
        write()
        read()
    assert not any("metric" in record.getMessage() for record in caplog.records)
    for call in (write, read):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "pertinax"):
            call()
        lines = [record.getMessage() for record in caplog.records]
        assert any(line.startswith("ts_metric:") and "/tensorstore" in line for line in lines)
        assert "metadata_key: None" in lines
        assert "parameters: ['first', 'second']" in lines
