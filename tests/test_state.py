"""The laws of the fold, on logs made at random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.history import History
from asynchopper.space import Space
from asynchopper.state import Asked, Ended, Fact, Header, PrunerSaw, Run, Saved, State, Told

SPACE = Space({"x": ah.float(0, 1), "n": ah.int(0, 9), "m": ah.choice({"d": ah.int(1, 5)}, "plain")})
ORIGINS = ("initial", "seeding", "local", "enqueued")


def header(direction: str = "maximize") -> Header:
    return Header("id", direction, 7, SPACE.describe())


def asked(id: int, attempt: int = 1, seed: int = 0, origin: str = "seeding", **more: Any) -> Asked:
    values = SPACE.sample(np.random.Generator(np.random.Philox(seed)))
    return Asked(id, attempt, values, origin, more.get("note"), more.get("foreign"))


def told(id: int, state: str = "completed", value: float = 1.0, attempt: int = 1, **more: Any) -> Told:
    return Told(
        id,
        attempt,
        state,  # type: ignore[arg-type]  # a text from a strategy
        value if state == "completed" else math.nan,
        more.get("estimates", ()),
        more.get("cost", 0.0),
        more.get("seconds", 0.1),
        more.get("elapsed", 0.0),
        more.get("error"),
    )


numbers = st.floats(-1e9, 1e9)
facts = st.one_of(
    st.builds(
        asked,
        st.integers(0, 12),
        st.integers(1, 3),
        st.integers(0, 6),
        st.sampled_from(ORIGINS),
        note=st.none() | st.just([1, 2]),
        foreign=st.none() | st.just({"gone": 3}),
    ),
    st.builds(
        told,
        st.integers(0, 12),
        st.sampled_from(["completed", "pruned", "nan", "failed", "interrupted"]),
        numbers | st.just(math.inf),
        estimates=st.lists(numbers, max_size=3).map(tuple),
        cost=st.floats(0, 10),
        seconds=st.floats(0, 100),
        elapsed=st.floats(0, 1e6),
        error=st.none() | st.just("ValueError: x"),
    ),
    st.builds(Saved, st.integers(0, 12), st.just(1), st.integers() | st.just({"epoch": 3}), st.floats(0, 1e6)),
    st.builds(PrunerSaw, st.just("TopKPruner"), st.just({"top": []})),
    st.builds(Ended, st.sampled_from(["steps", "stopped"]), st.floats(0, 1e6)),
    st.builds(
        Run,
        st.just({"steps": 10}),
        st.integers(0, 5),
        st.floats(0, 10),
        st.floats(0, 10),
        st.none() | st.just({"x": {"kind": "float"}}),
        st.just("2026-01-01T00:00:00+00:00"),
        st.just("host"),
        st.just(1),
        st.floats(0, 1e6),
    ),
)
logs = st.lists(facts, max_size=40)


def folded(facts: list[Fact], state: State | None = None) -> State:
    if state is None:
        state = State(SPACE).fold(header())
        state.remember_candidates(True, trials=True)
    for fact in facts:
        state.fold(fact)
    return state


def everything(state: State) -> dict[str, Any]:
    """All that a state says, comparable. NaNs as text, since they differ from themselves."""
    t = state.table
    return {
        "rows": [repr(t.trial(i)) for i in range(len(t))],
        "values": [t.row(i) for i in range(len(t))],
        "notes": t.notes,
        "foreign": t.foreign,
        "pending": {
            i: (p.id, p.attempt, p.values, p.origin, p.note, p.saved, p.foreign) for i, p in state.pending.items()
        },
        "seen": state.seen,
        "answers": {key: id for key, id in (state.trial_of or {}).items() if id is not None},
        "numbers": (
            state.told,
            state.next_id,
            state.best_row,
            state.elapsed,
            state.cost,
            state.initial_asked,
            state.asked_at,
            state.sign,
        ),
        "said": (state.header, state.run, state.reason, state.described, state.pruner, state.pruner_row),
    }


@given(logs, st.integers(0, 40))
def test_folding_a_prefix_and_then_the_rest_is_folding_the_whole(log: list[Fact], cut: int) -> None:
    assert everything(folded(log[cut:], folded(log[:cut]))) == everything(folded(log))


@given(logs, logs)
def test_rollback_undoes_exactly_what_came_after_the_mark(before: list[Fact], after: list[Fact]) -> None:
    state = folded(before)
    state.keep_undo(True)
    expected = everything(folded(before))
    mark = state.mark()
    folded(after, state)
    state.rollback(mark)
    assert everything(state) == expected
    assert everything(folded(after, state)) == everything(folded([*before, *after]))


@given(logs, logs, logs)
def test_what_became_durable_stays_when_the_rest_is_undone(
    first: list[Fact], second: list[Fact], third: list[Fact]
) -> None:
    state = folded(first)
    state.keep_undo(True)
    folded(second, state)
    written = state.mark()
    folded(third[: len(third) // 2], state)  # staged while the write was under way
    state.forget_undo(written.undo)
    durable = written._replace(undo=0)
    folded(third[len(third) // 2 :], state)
    state.rollback(durable)
    assert everything(state) == everything(folded([*first, *second]))


@given(logs, logs, logs)
def test_rows_that_come_again_as_they_were_are_not_altered(
    before: list[Fact], after: list[Fact], more: list[Fact]
) -> None:
    state = folded(before)
    state.keep_undo(True)
    mark, durable = state.mark(), state.told
    folded(after, state)
    had = state.told
    state.rollback(mark)
    folded([*after, *more], state)
    assert state.table.altered(0) >= had
    state.rollback(mark)
    assert state.table.altered(0) == durable, "who looks before they come again sees them gone"


@pytest.mark.parametrize(
    "again",
    [
        [asked(3, seed=1, note=[1, 2]), told(3, "failed", error="ValueError: x"), asked(4), told(4)],
        [asked(3, note=[1, 2], foreign={"gone": 3}), told(3, "failed", error="ValueError: x"), asked(4), told(4)],
        [asked(3, note=[1, 3]), told(3, "failed", error="ValueError: x"), asked(4), told(4)],
        [asked(3, note=[1, 2], origin="local"), told(3, "failed", error="ValueError: x"), asked(4), told(4)],
        [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: y"), asked(4), told(4)],
        [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: x", elapsed=1.0), asked(4), told(4)],
        [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: x"), asked(4), told(4, value=2.0)],
        [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: x"), asked(4), told(4, estimates=(1.0,))],
        [asked(3, note=[1, 2]), asked(4), told(4), told(3, "failed", error="ValueError: x")],
        [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: x"), asked(4)],
        [],
    ],
)
def test_rows_that_come_again_otherwise_are_altered(again: list[Fact]) -> None:
    first: list[Fact] = [asked(3, note=[1, 2]), told(3, "failed", error="ValueError: x"), asked(4), told(4)]
    state = folded([asked(0), told(0), asked(1), told(1)])
    state.keep_undo(True)
    mark = state.mark()
    folded(first, state)
    state.rollback(mark)
    folded(first, state)
    assert state.table.altered(0) == 4
    state.rollback(mark)
    folded([*again, asked(7), told(7)], state)
    assert state.table.altered(1) == state.table.altered(0) == 2
    assert state.table.altered(2) == state.told


@given(logs)
def test_telling_twice_or_without_asking_changes_nothing_but_the_clock(log: list[Fact]) -> None:
    state = folded(log)
    rows, pending, best = state.told, dict(state.pending), state.best_row
    for id in [*state.table.ids, 99]:
        state.fold(told(id, value=1e12))
    assert (state.told, state.pending, state.best_row) == (rows, pending, best)


@given(logs)
def test_asking_a_finished_trial_changes_nothing(log: list[Fact]) -> None:
    state = folded(log)
    before = everything(state)
    for id in list(state.table.ids):
        state.fold(asked(id, 5, seed=99))
    assert everything(state) == before


@given(logs)
def test_what_is_saved_folds_to_the_same_search(log: list[Fact]) -> None:
    state = folded(log)
    again = State(SPACE)
    for fact in state.facts():
        again.fold(fact)
    assert again.told == state.told
    assert [repr(t) for t in history(again)] == [repr(t) for t in history(state)]
    assert again.best_row == state.best_row
    assert everything(again)["pending"] == everything(state)["pending"]
    assert (again.run and again.run.base_steps) == (state.run and state.run.base_steps)
    assert again.reason == state.reason


@given(logs)
@example([asked(5), asked(6), told(5)])
def test_what_is_saved_says_how_many_were_told_when_the_last_trial_was_asked(log: list[Fact]) -> None:
    state = folded([fact for fact in log if not isinstance(fact, Ended)])
    assert folded(list(state.facts()), State(SPACE)).asked_at == state.asked_at


@given(logs, st.integers(0, 40))
def test_what_is_saved_is_what_was_known_when_saving_began(log: list[Fact], cut: int) -> None:
    state, then = folded(log[:cut]), folded(log[:cut])
    facts = state.facts()
    folded([*log[cut:], Ended("steps", 1e6)], state)
    assert [repr(fact) for fact in facts] == [repr(fact) for fact in then.facts()]


@given(logs)
def test_the_log_that_save_writes_is_a_fixed_point(log: list[Fact]) -> None:
    once = folded([], State(SPACE))
    for fact in folded(log).facts():
        once.fold(fact)
    twice = State(SPACE)
    for fact in once.facts():
        twice.fold(fact)
    assert everything(twice) == everything(once)


def history(state: State) -> History:
    return History(state.table, state.told, state.sign)


@given(logs, st.sampled_from(["maximize", "minimize"]))
def test_the_best_is_the_first_of_the_best_completed_trials(log: list[Fact], direction: str) -> None:
    state = State(SPACE).fold(header(direction))
    folded(log, state)
    completed = [t.value for t in history(state) if t.state == "completed"]
    best = (max if direction == "maximize" else min)(completed, default=None)
    assert state.best_value == best
    if best is not None:
        assert [t.value for t in history(state)].index(best) == state.best_row or any(
            t.state == "nan" for t in history(state)
        )


def test_an_interrupted_trial_is_still_asked() -> None:
    state = folded([asked(0, seed=3), Saved(0, 1, {"epoch": 2}), told(0, "interrupted", cost=2.0, elapsed=5.0)])
    assert state.told == 0 and state.cost == 2.0 and state.elapsed == 5.0
    assert (state.pending[0].attempt, state.pending[0].saved) == (1, {"epoch": 2})
    folded([asked(0, 2, seed=3)], state)
    assert (state.pending[0].attempt, state.pending[0].saved) == (2, {"epoch": 2})
    folded([told(0, value=3.0, attempt=2)], state)
    assert (state.told, state.best_value, list(state.pending)) == (1, 3.0, [])


def test_infinities_can_be_best_and_nans_never() -> None:
    state = folded([asked(0), told(0, "nan"), asked(1), told(1, value=-math.inf), asked(2), told(2, "pruned")])
    assert state.best_value == -math.inf and state.best_row == 1
    folded([asked(3), told(3, value=math.inf)], state)
    assert state.best_value == math.inf


def test_the_budget_counts_from_where_it_was_given() -> None:
    run = Run({"steps": 5}, 2, 10.0, 1.0, None, "now", "host", 1)
    log = [asked(0), told(0, elapsed=4.0, cost=1.0), asked(1), told(1, "failed", elapsed=10.0), run]
    state = folded([*log, asked(2), told(2, elapsed=12.5, cost=3.0)])
    assert (state.spent_steps, state.spent_seconds, state.spent_cost) == (1, 2.5, 3.0)


def test_candidates_are_remembered_on_demand() -> None:
    state = folded([asked(0, seed=1), told(0), asked(1, seed=2)])
    known = set(state.seen or ())
    state.remember_candidates(False)
    assert state.seen is None
    folded([asked(2, seed=3)], state)
    state.remember_candidates(True)
    assert state.seen == known | {SPACE.key(asked(2, seed=3).values)}


def test_repr_tells_the_live_state() -> None:
    assert repr(folded([asked(0), told(0, value=2.5), asked(1)])) == "State(1 told, 1 out, best 2.5)"
