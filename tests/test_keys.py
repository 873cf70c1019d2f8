"""A set of numbers is a set, whatever it is made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.history import FAILED
from asynchopper.keys import Keys
from asynchopper.space import Space
from asynchopper.state import Asked, State, Told

numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


@given(st.lists(numbers, max_size=50), st.lists(st.tuples(st.sampled_from(["add", "discard"]), numbers), max_size=60))
def test_keys_are_a_set(first: list[int], steps: list[tuple[str, int]]) -> None:
    keys, known = Keys(np.array(first, np.int64)), set(first)
    for do, number in steps:
        getattr(keys, do)(number)
        getattr(known, do)(number)
        assert (number in keys) == (number in known)
    assert keys | {5} == known | {5}
    assert keys == known and len(keys) == len(known) and set(keys) == known


@pytest.mark.parametrize("most", [2**17, 2000, 30])
def test_many_keys_are_a_set(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there are so many that they are kept in parts, and in parts of these."""
    monkeypatch.setattr("asynchopper.keys._MOST", most)
    monkeypatch.setattr("asynchopper.keys._FEW", min(1024, most))
    rng = np.random.Generator(np.random.Philox(1))
    drawn = rng.integers(-(2**63), 2**63 - 1, 20_000)
    keys = Keys(drawn[:3000])
    assert [keys.insert(x) for x in drawn.tolist()] == [False] * 3000 + [True] * 17_000
    assert all(x in keys for x in drawn.tolist())
    assert not any(x in keys for x in rng.integers(-(2**63), 2**63 - 1, 5000).tolist())
    for x in drawn[:100].tolist():
        keys.discard(x)
        assert x not in keys
    assert len(keys) == 19_900 and set(keys) == set(drawn[100:].tolist())
    alike = Keys(np.arange(5_000))  # which only the last bits tell apart
    assert len(alike) == 5_000 and 4_999 in alike and 5_000 not in alike and not alike.insert(77)


def test_the_keys_of_a_history_are_those_of_its_candidates() -> None:
    trees = [
        {"x": ah.float(0, 1), "n": ah.int(-5, 5), "c": ah.choice("a", "b"), "r": ah.float(0, 1, "0.2f")},
        {"x": ah.float(0, 1), "m": ah.choice({"d": ah.int(1, 5)}, "plain")},
        {"n": ah.int(0, 2**70)},
        {"w": ah.float(0, 1, shape=3)},
    ]
    for tree in trees:
        state = State(Space(tree))
        for i in range(50):
            values = state.space.sample(np.random.Generator(np.random.Philox(i // 2)))
            foreign = {"gone": 1} if i in (7, 20) and "m" in tree else None
            state.fold(Asked(i, 1, values, "local", None, foreign))
            if i % 3:
                state.fold(Told(i, 1, "failed" if i % 10 == 4 else "completed", 1.0, (), 0.0, 0.1, 0.1))
        known = set(state.seen or ())
        state.remember_candidates(True, trials=True)
        assert state.seen == known
        first: dict[int, int] = {}
        for id, values in sorted(
            [
                (state.table.ids[r], state.table.row(r))
                for r in range(state.told)
                if r not in state.table.foreign and state.table.states[r] != FAILED
            ]
        ) + sorted([(p.id, p.values) for p in state.pending.values() if not p.foreign]):
            first.setdefault(state.space.key(values), id)
        assert state.trial_of == first
