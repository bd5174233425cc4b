# SPDX-License-Identifier: Apache-2.0
"""The board: a few words under a name, which all processes of a job can write and read.

Knows the key-value store of JAX's coordination service, and how its errors read. Knows nothing of
what the words mean. Calls take about 0.2 ms and release the GIL; any thread may make them.

Most calls of the service have no deadline: if the process that runs it is stopped, they hang. So
they are made on threads of their own, and given up.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, final

import jax

from pertinax.errors import UnsupportedTopology

_ROOT: Final = "pertinax/"
_ANSWER_S: Final = 10.0
"""How long the service may take for a call that takes it 0.2 ms as a rule."""
_AGAIN_S: Final = 0.5
"""The same, once it has failed to answer."""


@final
class NoAnswer(Exception):
    """The coordination service has stopped to answer."""


@final
class Patience:
    """How many seconds the next call may take: few, once the service has failed to answer."""

    def __init__(self, answer_s: float = _ANSWER_S) -> None:
        self._answer_s = answer_s
        self.left_s = answer_s

    def lost(self) -> str:
        """There was no answer; says for how long."""
        waited_s, self.left_s = self.left_s, min(_AGAIN_S, self._answer_s)
        return f"no answer for {max(waited_s, self._answer_s):.0f} s"

    def restored(self) -> None:
        """There was one."""
        self.left_s = self._answer_s


@final
class Board:
    """A part of the store, by the client that JAX has connected.

    Every call raises `NoAnswer` if the service does not answer within the `patience` that all parts
    share.
    """

    def __init__(self, client: Any, root: str = _ROOT, *, patience: Patience | None = None) -> None:
        self._client = client
        self._root = root
        self._patience = patience or Patience()
        if not hasattr(client, "key_value_increment"):
            raise UnsupportedTopology(
                f"jax {jax.__version__} has no counters in its coordination service: saves by "
                "several processes need a newer jax"
            )

    @property
    def name(self) -> str:
        """Where this part is."""
        return self._root

    def below(self, name: str) -> "Board":
        """The part of the board under `name`."""
        return Board(self._client, f"{self._root}{name}/", patience=self._patience)

    def put(self, name: str, text: str) -> None:
        """Write, or overwrite."""
        key = self._root + name
        self._ask(lambda: self._client.key_value_set(key, text, allow_overwrite=True))

    def read_all(self, name: str = "") -> dict[str, str]:
        """Everything under `name`, by what follows it."""
        prefix = f"{self._root}{name}/" if name else self._root
        found = self._ask(lambda: self._client.key_value_dir_get(prefix))
        return {key.removeprefix(prefix): text for key, text in found}

    def read(self, name: str, wait_s: float) -> str | None:
        """The text under `name`; None if nobody has written it after `wait_s` seconds, or nobody
        has answered.
        """
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
        return self._ask(lambda: self._client.key_value_increment(self._root + name, 1))

    def clear(self) -> None:
        """Remove all of it."""
        self._ask(lambda: self._client.key_value_delete(self._root))

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What `call` returns or raises, if it comes back in time."""
        outcome: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(call())
            except BaseException as error:  # noqa: BLE001 - raised below, on the caller's thread
                failure.append(error)

        asking = threading.Thread(target=run, name="pertinax-board", daemon=True)
        asking.start()
        asking.join(self._patience.left_s)
        if not failure and not outcome:
            raise NoAnswer(self._patience.lost())
        self._patience.restored()
        if failure:
            raise failure[0]
        return outcome[0]
