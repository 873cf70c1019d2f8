"""The quick reader says what the thorough one says, or nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.news import News
from asynchopper.records import decode, encode, encode_candidate
from asynchopper.space import Space
from asynchopper.state import Asked, Told

PLAIN = Space({"x": ah.float(0, 1), "lr": ah.float(1e-5, 1, log=True), "n": ah.int(0, 9), "c": ah.choice("a", "b")})
OTHERS = [
    Space({"x": ah.float(0, 1, "0.2f"), "n": ah.int(0, 9)}),
    Space({"n": ah.int(-(2**70), 2**70)}),
    Space({"m": ah.choice({"depth": ah.int(1, 3)}, "none")}),
    Space({"x": ah.float(0, 0.5), "n": ah.int(0, 4)}),
]
SPACES = [PLAIN, *OTHERS]
numbers = st.floats(0, 1) | st.floats() | st.sampled_from([0.0, -0.0, 1e308, 1.5])


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record as it is written, or with members that no version writes, or that are left out."""
    space = draw(st.sampled_from(SPACES))
    rng = np.random.Generator(np.random.Philox(draw(st.integers(0, 99))))
    id, attempt = draw(st.sampled_from([0, 7, 2**31 - 1])), draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        note = draw(st.sampled_from([None, [1, 0.25, 0], [1, 2, 3], [1, 0.5], [-1, 0.5, 3], {"a": 1}]))
        body = orjson.loads(encode(Asked(id, attempt, space.sample(rng), "local", note), space))
        if draw(st.booleans()):
            path = draw(st.sampled_from(["x", "n", "c", "new"]))
            body["params"][path] = draw(st.integers(-1, 10) | st.sampled_from([0.5, "a", "z", None, True, 2**63, -0.0]))
    else:
        state = draw(st.sampled_from(["completed", "pruned", "nan", "failed", "interrupted"]))
        estimates = draw(st.just(()) | st.lists(numbers, max_size=2).map(tuple))
        value = draw(numbers) if state == "completed" else math.nan
        cost, seconds = draw(st.sampled_from([0.0, 1.5])), draw(st.floats(0, 1e6))
        error = draw(st.none() | st.just("ValueError: x"))
        fact = Told(id, attempt, state, value, estimates, cost, seconds, seconds, error)
        body = orjson.loads(encode(fact, space))
    data = orjson.dumps(body)
    return data.replace(b'"NaN"', b"1e999") if draw(st.booleans()) else data


def same_or_nothing(record: bytes, space: Space) -> None:
    quick = News(space).read(record)
    if quick is not None:
        slow = decode(record, space)
        assert repr(quick) == repr(slow)
        assert type(quick) is type(slow)


@given(records(), st.sampled_from(SPACES))
def test_it_says_what_decoding_says_or_nothing(record: bytes, space: Space) -> None:
    same_or_nothing(record, space)


CHANGES = [
    None,
    -1,
    2**31,
    2**63,
    1,
    1.0,
    -0.0,
    True,
    "told",
    "completed",
    "NaN",
    [],
    {},
    [[]],
    [1, 2, 3],
    [1, 2**40, 3],
]


@pytest.mark.parametrize("change", [*CHANGES, "gone"], ids=str)
def test_what_no_version_writes_is_left_to_decoding(change: Any) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    asked = Asked(3, 1, PLAIN.sample(rng), "local", [1, 0.5, 2])
    for fact in (asked, Told(3, 1, "completed", 0.25, (), 0.0, 0.5, 1.5)):
        body = orjson.loads(encode(fact, PLAIN))
        for member in [*body, "new"]:
            same_or_nothing(orjson.dumps({k: v for k, v in body.items() if k != member or change != "gone"}), PLAIN)
            same_or_nothing(orjson.dumps(body | {member: change}), PLAIN)
        for path in [*PLAIN.encode(asked.values), "new"] if isinstance(fact, Asked) else ():
            same_or_nothing(orjson.dumps(body | {"params": body["params"] | {path: change}}), PLAIN)


def test_it_reads_the_common_records() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    facts: list[Any] = [
        Asked(3, 1, PLAIN.sample(rng), "local", [1, 0.5, 2]),
        Asked(4, 2, PLAIN.sample(rng), "seeding"),
        Told(3, 1, "completed", 0.25, (), 0.0, 0.5, 1.5),
    ]
    news = News(PLAIN)
    assert [news.read(encode(fact, PLAIN)) for fact in facts] == facts
    assert [News(space).read(encode(facts[2], space)) for space in OTHERS[:3]] == [None] * 3


@pytest.mark.parametrize("note", [None, [1, 0.5, 2]])
@pytest.mark.parametrize("foreign", [None, {"gone": 3}])
def test_a_candidate_is_the_end_of_its_record(note: Any, foreign: Any) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    fact = Asked(3, 1, PLAIN.sample(rng), "local", note, foreign)
    params, rest = encode_candidate(fact, PLAIN)
    assert b'{"kind":"asked","id":3,"attempt":1,' + rest == encode(fact, PLAIN)
    assert orjson.loads(params) == orjson.loads(encode(fact, PLAIN))["params"]
