# SPDX-License-Identifier: Apache-2.0
"""The pulse: each process says every second that it lives; who falls silent is gone.

Knows one thread for each process, which counts up on the board. Knows nothing of operations. JAX
has heartbeats of its own, but it waits for minutes, and then ends all processes without a word.
"""

import threading
import time
from typing import Final, final

import jax

from pertinax._hosts.board import Board, NoAnswer

_NAME: Final = "pertinax-pulse"
_MEMBERS_A_SECOND: Final = 500
"""The service has other work to do: large jobs beat more slowly."""


def keep_beating(board: Board, process: int, members: int) -> None:
    """Let this process have a pulse from now on, if it has none yet.

    The list of threads is the register: there is nothing to forget after a fork.
    """
    name = f"{_NAME}-{process}"
    if any(thread.name == name for thread in threading.enumerate()):
        return
    period_s = max(1.0, members / _MEMBERS_A_SECOND)
    threading.Thread(target=_beat, args=(board, process, period_s), name=name, daemon=True).start()


def _beat(board: Board, process: int, period_s: float) -> None:
    never = threading.Event()
    while True:
        try:
            board.count(f"beat/{process}")
        except NoAnswer:
            continue  # it may yet go on
        except jax.errors.JaxRuntimeError:
            return  # the service has been shut down, and with it the job
        never.wait(period_s)


@final
class Listener:
    """Listens to the pulses of others; who was never heard may just not have begun."""

    def __init__(self, board: Board, silence_s: float) -> None:
        self._board = board
        self._silence_s = silence_s
        self._heard: dict[int, tuple[str, float]] = {}

    def silent(self, members: "set[int]") -> dict[int, float]:
        """Which of `members` had a pulse and have none now, and for how many seconds."""
        now = time.monotonic()
        for text, beat in self._board.read_all("beat").items():
            process = int(text)
            if self._heard.get(process, ("", 0.0))[0] != beat:
                self._heard[process] = (beat, now)
        return {
            process: now - self._heard[process][1]
            for process in members
            if process in self._heard and now - self._heard[process][1] > self._silence_s
        }
