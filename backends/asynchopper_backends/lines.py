"""What stands in a log file: lines, batches of lines, and the watermark in the first one.

The first line ends with a watermark: two fields of fixed width, written in turn *after* every sync, each holding the number
of records that were durable by then and a checksum of its own. So a file that was shortened is noticed, at no extra sync; a
torn field costs nothing, since the other one stands. The next sync carries the field to the disk, so after a power cut it is
behind by one batch at most, and never ahead.
"""

from __future__ import annotations

import os
import re
import socket
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from asynchopper.columns import Column
from asynchopper.errors import CheckpointCorrupted
from asynchopper.frames import check_lines
from asynchopper.records import check, frame, unframe
from asynchopper.storage import Entry, Lines, Lost

MAX_LINE = 256 * 2**20  # bytes; an array of 24 million floats still fits
_PORTION = 2**20
_MOST = 64 * 2**20  # bytes read at once, where a line is long
HEADER = b'{"kind":"header"'
_MARK = re.compile(rb',"durable":"(\d{12}-[0-9a-f]{8}) (\d{12}-[0-9a-f]{8})","holder":"([^"]{64})"\}$')
_MARK_DAMAGED = re.compile(rb',"durable":"(.{21}) (.{21})","holder":"(.{64})"\}$', re.DOTALL)
_MARK_SIZE = 136  # bytes, from `,"durable"` to the end of the line
FIELD = 22  # bytes from one field to the next


class Watermark(NamedTuple):
    """Where the watermark is, and what it says."""

    at: int
    """Offset of the first field."""
    slot: int
    """The field to write next."""
    durable: int

    @property
    def holder_at(self) -> int:
        return self.at + 2 * FIELD - 1 + len('","holder":"')


class End(NamedTuple):
    """Where the whole records end, and what stands behind them."""

    offset: int
    seq: int
    """How many whole records there are."""
    problem: str | None
    """Why what follows is not a record; `None` when nothing follows."""
    torn: bool
    """Whether what follows is what a crash leaves of a write: a beginning, or zeros."""
    mark: Watermark | None

    @property
    def durable(self) -> int:
        """How many records are known to have been durable."""
        return self.mark.durable if self.mark else 0


def first_line(record: bytes, durable: int) -> tuple[bytes, Watermark]:
    """The first record of a log as its first line."""
    head = frame(record, 0)[:-2] + b',"durable":"'
    line = b'%b%b %b","holder":"%b"}\n' % (head, field(durable), field(0), holder_field())
    return line, Watermark(len(head), 1, durable)


def field(count: int) -> bytes:
    digits = b"%012d" % count
    return b"%b-%08x" % (digits, zlib.crc32(digits))


def holder_field() -> bytes:
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    return f"pid {os.getpid()} on {name}".ljust(64).encode()


def holder_said(fd: int) -> str | None:
    """Who wrote last, by the file's own word."""
    found = _MARK.search(os.pread(fd, _PORTION, 0).split(b"\n", 1)[0])
    return (found[3].decode().strip() or None) if found else None


def _parse_field(text: bytes) -> int | None:
    digits = text[:12]
    return int(digits) if digits.isdigit() and text == field(int(digits)) else None


def _first(line: bytes) -> tuple[Watermark, bytes]:
    """Checks the first line of a log; gives its watermark, and the line without it: one torn field must not spoil it."""
    base = max(0, len(line) - _MARK_SIZE)
    found = _MARK.search(line, base) or _MARK_DAMAGED.search(line, base)
    if not line.startswith(HEADER):
        raise CheckpointCorrupted("this is not the first line of a checkpoint")
    if found is None:
        raise CheckpointCorrupted("the first line has lost its watermark")
    record = line[: found.start()] + b"}"
    check(record, 0)
    counts = [_parse_field(text) for text in found.groups()[:2]]
    known = [c for c in counts if c is not None]
    if not known:
        raise CheckpointCorrupted("both watermarks in the first line are damaged")
    slot = 0 if counts[0] is None or (counts[1] is not None and counts[0] < counts[1]) else 1
    return Watermark(found.start(1), slot, max(known)), record


def _chunks(fd: int, start: int) -> Iterator[tuple[bytes, bytes]]:
    """Whole lines, and what stands behind the last of them, again and again. Ends early where no line can be."""
    at, rest, want = start, b"", _PORTION
    while chunk := os.pread(fd, want, at):
        at += len(chunk)
        if len(rest) + len(chunk) > MAX_LINE and b"\n" not in chunk[: MAX_LINE - len(rest)]:
            raise CheckpointCorrupted(f"there is a line that is longer than any record ({MAX_LINE} bytes)")
        data = rest + chunk if rest else chunk
        cut = data.rfind(b"\n") + 1
        lines, rest = data[:cut], data[cut:]
        del chunk, data
        yield lines, rest
        if b"\0" in rest:
            return
        want = min(max(_PORTION, len(rest)), _MOST)


def batches(fd: int) -> Generator[Sequence[Entry], None, End]:
    """Whole, checked batches in portions; then where they end."""
    mark: Watermark | None = None
    waiting: list[Sequence[Entry]] = []  # of a batch whose end is yet to come
    offset = whole = seq = whole_seq = 0
    left, rest = 0, b""

    def end(problem: str | None, torn: bool) -> End:
        return End(whole, whole_seq, problem, torn, mark)

    try:
        for lines, rest in _chunks(fd, 0):  # noqa: B007 - read after the loop
            if not lines:
                continue
            if seq == 0:
                first, _, lines = lines.partition(b"\n")
                mark, record = _first(first)
                offset = whole = len(first) + 1
                seq = whole_seq = 1
                yield [Entry(0, record)]
            found, ends, follow, problem = _checked(lines, seq, left)
            done = int(np.flatnonzero(follow == 0)[-1]) + 1 if (follow == 0).any() else 0
            if done:
                yield from waiting
                waiting.clear()
                yield found if done == len(found) else found[:done]
                whole, whole_seq = offset + int(ends[done - 1]) + 1, seq + done
            if problem is not None:
                return end(*problem)
            if done < len(found):
                waiting.append(found[done:])
            if len(found):
                left = int(follow[-1])
            offset, seq = offset + len(lines), seq + len(found)
    except CheckpointCorrupted as e:
        return end(f"line {seq + 1}: {e}", False)
    if rest:
        return end("the last line is incomplete", seq > 0)
    return end("the last batch is incomplete" if waiting else None, True)


_Checked: TypeAlias = tuple[Sequence[Entry], Column, Column, tuple[str, bool] | None]


def _checked(lines: bytes, seq: int, left: int) -> _Checked:
    """The records of some lines, up to the first that is none; where they end, and how many of their batches follow them;
    what is wrong with the next, and whether a crash may have left it so."""
    in_bulk = check_lines(lines, seq, left)
    if in_bulk is not None:
        return Lines(lines, seq, in_bulk.ends), in_bulk.ends, in_bulk.left, None
    found: list[Entry] = []
    ends, follow = array("q"), array("q")
    problem, at = None, 0
    for line in lines.split(b"\n")[:-1]:
        try:
            follows = check(line, seq)
            if left and follows != left - 1:
                raise CheckpointCorrupted(f"record {seq} does not belong to the batch that it stands in")
        except CheckpointCorrupted as e:
            problem = f"line {seq + 1}: {e}", b"\0" in line
            break
        found.append(Entry(seq, line))
        at += len(line) + 1
        ends.append(at - 1)
        follow.append(follows)
        seq, left = seq + 1, follows
    return found, np.array(ends), np.array(follow), problem


def salvage(fd: int) -> Iterator[list[Entry | Lost]]:
    """Every record that can be proven whole, where it stands, and what lies between."""
    end: End
    scan = batches(fd)
    while True:
        try:
            yield list(next(scan))
        except StopIteration as stop:
            end = stop.value
            break
    size = os.fstat(fd).st_size
    if end.problem is not None and end.torn and end.seq >= end.durable:
        yield [Lost(f"line {end.seq + 1} and on", size - end.offset, f"{end.problem}, as a crash leaves it", False)]
        return
    seqs = end.seq
    if end.problem is not None:
        for portion in _intact(fd, end):
            seqs = max([seqs, *(e.seq + 1 for e in portion if isinstance(e, Entry))])
            yield portion
    if seqs < end.durable:
        why = f"the file had {end.durable} durable records, and the last {end.durable - seqs} are gone"
        yield [Lost("the end", 0, why, True)]


def _intact(fd: int, end: End) -> Iterator[list[Entry | Lost]]:
    """Goes on behind the first damage, line by line."""
    number, whole = end.seq, end.offset  # lines so far; where the last intact one ends
    bad, why = 0, ""  # the first line of what is damaged, and what is wrong with it

    def lost(upto: int) -> list[Entry | Lost]:
        where = f"line {bad}" if number <= bad else f"lines {bad} to {number}"
        return [Lost(where, upto - whole, why, True)] if bad else []

    at = whole
    for at, lines in _resynced(fd, end.offset):
        portion: list[Entry | Lost] = []
        for line in lines:
            try:
                record = _first(line)[1] if line.startswith(HEADER) else line
                seq = unframe(record).seq
            except CheckpointCorrupted as e:
                bad, why = (bad, why) if bad else (number + 1, str(e))
            else:
                portion += lost(at)
                portion.append(Entry(seq, record))
                bad, whole = 0, at + len(line) + 1
            at += len(line) + 1
            number += 1
        if portion:
            yield portion
    size = os.fstat(fd).st_size
    if at < size:
        bad, why = (bad, why) if bad else (number + 1, "the last line is incomplete")
        number += 1
    if bad:
        yield lost(size)


def _resynced(fd: int, start: int) -> Iterator[tuple[int, list[bytes]]]:
    """Whole lines and where the first of them is. Goes on behind zeros and over-long lines, keeping only their ends."""
    at, rest, want = start, b"", _PORTION
    while chunk := os.pread(fd, want, at):
        at += len(chunk)
        data = rest + chunk if rest else chunk
        *lines, rest = data.split(b"\n")
        yield at - len(data), lines
        if len(rest) > MAX_LINE or b"\0" in rest:
            rest = rest[-1:]
        want = min(max(_PORTION, len(rest)), _MOST)
