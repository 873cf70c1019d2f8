"""A log in bulk: runs of plain `asked` and `told` records become columns, and are folded as columns.

What comes of it is what `records.decode` and `State.fold` would have made of the records one by one, and they do it wherever
a record is out of the ordinary: this reader only ever says that it has taken all of them, or nothing.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from itertools import compress
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from asynchopper.columns import Column, NoteColumns, listed
from asynchopper.history import CODES, COMPLETED, Rows
from asynchopper.space.typed import Typed
from asynchopper.state import Asked, State
from asynchopper.values import COUNT_LIMIT, unspell

_ORIGINS = 2**15  # as many as a column can tell apart
_INTERRUPTED = CODES["interrupted"]
_FIRST = array("q", [1])
_COMPLETED = array("b", [COMPLETED])
_MISSES = 8  # pieces that were not of the most common form; after so many it is not tried any more
_KNOWN_ORIGINS = 32  # that it may name
_FEW = 32  # records; so many are not worth a look whether they can be folded in bulk
_OFTEN = 3  # so many of such in a row, and the rest is not looked at, either
_PIECE = 2**16  # bytes that are decoded at once: what they become stays in the processor's cache

Number = float | str  # NaN and the infinities are spelled
_RECORD: dict[str, Any] = {"tag_field": "kind", "gc": False, "forbid_unknown_fields": True}

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Added = Annotated[
    int, msgspec.Meta(le=2**62)
]  # of more digits than a float can have, the other reader cannot make sense
_FRAME: list[Any] = [("seq", _Added, 0), ("left", _Added, 0), ("crc", _Added, 0)]


class _Note(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    move: _Natural
    step: int | float
    parent: _Natural


_NO_NOTE = _Note(-1, 0.0, 0)


class _Told(msgspec.Struct, tag="told", kw_only=True, **_RECORD):
    """With its members in the order in which they are written, which is where the decoder looks first."""

    id: int
    attempt: int
    state: str
    value: Number = math.nan
    estimates: tuple[Number, ...] = ()
    cost: Number = 0.0
    seconds: float
    elapsed: float
    error: str | None = None
    seq: _Added = 0
    left: _Added = 0
    crc: _Added = 0


class _Completed(msgspec.Struct, tag="told", kw_only=True, **_RECORD):
    """What most are. What can have one value only is not looked at again."""

    id: int
    attempt: Literal[1]
    state: Literal["completed"]
    value: float
    seconds: float
    elapsed: float
    seq: _Added = 0
    left: _Added = 0
    crc: _Added = 0


class _Out(NamedTuple):
    """Trials that are out, in the order of their ids."""

    ids: Column
    attempts: Column
    origins: Column
    """Places in `Bulk._origins`."""
    seqs: Column
    """The record by which each was asked."""
    notes: NoteColumns
    values: tuple[Column, ...]

    def of(self, which: Any) -> _Out:
        """Some of them, by a slice, a mask, or their places."""
        return _Out(
            self.ids[which],
            self.attempts[which],
            self.origins[which],
            self.seqs[which],
            NoteColumns(*[c[which] for c in self.notes]),
            tuple([c[which] for c in self.values]),
        )

    def and_then(self, more: _Out) -> _Out:
        def joined(a: Column, b: Column) -> Column:
            return np.concatenate((a, b))

        return _Out(
            joined(self.ids, more.ids),
            joined(self.attempts, more.attempts),
            joined(self.origins, more.origins),
            joined(self.seqs, more.seqs),
            NoteColumns(*map(joined, self.notes, more.notes)),
            tuple(map(joined, self.values, more.values)),
        )


class _Read:
    """What was read of a portion, before anything of it counts."""

    def __init__(self, typed: Typed, is_asked: Column) -> None:
        self.is_asked = is_asked
        self.asked_ids, self.asked_attempts, self.origins = array("q"), array("q"), array("i")
        self.moves, self.steps, self.parents = array("b"), array("d"), array("i")
        self.params = [array(code) for code in typed.codes]
        self.told_ids, self.told_attempts, self.states = array("q"), array("q"), array("b")
        self.values, self.seconds, self.elapsed = array("d"), array("d"), array("d")
        self.estimates: dict[int, tuple[float, ...]] = {}
        self.costs: dict[int, float] = {}
        self.errors: dict[int, str] = {}


class Bulk:
    """Folds a log into a fresh state. Between `take`s some of the trials that are out are known only here, until `settle`
    hands them over. Notes by which record they were asked, where `asked_by` is wanted."""

    def __init__(self, state: State, asked_by: dict[int, int] | None = None, typed: Any = None) -> None:
        """`typed` says how candidates are read, if not as the state's space says."""
        self.state = state
        self._asked_by = asked_by
        self._out: _Out | None = None
        self._origins: dict[str, int] = {}
        self._names = ["initial", "enqueued", "seeding", "local"]  # of origins that are common
        self._typed: Typed | None = typed
        self._common: msgspec.json.Decoder[Any] | None = None
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._misses = 0
        self._refused = 0  # pieces that were out of the ordinary, one after the other
        self._possible = state.seen is None

    def _is_possible(self) -> bool:
        """Finds how candidates are read; not before somebody wants to know, since it takes a millisecond."""
        if self._typed is None and self._possible:
            try:
                self._typed = Typed(self.state.space)
            except TypeError:  # more than numbers and options
                self._possible = False
        return self._possible and self.state.seen is None

    def _decoder_of(self, attempt: Any, origin: Any, told: Any) -> msgspec.json.Decoder[Any]:
        assert self._typed is not None
        members: list[Any] = [
            ("id", int),
            ("attempt", attempt),
            ("params", self._typed.struct),
            ("origin", origin),
            ("note", _Note, _NO_NOTE),
        ]
        asked = msgspec.defstruct("Asked", [*members, *_FRAME], tag="asked", kw_only=True, **_RECORD)
        return msgspec.json.Decoder(asked | told)

    def fold(self, start: int, end: int, take: Callable[[int, int], bool], singly: Callable[[int, int], None]) -> None:
        """Folds a portion's records from `start` to `end`: by `take`, which says whether it has taken all of them, or none; what
        is refused in halves, and few of them `singly`."""
        if take(start, end):
            self._refused = 0
        elif end - start > _FEW and self._refused < _OFTEN:
            half = (start + end) // 2
            self.fold(start, half, take, singly)
            self.fold(half, end, take, singly)
        else:
            self.settle()  # takes as long as there are trials out
            singly(start, end)
            self._refused += 1

    def take(self, text: bytes, seq: int, ends: Column) -> bool:
        """Folds the lines of a text, from record `seq` on, if they are all plain. `ends` has the places of their ends."""
        if seq == 0:  # is the header, or should be
            return False
        n = len(ends)
        starts = np.concatenate(([0], ends[:-1] + 1))
        letters = np.frombuffer(text, np.uint8).take(starts + len('{"kind":"'), mode="clip")
        is_asked = letters == ord("a")
        if not (is_asked | (letters == ord("t"))).all() or not self._is_possible():
            return False
        assert self._typed is not None
        read = _Read(self._typed, is_asked.astype(np.int8))
        view, piece = memoryview(text), max(1, n * _PIECE // len(text))
        try:
            for i in range(0, n, piece):
                last = min(i + piece, n)
                self._decode(view[int(starts[i]) : int(ends[last - 1])], read.is_asked[i:last], read)
        except (
            msgspec.MsgspecError,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            RecursionError,
            AttributeError,
        ):
            return False
        return self._fold(read, seq)

    def _decode(self, lines: memoryview, is_asked: Column, into: _Read) -> None:
        """Takes them for records of the most common form first, which takes a third less time."""
        if self._misses < _MISSES:
            if self._common is None:
                self._common = self._decoder_of(Literal[1], Literal[tuple(self._names)], _Completed)
            try:
                records = self._common.decode_lines(lines)
            except msgspec.MsgspecError:
                pass
            else:
                return self._read(records, is_asked, into, True)
        if self._decoder is None:
            self._decoder = self._decoder_of(int, str, _Told)
        self._read(self._decoder.decode_lines(lines), is_asked, into, False)
        self._misses += 1
        new = self._origins.keys() - set(self._names)
        if new and len(self._names) + len(new) <= _KNOWN_ORIGINS:
            self._names += sorted(new)
            self._common = None
        return None

    def _read(self, records: list[Any], is_asked: Column, into: _Read, common: bool) -> None:
        """Raises for what is out of the ordinary, also for a record of the other kind than its first letter says."""
        if len(records) != len(is_asked):
            raise ValueError("more than a record in a line")
        asked = list(compress(records, is_asked.tobytes()))
        if asked:
            into.asked_ids.fromlist([r.id for r in asked])
            if common:
                into.asked_attempts.extend(_FIRST * len(asked))
            else:
                into.asked_attempts.fromlist([r.attempt for r in asked])
            into.origins.extend(self._numbered([r.origin for r in asked]))
            notes = [r.note for r in asked]
            steps = [note.step for note in notes]
            if set(map(type, steps)) != {float}:
                raise TypeError("a note of another form")
            into.moves.fromlist([note.move for note in notes])
            into.steps.fromlist(steps)
            into.parents.fromlist([note.parent for note in notes])
            assert self._typed is not None
            self._typed.read([r.params for r in asked], into.params)
        told = list(compress(records, (is_asked ^ 1).tobytes()))
        if told:
            start = len(into.told_ids)
            into.told_ids.fromlist([r.id for r in told])
            into.seconds.fromlist([r.seconds for r in told])
            into.elapsed.fromlist([r.elapsed for r in told])
            if common:
                into.values.fromlist([r.value for r in told])
                into.told_attempts.extend(_FIRST * len(told))
                into.states.extend(_COMPLETED * len(told))
            else:
                self._read_told(told, start, into)

    def _read_told(self, told: list[Any], start: int, into: _Read) -> None:
        """What they have that the common ones have not."""
        into.told_attempts.fromlist([r.attempt for r in told])
        into.states.fromlist([CODES[r.state] for r in told])
        values: list[Number] = [r.value for r in told]
        try:
            into.values.extend(array("d", values))  # type: ignore[arg-type]  # most are floats
        except TypeError:
            into.values.extend(array("d", map(unspell, values)))
        estimates = [r.estimates for r in told]
        if any(estimates):
            into.estimates |= {start + i: tuple(map(unspell, e)) for i, e in enumerate(estimates) if e}
        costs = [r.cost for r in told]
        if any(costs):
            into.costs |= {start + i: cost for i, c in enumerate(costs) if (cost := unspell(c))}
        if [r.error for r in told].count(None) != len(told):
            into.errors |= {start + i: r.error for i, r in enumerate(told) if r.error is not None}

    def _numbered(self, names: list[str]) -> array[int]:
        """The numbers of origins."""
        codes = self._origins
        if names.count(names[0]) == len(names):
            return array("i", [codes.setdefault(names[0], len(codes))]) * len(names)
        for name in set(names) - codes.keys():
            codes[name] = len(codes)
        return array("i", [codes[name] for name in names])

    def _fold(self, read: _Read, seq: int) -> bool:
        """Takes in what was read, unless a trial is asked anew, or told that is not out, or interrupted."""
        state, typed = self.state, self._typed
        assert typed is not None
        told_ids = _counts(read.told_ids)
        told_attempts = _counts(read.told_attempts)
        asked = self._asked_of(read, seq)
        if asked is None or told_ids is None or told_attempts is None:
            return False
        out = self._pulled().and_then(asked)
        done: Any = slice(0, len(told_ids))  # mostly they are told in the order in which they were asked
        still: Any = slice(len(told_ids), None)
        states, values = np.frombuffer(read.states, np.int8), np.frombuffer(read.values)
        if len(told_ids):
            if not np.array_equal(out.ids[done], told_ids):
                at = np.searchsorted(out.ids, told_ids)
                if not len(out.ids) or at.max() == len(out.ids) or (out.ids[at] != told_ids).any():
                    return False
                done, still = at, np.ones(len(out.ids), np.bool_)
                still[at] = False
                if np.count_nonzero(still) + len(at) != len(still):
                    return False
            if (out.seqs[done] > np.flatnonzero(read.is_asked == 0) + seq).any():
                return False
            if (states == _INTERRUPTED).any() or np.isnan(values[states == COMPLETED]).any():
                return False
        if len(self._origins) + len(state.table.origin_names) > _ORIGINS:
            return False
        self._out = out.of(still)
        if len(asked.ids):
            first = bool((asked.origins == self._origins.get("initial", -1)).any())
            told_before = int(asked.seqs[-1]) - seq + 1 - len(asked.ids)
            state.asked_all(int(asked.ids[-1]), first, state.told + told_before)
        if len(told_ids):
            told = out.of(done)
            rows = Rows(
                told_ids,
                told_attempts.astype(np.int32),
                states,
                self._origins_in_table(told.origins),
                values,
                np.frombuffer(read.seconds),
                np.frombuffer(read.elapsed),
                told.values,
                told.notes,
                read.estimates,
                read.costs,
                read.errors,
            )
            state.told_all(rows)
        return True

    def _asked_of(self, read: _Read, seq: int) -> _Out | None:
        assert self._typed is not None
        ids, attempts = _counts(read.asked_ids), _counts(read.asked_attempts)
        if ids is None or attempts is None:
            return None
        if not len(ids):
            return self._nobody()
        notes = NoteColumns(
            np.frombuffer(read.moves, np.int8), np.frombuffer(read.steps), np.frombuffer(read.parents, np.int32)
        )
        values = self._typed.columns(read.params)
        if values is None or ids[0] < self.state.next_id or (np.diff(ids) <= 0).any():
            return None
        seqs = np.flatnonzero(read.is_asked) + seq
        return _Out(ids, attempts, np.frombuffer(read.origins, np.int32), seqs, notes, tuple(values))

    def _origins_in_table(self, places: Column) -> Column:
        """As the table numbers them, which is in the order of rows."""
        table, names = self.state.table, list(self._origins)
        numbers = np.full(len(names), -1, np.int16)
        for place in dict.fromkeys(places.tolist()):
            numbers[place] = table.origin(names[place])
        return numbers[places]

    # -- the trials that are out

    def _nobody(self) -> _Out:
        assert self._typed is not None
        none = np.zeros(0, np.int64)
        return _Out(none, none, none, none, NoteColumns.nothing(0), tuple(self._typed.columns_of([]) or ()))

    def _pulled(self) -> _Out:
        """All that are out, but for those that are more than a column can hold: they stay in the state."""
        assert self._typed is not None
        pending, known = self.state.pending, self._asked_by or {}
        out = self._nobody() if self._out is None else self._out
        if pending:
            plain = [p for p in pending.values() if p.saved is None and not p.foreign]
            columns = self._typed.columns_of([p.values for p in plain])
            notes = NoteColumns.of([p.note for p in plain])
            if columns is not None and notes is not None:
                for p in plain:
                    del pending[p.id]
                    self._origins.setdefault(p.origin, len(self._origins))
                pulled = _Out(
                    np.array([p.id for p in plain], np.int64),
                    np.array([p.attempt for p in plain], np.int64),
                    np.array([self._origins[p.origin] for p in plain], np.int64),
                    np.array([known.get(p.id, -1) for p in plain], np.int64),
                    notes,
                    tuple(columns),
                )
                out = out.and_then(pulled)
                out = out.of(np.argsort(out.ids, kind="stable"))
        self._out = out
        return out

    def settle(self) -> None:
        """Hands the trials that are out to the state."""
        out, self._out = self._out, None
        if out is None or not len(out.ids):
            return
        pending, names = self.state.pending, list(self._origins)
        for id, attempt, origin, seq, move, step, parent, values in zip(
            out.ids.tolist(),
            out.attempts.tolist(),
            out.origins.tolist(),
            out.seqs.tolist(),
            *[column.tolist() for column in out.notes],
            zip(*map(listed, out.values), strict=True),
            strict=True,
        ):
            pending[id] = Asked(id, attempt, values, names[origin], [move, step, parent] if move >= 0 else None)
            if self._asked_by is not None:
                self._asked_by[id] = seq
        ordered = sorted(pending.items())
        pending.clear()
        pending.update(ordered)


def _counts(numbers: array[int]) -> Column | None:
    column = np.frombuffer(numbers, np.int64)
    return None if len(column) and (column.min() < 0 or column.max() >= COUNT_LIMIT) else column
