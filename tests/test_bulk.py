"""Reading in bulk gives what reading record by record gives, for any log."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.bulk import Bulk
from asynchopper.errors import CheckpointCorrupted, StorageError
from asynchopper.frames import check_lines
from asynchopper.journal import Replay, fold_portion
from asynchopper.records import check, encode, frame
from asynchopper.space import Space
from asynchopper.state import Asked, Ended, Fact, Header, PrunerSaw, Run, Saved, State, Told
from asynchopper.storage import Entry, Lines

FLAT = Space(
    {
        "x": ah.float(0, 1),
        "lr": ah.float(1e-5, 1e-1, "0.2g"),
        "r": ah.float(-1, 1, "0.3f"),
        "g": ah.float(),
        "n": ah.int(0, 9),
        "m": ah.int(32, 512, multiple_of=32),
        "p": ah.int(16, 512, power_of=2),
        "o": ah.choice([0, 1e-5, 1e-4], ordinal=True),
        "c": ah.choice("a", "b"),
        "b": ah.bool(),
    }
)
NESTED = Space(
    {
        "x": ah.float(0, 1),
        "m": ah.choice(
            {"kind": "svm", "c": ah.float(0.1, 10, log=True), "on": ah.choice("u", "v")},
            {"kind": "tree", "depth": ah.int(1, 5), "on": ah.choice("v", "w")},
            "plain",
        ),
    }
)
OTHERS = [
    Space({"x": ah.float(0, 0.5), "n": ah.int(0, 4)}),
    Space({"x": ah.float(0, 1), "w": ah.float(0, 1, shape=2)}),
    Space({"x": ah.choice("a", "b")}),
    Space({"m": ah.choice({"depth": ah.int(1, 3)}, {"c": ah.float(0, 1)})}),
]
SPACES = [FLAT, NESTED]


def asked(space: Space, id: int, attempt: int, seed: int, origin: str, note: Any, foreign: Any) -> Asked:
    rng = np.random.Generator(np.random.Philox(seed))
    return Asked(id, attempt, space.sample(rng), origin, note, foreign)


numbers = st.floats(-1e9, 1e9) | st.sampled_from([math.inf, -math.inf, 0.0, -0.0, 1e-320])
notes = st.sampled_from([None, [0, 0.25, 0], [3, 0.0, 7], [4, 1.17e-7, 2**31 - 1]]) | st.sampled_from(
    [[1, 2], [1, 2, 3], [-1, 0.5, 3], [200, 0.5, 3], [1, 0.5, 2**31], {"a": 1}, "x", 0]
)
errors = st.none() | st.sampled_from(["ValueError: x", 'quoted "é" \n', ""])


def told(id: int, attempt: int, state: str, value: float, more: tuple[Any, ...]) -> Told:
    estimates, cost, seconds, elapsed, error = more
    return Told(
        id,
        attempt,
        state,  # type: ignore[arg-type]  # a text from a strategy
        value if state == "completed" else math.nan,
        estimates,
        cost,
        seconds,
        elapsed,
        error,
    )


extras = st.tuples(
    st.just(()) | st.lists(numbers, max_size=3).map(tuple),
    st.just(0.0) | st.floats(0, 10),
    st.floats(0, 100),
    st.floats(0, 1e6),
    errors,
)
plain = st.tuples(st.just(()), st.just(0.0), st.floats(0, 100), st.floats(0, 1e6), st.none())


@st.composite
def logs(draw: st.DrawFn, space: Space) -> list[Fact]:
    """A header, runs of trials as a search leaves them, and every other fact here and there."""
    facts: list[Fact] = [Header("id", draw(st.sampled_from(["maximize", "minimize"])), 7, space.describe())]
    next_id = draw(st.integers(0, 2))
    out: list[int] = []
    for _ in range(draw(st.integers(0, 5))):
        for _ in range(draw(st.integers(0, 12))):
            if out and draw(st.booleans()):
                id = out.pop(draw(st.integers(0, len(out) - 1)))
                facts.append(
                    told(id, 1, draw(st.sampled_from(["completed"] * 4 + ["pruned"])), draw(numbers), draw(plain))
                )
            else:
                note = draw(st.sampled_from([None, [0, 0.25, 0], [2, 1e-7, 3]]))
                facts.append(asked(space, next_id, 1, next_id, draw(st.sampled_from(["local", "initial"])), note, None))
                out.append(next_id)
                next_id += draw(st.sampled_from([1, 1, 1, 2]))
        facts += draw(st.lists(odd(space, next_id), max_size=2))
    return facts


def odd(space: Space, upto: int) -> st.SearchStrategy[Fact]:
    ids = st.integers(0, upto + 1)
    states = st.sampled_from(["completed", "pruned", "nan", "failed", "interrupted"])
    return st.one_of(
        st.builds(
            asked,
            st.just(space),
            ids,
            st.integers(1, 3),
            st.integers(0, 6),
            st.sampled_from(["initial", "seeding", "own"]),
            notes,
            st.none() | st.just({"gone": 3}),
        ),
        st.builds(told, ids, st.integers(1, 3), states, numbers, extras),
        st.builds(Saved, ids, st.just(1), st.integers() | st.just({"epoch": 3}), st.floats(0, 1e6)),
        st.builds(PrunerSaw, st.just("TopKPruner"), st.just({"top": []})),
        st.builds(Ended, st.sampled_from(["steps", "stopped"]), st.floats(0, 1e6)),
        st.just(Run({"steps": 10}, 0, 0.0, 0.0, None, "2026-01-01T00:00:00+00:00", "host", 1)),
    )


def everything(state: State) -> dict[str, Any]:
    t = state.table
    return {
        "trials": [repr(t.trial(i)) for i in range(len(t))],
        "elapsed": [repr(x) for x in t.elapsed],
        "candidates": [repr(t.row(i)) for i in range(len(t))],
        "types": [tuple(map(type, t.row(i))) for i in range(len(t))],
        "keys": [t.space.key(t.row(i)) for i in range(len(t))],
        "notes": {row: repr(note) for row, note in t.notes.items()},
        "foreign": t.foreign,
        "origins": t.origin_names,
        "out": [repr(p) for p in state.pending.values()],
        "numbers": repr(
            (state.told, state.next_id, state.best_row, state.elapsed, state.cost, state.initial_asked, state.asked_at)
        ),
        "said": (state.header, state.run, state.reason, state.described, state.pruner, state.pruner_row),
        "strays": state.space.strays,
    }


def framed(records: list[bytes]) -> Lines:
    text = b"".join([frame(r, i) for i, r in enumerate(records)])
    return Lines(text, 0, np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")))


def both(records: list[bytes], make: Any, cuts: list[int], as_lines: bool) -> None:
    """Folds the same log in bulk, in portions, and record by record."""
    entries = [Entry(i, r) for i, r in enumerate(records)]
    one_by_one, bulk = State(make(), remember=False), State(make(), remember=False)
    asked_by: tuple[dict[int, int], dict[int, int]] = ({}, {})
    said: list[str | None] = [None, None]
    try:
        fold_portion(entries, one_by_one, "a log", asked_by[0])
    except StorageError as e:
        said[0] = str(e)
    replay = Replay(bulk, "a log", asked_by[1])
    lines = framed(records) if as_lines else entries
    try:
        for a, b in zip([0, *cuts], [*cuts, len(entries)], strict=True):
            replay.fold(lines[a:b])
        replay.end()
    except StorageError as e:
        said[1] = str(e)
    assert said[1] == said[0]
    if said[0] is None:
        assert everything(bulk) == everything(one_by_one)
        assert {p: asked_by[1][p] for p in bulk.pending} == {p: asked_by[0][p] for p in one_by_one.pending}


@pytest.mark.parametrize("space", SPACES, ids=["flat", "nested"])
@given(data=st.data())
def test_bulk_and_one_by_one_give_the_same_state(space: Space, data: st.DataObject) -> None:
    facts = data.draw(logs(space))
    records = [encode(f, space) for f in facts]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=4)))
    both(records, lambda: Space(space.tree), cuts, data.draw(st.booleans()))


ODD_NOTES = [
    [1, 2],
    [1, 2, 3],
    [-1, 0.5, 3],
    [200, 0.5, 3],
    [1, 0.5, 2**31],
    [1, 0.5, -1],
    [True, 0.5, 3],
    [1.0, 0.5, 3],
    {},
    "x",
    0,
]


@pytest.mark.parametrize("note", ODD_NOTES, ids=repr)
def test_a_note_of_any_form_stays_as_it_is(note: Any) -> None:
    facts: list[Fact] = [Header("id", "maximize", 7, FLAT.describe())]
    for i in range(100):
        facts.append(asked(FLAT, i, 1, i, "local", note if i == 50 else None if i % 3 else [1, 0.25, i], None))
        facts.append(told(i, 1, "completed", 1.0, ((), 0.0, 0.1, 0.1 * i, None)))
    both([encode(f, FLAT) for f in facts], lambda: Space(FLAT.tree), [], True)


def test_a_log_without_a_header_is_none() -> None:
    facts = [asked(FLAT, i, 1, i, "local", None, None) for i in range(100)]
    records = [encode(f, FLAT) for f in facts]
    for as_lines in (False, True):
        both(records, lambda: Space(FLAT.tree), [], as_lines)
    replay = Replay(State(Space(FLAT.tree), remember=False), "a log")
    with pytest.raises(CheckpointCorrupted, match="record 0 is not a header"):
        replay.fold(framed(records))


@given(data=st.data())
def test_they_agree_when_the_space_has_changed(data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(SPACES))
    records = [encode(f, space) for f in data.draw(logs(space))]
    other = data.draw(st.sampled_from(OTHERS + SPACES))
    both(records, lambda: Space(other.tree), [len(records) // 2], True)


ODD_VALUES = [
    0, 1, -1, 1.0, 0.5, -0.0, 1e-320, 2**31, 2**63, 2**64, -(2**63), 10**400, True, False, None, "NaN", "Infinity", "a", "x",
    [], [1], [0, 0.5, 1], [0, 1, 1], [0.5, 0.5, 1], [0, 0.5, 1, 2], {}, {"x": 1}, {"$label": "a"}, {"$float": "NaN"},
    "completed", "interrupted", "told", "asked", "é", "\u0000", '"', "\\", "left",
]  # fmt: skip
MEMBERS = ["kind", "id", "attempt", "params", "origin", "note", "state", "value", "estimates", "cost", "seconds", "elapsed",
           "error", "seq", "left", "crc", "more", "params.x", "params.n", "params.c", "params.m", "params.more"]  # fmt: skip


def changed(record: bytes, member: str, value: Any, how: str) -> bytes:
    body = json.loads(record)
    inside, _, name = member.rpartition(".")
    place = body.get(inside) if inside else body
    if isinstance(place, dict):
        if how == "gone":
            place.pop(name, None)
        elif how == "first":
            old = dict(place)
            place.clear()
            place |= {name: value, **{k: v for k, v in old.items() if k != name}}
        else:
            place[name] = value
    text = json.dumps(body, ensure_ascii=False).encode()
    if how == "twice":
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}".encode()
    return text


def change_some(data: st.DataObject, records: list[bytes], fewest: int) -> None:
    """Changes up to two members, in place."""
    for _ in range(data.draw(st.integers(fewest, 2))):
        i = data.draw(st.integers(0, len(records) - 1))
        member, value = data.draw(st.sampled_from(MEMBERS)), data.draw(st.sampled_from(ODD_VALUES))
        records[i] = changed(records[i], member, value, data.draw(st.sampled_from(["set", "first", "twice", "gone"])))


@given(data=st.data())
def test_they_agree_on_records_that_are_not_as_they_should_be(data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(SPACES))
    records = [encode(f, space) for f in data.draw(logs(space))]
    change_some(data, records, 1)
    both(records, lambda: Space(space.tree), [], False)


def lines(records: list[bytes], lefts: list[int], first: int) -> list[bytes]:
    return [frame(r, first + i, left) for i, (r, left) in enumerate(zip(records, lefts, strict=True))]


def one_by_one(text: bytes, seq: int, left: int) -> list[int] | None:
    """What the reader of single lines says of them all."""
    found = []
    for line in text.split(b"\n")[:-1]:
        try:
            follow = check(line, seq + len(found))
        except CheckpointCorrupted:
            return None
        if left and follow != left - 1:
            return None
        found.append(left := follow)
    return found


batches = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@given(batches, st.sampled_from([1, 5, 97, 9_990, 99_999_980]), st.data())
def test_frames_are_checked_in_bulk_as_they_are_line_by_line(sizes: list[int], first: int, data: st.DataObject) -> None:
    lefts = [left for size in sizes for left in range(size - 1, -1, -1)]
    records = [b'{"kind":"told","id":%d,"more":"%b"}' % (i, b"x" * (7 * i % 40)) for i in range(len(lefts))]
    cut = data.draw(st.integers(0, len(lefts) - 1))
    text = b"".join(lines(records, lefts, first)[cut:])
    before = lefts[cut - 1] if cut else 0
    whole = check_lines(text, first + cut, before)
    if whole is not None:
        assert whole.left.tolist() == lefts[cut:]
        assert [text[e : e + 1] for e in whole.ends.tolist()] == [b"\n"] * len(lefts[cut:])
    else:  # it may leave what is short or far to the other one
        assert min(map(len, text.split(b"\n")[:-1])) < 64 or first > 10**7
    at = data.draw(st.integers(0, len(text) - 1))
    with_byte = st.sampled_from([b"", b"\n", b"}", b"0", b"1", b"9", b",", b'"', b" ", b"xx"])
    damaged = text[:at] + data.draw(with_byte) + text[at + data.draw(st.integers(0, 2)) :]
    said = check_lines(damaged, first + cut, before)
    assert said is None or said.left.tolist() == one_by_one(damaged, first + cut, before)


@pytest.mark.parametrize(
    "tail",
    [
        b',"seq":7,"crc":%d}', b',"seq":07,"crc":%d}', b',"seq":7,"crc":0%d}', b',"seq":7,"crc":%d }', b',"seq":8,"crc":%d}',
        b', "seq":7,"crc":%d}', b',"seq":7,"left":0,"crc":%d}', b',"seq":7,"left":1,"crc":%d}', b',"seq":7,"left":01,"crc":%d}',
        b',"seq":7,"left":1x,"crc":%d}', b',"left":1,"seq":7,"crc":%d}', b',"seq":7,"left":99999999,"crc":%d}',
        b',"seq":-7,"crc":%d}', b',"seq":7.0,"crc":%d}', b',"sez":7,"crc":%d}', b',"seq":7,"cr":%d}', b',"crc":%d}',
    ],
)  # fmt: skip
def test_a_frame_of_any_other_form_is_none(tail: bytes) -> None:
    """Also with a checksum that is right."""
    head = b'{"kind":"told","id":3,"attempt":1,"state":"completed","value":0.5,"seconds":0.1,"elapsed":1.5'
    for pad in range(40):
        body = head + b" " * pad
        line = body + tail
        line %= zlib.crc32(line[: line.rindex(b",")])
        said = check_lines(line + b"\n", 7, 0)
        assert (None if said is None else said.left.tolist()) == one_by_one(line + b"\n", 7, 0)


def test_the_common_log_is_read_in_bulk() -> None:
    """Or the rest of these tests would compare a reader with itself."""
    for space in SPACES:
        bulk = Bulk(State(Space(space.tree), remember=False))
        facts: list[Fact] = []
        for i in range(200):
            facts.append(asked(space, i, 1, i, "local", [i % 5, 0.25, i], None))
            facts.append(told(i, 1, "completed", 1.0 * i, ((), 0.0, 0.1, 0.1 * i, None)))
        text = framed([encode(f, space) for f in facts])
        assert bulk.take(text.text, 1, text.ends)
        assert bulk.state.told == 200


def test_trials_that_are_out_are_not_gone_through_for_every_few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands are out when a service is taken away, and each of them is recorded as interrupted."""
    space = SPACES[0]
    n, times = 1000, 0
    facts: list[Fact] = [asked(space, i, 1, i, "local", None, None) for i in range(n)]
    facts += [told(i, 1, "interrupted", math.nan, ((), 0.0, 0.1, 0.1 * i, None)) for i in range(n)]
    facts += [asked(space, i, 2, i, "local", None, None) for i in range(n)]
    settle = Bulk.settle

    def counted(bulk: Bulk) -> None:
        nonlocal times
        times += 1
        settle(bulk)

    monkeypatch.setattr(Bulk, "settle", counted)
    log = Replay(State(Space(space.tree), remember=False), "somewhere")
    log.fold(framed([encode(Header("a", "maximize", 1, {}), space), *[encode(f, space) for f in facts]]))
    log.end()
    assert [p.attempt for p in log._state.pending.values()] == [2] * n
    assert times < 20


def test_lines_are_entries() -> None:
    text = framed([b'{"kind":"a"}', b'{"kind":"b"}', b'{"kind":"c"}'])
    entries = list(text)
    assert [e.seq for e in entries] == [0, 1, 2] and entries[1].data == frame(b'{"kind":"b"}', 1)[:-1]
    assert [text[i] for i in (0, 1, -1)] == entries
    assert list(text[1:]) == entries[1:] and list(text[1:][:1]) == entries[1:2] and list(text[3:]) == []
    assert list(text[1:][1:]) == entries[2:] and text[1:][1] == entries[2]
    with pytest.raises(IndexError):
        text[3]
