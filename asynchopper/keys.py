"""A set of 64-bit numbers that takes some 15 bytes each, where Python's takes 70 and more."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSet
from typing import Any, TypeAlias

import numpy as np

Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_FEW = 1024  # numbers that are kept in a set of Python's, at least
_PART = 16  # and up to one in so many of all
_MOST = 2**17  # numbers that are kept together: to sort new ones in among more would take milliseconds
_BITS = 4


class Keys(MutableSet[int]):
    """The numbers that came last are a Python set, all before them a sorted column with two bytes each in front of it that
    say of most numbers that they are not there. A large set is several of these, by the numbers' first bits."""

    __slots__ = ("_bits", "_late", "_mask", "_most", "_parts", "_shift", "_sorted", "dropped")

    def __init__(self, numbers: Iterable[int] | Numbers = (), shift: int = 64 - _BITS) -> None:
        """`shift` is how many bits stand behind those by which it is split."""
        self._shift = shift
        self._parts: list[Keys] | None = None
        self._late: set[int] = set()
        self._sorted = array("q")
        self._bits, self._mask = bytearray(1), 0
        self._most = _FEW
        self.dropped = 0
        """How often one was discarded."""
        known = np.sort(numbers if isinstance(numbers, np.ndarray) else np.fromiter(numbers, np.int64))
        self._settle(known[np.concatenate(([True], known[1:] != known[:-1]))] if len(known) else known)

    def __contains__(self, number: Any) -> bool:
        if self._parts is not None:
            return number in self._part(number)
        return number in self._late or (
            self._bits[(number >> 3) & self._mask] >> (number & 7) & 1 == 1 and self._is_sorted_in(number)
        )

    def _part(self, number: int) -> Keys:
        assert self._parts is not None
        return self._parts[number >> self._shift & (1 << _BITS) - 1]

    def _is_sorted_in(self, number: int) -> bool:
        at = bisect_left(self._sorted, number)
        return at < len(self._sorted) and self._sorted[at] == number

    def __len__(self) -> int:
        if self._parts is not None:
            return sum(map(len, self._parts))
        return len(self._sorted) + len(self._late)

    def __iter__(self) -> Iterator[int]:
        for part in self._parts or ():
            yield from part
        yield from self._sorted
        yield from self._late

    def __repr__(self) -> str:
        return f"Keys({len(self)})"

    def add(self, value: int) -> None:
        self.insert(value)

    def insert(self, value: int) -> bool:
        """Whether the number is new; it is there then."""
        if self._parts is not None:
            return self._parts[value >> self._shift & (1 << _BITS) - 1].insert(value)
        late = self._late
        if value in late or (
            self._bits[(value >> 3) & self._mask] >> (value & 7) & 1 == 1 and self._is_sorted_in(value)
        ):
            return False
        late.add(value)
        if len(late) >= self._most:
            new = np.sort(np.fromiter(late, np.int64, len(late)))
            late.clear()
            before = np.frombuffer(self._sorted, np.int64)
            self._settle(np.insert(before, np.searchsorted(before, new), new), new)
        return True

    def discard(self, value: int) -> None:
        self.dropped += 1
        if self._parts is not None:
            self._part(value).discard(value)
        elif value in self._late:
            self._late.discard(value)
        elif value in self:
            del self._sorted[bisect_left(self._sorted, value)]

    def _settle(self, numbers: Numbers, new: Numbers | None = None) -> None:
        """Keeps sorted numbers, all different; those that are `new` are yet to be marked."""
        n = len(numbers)
        if n > _MOST and self._shift >= 0:
            first = numbers >> self._shift & (1 << _BITS) - 1
            self._parts = [Keys((), self._shift - _BITS) for _ in range(1 << _BITS)]
            for i, part in enumerate(self._parts):
                part._settle(numbers[first == i])
            self._sorted, self._bits, self._mask = array("q"), bytearray(1), 0
            return
        self._sorted = array("q", numbers.tobytes())
        self._most = max(_FEW, n // _PART)
        size = 1 << max(0, (2 * n - 1).bit_length() - 1)  # bytes: one to two for each number
        if size != len(self._bits):
            self._mask = size - 1
            marks = np.zeros(8 * size, np.bool_)
            marks[numbers & (8 * size - 1)] = True
            self._bits = bytearray(np.packbits(marks, bitorder="little"))
        else:
            marked = numbers if new is None else new
            bits = np.frombuffer(self._bits, np.uint8)
            np.bitwise_or.at(bits, marked >> 3 & self._mask, (1 << (marked & 7)).astype(np.uint8))
