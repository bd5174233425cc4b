# SPDX-License-Identifier: Apache-2.0
"""Composite: several named things as one value.

Knows how a program reaches them: by attribute, by subscript, by set operations. Knows nothing of
checkpoints.
"""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn, Self


class UnknownItem(KeyError, AttributeError):
    """There is no such item. As an `AttributeError` too, it lets `hasattr` and `copy` work."""

    def __str__(self) -> str:
        return str(self.args[0])


class Composite(Mapping[str, Any]):
    """An immutable mapping whose keys are attributes as well.

    >>> both = Composite(state=1, data=2)
    >>> both.state, both["data"]
    (1, 2)
    """

    __slots__ = ("__items__",)
    __items__: dict[str, Any]

    def __init__(self, **items: Any) -> None:
        for name in items:
            if name.startswith("__"):
                raise ValueError(f"the name of an item cannot start with two underscores: {name!r}")
        object.__setattr__(self, "__items__", items)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__items__:
            raise UnknownItem(
                f"there is no {key!r}, there is: {', '.join(self.__items__) or 'nothing'}"
            )
        return self.__items__[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise ValueError(f"a composite is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise ValueError(f"a composite is immutable: {name!r} cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__items__)

    def __len__(self) -> int:
        return len(self.__items__)

    def __contains__(self, key: object) -> bool:
        return key in self.__items__

    def __and__(self, other: Any) -> Self:
        kept = {key: value for key, value in self.__items__.items() if key in other}
        return type(self)(**kept)

    def __or__(self, other: Mapping[str, Any]) -> Self:
        return type(self)(**{**self.__items__, **other})

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), dict(self.__items__))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__items__!r})"

    def keys(self) -> KeysView[str]:
        """Names of the items."""
        return self.__items__.keys()

    def values(self) -> ValuesView[Any]:
        """The items."""
        return self.__items__.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and items."""
        return self.__items__.items()


def _rebuild(cls: type[Composite], items: dict[str, Any]) -> Composite:
    return cls(**items)
