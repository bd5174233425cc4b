# SPDX-License-Identifier: Apache-2.0
"""A table of type handlers.

Knows types, the tests that decide whether a type belongs to a handler, and recorded names. Knows
nothing of what handlers do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

Entry = tuple[Callable[[Any], bool], Any]
"""Which types, and their handler."""


@dataclasses.dataclass(frozen=True)
class _Subclasses:
    """The usual test: `ty` itself and what derives from it."""

    ty: Any

    def __call__(self, other: Any) -> bool:
        return isinstance(other, type) and issubclass(other, self.ty)


class TypeTable:
    """Handlers by type; the first entry that matches is the one."""

    def __init__(self, *handlers: tuple[Any, Any]) -> None:
        self._type_registry: list[Entry] = []
        self._by_typestr: dict[str, Any] = {}
        for ty, handler in handlers:
            self.add(ty, handler, override=True)

    def add(
        self,
        ty: Any,
        handler: Any,
        func: Callable[[Any], bool] | None = None,
        override: bool = False,
    ) -> None:
        """Use `handler` for `ty` and its subclasses, or for the types for which `func` is true.

        A type that has a handler needs `override`: its entry is replaced; if that is the entry of a
        base class, which goes on to need it, the new one is put before it. Raises `ValueError` if
        `ty`, or the name under which `handler` records types, is taken and `override` is false.
        """
        test = func or _Subclasses(ty)
        place = next((i for i, (old, _) in enumerate(self._type_registry) if old(ty)), None)
        typestr = handler.typestr()
        if not override:
            if place is not None:
                raise ValueError(f"type {ty} is already registered: say override=True")
            if typestr in self._by_typestr:
                raise ValueError(
                    f"the name {typestr!r} for type {ty} collides with that of another handler, "
                    f"{self._by_typestr[typestr]!r}: say override=True"
                )
        if place is None:
            self._type_registry.append((test, handler))
        elif _is_base(self._type_registry[place][0], ty):
            self._type_registry.insert(place, (test, handler))
        else:
            self._type_registry[place] = (test, handler)
        self._by_typestr[typestr] = handler

    def get(self, ty: Any) -> Any:
        """The handler for a type, or for the name under which one was recorded.

        Several handlers may have one name: the one that was added last reads. Raises `ValueError`
        if there is none.
        """
        if isinstance(ty, str):
            found = self._named(ty)
        else:
            found = next((handler for test, handler in self._type_registry if test(ty)), None)
        if found is None:
            raise ValueError(f"Unknown type: {ty!r}; register a type handler for it")
        return found

    def has(self, ty: Any) -> bool:
        """Whether there is a handler for a type or name."""
        try:
            self.get(ty)
        except ValueError:
            return False
        return True

    def _named(self, typestr: str) -> Any:
        last = self._by_typestr.get(typestr)
        live = [handler for _, handler in self._type_registry]
        if last is None or any(handler is last for handler in live):
            return last
        # Its entry was replaced by one of another name, or the table put back to what it was.
        return next((h for h in reversed(live) if h.typestr() == typestr), last)


def _is_base(test: Callable[[Any], bool], ty: Any) -> bool:
    return isinstance(test, _Subclasses) and isinstance(ty, type) and test.ty is not ty
