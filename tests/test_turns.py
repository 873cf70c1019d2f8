"""One evaluation after the other, nothing written: several may share a task, and nobody can tell."""

from __future__ import annotations

import asyncio
import contextvars
import time
from itertools import pairwise
from typing import Any

import pytest

import asynchopper as ah

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=-1)


def a_search() -> ah.Search:
    return ah.Search({"x": ah.float(0, 1)}, seed=1)


async def test_evaluations_that_never_wait_share_a_task() -> None:
    tasks = set()

    async def objective(params: dict[str, Any]) -> float:
        tasks.add(id(asyncio.current_task()))
        return params["x"]

    await a_search().run(objective, steps=2000, quiet=True)
    assert len(tasks) < 2000


@pytest.mark.every_loop
async def test_what_an_evaluation_sets_in_its_context_is_not_seen_by_the_next() -> None:
    seen = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        seen.append(variable.get())
        if trial.id % 3 == 0:
            variable.set(trial.id)
        return params["x"]

    async def plain(params: dict[str, Any]) -> float:
        seen.append(variable.get())
        variable.set(len(seen))
        return params["x"]

    variable.set(7)
    await a_search().run(objective, steps=500, quiet=True)
    await a_search().run(plain, steps=500, quiet=True)
    assert seen == [7] * 1000


async def test_the_loop_has_its_turn_meanwhile() -> None:
    """An evaluation that computes holds the loop once, and not again and again."""
    search, turns, before = a_search(), 0, []

    async def objective(params: dict[str, Any]) -> float:
        before.append(turns)
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        return params["x"]

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await search.run(objective, steps=500, quiet=True)
    counting.cancel()
    shared = sum(a == b for a, b in pairwise(before))
    assert shared < 100


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_callback_that_stops_the_run_is_heard_before_the_next_evaluation_ends(times: int) -> None:
    search = a_search()

    class Stops(ah.Callback):
        def on_trial(self, trial: ah.Trial) -> None:
            if trial.id == 20:
                for _ in range(times):
                    search.stop()

    async def objective(params: dict[str, Any]) -> float:
        return params["x"]

    await asyncio.wait_for(search.run(objective, steps=10_000, callbacks=[Stops()], quiet=True), 10)
    assert search.outcome is not None
    assert search.outcome.reason == "stopped"
    assert 21 <= len(search.history) <= 23
    await asyncio.wait_for(search.run(objective, steps=100, quiet=True), 10)
    assert sorted(t.id for t in search.history) == list(range(len(search.history)))


async def test_an_evaluation_that_cancels_its_own_task_fails_alone() -> None:
    search = a_search()

    async def objective(params: dict[str, Any]) -> float:
        task = asyncio.current_task()
        assert task is not None
        if len(search.history) == 50:
            task.cancel()  # asked for, and heard only where it waits next
        elif len(search.history) > 50:
            assert not task.cancelling()
            await asyncio.sleep(0)
        return params["x"]

    await search.run(objective, steps=500, quiet=True)
    assert len(search.history) == 500


async def test_an_error_in_such_an_evaluation_ends_the_run() -> None:
    search = a_search()

    async def objective(params: dict[str, Any]) -> float:
        if len(search.history) == 50:
            raise RuntimeError("no")
        return params["x"]

    with pytest.raises(RuntimeError, match="no"):
        await search.run(objective, steps=500, quiet=True)
    assert len(search.history) in (50, 51)
