"""Facts survive as records: one JSON object a line, numbered and checked."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.errors import CheckpointCorrupted, CheckpointVersionError
from asynchopper.records import bare, check, decode, encode, frame
from asynchopper.space import Space
from asynchopper.state import Asked, Ended, Fact, Header, PrunerSaw, Run, Saved, Told

SPACE = Space(
    {
        "x": ah.float(1e-5, 1, log=True),
        "n": ah.int(-(2**70), 2**70),
        "w": ah.float(shape=(2, 3)),
        "m": ah.choice({"d": ah.int(1, 5)}, "plain", None),
        "o": ah.choice(object(), math.sqrt, labels=["thing", "root"]),
        "z": ah.custom(sample=lambda rng: rng.random() * 1j, encode=lambda z: z.imag, decode=lambda x: x * 1j),
    }
)

counts = st.integers(0, 2**31 - 1)
seconds = st.floats(0, 1e9).map(lambda x: round(x, 6))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
estimates = st.lists(st.floats(allow_nan=False), max_size=4).map(tuple)
candidates = st.integers(0, 2**32 - 1).map(lambda seed: SPACE.sample(np.random.Generator(np.random.Philox(seed))))


@st.composite
def tolds(draw: Any) -> Told:
    state = draw(st.sampled_from(["completed", "pruned", "nan", "failed", "interrupted"]))
    value = draw(st.floats(allow_nan=False)) if state == "completed" else math.nan
    error = draw(st.text()) if state == "failed" else None
    cost = draw(st.floats(0, allow_nan=False))
    return Told(draw(counts), draw(counts), state, value, draw(estimates), cost, draw(seconds), draw(seconds), error)


facts = st.one_of(
    st.builds(
        Asked,
        counts,
        counts,
        candidates,
        st.text(),
        st.none() | st.just({"op": 1}),
        st.none() | st.just({"gone": "x"}),
        st.none(),
        st.none(),
    ),
    tolds(),
    st.builds(Saved, counts, counts, anything, seconds),
    st.builds(
        Header, st.text(), st.sampled_from(["maximize", "minimize"]), st.integers(0, 2**200), st.just(SPACE.describe())
    ),
    st.builds(
        Run,
        st.just({"steps": 3}),
        counts,
        seconds,
        st.floats(0),
        st.none() | st.just({"x": {"kind": "float"}}),
        st.text(),
        st.text(),
        counts,
        seconds,
    ),
    st.builds(PrunerSaw, st.text(), anything),
    st.builds(Ended, st.text(), seconds),
)


def comparable(fact: Fact) -> Any:
    """A fact as JSON again: NaNs and arrays do not compare as they are."""
    return encode(fact, SPACE)


@given(facts)
def test_a_fact_survives_its_record(fact: Fact) -> None:
    record = encode(fact, SPACE)
    back = decode(record, SPACE)
    assert type(back) is type(fact)
    assert back is not None and comparable(back) == record
    if not isinstance(fact, (Asked, Told)):
        assert back == fact
    elif isinstance(fact, Told):
        assert repr(back) == repr(fact)
    else:
        assert isinstance(back, Asked) and SPACE.key(back.values) == SPACE.key(fact.values)
        assert back._replace(values=()) == fact._replace(values=())


@given(facts, st.integers(0, 10**9))
def test_a_framed_record_is_a_line_of_json_with_seq_and_crc(fact: Fact, seq: int) -> None:
    line = frame(encode(fact, SPACE), seq)
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    body = orjson.loads(line)
    assert list(body)[-2:] == ["seq", "crc"] and body["seq"] == seq
    assert body["crc"] == zlib.crc32(line[: line.rindex(b',"crc":')])
    check(line[:-1], seq)
    assert comparable(decode(line, SPACE)) == encode(fact, SPACE)  # type: ignore[arg-type]  # it is a fact


@given(facts, st.integers(0, 10**6), st.data())
def test_any_changed_byte_is_noticed(fact: Fact, seq: int, data: Any) -> None:
    line = bytearray(frame(encode(fact, SPACE), seq)[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda b: b != line[at]))
    line[at] = new
    with pytest.raises(CheckpointCorrupted):
        check(bytes(line), seq)


@given(facts, st.integers(0, 100), st.integers(0, 100).filter(bool))
def test_a_record_in_anothers_place_is_noticed(fact: Fact, seq: int, off: int) -> None:
    with pytest.raises(CheckpointCorrupted, match=rf"record {seq + off} is missing: in its place is record {seq}\b"):
        check(frame(encode(fact, SPACE), seq)[:-1], seq + off)


def test_what_a_person_finds_in_a_log() -> None:
    values = SPACE.fit(
        {"x": 0.5, "n": 2**65, "w": 0.5, "m": {"d": 3}, "o": "root", "z": 2j}, None, np.random.default_rng(0)
    )
    assert orjson.loads(encode(Asked(3, 1, values, "local"), SPACE)) == {
        "kind": "asked",
        "id": 3,
        "attempt": 1,
        "params": {
            "x": 0.5,
            "n": {"$int": str(2**65)},
            "w": {"$array": ["<f8", [2, 3], [0.5] * 6]},
            "m": {"d": "*"},
            "m.d": 3,
            "o": {"$label": "root"},
            "z": 2.0,
        },
        "origin": "local",
    }
    told = Told(3, 1, "completed", -math.inf, (1.0, math.nan), 0.0, 1.23456789, 2.0)
    assert orjson.loads(encode(told, SPACE)) == {
        "kind": "told",
        "id": 3,
        "attempt": 1,
        "state": "completed",
        "value": "-Infinity",
        "estimates": [1.0, "NaN"],
        "seconds": 1.234568,
        "elapsed": 2.0,
    }


def test_kinds_of_a_newer_minor_version_are_skipped() -> None:
    assert decode(b'{"kind":"weather","sky":"blue"}', SPACE) is None
    header = orjson.loads(encode(Header("s", "maximize", 1, {}), SPACE))
    newer = header | {"format": "1.7", "more": [1]}
    assert isinstance(decode(orjson.dumps(newer), SPACE), Header)


def test_a_newer_major_version_is_refused_by_name() -> None:
    header = orjson.loads(encode(Header("s", "maximize", 1, {}), SPACE)) | {"format": "3.0"}
    with pytest.raises(
        CheckpointVersionError, match=r"format 3\.0, and this version of asynchopper reads up to 2\.x; upgrade"
    ):
        decode(orjson.dumps(header), SPACE)


told_record = orjson.loads(encode(Told(1, 1, "completed", 1.0, (), 0.0, 1.0, 1.0), SPACE))
asked_record = orjson.loads(encode(Asked(1, 1, SPACE.initial(np.random.default_rng(0)), "local"), SPACE))


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"kind": "told"},
        told_record | {"state": "great"},
        told_record | {"value": "1.0"},
        told_record | {"value": None},
        told_record | {"id": -1},
        told_record | {"id": True},
        told_record | {"seconds": "soon"},
        told_record | {"estimates": 3},
        told_record | {"error": 3},
        asked_record | {"params": []},
        asked_record | {"attempt": 1.5},
        asked_record | {"origin": None},
        {"kind": "header", "format": "x", "search": "s", "direction": "maximize", "seed": 1, "space": {}},
        {"kind": "header", "format": "1.0", "search": "s", "direction": "up", "seed": 1, "space": {}},
        {"kind": "saved", "id": 1, "attempt": 1, "data": {"$nothing": 1}},
        {"kind": "ended", "reason": 7, "elapsed": 1},
    ],
    ids=str,
)
def test_what_no_version_writes_is_refused(body: Any) -> None:
    with pytest.raises(ValueError):
        decode(orjson.dumps(body), SPACE)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert decode(data, SPACE) is None  # an object of a kind that nobody knows
    with pytest.raises(CheckpointCorrupted):
        check(data, 0)


def test_records_that_are_kept_take_about_as_much_memory_as_they_are_long() -> None:
    line = frame(encode(Told(1, 1, "completed", 1.0, (), 0.0, 1.0, 1.0), SPACE), 1)[:-1]
    tracemalloc.start()
    try:
        kept = [bare(line) for _ in range(1_000)]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1_000 * (len(kept[0]) + 100)
