# SPDX-License-Identifier: Apache-2.0
"""Restoring from two tiers: which save, and in which way.

Knows what processes have (`stock`) and the two ways back: pieces from wherever they are (`gather`),
or the durable tier alone. Knows nothing of saving.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Final, final

import jax

from pertinax._core.load import order
from pertinax._core.open import DEFAULT_ITEM, Opened, open_checkpoint
from pertinax._core.options import LoadOptions
from pertinax._core.orders import carry_out
from pertinax._core.places import locate
from pertinax._device.exchange import Wires
from pertinax._hosts import Hosts, Round, Topology, this_job
from pertinax._steps.naming import Naming
from pertinax._steps.writing import StepRoot
from pertinax._store.contract import Store
from pertinax._tiers.gather import Gathering, Sources
from pertinax._tiers.local import LocalTier, Part
from pertinax._tiers.stock import (
    Candidate,
    candidate_of,
    find_candidates,
    tell_parts,
)
from pertinax.errors import PertinaxError
from pertinax.typing import PathLike, PyTree

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Regained:
    """What a restore from two tiers found.

    Attributes:
        step: the step that was restored.
        tree: its state.
        own_bytes, peer_bytes, durable_bytes: what this process took from its own near storage, from
            that of others, and from the durable tier.
        had_part: whether this process had a part of the save in its own storage.
        read_s, exchange_s: seconds that reading, and carrying between processes, took here.
    """

    step: int
    tree: PyTree
    own_bytes: int = 0
    peer_bytes: int = 0
    durable_bytes: int = 0
    had_part: bool = False
    read_s: float = 0.0
    exchange_s: float = 0.0


def look_into(
    directory: PathLike, naming: Naming, *, store: Store | None = None, timeout_s: float = 600.0
) -> "Restorer":
    """Restores from another directory instead of both tiers; nothing there is changed.

    It may be one that all processes see, or on each its own near storage.
    """
    root = StepRoot(*locate(directory, store), naming)
    hosts = this_job()
    me = hosts.topology.process
    local = LocalTier(root, 1, Topology(me, (me,), me, apart=True))
    return Restorer(local, root, hosts, timeout_s, subject="another directory")


@final
class Restorer:
    """Looks for steps in both tiers, and restores them; all processes call it together.

    `subject` is what all call it, where their durable roots may have different names.
    """

    def __init__(
        self,
        local: LocalTier,
        root: StepRoot,
        hosts: Hosts,
        timeout_s: float = 600.0,
        *,
        subject: str | None = None,
    ) -> None:
        self._local = local
        self._root = root
        self._hosts = hosts
        self._timeout_s = timeout_s
        self._subject = root.path if subject is None else subject

    def steps(self) -> list[int]:
        """The steps that can be restored."""
        near, durable = self.tiers()
        return sorted({*near, *durable})

    def tiers(self) -> tuple[list[int], list[int]]:
        """The steps that are whole in near storage, and those of the durable tier, ascending."""
        with self._hosts.begin("steps", self._subject, timeout_s=self._timeout_s) as talk:
            _, found = self._look(talk)
        near = {one.step for one in found if one.whole}
        return sorted(near), sorted({one.step for one in found if one.durable})

    def _look(self, talk: Round) -> tuple[list[Part], list[Candidate]]:
        """What is here, and what the primary makes of what all have."""
        parts = self._local.parts()

        def decide(told: Any) -> list[Any]:
            return [one.told() for one in find_candidates(told, self._durable_steps(told))]

        found = talk.collect("what is here", tell_parts(parts), decide)
        return parts, [candidate_of(one) for one in found]

    def _durable_steps(self, told: Any) -> dict[int, str | None]:
        """The steps of the durable tier; the ids of those of which processes have parts. A part of
        one process is no such step.
        """
        local = {row[0] for rows in told.values() for row in rows}
        found: dict[int, str | None] = dict.fromkeys(self._root.steps())
        for step in found.keys() & local:
            try:
                manifest = self._open_durable(step).manifest
            except (PertinaxError, OSError) as error:
                _LOG.warning("durable step %d cannot be looked at: %s", step, error)
                continue
            if manifest.partial:
                del found[step]
            else:
                found[step] = str(manifest.facts.get("save_id"))
        return found

    def _open_durable(self, step: int) -> Opened:
        place = self._root.steps()[step]
        return open_checkpoint(place, DEFAULT_ITEM, self._root.store)

    def restore(self, target: PyTree, step: int | None, options: LoadOptions) -> Regained | None:
        """That step, or the newest, into `target`; None if it is nowhere whole."""
        with self._hosts.begin("restore", self._subject, timeout_s=self._timeout_s) as talk:
            parts, found = self._look(talk)
            for number, one in enumerate(found):
                if step is not None and one.step != step:
                    continue
                if not (one.whole or one.durable):
                    _LOG.warning("step %d is not whole: passed over", one.step)
                    continue
                regained = self._try(talk, one, parts, target, options, number=number)
                if regained is not None:
                    talk.collect(f"restored {number}", None, _nothing)
                    return regained
        return None

    def _try(
        self,
        talk: Round,
        one: Candidate,
        parts: list[Part],
        target: PyTree,
        options: LoadOptions,
        *,
        number: int,
    ) -> Regained | None:
        if not one.save_id:
            begun_s = time.monotonic()
            opened = self._open_durable(one.step)
            ordered = order(opened, target, None, options)
            tree = ordered.filled(carry_out(opened, ordered.orders, options))
            took_s = time.monotonic() - begun_s
            return Regained(one.step, tree, durable_bytes=_bytes_of(tree), read_s=took_s)
        mine = [part for part in parts if (part.step, part.save_id) == (one.step, one.save_id)]
        gathering = Gathering(
            talk,
            one,
            mine[0] if mine else None,
            lambda: self._open_durable(one.step),
            options,
            f"{number}",
            lambda: Wires(talk.topology.members),
        )
        tree = gathering.restore(target)
        if tree is None:
            _LOG.warning("step %d is damaged and not whole any more: passed over", one.step)
            return None
        return _regained(one.step, tree, gathering.sources, had_part=bool(mine))


def _regained(step: int, tree: PyTree, sources: Sources, *, had_part: bool) -> Regained:
    return Regained(
        step,
        tree,
        sources.own_bytes,
        sources.peer_bytes,
        sources.durable_bytes,
        had_part,
        sources.read_s,
        sources.exchange_s,
    )


def _bytes_of(tree: PyTree) -> int:
    """Bytes of all arrays that this process has of a tree."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            total += sum(shard.data.nbytes for shard in leaf.addressable_shards)
    return total


def _nothing(_: Any) -> None:
    """It is enough that all have come so far."""
