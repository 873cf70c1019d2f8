"""Many framed lines at once: what `asynchopper.records.check` says of each, some twenty times as fast.

The text is looked at as numbers of eight bytes, a column for all lines. Nothing here says what is wrong with a line: whoever
gets `None` asks again, line by line.
"""

from __future__ import annotations

import zlib
from array import array
from typing import NamedTuple

import numpy as np

from asynchopper.columns import Column

_SHORTEST = 64  # bytes; a shorter line is left to the other reader, and so no look back leaves a line
_EIGHT_DIGITS = 10**8
_POWERS = 10 ** np.arange(1, 11)
_SEVEN_BYTES = np.uint64(2**56 - 1)
_NEWLINE, _BRACE = b"\n}"


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


_SEQ, _LEFT, _CRC = _word(b',"seq":'), _word(b',"left":'), _word(b',"crc":')


class Checked(NamedTuple):
    """Whole lines: where each ends, and how many records of its batch follow it."""

    ends: Column
    left: Column


def check_lines(data: bytes, seq: int, left: int) -> Checked | None:
    """Checks lines that begin with record `seq`, behind one that `left` others of its batch follow.

    `None` unless each line is its record, unchanged, and fits its batch; or when that is not to be seen in bulk.
    """
    if len(data) < _SHORTEST:
        return None
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    n = len(ends)
    if not n:
        return None
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    if ends[-1] != len(data) - 1 or seq + n >= _EIGHT_DIGITS or (ends - starts).min() < _SHORTEST:
        return None
    words: Column = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))  # the eight bytes from each place on
    if not (words[ends - 8] >> np.uint64(56) == _BRACE).all():
        return None
    at = ends - 1
    digits = _digits_behind(words, at, _CRC, 7, 10)
    if digits is None:
        return None
    stops = at - digits - 7
    follow = _left(words, stops, seq)
    if (
        follow is None
        or (left and follow[0] != left - 1)
        or ((follow[:-1] > 0) & (follow[1:] != follow[:-1] - 1)).any()
    ):
        return None
    crc = zlib.crc32
    sums = array("q", [crc(data[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])
    crcs = np.frombuffer(sums, np.int64)
    high = crcs // _EIGHT_DIGITS
    low = crcs - high * _EIGHT_DIGITS
    same = _spelled(words, at, low, np.minimum(digits, 8)) & _spelled(words, at - 8, high, np.maximum(digits - 8, 0))
    return Checked(ends, follow) if (same & (digits == _digits(crcs))).all() else None


def _left(words: Column, stops: Column, seq: int) -> Column | None:
    """How many records follow, by the words before `stops`; `None` unless the lines are numbered from `seq` on."""
    seqs = np.arange(seq, seq + len(stops))
    digits = _digits(seqs)
    left = np.zeros_like(stops)
    more = np.flatnonzero(words[stops - digits - 7] & _SEVEN_BYTES != _SEQ)
    if len(more):
        at = stops[more]
        count = _digits_behind(words, at, _LEFT, 8, 8)
        if count is None:
            return None
        value = _value(words[at - 8], count)
        if not (_spelled(words, at, value, count) & (count == _digits(value)) & (value > 0)).all():
            return None
        left[more] = value
        stops = stops.copy()
        stops[more] = at - count - 8
        if not (words[stops[more] - digits[more] - 7] & _SEVEN_BYTES == _SEQ).all():
            return None
    return left if _spelled(words, stops, seqs, digits).all() else None


def _digits_behind(words: Column, at: Column, name: np.uint64, size: int, most: int) -> Column | None:
    """How many digits stand between a name of `size` bytes and each place; `None` where there is no such name."""
    found = np.zeros_like(at)
    mask = np.uint64(2 ** (8 * size) - 1)
    rest = np.arange(len(at))
    for digits in sorted(range(1, most + 1), key=lambda k: -k if most > 8 else k):  # the likeliest first
        here = words[at[rest] - digits - size] & mask == name
        found[rest[here]] = digits
        rest = rest[~here]
        if not len(rest):
            return found
    return None


def _digits(x: Column) -> Column:
    """How many digits the numbers have."""
    return np.searchsorted(_POWERS, x, "right") + 1


def _spelled(words: Column, at: Column, x: Column, digits: Column) -> Column:
    """Whether the last so many digits before `at`, at most 8, are those of `x`."""
    differs = words[at - 8] ^ _text(x)
    same: Column = (digits == 0) | (differs >> (8 * (8 - digits)).astype(np.uint64) == 0)
    return same


def _text(x: Column) -> Column:
    """Numbers below 10^8 as eight digits each, the first one in the lowest byte."""
    u = np.uint64
    x = x.astype(u)
    high = x * u(109_951_163) >> u(40)  # by 10,000; so are the others a multiplication and a shift
    fours = high | (x - high * u(10_000)) << u(32)
    hundreds = (fours * u(10_486)) >> u(20) & u(0x7F_0000_007F)
    twos = hundreds | (fours - hundreds * u(100)) << u(16)
    tens = (twos * u(103)) >> u(10) & u(0x000F_000F_000F_000F)
    text: Column = (tens | (twos - tens * u(10)) << u(8)) | u(0x3030_3030_3030_3030)
    return text


def _value(words: Column, digits: Column) -> Column:
    """The numbers that the last so many of eight characters spell, if they are digits."""
    u = np.uint64
    x = words & u(0x0F0F_0F0F_0F0F_0F0F)
    x = x >> (8 * (8 - digits)).astype(u) << (8 * (8 - digits)).astype(u)
    x = (x * u(2_561)) >> u(8) & u(0x00FF_00FF_00FF_00FF)
    x = (x * u(6_553_601)) >> u(16) & u(0x0000_FFFF_0000_FFFF)
    value: Column = ((x * u(42_949_672_960_001)) >> u(32)).astype(np.int64)
    return value
