"""No candidate is evaluated twice, unless one asks for it; a space that is used up ends the search."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.storage import MemoryStorage

pytestmark = pytest.mark.every_loop

SMALL = {"a": ah.int(1, 4), "b": ah.bool(), "c": ah.choice("x", {"d": ah.int(1, 2)})}  # 4 * 2 * 3 = 24 candidates


def key(params: dict[str, Any]) -> str:
    return str(params)


@pytest.mark.parametrize("concurrency", [1, 5, 100])
async def test_a_finite_space_is_used_up_without_a_duplicate(concurrency: int) -> None:
    search = ah.Search(SMALL, seed=1)
    running: set[str] = set()

    async def objective(params: dict[str, Any]) -> float:
        assert key(params) not in running
        running.add(key(params))
        await asyncio.sleep(0)
        return float(params["a"])

    best = await search.run(objective, steps=1000, concurrency=concurrency, quiet=True)
    assert len(search.history) == len({key(t.params) for t in search.history}) == 24
    assert search.outcome is not None and search.outcome.reason == "exhausted"
    assert best is not None and best["a"] == 4
    assert await search.run(objective, steps=10, quiet=True) == best
    assert search.outcome.reason == "exhausted" and search.outcome.trials == 0


async def test_duplicates_are_not_evaluated_across_runs(tmp_path: Any) -> None:
    path = tmp_path / "a.ckpt"
    for steps in (10, 10, 10):
        search = ah.Search(SMALL, seed=1)
        await search.run(lambda p: 1.0, steps=steps, checkpoint_path=path, quiet=True)
    assert len({key(t.params) for t in search.history}) == len(search.history) == 24


async def test_no_step_is_spent_on_a_duplicate() -> None:
    """A local search in a narrow valley meets the same points over and over."""
    search = ah.Search({"x": ah.int(0, 200), "y": ah.int(0, 200)}, seed=1)
    await search.run(lambda p: -abs(p["x"] - 20) - abs(p["y"] - 20), steps=1000, end_temperature=0.01, quiet=True)
    assert len({key(t.params) for t in search.history}) == 1000
    assert search.best == {"x": 20, "y": 20}


async def test_failed_and_pruned_candidates_are_not_tried_again() -> None:
    search = ah.Search(SMALL, seed=1)

    def objective(params: dict[str, Any]) -> float:
        if params["b"]:
            raise ah.TrialPruned
        return 1 / (params["a"] - 1)

    await search.run(objective, steps=100, on_error="record", quiet=True)
    assert Counter(t.state for t in search.history) == {"pruned": 12, "failed": 3, "completed": 9}


async def test_reuse_answers_from_the_history() -> None:
    search = ah.Search({"x": ah.int(1, 3)}, seed=1)
    calls: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        calls.append(params["x"])
        trial.report(0.5)
        return float(params["x"]) / 10

    await search.run(objective, steps=30, duplicates="reuse", quiet=True)
    assert sorted(calls) == [1, 2, 3]
    assert len(search.history) == 30 and search.outcome is not None and search.outcome.reason == "steps"
    assert all(t.value == t.params["x"] / 10 and t.estimates == (0.5,) for t in search.history)


async def test_reuse_never_evaluates_what_is_running() -> None:
    search = ah.Search({"x": ah.int(1, 40)}, seed=1)
    running: set[int] = set()
    most = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal most
        assert params["x"] not in running
        running.add(params["x"])
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(params["x"])
        return 1.0

    await search.run(objective, steps=200, concurrency=8, duplicates="reuse", quiet=True)
    assert len(search.history) == 200 and most > 1


async def test_reuse_in_a_session_hands_out_only_what_is_new() -> None:
    search = ah.Search({"x": ah.int(1, 3)}, seed=1)
    asked = []
    async with search.session(steps=30, duplicates="reuse") as session:
        while (trial := await session.ask()) is not None:
            asked.append(trial.params["x"])
            await session.tell(trial, float(trial.params["x"]))
    assert sorted(asked) == [1, 2, 3] and len(search.history) == 30


class Thinking(ah.RandomSampler):
    """Chosen off the loop."""

    def prompt(self, view: Any, rng: Any) -> None:
        return None


@pytest.mark.parametrize("sampler", [None, ah.RandomSampler(), Thinking()], ids=["default", "random", "thinking"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("concurrency", [1, 8, 10, 16])
async def test_reuse_waits_for_the_answer_when_all_points_are_being_evaluated(
    concurrency: int, stored: bool, sampler: Any, tmp_path: Any
) -> None:
    search, full = ah.Search({"x": ah.int(0, 9)}, seed=1), asyncio.Event()
    evaluated: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        evaluated.append(params["x"])
        if len(evaluated) == min(concurrency, 10):
            full.set()
        await full.wait()
        for _ in range(trial.id % 3):
            await asyncio.sleep(0)
        return float(params["x"])

    words = {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    run = search.run(
        objective, steps=50, concurrency=concurrency, sampler=sampler, duplicates="reuse", quiet=True, **words
    )
    best = await asyncio.wait_for(run, 30)
    assert len(set(evaluated)) == len(evaluated) >= concurrency or len(evaluated) == 10
    assert best == {"x": max(evaluated)}
    assert search.outcome is not None and search.outcome.reason == "steps"
    assert [t.value for t in search.history] == [t.params["x"] for t in search.history] and len(search.history) == 50


@pytest.mark.parametrize("sampler", [None, Thinking()], ids=["default", "thinking"])
async def test_reuse_that_waits_for_an_answer_leaves_the_processor_alone(sampler: Any) -> None:
    search, loop, spent = ah.Search({"x": ah.int(1, 3)}, seed=1), asyncio.get_running_loop(), [0.0, 0.0]

    async def objective(params: dict[str, Any]) -> float:
        ended = asyncio.Event()
        loop.call_later(0.1, lambda: spent.__setitem__(0, time.process_time()))
        loop.call_later(0.6, lambda: spent.__setitem__(1, time.process_time()))
        loop.call_later(0.7, ended.set)
        await ended.wait()
        return 1.0

    await search.run(objective, steps=10, concurrency=8, sampler=sampler, duplicates="reuse", quiet=True)
    assert spent[1] - spent[0] < 0.25


async def test_reuse_in_a_session_has_nothing_to_ask_only_until_something_is_told(tmp_path: Any) -> None:
    search = ah.Search({"x": ah.int(1, 3)}, seed=1)
    async with search.session(steps=10, duplicates="reuse", checkpoint_path=tmp_path / "a.ckpt") as session:
        out = [await session.ask() for _ in range(3)]
        assert await session.ask() is None and await session.ask() is None
        for trial in out:
            assert trial is not None
            await session.tell(trial, float(trial.params["x"]))
        assert await session.ask() is None  # answered from the history, to the end of the budget
    assert [t.value for t in search.history] == [t.params["x"] for t in search.history] and len(search.history) == 10
    assert search.outcome is not None and search.outcome.reason == "steps"


async def test_reuse_repeats_what_was_pruned_and_tries_what_failed_again() -> None:
    search = ah.Search({"x": ah.int(1, 2)}, seed=1)
    calls: list[int] = []

    def objective(params: dict[str, Any]) -> float:
        calls.append(params["x"])
        if params["x"] == 1:
            raise ah.TrialPruned
        raise ValueError

    await search.run(objective, steps=12, duplicates="reuse", on_error="record", quiet=True)
    states = Counter((t.params["x"], t.state) for t in search.history)
    assert set(states) == {(1, "pruned"), (2, "failed")}
    assert calls.count(1) == 1 and calls.count(2) == states[2, "failed"]


async def test_an_answer_that_was_not_durable_when_the_process_died_is_given_again() -> None:
    calls: list[int] = []

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        calls.append(trial.id)
        return params["x"] + len(calls) / 1000

    async def ran(log: str) -> list[float]:
        search = ah.Search({"x": ah.int(1, 9)}, seed=1)
        await search.run(objective, steps=30, duplicates="reuse", storage=MemoryStorage(log), quiet=True)
        return search.history.values.tolist()

    whole, killed = str(uuid.uuid4()), str(uuid.uuid4())
    values = await ran(whole)
    answered, log = next(id for id in range(30) if id not in calls), MemoryStorage._logs[whole]
    MemoryStorage._logs[killed] = log[
        : 1 + next(i for i, r in enumerate(log) if b'"kind":"asked","id":%d,' % answered in r)
    ]
    calls[:] = [id for id in calls if id < answered]
    assert await ran(killed) == values
    assert answered not in calls


async def test_reuse_answers_with_what_came_after_a_failure(tmp_path: Any) -> None:
    calls = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("a blip")
        return 2.0

    for steps in (4, 8):  # in one run, and on what a log says
        search = ah.Search({"x": ah.int(1, 1)}, seed=1)
        await search.run(
            objective,
            steps=steps,
            duplicates="reuse",
            on_error="record",
            checkpoint_path=tmp_path / "a.ckpt",
            quiet=True,
        )
    assert calls == 2
    assert [t.state for t in search.history] == ["failed"] + ["completed"] * (len(search.history) - 1)
    assert set(search.history.values[1:]) == {2.0}


async def test_allow_evaluates_again() -> None:
    search = ah.Search({"x": ah.int(1, 3)}, seed=1)
    calls: list[int] = []
    await search.run(lambda p: calls.append(p["x"]) or 1.0, steps=30, duplicates="allow", quiet=True)  # type: ignore[func-returns-value]  # it gives None
    assert len(calls) == 30 and set(calls) == {1, 2, 3}
    await search.run(lambda p: 1.0, steps=5, duplicates="reject", quiet=True)
    assert len(search.history) == 30 and search.outcome is not None and search.outcome.reason == "exhausted"


async def test_a_custom_parameter_with_few_values_is_used_up_too() -> None:
    search = ah.Search({"x": ah.custom(sample=lambda rng: int(rng.integers(3)), init=0)}, seed=1)
    await search.run(lambda p: 1.0, steps=50, quiet=True)
    assert sorted(t.params["x"] for t in search.history) == [0, 1, 2]
    assert search.outcome is not None and search.outcome.reason == "exhausted"


async def test_a_space_of_one_candidate_and_constants() -> None:
    search = ah.Search({"x": ah.float(3, 3), "y": ah.int(2, 2, shape=2), "z": [1, 2]})
    assert search.space.cardinality == 1
    await search.run(lambda p: p["x"], steps=5, quiet=True)
    assert len(search.history) == 1 and search.outcome is not None and search.outcome.reason == "exhausted"


@pytest.mark.parametrize("budget", [{"steps": n} for n in (1, 3, 5, 20, 500)] + [{"endless": True}], ids=str)
async def test_a_space_of_constants_has_one_candidate(budget: Any, tmp_path: Path) -> None:
    search = ah.Search({"m": "resnet"})
    await search.run(lambda p: len(p["m"]), quiet=True, checkpoint_path=tmp_path / "a.ckpt", **budget)
    assert [t.params for t in search.history] == [{"m": "resnet"}]
    assert search.outcome is not None and search.outcome.reason == ("steps" if budget == {"steps": 1} else "exhausted")
    again = ah.Search({"m": "resnet"})
    await again.load(await search.save(tmp_path / "saved.ckpt"))
    assert [t.value for t in again.history] == [6.0]


@pytest.mark.parametrize(
    "sampler", [None, ah.TwoStageSampler(), ah.RandomSampler()], ids=["default", "two stages", "random"]
)
async def test_a_space_of_constants_is_evaluated_as_often_as_is_wanted(sampler: Any) -> None:
    search = ah.Search({"m": "resnet", "deep": {"a": [1, 2]}})
    await search.run(lambda p: 1.0, steps=1500, duplicates="allow", sampler=sampler, quiet=True)
    assert len(search.history) == 1500
    async with search.session(steps=5) as session:
        assert await session.ask() is None
    async with ah.Search({"m": "resnet"}).session(steps=5) as session:
        trial = await session.ask()
        assert trial is not None and trial.params == {"m": "resnet"}
        assert await session.ask() is None
        await session.tell(trial, 1.0)
        assert await session.ask() is None


@pytest.mark.parametrize(
    "sampler", [None, ah.TwoStageSampler(), ah.RandomSampler()], ids=["default", "two stages", "random"]
)
async def test_a_parameter_that_can_only_be_moved_is_moved(sampler: Any) -> None:
    search = ah.Search(x=ah.custom(init=0, mutate=lambda v, rng: v + int(rng.integers(1, 9))), seed=1)
    await search.run(lambda p: p["x"], steps=40, sampler=sampler, quiet=True)
    found = search.history["x"].tolist()
    assert found[0] == 0 and len(set(found)) > 20 and search.best_value == max(found) > 16


async def test_a_parameter_that_can_neither_be_drawn_nor_moved_is_evaluated_once() -> None:
    search = ah.Search(x=ah.custom(init=7))
    await search.run(lambda p: p["x"], steps=5, quiet=True)
    assert search.history["x"].tolist() == [7]
    assert search.outcome is not None and search.outcome.reason == "exhausted"


async def test_a_large_finite_space_is_searched_to_its_last_point() -> None:
    search = ah.Search({"a": ah.int(1, 50), "b": ah.int(1, 50)}, seed=1)
    await search.run(lambda p: 1.0, steps=5000, quiet=True)
    assert len({key(t.params) for t in search.history}) == len(search.history) == 2500


async def test_options_that_are_never_drawn_are_not_tried_when_the_others_are_used_up() -> None:
    search = ah.Search(x=ah.choice("a", "b", "c", sample=lambda rng: "ab"[rng.integers(2)]), seed=1)
    await search.run(lambda params: 0.0, steps=10, sampler=ah.RandomSampler(), quiet=True)
    assert {trial.params["x"] for trial in search.history} == {"a", "b"}
    assert search.outcome is not None
    assert search.outcome.reason == "exhausted"
