"""Columns of what most trials have in one form, and a few in another or not at all."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from asynchopper.values import Json

Column: TypeAlias = np.ndarray[Any, Any]

HOLES: dict[str, float | int] = {"d": math.nan, "q": -(2**63)}
"""By type code, what stands for the value of a parameter whose branch was not taken."""


class Partial:
    """Numbers, or `None`, in eight bytes each. Takes no NaN and not the least integer: `OverflowError`."""

    __slots__ = ("_hole", "_numbers")

    def __init__(self, typecode: str) -> None:
        self._numbers: array[Any] = array(typecode)
        self._hole = HOLES[typecode]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._said(x) for x in self._numbers[at]]
        return self._said(self._numbers[at])

    def __delitem__(self, at: slice) -> None:
        del self._numbers[at]

    def __iter__(self) -> Iterator[Any]:
        return map(self._said, self._numbers)

    def append(self, value: Any) -> None:
        if value is not None and (value != value or value == self._hole):
            raise OverflowError(f"{value!r} stands for nothing here")
        self._numbers.append(self._hole if value is None else value)

    def frombytes(self, numbers: bytes) -> None:
        """Appends what is already in this form."""
        self._numbers.frombytes(numbers)

    def numbers(self, start: int, end: int) -> array[Any]:
        """Some of them in this form."""
        return self._numbers[start:end]

    def _said(self, x: Any) -> Any:
        return None if x != x or x == self._hole else x


def listed(numbers: Column) -> list[Any]:
    """As Python has them; `None` for what stands for nothing."""
    hole = HOLES[numbers.dtype.char if numbers.dtype.char == "d" else "q"]
    return [None if x != x or x == hole else x for x in numbers.tolist()]


class NoteColumns(NamedTuple):
    """Notes of the common form, `[int, float, int]`; the first is negative where there is none."""

    moves: Column
    steps: Column
    parents: Column

    @classmethod
    def nothing(cls, n: int) -> NoteColumns:
        """No notes, `n` times."""
        return cls(np.full(n, -1, np.int8), np.zeros(n), np.zeros(n, np.int32))

    @classmethod
    def of(cls, notes: Sequence[Any]) -> NoteColumns | None:
        """`None` when one of the notes has another form."""
        moves, steps, parents = array("b"), array("d"), array("i")
        for note in notes:
            if note is None:
                note = _NO_NOTE
            elif not _is_common(note):
                return None
            moves.append(note[0])
            steps.append(note[1])
            parents.append(note[2])
        return cls(np.frombuffer(moves, np.int8), np.frombuffer(steps), np.frombuffer(parents, np.int32))


_NO_NOTE = (-1, 0.0, 0)


def _is_common(note: Any) -> bool:
    if type(note) is not list or len(note) != 3:
        return False
    move, step, parent = note
    if type(move) is not int or type(step) is not float or type(parent) is not int:
        return False
    return 0 <= move < 2**7 and step == step and 0 <= parent < 2**31


class Notes(Mapping[int, Json]):
    """What samplers noted, by row. Those of the common form, a sampler's own move, its step and a row, are columns."""

    def __init__(self) -> None:
        self._moves, self._steps, self._parents = array("b"), array("d"), array("i")
        self._other: dict[int, Json] = {}

    def get(self, row: int, default: Any = None) -> Any:
        if row < len(self._moves) and self._moves[row] >= 0:
            return [self._moves[row], self._steps[row], self._parents[row]]
        return self._other.get(row, default)

    @property
    def usual(self) -> tuple[array[int], array[float], array[int]]:
        """Those of the common form, by columns, which may end before the last row; the first number is negative where a row
        has none."""
        return self._moves, self._steps, self._parents

    def __getitem__(self, row: int) -> Json:
        note = self.get(row)
        if note is None:
            raise KeyError(row)
        return note

    def __setitem__(self, row: int, note: Json) -> None:
        """A row gets its note once, after all rows before it."""
        if not _is_common(note):
            self._other[row] = note
            return
        self._fill(row)
        self._moves.append(note[0])
        self._steps.append(note[1])
        self._parents.append(note[2])

    def __iter__(self) -> Iterator[int]:
        return iter(sorted([*self._other, *(row for row, move in enumerate(self._moves) if move >= 0)]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def extend(self, row: int, notes: NoteColumns) -> None:
        """The notes of the rows from `row` on."""
        if (notes.moves >= 0).any():
            self._fill(row)
            self._moves.frombytes(notes.moves.tobytes())
            self._steps.frombytes(notes.steps.tobytes())
            self._parents.frombytes(notes.parents.tobytes())

    @property
    def common(self) -> bool:
        """Whether all of them are of the common form."""
        return not self._other

    def other(self, start: int, end: int) -> dict[int, Json]:
        """Those of another form."""
        return {row: note for row, note in self._other.items() if start <= row < end}

    def part(self, start: int, end: int) -> NoteColumns:
        """Those of the common form."""
        notes = NoteColumns.nothing(end - start)
        n = max(0, min(end, len(self._moves)) - start)
        notes.moves[:n] = self._moves[start:end]
        notes.steps[:n] = self._steps[start:end]
        notes.parents[:n] = self._parents[start:end]
        return notes

    def truncate(self, n: int) -> None:
        """Forgets the rows from `n` on."""
        for column in (self._moves, self._steps, self._parents):
            del column[n:]
        for row in [r for r in self._other if r >= n]:
            del self._other[row]

    def _fill(self, row: int) -> None:
        gap = row - len(self._moves)
        if gap > 0:
            self._moves.extend([-1] * gap)
            self._steps.extend([0.0] * gap)
            self._parents.extend([0] * gap)
