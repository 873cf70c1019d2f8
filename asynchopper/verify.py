"""What a checkpoint holds, whether it is whole, and what can be saved of one that is not."""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asynchopper.columns import Column
from asynchopper.errors import CheckpointVersionError, StorageError
from asynchopper.history import COMPLETED, FAILED, NAN, PRUNED
from asynchopper.records import bare, decode
from asynchopper.space import Space
from asynchopper.space.words import float_
from asynchopper.state import Asked, Fact, Header, Run, State, Told
from asynchopper.storage import Entry, Location, Lost, aside, open_storage

_PORTION = 4096  # records that are looked at together
_LONG = 2**20  # bytes of a record that is looked at by itself
_NOBODY = (
    "(none)"  # a parameter that no search has: without the search, its space is not known, and all values are foreign
)


@dataclass
class Report:
    """What was found in a checkpoint."""

    location: str
    target: str = ""
    """Where `repair` has written what can be used."""
    usable: list[bytes] = field(default_factory=list, repr=False)
    """The records that can be used, in order, as they are stored."""
    damage: list[str] = field(default_factory=list)
    """What was lost, changed or cannot be used; empty when the checkpoint is whole."""
    notes: list[str] = field(default_factory=list)
    """What is odd, and harmless."""
    size: int = 0
    """Bytes of all records."""
    state: State = field(default_factory=lambda: State(Space({_NOBODY: float_(0, 1)}), remember=False))
    runs: int = 0

    @property
    def whole(self) -> list[bytes]:
        """The records that can be used, in order, as they were appended."""
        return [bare(data) for data in self.usable]

    def lines(self) -> Iterator[str]:
        """The report for people."""
        state = self.state
        yield f"{self.location}: {'damaged' if self.damage else 'whole'}"
        if state.header is not None:
            header = state.header
            yield f"  search {header.search_id}, to {header.direction}, seed {header.seed}"
            yield f"  parameters: {', '.join(state.described or {}) or 'none'}"
            ended = "has not ended" if state.reason is None else f"ended: {state.reason}"
            yield f"  {_count(self.runs, 'run')}, the last {ended}" if self.runs else "  it has not run yet"
            yield f"  {_count(state.told, 'finished trial')}{self._states()}, {len(state.pending)} in flight"
            if state.best_row >= 0:
                trial = state.table.trial(state.best_row)
                params = {k: v for k, v in trial.params.items() if k != _NOBODY}
                yield f"  best: {trial.value:g}, trial {trial.id}, {params!r:.200}"
        yield f"  {_count(len(self.usable), 'record')}, {self.size:,} bytes"
        for note in self.notes:
            yield f"  note: {note}"
        for damage in self.damage:
            yield f"  damage: {damage}"

    def _states(self) -> str:
        names = {COMPLETED: "completed", PRUNED: "pruned", FAILED: "failed", NAN: "NaN"}
        counts = {name: list(self.state.table.states).count(code) for code, name in names.items()}
        said = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        return f" ({said})" if said else ""


async def verify(location: Location) -> Report:
    """Reads a checkpoint from end to end, also behind damage. Changes nothing, and takes no lock.

    Raises `StorageError` when there is none, `CheckpointVersionError` for one that this version cannot read.
    """
    storage = open_storage(location)
    await storage.open(readonly=True)
    found: dict[int, bytes] = {}
    highest, disorder = -1, 0
    try:
        report = Report(storage.location)
        async for portion in storage.salvage():
            for part in portion:
                if isinstance(part, Lost):
                    _lose(report, part)
                    continue
                if part.seq in found:
                    same = "" if found[part.seq] == part.data else ", and they differ; the first one counts"
                    report.damage.append(f"record {part.seq} is there twice{same}")
                    continue
                disorder += part.seq < highest
                highest = max(highest, part.seq)
                found[part.seq] = part.data
    finally:
        await storage.close()
    if disorder:
        report.damage.append(f"{_count(disorder, 'record')} out of order; they count in the order of their numbers")
    report.damage += [f"{said} missing" for said in _gaps(found)]
    await aside(_Fold, report, [Entry(seq, found[seq]) for seq in sorted(found)])
    return report


async def repair(source: Location, target: Location) -> Report:
    """Writes everything of `source` that is provably intact into a new checkpoint; `source` is left as it is.

    Raises `StorageError` when nothing can be saved, when `target` exists, or when it cannot be written.
    """
    report = await verify(source)
    if report.state.header is None:
        raise StorageError(
            f"{report.location}: the first record, which says what the search is, cannot be read; "
            "without it the others mean nothing, and nothing was written"
        )
    storage = open_storage(target)
    await storage.open(resume="never")
    try:
        async for _ in storage.read():
            pass
        await storage.append(await aside(lambda: report.whole))
        report.target = storage.location
    finally:
        await storage.close()
    return report


def _lose(report: Report, lost: Lost) -> None:
    size = f" ({lost.size:,} bytes)" if lost.size else ""
    if lost.damage:
        report.damage.append(f"{lost.where}{size}: {lost.why}")
    else:
        report.notes.append(f"{lost.where}{size}: never acknowledged, {lost.why}; the next run cuts it off")


def _gaps(found: dict[int, bytes]) -> Iterator[str]:
    expected = 0
    for seq in sorted(found):
        if seq > expected:
            yield f"record {expected} is" if seq == expected + 1 else f"records {expected} to {seq - 1} are"
        expected = seq + 1


class _Fold:
    """Takes in what can be used, and says what cannot: in bulk where all of it can, else record by record."""

    def __init__(self, report: Report, entries: Sequence[Entry]) -> None:
        from asynchopper.bulk import Bulk  # which nobody needs who only imports this

        self._report, self._entries = report, entries
        self._bulk = Bulk(report.state, typed=_Anything())
        self._finished: set[int] = set()
        self._rows = 0  # whose ids are among them
        for start in range(0, len(entries), _PORTION):
            self._bulk.fold(start, min(start + _PORTION, len(entries)), self._take, self._take_singly)
        self._bulk.settle()
        self._show_best()

    def _take(self, start: int, end: int) -> bool:
        portion = [entry.data for entry in self._entries[start:end]]
        lengths = np.array([len(data) + 1 for data in portion])
        text, ends = b"\n".join([*portion, b""]), np.cumsum(lengths) - 1
        if lengths.max() >= _LONG or not self._bulk.take(text, self._entries[start].seq, ends):
            return False
        self._report.usable += portion
        self._report.size += int(lengths.sum())
        return True

    def _take_singly(self, start: int, end: int) -> None:
        for entry in self._entries[start:end]:
            self._take_one(*entry)
        pending = self._report.state.pending
        for id, asked in pending.items():
            if asked.foreign:  # what nobody looks at would keep the others from being taken in bulk
                pending[id] = asked._replace(foreign=None)

    def _take_one(self, seq: int, data: bytes) -> None:
        report = self._report
        try:
            fact = decode(data, report.state.space)
        except CheckpointVersionError as e:
            raise CheckpointVersionError(f"{report.location}: {e}") from None
        except ValueError as e:
            report.damage.append(f"record {seq} cannot be understood: {e}")
            return
        if isinstance(fact, Header) != (seq == 0):
            report.damage.append(
                f"record {seq} is {'a header' if seq else 'not a header'}, which belongs in the first place only"
            )
            return
        if isinstance(fact, Told) and fact.id not in report.state.pending and not self._is_finished(fact.id):
            report.damage.append(
                f"record {seq}, a result of trial {fact.id}, has lost its parameters, and cannot be used"
            )
            return
        problem = None if fact is None else _taken(report, fact)
        if problem:
            report.damage.append(f"record {seq} cannot be used: {problem}")
            return
        report.usable.append(data)
        report.size += len(data) + 1

    def _is_finished(self, id: int) -> bool:
        ids = self._report.state.table.ids
        self._finished.update(ids[self._rows :])
        self._rows = len(ids)
        return id in self._finished

    def _show_best(self) -> None:
        """Finds what the best trial was, which was not looked at in bulk."""
        table, row = self._report.state.table, self._report.state.best_row
        if row < 0 or row in table.foreign:
            return
        id, asked = table.ids[row], None
        named = re.compile(rb'"id"\s*:\s*%d\b' % id)  # somebody else's JSON may have spaces
        for _, data in self._entries:
            if named.search(data) is None:
                continue
            with contextlib.suppress(ValueError):
                fact = decode(data, table.space)
                if isinstance(fact, Asked) and fact.id == id:
                    asked = fact
                elif isinstance(fact, Told) and fact.id == id and fact.state != "interrupted" and asked is not None:
                    break
        if asked is not None:
            table.foreign[row] = asked.foreign or {}


_Plain = float | str | bool | None
_Column = list[_Plain | list[_Plain]]


class _Anything:
    """How the candidates of a space that is not known are read: they are what JSON has, and not looked at."""

    struct = dict[str, _Plain | dict[str, _Plain | _Column]]
    codes = ("d",)

    def read(self, params: Sequence[Any], into: Sequence[array[float]]) -> None:
        into[0].extend(array("d", [0.5]) * len(params))

    def columns(self, read: Sequence[array[float]]) -> list[Column]:
        return [np.frombuffer(read[0])]

    def columns_of(self, candidates: Sequence[Any]) -> list[Column]:
        return [np.full(len(candidates), 0.5)]


def _taken(report: Report, fact: Fact) -> str | None:
    """Folds a fact; why that is not possible, or `None`."""
    try:
        report.state.fold(fact)
    except OverflowError as e:
        return str(e)
    report.runs += isinstance(fact, Run)
    return None


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
