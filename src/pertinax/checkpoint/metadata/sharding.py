# SPDX-License-Identifier: Apache-2.0
"""What is known of a sharding without the devices that it was made for.

Knows the kinds of layout that a checkpoint keeps, the JSON text of each, and when two are equal.
Knows nothing of files. The way back to live layouts is the engine's.
"""

import abc
import dataclasses
import enum
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding, SingleDeviceSharding

from pertinax._device.shardings import plain_device_name, sharding_from_text

_LOG: Final = logging.getLogger(__name__)
_UNKNOWN_KIND: Final = "Conversion for %s has not been implemented."
_NEEDED: Final = ("shape", "axis_names", "partition_spec")
_WAY_OUT: Final = "pass shardings for the arrays that you restore"


class ShardingTypes(enum.Enum):
    """Names of the kinds."""

    NAMED_SHARDING = "NamedSharding"
    SINGLE_DEVICE_SHARDING = "SingleDeviceSharding"
    POSITIONAL_SHARDING = "PositionalSharding"
    GSPMD_SHARDING = "GSPMDSharding"


@dataclasses.dataclass
class DeviceMetadata:
    """A device, by its id."""

    id: int

    @classmethod
    def from_jax_device(cls, device: Any) -> Self:
        """What is known of a live device."""
        return cls(int(device.id))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text."""
        return cls(int(data["id"]))


@dataclasses.dataclass
class DeviceMetadataMesh:
    """Devices as nested lists, one level for each axis of a mesh."""

    mesh: Sequence[Any]

    @classmethod
    def from_jax_mesh(cls, mesh: Mesh) -> Self:
        """The devices of a live mesh."""
        return cls(_nested(mesh.devices.tolist(), DeviceMetadata.from_jax_device))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text."""
        return cls(_nested(data["mesh"], DeviceMetadata.from_dict))

    def to_jax_device_mesh(self) -> list[Any]:
        """The live devices, nested the same way. Raises `ValueError` if one is not here."""
        here = {device.id: device for device in jax.devices()}

        def find(device: DeviceMetadata) -> Any:
            if device.id not in here:
                raise ValueError(
                    f"no device has the id {device.id}, only {sorted(here)} are here: {_WAY_OUT}"
                )
            return here[device.id]

        return _nested(self.mesh, find)


def _nested(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_nested(part, change) for part in cast("Sequence[Any]", value)]
    return change(value)


@dataclasses.dataclass
class ShardingMetadata(abc.ABC):
    """A layout as a value."""

    @classmethod
    @abc.abstractmethod
    def from_jax_sharding(cls, jax_sharding: Any) -> "ShardingMetadata":
        """What is known of a live layout."""

    @abc.abstractmethod
    def to_jax_sharding(self) -> Sharding:
        """The live layout. Raises `ValueError` if it cannot be rebuilt on this machine."""

    @classmethod
    @abc.abstractmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> "ShardingMetadata":
        """From the fields of its JSON text. Raises `ValueError` if one is missing."""

    @abc.abstractmethod
    def to_serialized_string(self) -> str:
        """Its JSON text."""


@dataclasses.dataclass(eq=False)
class NamedShardingMetadata(ShardingMetadata):
    """A mesh with named axes, and the axes that divide each dimension.

    `axis_types` is None where all axes are of JAX's usual type, `Auto`.
    """

    shape: Any
    axis_names: list[str]
    partition_spec: tuple[Any, ...]
    device_mesh: DeviceMetadataMesh | None = None
    axis_types: tuple[AxisType, ...] | None = None

    def __post_init__(self) -> None:
        # JSON has no tuples: axes that divide one dimension together come back as a list.
        self.partition_spec = tuple(
            tuple(cast("list[Any]", part)) if isinstance(part, list) else part
            for part in self.partition_spec
        )
        if self.axis_types is not None and set(self.axis_types) <= {AxisType.Auto}:
            self.axis_types = None

    @classmethod
    def from_jax_sharding(cls, jax_sharding: NamedSharding) -> Self:
        """What is known of a live layout."""
        mesh = cast("Mesh", jax_sharding.mesh)
        return cls(
            np.array(mesh.devices.shape),
            [str(name) for name in mesh.axis_names],
            tuple(jax_sharding.spec),
            DeviceMetadataMesh.from_jax_mesh(mesh),
            tuple(mesh.axis_types),
        )

    def to_jax_sharding(self) -> NamedSharding:
        """The live layout. Raises `ValueError` if this machine has not the devices."""
        return cast("NamedSharding", _rebuilt(self))

    @classmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text. Raises `ValueError` if one is missing."""
        missing = [name for name in _NEEDED if name not in deserialized_dict]
        if missing:
            raise ValueError(f"a NamedSharding lacks {', '.join(missing)}: {deserialized_dict}")
        mesh = deserialized_dict.get("device_mesh")
        kinds = deserialized_dict.get("axis_types")
        return cls(
            np.array(deserialized_dict["shape"]),
            list(deserialized_dict["axis_names"]),
            tuple(deserialized_dict["partition_spec"]),
            None if mesh is None else DeviceMetadataMesh.from_dict(mesh),
            None if kinds is None else tuple(_axis_type(word) for word in kinds),
        )

    def to_serialized_string(self) -> str:
        """Its JSON text."""
        fields: dict[str, Any] = {
            "sharding_type": ShardingTypes.NAMED_SHARDING.value,
            "shape": np.asarray(self.shape).tolist(),
            "axis_names": list(self.axis_names),
        }
        if self.axis_types is not None:
            fields["axis_types"] = [f"AxisType.{kind.name}" for kind in self.axis_types]
        fields["partition_spec"] = self.partition_spec
        if self.device_mesh is not None:
            fields["device_mesh"] = dataclasses.asdict(self.device_mesh)
        return json.dumps(fields)

    def _facts(self) -> tuple[Any, ...]:
        shape = tuple(np.asarray(self.shape).tolist())
        return shape, tuple(self.axis_names), self.partition_spec, self.axis_types

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NamedShardingMetadata):
            return NotImplemented
        return self._facts() == other._facts() and self.device_mesh == other.device_mesh

    def __hash__(self) -> int:
        return hash(self._facts())


def _axis_type(word: str) -> AxisType:
    name = word.rpartition(".")[2]
    if name not in AxisType.__members__:
        raise ValueError(f"{word!r} is not a type of axis that this JAX knows")
    return AxisType[name]


@dataclasses.dataclass(eq=False)
class SingleDeviceShardingMetadata(ShardingMetadata):
    """One device, by its name. `TFRT_CPU_0` of older versions of JAX and `cpu:0` are the same."""

    device_str: str

    @classmethod
    def from_jax_sharding(cls, jax_sharding: SingleDeviceSharding) -> Self:
        """What is known of a live layout."""
        (device,) = jax_sharding.device_set
        return cls(str(device))

    def to_jax_sharding(self) -> SingleDeviceSharding:
        """The live layout. Raises `ValueError` if this process has no such device."""
        for device in jax.local_devices():
            if plain_device_name(str(device)) == plain_device_name(self.device_str):
                return SingleDeviceSharding(device)
        raise ValueError(
            f"Device {self.device_str} was not found in jax.local_devices(): {_WAY_OUT}"
        )

    @classmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text. Raises `ValueError` if the name is missing."""
        name = deserialized_dict.get("device_str")
        if not isinstance(name, str):
            raise ValueError(f"a SingleDeviceSharding lacks device_str: {deserialized_dict}")
        return cls(name)

    def to_serialized_string(self) -> str:
        """Its JSON text."""
        kind = ShardingTypes.SINGLE_DEVICE_SHARDING.value
        return json.dumps({"sharding_type": kind, "device_str": self.device_str})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SingleDeviceShardingMetadata):
            return NotImplemented
        return plain_device_name(self.device_str) == plain_device_name(other.device_str)

    def __hash__(self) -> int:
        return hash(plain_device_name(self.device_str))


@dataclasses.dataclass(eq=False)
class PositionalShardingMetadata(ShardingMetadata):
    """All devices in a grid, one axis for each dimension.

    JAX has given up `PositionalSharding`; checkpoints that have it come back with a `NamedSharding`
    that divides arrays in the same way.
    """

    shape: Any
    memory_kind: str | None = None

    @classmethod
    def from_jax_sharding(cls, jax_sharding: Any) -> Self:
        """What is known of a live layout."""
        return cls(np.array(jax_sharding.shape), jax_sharding.memory_kind)

    def to_jax_sharding(self) -> Sharding:
        """The live layout. Raises `ValueError` unless the grid takes all devices."""
        return _rebuilt(self)

    @classmethod
    def from_deserialized_dict(cls, deserialized_dict: Mapping[str, Any]) -> Self:
        """From the fields of its JSON text. Raises `ValueError` if the shape is missing."""
        if "shape" not in deserialized_dict:
            raise ValueError(f"a PositionalSharding lacks shape: {deserialized_dict}")
        kind = deserialized_dict.get("memory_kind")
        return cls(np.array(deserialized_dict["shape"]), kind)

    def to_serialized_string(self) -> str:
        """Its JSON text."""
        fields: dict[str, Any] = {
            "sharding_type": ShardingTypes.POSITIONAL_SHARDING.value,
            "shape": np.asarray(self.shape).tolist(),
        }
        if self.memory_kind is not None:
            fields["memory_kind"] = self.memory_kind
        return json.dumps(fields)

    def _facts(self) -> tuple[Any, ...]:
        return tuple(np.asarray(self.shape).tolist()), self.memory_kind

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PositionalShardingMetadata):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())


class GSPMDShardingMetadata(ShardingMetadata):
    """A layout of the compiler's own. It has a name here, and no text: nobody can make one."""


def _rebuilt(layout: ShardingMetadata) -> Sharding:
    found = sharding_from_text(layout.to_serialized_string())
    if found is None:
        raise ValueError(
            f"{layout} cannot be rebuilt here, where JAX has {jax.device_count()} devices: "
            f"{_WAY_OUT}"
        )
    return found


def from_jax_sharding(jax_sharding: Any) -> ShardingMetadata | None:
    """What is known of a live layout; None, and a line in the log, for kinds that are not kept."""
    if isinstance(jax_sharding, NamedSharding) and isinstance(jax_sharding.mesh, Mesh):
        return NamedShardingMetadata.from_jax_sharding(jax_sharding)
    if isinstance(jax_sharding, SingleDeviceSharding):
        return SingleDeviceShardingMetadata.from_jax_sharding(jax_sharding)
    if type(jax_sharding).__name__ == ShardingTypes.POSITIONAL_SHARDING.value:
        return PositionalShardingMetadata.from_jax_sharding(jax_sharding)
    logging.getLogger().warning(_UNKNOWN_KIND, type(jax_sharding))
    return None


def from_serialized_string(serialized_str: str) -> ShardingMetadata:
    """From its JSON text.

    Raises `NotImplementedError` for an unknown kind, `ValueError` for a broken text.
    """
    fields: Any = json.loads(serialized_str)
    if not isinstance(fields, dict) or "sharding_type" not in fields:
        raise ValueError(f"not the text of a sharding: {serialized_str!r:.200}")
    known = cast("dict[str, Any]", fields)
    kind = known["sharding_type"]
    if kind == ShardingTypes.NAMED_SHARDING.value:
        return NamedShardingMetadata.from_deserialized_dict(known)
    if kind == ShardingTypes.SINGLE_DEVICE_SHARDING.value:
        return SingleDeviceShardingMetadata.from_deserialized_dict(known)
    if kind == ShardingTypes.POSITIONAL_SHARDING.value:
        return PositionalShardingMetadata.from_deserialized_dict(known)
    raise NotImplementedError(_UNKNOWN_KIND % kind)


def get_sharding_or_none(serialized_string: Any) -> Sharding | None:
    """The live layout of a JSON text, which may be the element of an array.

    None, and a line in the log, if it cannot be rebuilt.
    """
    try:
        text = str(np.asarray(serialized_string).item())
        return from_serialized_string(text).to_jax_sharding()
    except (ValueError, NotImplementedError) as error:
        _LOG.error("no sharding, the stored one cannot be rebuilt: %s", error)
        return None
