"""The reader under arbitrary bytes. Whatever they are, it ends soon, with a state that holds together or a `StorageError`.

`python -m tests.fuzz` looks for inputs that have not been seen; what it keeps is replayed by `tests/test_hostile.py`.

The first byte of an input chooses how the rest is read: as it is, or as lines that get whole frames, so that the fuzzer does
not have to guess checksums.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from asynchopper_backends import lines

import asynchopper as ah
from asynchopper.errors import StorageError
from asynchopper.journal import Replay, fold_portion
from asynchopper.records import encode, frame
from asynchopper.space import Space
from asynchopper.state import State
from asynchopper.storage import Entry, Lost

CORPUS = Path(__file__).parent / "corpus"


def spaces() -> list[Space]:
    """Spaces that a checkpoint may be opened with."""
    tree = {
        "x": ah.float(0, 1),
        "n": ah.int(1, 4096, log=True),
        "p": ah.int(16, 512, power_of=2),
        "w": ah.float(-1, 1, shape=(2, 2)),
        "k": ah.int(0, 9, shape=3),
        "c": ah.choice({"kind": "svm", "c": ah.float(0.1, 10, log=True)}, {"kind": "tree", "depth": ah.int(1, 20)}),
        "o": ah.choice([0, 1e-5, 1e-4], ordinal=True),
        "b": ah.bool(),
    }
    return [
        Space(tree),
        Space({"other": ah.float(0, 1)}),
        Space({"x": ah.choice("a", "b"), "own": ah.custom(sample=_draw)}),
        Space({"x": ah.float(0, 1), "n": ah.int(1, 9), "c": ah.choice({"depth": ah.int(1, 3)}, "plain")}),
    ]


def _draw(rng: np.random.Generator) -> float:
    return float(rng.random())


SPACES = spaces()


def read(data: bytes) -> None:
    """Reads an input in every way that there is. Raises for what a reader must not do."""
    if not data:
        return
    how, rest = data[0], data[1:]
    space = SPACES[(how >> 2) % len(SPACES)]
    content = framed(rest) if how & 1 else rest
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, content)
        entries = _checked(fd, content)
        _salvaged(fd, entries)
        _folded(entries, space)
    finally:
        os.close(fd)


def framed(text: bytes) -> bytes:
    """Each line as a whole record, under a first line as a backend writes it."""
    header, *records = text.split(b"\n")
    first, _ = lines.first_line(header if len(header) > 1 else b"{}", len(records))
    return first + b"".join(frame(r if len(r) > 1 else b"{}", i) for i, r in enumerate(records, 1))


def _checked(fd: int, content: bytes) -> list[Entry]:
    entries: list[Entry] = []
    scan = lines.batches(fd)
    while True:
        try:
            entries += next(scan)
        except StopIteration as stop:
            end: lines.End = stop.value
            break
    assert end.seq == len(entries)
    assert [entry.seq for entry in entries] == list(range(end.seq))
    assert end.offset <= len(content)
    assert content[: end.offset].count(b"\n") == end.seq
    assert (end.problem is None) == (end.offset == len(content))
    return entries


def _salvaged(fd: int, entries: list[Entry]) -> None:
    found = [x for portion in lines.salvage(fd) for x in portion]
    whole = [x for x in found if isinstance(x, Entry)]
    assert whole[: len(entries)] == entries, "salvage gives less than reading"
    assert all(x.why for x in found if isinstance(x, Lost))


def _refused(fold: Callable[[], None]) -> str | None:
    """Why a log is refused, or `None`."""
    try:
        fold()
    except StorageError as e:
        return str(e)
    return None


def _folded(entries: list[Entry], space: Space) -> None:
    state, bulk = State(space), State(space, remember=False)
    said = _refused(lambda: fold_portion(entries, state, "fuzzed"))
    log = Replay(bulk, "fuzzed")
    assert _refused(lambda: log.fold(entries)) == said, "reading in bulk says something else"
    if said is not None:
        return
    log.end()
    assert bulk.told == state.told and bulk.pending.keys() == state.pending.keys()
    assert [repr(bulk.table.trial(i)) for i in range(bulk.told)] == [
        repr(state.table.trial(i)) for i in range(state.told)
    ]
    for row in range(state.told):
        state.table.trial(row)
    assert state.best_value is None or state.best_values is not None
    again = State(space)
    storable = all(leaf.param.user_sample is None for leaf in space.leaves)
    for fact in state.facts():
        if storable:
            encode(fact, space)
        again.fold(fact)
    assert again.told == state.told
    assert again.pending.keys() == state.pending.keys()
    repr(state)
