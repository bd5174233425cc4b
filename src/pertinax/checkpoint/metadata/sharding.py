"""What is known of a sharding without the devices that it was made for.

Knows the kinds of layout that a checkpoint keeps and the JSON text of each. Knows nothing of files.
"""

import abc
import dataclasses
import enum
import json
import logging
from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding

from pertinax._device.shardings import sharding_from_text


class ShardingTypes(enum.Enum):
    """Names of the kinds."""

    NAMED_SHARDING = "NamedSharding"
    SINGLE_DEVICE_SHARDING = "SingleDeviceSharding"


class ShardingMetadata(abc.ABC):
    """A layout as a value."""

    @classmethod
    @abc.abstractmethod
    def from_jax_sharding(cls, jax_sharding: Any) -> "ShardingMetadata":
        """What is known of a live layout."""

    @classmethod
    @abc.abstractmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> "ShardingMetadata":
        """From the fields of its JSON text. Raises `ValueError` if one is missing."""

    @abc.abstractmethod
    def to_serialized_string(self) -> str:
        """Its JSON text."""

    def to_jax_sharding(self) -> Sharding:
        """The live layout. Raises `ValueError` if this machine has not the devices."""
        found = sharding_from_text(self.to_serialized_string())
        if found is None:
            raise ValueError(
                f"the devices of {self} are not on this machine: "
                "pass shardings for the arrays that you restore"
            )
        return found


@dataclasses.dataclass
class DeviceMetadataMesh:
    """A mesh of device ids."""

    mesh: Any

    @classmethod
    def from_jax_mesh(cls, mesh: Mesh) -> Self:
        """The ids of a live mesh."""
        ids = [device.id for device in mesh.devices.flat]
        return cls(np.array(ids).reshape(mesh.devices.shape).tolist())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text."""
        return cls(_ids_of(data["mesh"]))


def _ids_of(nested: Any) -> Any:
    if isinstance(nested, Mapping):
        return int(cast("Mapping[str, Any]", nested)["id"])
    return [_ids_of(part) for part in nested]


def _with_ids(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_with_ids(part) for part in cast("list[Any]", nested)]
    return {"id": nested}


@dataclasses.dataclass(eq=False)
class NamedShardingMetadata(ShardingMetadata):
    """A mesh with named axes, and the axes that divide each dimension."""

    shape: Any
    axis_names: list[str]
    partition_spec: tuple[Any, ...]
    device_mesh: DeviceMetadataMesh | None = None

    @classmethod
    def from_jax_sharding(cls, jax_sharding: NamedSharding) -> Self:
        """What is known of a live layout."""
        mesh = cast("Mesh", jax_sharding.mesh)
        names = [str(name) for name in mesh.axis_names]
        spec = _spec(jax_sharding.spec)
        return cls(
            np.array(mesh.devices.shape), names, spec, DeviceMetadataMesh.from_jax_mesh(mesh)
        )

    @classmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text. Raises `ValueError` if one is missing."""
        missing = {"shape", "axis_names", "partition_spec"} - deserialized_dict.keys()
        if missing:
            raise ValueError(f"a NamedSharding needs {', '.join(sorted(missing))}")
        mesh = deserialized_dict.get("device_mesh")
        return cls(
            np.array(deserialized_dict["shape"]),
            list(deserialized_dict["axis_names"]),
            _spec(deserialized_dict["partition_spec"]),
            None if mesh is None else DeviceMetadataMesh.from_dict(mesh),
        )

    def to_serialized_string(self) -> str:
        """Its JSON text."""
        fields: dict[str, Any] = {
            "sharding_type": ShardingTypes.NAMED_SHARDING.value,
            "shape": np.asarray(self.shape).tolist(),
            "axis_names": list(self.axis_names),
            "partition_spec": self.partition_spec,
        }
        if self.device_mesh is not None:
            fields["device_mesh"] = {"mesh": _with_ids(self.device_mesh.mesh)}
        return json.dumps(fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamedShardingMetadata):
            return NotImplemented
        mine = (tuple(self.shape), list(self.axis_names), self.partition_spec, self.device_mesh)
        return mine == (
            tuple(other.shape),
            list(other.axis_names),
            other.partition_spec,
            other.device_mesh,
        )

    def __hash__(self) -> int:
        return hash(
            (
                tuple(np.asarray(self.shape).tolist()),
                tuple(self.axis_names),
                str(self.partition_spec),
            )
        )


def _spec(parts: Any) -> tuple[Any, ...]:
    # JSON has no tuples: axes that divide one dimension together come back as a list.
    return tuple(
        tuple(cast("list[Any]", part)) if isinstance(part, list) else part for part in parts
    )


@dataclasses.dataclass(frozen=True)
class SingleDeviceShardingMetadata(ShardingMetadata):
    """One device, by its name."""

    device_str: str

    @classmethod
    def from_jax_sharding(cls, jax_sharding: SingleDeviceSharding) -> Self:
        """What is known of a live layout."""
        (device,) = jax_sharding.device_set
        return cls(str(device))

    @classmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text. Raises `ValueError` if the name is missing."""
        name = deserialized_dict.get("device_str")
        if not isinstance(name, str):
            raise ValueError("a SingleDeviceSharding needs device_str")
        return cls(name)

    def to_serialized_string(self) -> str:
        """Its JSON text."""
        return json.dumps(
            {
                "sharding_type": ShardingTypes.SINGLE_DEVICE_SHARDING.value,
                "device_str": self.device_str,
            }
        )


def from_jax_sharding(jax_sharding: Any) -> ShardingMetadata | None:
    """What is known of a live layout; None, and a line in the log, for kinds that are not kept."""
    if isinstance(jax_sharding, NamedSharding) and isinstance(jax_sharding.mesh, Mesh):
        return NamedShardingMetadata.from_jax_sharding(jax_sharding)
    if isinstance(jax_sharding, SingleDeviceSharding):
        return SingleDeviceShardingMetadata.from_jax_sharding(jax_sharding)
    logging.getLogger().warning("Conversion for %s has not been implemented.", type(jax_sharding))
    return None


def from_serialized_string(serialized_str: str) -> ShardingMetadata:
    """From its JSON text.

    Raises `NotImplementedError` for an unknown kind, `ValueError` for a broken text.
    """
    fields: Any = json.loads(serialized_str)
    kind = fields.get("sharding_type") if isinstance(fields, dict) else None
    if kind == ShardingTypes.NAMED_SHARDING.value:
        return NamedShardingMetadata.from_deserialized_dict(fields)
    if kind == ShardingTypes.SINGLE_DEVICE_SHARDING.value:
        return SingleDeviceShardingMetadata.from_deserialized_dict(fields)
    raise NotImplementedError(f"no such kind of sharding: {kind!r}")
