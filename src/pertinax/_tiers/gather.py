# SPDX-License-Identifier: Apache-2.0
"""Gathering: the pieces of one save, each from wherever it is: own storage, a peer's, the durable
tier.

Knows one save and the order of things: who has what, who sends what to whom, read, carry, place.
Every piece is compared with its checksums after its way, whichever that was; one that is damaged
counts as one that is not there. Knows nothing of steps, nor of which save to take.
"""

import base64
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from pertinax._core.chunk_bytes import ChunkBytes, Stored
from pertinax._core.fetch import Fetcher, Request
from pertinax._core.load import Ordered, order
from pertinax._core.open import Opened
from pertinax._core.options import LoadOptions
from pertinax._core.orders import boxes_of, carry_out
from pertinax._device.exchange import Wires
from pertinax._formats.crc import BLOCK_BYTES, crc_blocks
from pertinax._formats.ledger import decode_ledger, encode_ledger
from pertinax._formats.manifest import Manifest
from pertinax._hosts import Round
from pertinax._plan.exchange import ExchangePlan, Transfer, plan_exchange
from pertinax._store.workers import Workers
from pertinax._tiers.local import Part
from pertinax._tiers.pieces import (
    Pieces,
    checksums,
    decode_bits,
    encode_bits,
    table_of,
)
from pertinax._tiers.stock import Candidate
from pertinax._tree.paths import path_text
from pertinax.errors import CorruptCheckpoint
from pertinax.typing import PyTree

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(slots=True)
class Sources:
    """Where the bytes of a restore came from on this process, and how long that took."""

    own_bytes: int = 0
    peer_bytes: int = 0
    durable_bytes: int = 0
    read_s: float = 0.0
    exchange_s: float = 0.0


class _Wanted(NamedTuple):
    """A target, understood: what of the stored tree it asks for, and the pieces that takes."""

    ordered: Ordered
    pieces: Pieces
    bits: "NDArray[np.bool_]"


@final
@dataclass(slots=True)
class Gathering:
    """One save, on its way into a target.

    `durable` opens the same save in the durable tier, where it has it.
    """

    talk: Round
    candidate: Candidate
    part: Part | None
    durable: Callable[[], Opened]
    options: LoadOptions
    name: str
    wires: Callable[[], Wires]
    sources: Sources = field(default_factory=Sources)
    _damaged: set[int] = field(default_factory=set[int])
    _tries: int = 0

    def restore(self, target: PyTree) -> PyTree | None:
        """The target with the values of the save; None, on all processes, if pieces are missing.

        Raises `RestoreMismatch`, `PeerFailed`, and `CorruptCheckpoint` if the durable tier is
        damaged.
        """
        manifest = self._manifest()
        blank = Opened(*self._where(), replace(manifest, partial=True))
        ordered = order(blank, target, None, self.options)
        pieces = Pieces(manifest.leaves)
        bits = pieces.touched(boxes_of(ordered.orders, manifest.leaves))
        wanted = _Wanted(ordered, pieces, bits)
        while True:
            self._tries += 1
            plan = self._plan(wanted)
            if plan is None:
                return None
            begun_s = time.monotonic()
            stored = self._read(wanted, plan)
            self.sources.read_s += time.monotonic() - begun_s
            if stored is not None:
                break
        return self._place(blank, wanted, plan, stored)

    def _where(self) -> tuple[Any, str, str]:
        if self.part is None:
            return None, self.name, self.name  # nothing is read there
        opened = self.part.opened
        return opened.store, opened.path, opened.directory

    def _manifest(self) -> Manifest:
        """What the save holds. Who has no part of it is told by one who has."""
        own = None if self.part is None else self.part.opened.manifest
        everybody = set(self.talk.topology.members) == set(self.candidate.holders)
        if everybody and own is not None:
            return own
        text = None
        if own is not None and self.talk.topology.process == self.candidate.holders[0]:
            none = table_of(Pieces(own.leaves), ())
            crc = np.zeros(0, np.uint32)
            bare = replace(own, chunks=replace(none, crc=crc), files=(), partial=True)
            text = base64.b64encode(zlib.compress(encode_ledger(bare))).decode()
        told = self.talk.collect(f"describe {self.name}", text, _the_only)
        if own is not None:
            return own
        return decode_ledger(zlib.decompress(base64.b64decode(told)))

    def _plan(self, wanted: _Wanted) -> ExchangePlan | None:
        """Who sends what. None if some pieces are nowhere."""
        bits, pieces = wanted.bits, wanted.pieces
        held = np.zeros(pieces.total, np.bool_)
        if self.part is not None:
            held = pieces.held(self.part.opened.manifest.chunks)
            held[list(self._damaged)] = False
        sizes = pieces.sizes()

        def decide(told: Mapping[int, Any]) -> list[Any]:
            holds = {p: decode_bits(one[0], pieces.total) for p, one in told.items()}
            lacks = {p: decode_bits(one[1], pieces.total) for p, one in told.items()}
            plan = plan_exchange(holds, lacks, sizes)
            missing = bool(plan.unfound) and not self.candidate.durable
            bundles = [encode_bits(_bits(one, pieces.total)) for one in plan.bundles]
            return [missing, bundles, [list(map(list, one)) for one in plan.rounds]]

        value = [encode_bits(held), encode_bits(bits & ~held)]
        missing, bundles, rounds = self.talk.collect(
            f"pieces {self.name} {self._tries}", value, decide
        )
        if missing:
            return None
        return ExchangePlan(
            tuple(
                tuple(np.flatnonzero(decode_bits(one, pieces.total)).tolist()) for one in bundles
            ),
            tuple(tuple(Transfer(*one) for one in round_) for round_ in rounds),
            (),
        )

    def _read(self, wanted: _Wanted, plan: ExchangePlan) -> dict[int, NDArray[np.uint8]] | None:
        """Own pieces that are needed here, or by others. None if anybody's are damaged: then all
        plan anew.
        """
        stored: dict[int, NDArray[np.uint8]] = {}
        damaged: list[int] = []
        if self.part is not None:
            me = self.talk.topology.process
            needed = wanted.bits.copy()
            for one in (t for round_ in plan.rounds for t in round_ if t.source == me):
                needed[list(plan.bundles[one.bundle])] = True
            stored, damaged = self._read_own(wanted.pieces, needed)
        again = self.talk.collect(f"read {self.name} {self._tries}", len(damaged), _any)
        if not again:
            return stored
        self._damaged |= set(damaged)
        return None

    def _read_own(
        self, pieces: Pieces, needed: NDArray[np.bool_]
    ) -> tuple[dict[int, NDArray[np.uint8]], list[int]]:
        assert self.part is not None  # noqa: S101 - seen to by the caller
        opened = self.part.opened
        numbers = pieces.numbers(opened.manifest.chunks)
        rows = [
            row
            for row, number in enumerate(numbers.tolist())
            if number >= 0 and needed[number] and number not in self._damaged
        ]
        threads, use_map = self.options.threads, self.options.mmap
        with Workers(threads, "pertinax-read") as workers:
            source = ChunkBytes(
                opened.store, opened.directory, opened.manifest, use_map=use_map, workers=workers
            )
            try:
                return {int(numbers[r]): data for r, data in source.load(rows).items()}, []
            except (CorruptCheckpoint, OSError) as error:
                _LOG.warning("a local part is damaged path=%s: %s", opened.path, error)
                return {}, [int(numbers[row]) for row in _bad_rows(source, rows)]
            finally:
                source.close()

    def _place(
        self,
        blank: Opened,
        wanted: _Wanted,
        plan: ExchangePlan,
        stored: dict[int, NDArray[np.uint8]],
    ) -> PyTree:
        pieces, bits = wanted.pieces, wanted.bits
        have = {number: stored[number] for number in stored if bits[number]}
        self.sources.own_bytes = sum(map(len, have.values()))
        begun_s = time.monotonic()
        got = self._carry(pieces, plan, stored)
        self.sources.exchange_s = time.monotonic() - begun_s
        self.sources.peer_bytes = sum(len(got[number]) for number in got if bits[number])
        have |= {number: data for number, data in got.items() if bits[number]}
        rest = [number for number in np.flatnonzero(bits).tolist() if number not in have]
        if rest:
            have |= self._from_durable(pieces, rest)
        numbers = sorted(have)
        manifest = replace(blank.manifest, chunks=table_of(pieces, numbers), files=(), partial=True)
        rows: Stored = dict(enumerate(have[number] for number in numbers))
        opened = Opened(blank.store, blank.path, blank.directory, manifest)
        orders = wanted.ordered.orders
        return wanted.ordered.filled(carry_out(opened, orders, self.options, gathered=rows))

    def _carry(
        self, pieces: Pieces, plan: ExchangePlan, stored: Mapping[int, NDArray[np.uint8]]
    ) -> dict[int, NDArray[np.uint8]]:
        """What others send us; what we have goes to those who lack it."""
        if not plan.rounds:
            return {}
        me = self.talk.topology.process
        wires = self.wires()
        crcs = self._checksums(pieces)
        sizes = pieces.sizes()
        got: dict[int, NDArray[np.uint8]] = {}
        got_crcs: dict[int, NDArray[np.uint32]] = {}
        for round_ in plan.rounds:
            lengths = {t.source: _parcel_bytes(plan.bundles[t.bundle], sizes) for t in round_}
            parcel = None
            for one in (t for t in round_ if t.source == me):
                bundle = plan.bundles[one.bundle]
                parcel = _pack(bundle, {**stored, **got}, {**crcs, **got_crcs})
            arrived = wires.carry({t.source: t.target for t in round_}, lengths, parcel)
            for one in (t for t in round_ if t.target == me):
                new, their_crcs = _unpack(arrived, plan.bundles[one.bundle], sizes)
                got |= new
                got_crcs |= their_crcs
        # Only now: who leaves a round of computations keeps the others waiting.
        for number, data in got.items():
            _check(number, data, got_crcs[number], pieces)
        return got

    def _checksums(self, pieces: Pieces) -> dict[int, NDArray[np.uint32]]:
        if self.part is None:
            return {}
        manifest = self.part.opened.manifest
        numbers = pieces.numbers(manifest.chunks).tolist()
        return dict(zip(numbers, checksums(manifest), strict=True))

    def _from_durable(self, pieces: Pieces, numbers: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        """Pieces that no process has in its own storage. The chunks there are others, so they are
        asked for by their boxes.
        """
        begun_s = time.monotonic()
        opened = self.durable()
        by_name = {leaf.name: i for i, leaf in enumerate(opened.manifest.leaves)}
        requests: list[Request] = []
        for number in numbers:
            leaf, box = pieces.box(number)
            requests.append(Request(by_name[pieces.leaves[leaf].name], box))
        with Fetcher(
            opened.store,
            opened.directory,
            opened.manifest,
            use_map=self.options.mmap,
            threads=self.options.threads,
        ) as fetcher:
            arrays = fetcher.fetch(requests)
        out: dict[int, NDArray[np.uint8]] = {}
        for number, array in zip(numbers, arrays, strict=True):
            out[number] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.sources.durable_bytes = sum(map(len, out.values()))
        self.sources.read_s += time.monotonic() - begun_s
        return out


def _pack(
    bundle: Sequence[int],
    stored: Mapping[int, NDArray[np.uint8]],
    crcs: Mapping[int, NDArray[np.uint32]],
) -> NDArray[np.uint8]:
    """Pieces one after the other, and then the checksums that their ledger has of them."""
    sums = [np.ascontiguousarray(crcs[n], "<u4").view(np.uint8) for n in bundle]
    return np.concatenate([*(stored[number] for number in bundle), *sums])


def _parcel_bytes(bundle: Sequence[int], sizes: Sequence[int]) -> int:
    return sum(sizes[number] + 4 * _blocks(sizes[number]) for number in bundle)


def _blocks(length: int) -> int:
    return -(-length // BLOCK_BYTES)


def _unpack(
    parcel: NDArray[np.uint8] | None, bundle: Sequence[int], sizes: Sequence[int]
) -> tuple[dict[int, NDArray[np.uint8]], dict[int, NDArray[np.uint32]]]:
    """The inverse of `_pack`; nothing has been compared yet."""
    assert parcel is not None  # noqa: S101 - the plan says that something comes
    data: dict[int, NDArray[np.uint8]] = {}
    crcs: dict[int, NDArray[np.uint32]] = {}
    start = 0
    for number in bundle:
        # A copy of its own: aligned, so that JAX may use it as it is.
        data[number] = parcel[start : start + sizes[number]].copy()
        start += sizes[number]
    for number in bundle:
        stop = start + 4 * _blocks(sizes[number])
        crcs[number] = np.frombuffer(parcel[start:stop].tobytes(), "<u4").astype(np.uint32)
        start = stop
    return data, crcs


def _check(
    number: int, data: NDArray[np.uint8], expected: NDArray[np.uint32], pieces: Pieces
) -> None:
    """Raise `CorruptCheckpoint` for a piece that is not what its ledger says."""
    if not np.array_equal(crc_blocks(data), expected):
        leaf, box = pieces.box(number)
        raise CorruptCheckpoint(
            f"the part from {box.start} to {box.stop} came damaged from another process",
            file="a peer's local storage",
            leaf=path_text(pieces.leaves[leaf].path),
        )


def _bad_rows(source: ChunkBytes, rows: Sequence[int]) -> list[int]:
    """The rows that cannot be read, or are not what was written."""
    try:
        source.load(rows)
    except (CorruptCheckpoint, OSError):
        if len(rows) == 1:
            return list(rows)
        middle = len(rows) // 2
        return _bad_rows(source, rows[:middle]) + _bad_rows(source, rows[middle:])
    return []


def _bits(numbers: Sequence[int], total: int) -> NDArray[np.bool_]:
    bits = np.zeros(total, np.bool_)
    bits[list(numbers)] = True
    return bits


def _any(told: Mapping[int, Any]) -> bool:
    return any(told.values())


def _the_only(told: Mapping[int, Any]) -> Any:
    return next(text for text in told.values() if text is not None)
