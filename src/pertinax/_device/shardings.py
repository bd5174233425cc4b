# SPDX-License-Identifier: Apache-2.0
"""Shardings: which device holds which box, and how to write a layout down.

Knows JAX's shardings and the JSON text that Orbax keeps of them (format specification, section 7).
Knows nothing of files. A layout that this machine cannot rebuild is no error: shardings are a wish
of the reader, never a need.
"""

import json
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from pertinax._plan.boxes import Box, Shape


def sharding_text(sharding: Sharding, meshes: dict[Mesh, str] | None = None) -> str | None:
    """The layout as Orbax writes it, or None for kinds that it has no words for.

    `meshes` remembers the text of meshes, which may have very many devices.
    """
    if isinstance(sharding, NamedSharding):
        return _named_text(sharding, {} if meshes is None else meshes)
    if isinstance(sharding, SingleDeviceSharding):
        (device,) = sharding.device_set
        # JAX has called the first CPU `TFRT_CPU_0` and `cpu:0`. Orbax 0.12 knows both names, 0.8
        # only the old one.
        name = f"TFRT_CPU_{device.id}" if device.platform == "cpu" else str(device)
        return json.dumps({"sharding_type": "SingleDeviceSharding", "device_str": name})
    return None


def _named_text(sharding: NamedSharding, meshes: dict[Mesh, str]) -> str | None:
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh):
        return None
    fields: dict[str, Any] = {
        "sharding_type": "NamedSharding",
        "shape": [int(n) for n in mesh.devices.shape],
        "axis_names": [str(name) for name in mesh.axis_names],
        "axis_types": [f"AxisType.{kind.name}" for kind in mesh.axis_types],
        "partition_spec": [
            list(part) if isinstance(part, tuple) else part for part in sharding.spec
        ],
    }
    try:
        text = json.dumps(fields)
    except TypeError:
        # Axis names may be any hashable, and `PartitionSpec.UNCONSTRAINED` is no text.
        return None
    if mesh not in meshes:
        meshes[mesh] = json.dumps({"device_mesh": {"mesh": _ids(mesh.devices.tolist())}})[1:]
    return f"{text[:-1]}, {meshes[mesh]}"


def _ids(devices: Any) -> Any:
    """Nested lists of devices as their ids; a mesh without axes is one device."""
    if isinstance(devices, list):
        return [_ids(part) for part in cast("list[Any]", devices)]
    return {"id": int(devices.id)}


def sharding_from_text(text: str) -> Sharding | None:
    """The layout on this machine's devices, or None if it was written for others."""
    try:
        fields = json.loads(text)
        if fields["sharding_type"] == "SingleDeviceSharding":
            return _single_from(fields)
        if fields["sharding_type"] == "NamedSharding":
            return _named_from(fields)
        if fields["sharding_type"] == "PositionalSharding":
            return _positional_from(fields)
    except Exception:  # noqa: BLE001 - text of a file: JAX has errors of its own for what it may say
        return None
    return None


def _single_from(fields: dict[str, Any]) -> Sharding | None:
    wanted = plain_device_name(fields["device_str"])
    for device in jax.devices():
        if plain_device_name(str(device)) == wanted:
            return SingleDeviceSharding(device)
    return None


def plain_device_name(text: str) -> str:
    """Older versions of JAX called the first CPU `TFRT_CPU_0`; it is `cpu:0` now."""
    return text.replace("TFRT_CPU_", "cpu:")


def _named_from(fields: dict[str, Any]) -> Sharding | None:
    shape = tuple(int(n) for n in fields["shape"])
    by_id = {device.id: device for device in jax.devices()}
    mesh_ids = fields.get("device_mesh")
    if mesh_ids is None:
        devices = np.array(jax.devices(), dtype=object)
    else:
        ids = _flat_ids(mesh_ids["mesh"])
        if any(i not in by_id for i in ids):
            return None
        devices = np.array([by_id[i] for i in ids], dtype=object)
    if devices.size != np.prod(shape, dtype=int):
        return None
    spec = [tuple(part) if isinstance(part, list) else part for part in fields["partition_spec"]]
    names = tuple(fields["axis_names"])
    # `AxisType.Auto`; layouts of older programs have none.
    words = fields.get("axis_types") or ["Auto"] * len(names)
    kinds = tuple(AxisType[word.rpartition(".")[2]] for word in words)
    if AxisType.Manual in kinds:
        return None  # the inside of a `shard_map`: no array can be put there
    mesh = Mesh(devices.reshape(shape), names, axis_types=kinds)
    return NamedSharding(mesh, PartitionSpec(*spec))


def _positional_from(fields: dict[str, Any]) -> Sharding | None:
    """A grid of all devices. JAX has no such sharding any more: named axes divide the same way."""
    shape = tuple(int(n) for n in fields["shape"])
    devices = np.array(jax.devices(), dtype=object)
    if devices.size != np.prod(shape, dtype=int):
        return None
    names = tuple(f"dim{i}" for i in range(len(shape)))
    mesh = Mesh(devices.reshape(shape), names)
    return NamedSharding(mesh, PartitionSpec(*names), memory_kind=fields.get("memory_kind"))


def _flat_ids(nested: Any) -> list[int]:
    if isinstance(nested, dict):
        return [int(cast("dict[str, Any]", nested)["id"])]
    return [i for part in nested for i in _flat_ids(part)]


def device_boxes(sharding: Sharding, shape: Shape) -> list[tuple[Any, Box]]:
    """The devices of this process, each with the box of an array of `shape` that it holds.

    Raises `ValueError` if the sharding cannot divide the shape.
    """
    indices = sharding.addressable_devices_indices_map(shape)
    return [(device, box_of(index or (), shape)) for device, index in indices.items()]


def box_of(index: tuple[Any, ...], shape: Shape) -> Box:
    """The box that a tuple of slices means for an array of `shape`."""
    bounds = [part.indices(n)[:2] for part, n in zip(index, shape, strict=False)]
    bounds += [(0, n) for n in shape[len(bounds) :]]
    return Box(tuple(int(a) for a, _ in bounds), tuple(int(b) for _, b in bounds))
