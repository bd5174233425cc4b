"""The board: a few words under a name, which all processes of a job can write and read.

Knows the key-value store of JAX's coordination service, and how its errors read. Knows nothing of
what the words mean. Calls take about 0.2 ms and release the GIL; any thread may make them.
"""

from typing import Any, Final, final

import jax

from pertinax.errors import UnsupportedTopology

_ROOT: Final = "pertinax/"


@final
class Board:
    """A part of the store, by the client that JAX has connected."""

    def __init__(self, client: Any, root: str = _ROOT) -> None:
        self._client = client
        self._root = root
        if not hasattr(client, "key_value_increment"):
            raise UnsupportedTopology(
                f"jax {jax.__version__} has no counters in its coordination service: saves by "
                "several processes need a newer jax"
            )

    def below(self, name: str) -> "Board":
        """The part of the board under `name`."""
        return Board(self._client, f"{self._root}{name}/")

    def put(self, name: str, text: str) -> None:
        """Write, or overwrite."""
        self._client.key_value_set(self._root + name, text, allow_overwrite=True)

    def read_all(self, name: str = "") -> dict[str, str]:
        """Everything under `name`, by what follows it."""
        prefix = f"{self._root}{name}/" if name else self._root
        return {
            key.removeprefix(prefix): text for key, text in self._client.key_value_dir_get(prefix)
        }

    def read(self, name: str, wait_s: float) -> str | None:
        """The text under `name`; None if nobody has written it after `wait_s` seconds."""
        try:
            return self._client.blocking_key_value_get(
                self._root + name, max(1, int(wait_s * 1000))
            )
        except jax.errors.JaxRuntimeError as error:
            if str(error).startswith("DEADLINE_EXCEEDED"):
                return None
            raise

    def count(self, name: str) -> int:
        """Count one up; how many times that was done."""
        return self._client.key_value_increment(self._root + name, 1)

    def clear(self) -> None:
        """Remove all of it."""
        self._client.key_value_delete(self._root)
