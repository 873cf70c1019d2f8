"""Those who watch hear of durable results only, and cannot lose one or hold one up."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import asynchopper as ah

pytestmark = pytest.mark.every_loop

SPACE = {"x": ah.float(-1, 1)}
BOUND_S = 30


async def run(callbacks: Any, steps: int = 10, objective: Any = lambda p: p["x"], **words: Any) -> ah.Search:
    search = ah.Search(SPACE, seed=1)
    await asyncio.wait_for(search.run(objective, steps=steps, quiet=True, callbacks=callbacks, **words), BOUND_S)
    return search


class Log(ah.Callback):
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def on_start(self, search: ah.Search) -> None:
        self.heard.append(("start", len(search.history)))

    def on_trial(self, trial: ah.Trial) -> None:
        self.heard.append(("trial", trial.id))

    def on_best(self, trial: ah.Trial) -> None:
        self.heard.append(("best", trial.value))

    def on_end(self, search: ah.Search) -> None:
        assert search.outcome is not None
        self.heard.append(("end", search.outcome.reason))


class AsyncLog(Log):
    async def on_start(self, search: ah.Search) -> None:  # type: ignore[override]  # either will do
        await asyncio.sleep(0)
        super().on_start(search)

    async def on_trial(self, trial: ah.Trial) -> None:  # type: ignore[override]  # either will do
        await asyncio.sleep(0)
        super().on_trial(trial)

    async def on_best(self, trial: ah.Trial) -> None:  # type: ignore[override]  # either will do
        super().on_best(trial)

    async def on_end(self, search: ah.Search) -> None:  # type: ignore[override]  # either will do
        super().on_end(search)


@pytest.mark.parametrize("kind", [Log, AsyncLog])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
async def test_a_callback_hears_of_everything_in_order(kind: type[Log], direction: Any) -> None:
    log = kind()
    search = await run(log, steps=20, direction=direction)
    assert log.heard[0][0] == "start" and log.heard[-1] == ("end", "steps")
    assert [x for word, x in log.heard if word == "trial"] == list(range(20))
    bests = [x for word, x in log.heard if word == "best"]
    assert bests == list(dict.fromkeys(search.history.best_values.tolist()))
    for i, (word, value) in enumerate(log.heard):
        if word == "best":
            assert log.heard[i - 1] == ("trial", search.history.values.tolist().index(value))


async def test_a_later_run_tells_only_what_is_better_than_all_before() -> None:
    search, log = ah.Search(SPACE, seed=1), Log()
    await search.run(lambda p: 5.0, steps=3, quiet=True)
    await search.run(lambda p: 5.0 + (p["x"] > 0), steps=20, quiet=True, callbacks=log)
    assert [x for word, x in log.heard if word == "best"] == [6.0]


async def test_functions_and_coroutine_functions_hear_of_trials() -> None:
    heard: list[tuple[str, int]] = []

    async def asynchronous(trial: ah.Trial) -> None:
        heard.append(("async", trial.id))

    await run([lambda t: heard.append(("plain", t.id)), asynchronous], steps=3)
    assert sorted(heard) == [("async", 0), ("async", 1), ("async", 2), ("plain", 0), ("plain", 1), ("plain", 2)]
    heard.clear()
    await run(asynchronous, steps=2)
    assert heard == [("async", 0), ("async", 1)]


async def test_callbacks_hear_of_pruned_and_failed_trials_too() -> None:
    states: list[str] = []

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 1:
            raise ah.TrialPruned
        return 1 / trial.id if trial.id < 3 else float("nan")

    await run(lambda t: states.append(t.state), 4, objective, on_error="record", ignore_nans=True)
    assert states == ["failed", "pruned", "completed", "nan"]


async def test_what_a_callback_hears_of_is_durable(tmp_path: Any) -> None:
    path = tmp_path / "a.ckpt"
    found: list[bool] = []

    def on_trial(trial: ah.Trial) -> None:
        told = [line for line in path.read_bytes().splitlines() if b'"kind":"told"' in line]
        found.append(any(b'"id":%d,' % trial.id in line for line in told))

    await run(on_trial, steps=30, concurrency=4, checkpoint_path=path)
    assert found == [True] * 30


@pytest.mark.parametrize("kind", ["plain", "async", "on_start", "on_end", "cancelled", "cancelled plainly"])
async def test_a_callback_that_raises_is_reported_and_loses_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    after: list[int] = []

    def plain(trial: ah.Trial) -> None:
        raise ValueError("the dashboard is down")

    async def asynchronous(trial: ah.Trial) -> None:
        raise ValueError("the dashboard is down")

    async def cancelled(trial: ah.Trial) -> None:
        raise asyncio.CancelledError("the dashboard is down")

    def cancelled_plainly(trial: ah.Trial) -> None:
        raise asyncio.CancelledError("the dashboard is down")

    class Broken(ah.Callback):
        def on_start(self, search: ah.Search) -> None:
            raise ValueError("the dashboard is down")

        def on_end(self, search: ah.Search) -> None:
            raise ValueError("the dashboard is down")

    functions = {"plain": plain, "async": asynchronous, "cancelled": cancelled, "cancelled plainly": cancelled_plainly}
    callback: Any = functions.get(kind) or Broken()
    with caplog.at_level(logging.ERROR, "asynchopper"):
        search = await run([callback, lambda t: after.append(t.id)])
    assert len(search.history) == 10 and after == list(range(10))
    assert "the search goes on" in caplog.text and "the dashboard is down" in caplog.text


async def test_a_slow_callback_holds_no_evaluation_up() -> None:
    gate = asyncio.Event()
    heard: list[int] = []

    async def slow(trial: ah.Trial) -> None:
        await gate.wait()
        heard.append(trial.id)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 19:
            gate.set()
        return 1.0

    await run(slow, 20, objective)
    assert heard == list(range(20))  # and the run has waited for it


async def test_a_callback_can_look_at_the_search_and_save_it(tmp_path: Any) -> None:
    search = ah.Search(SPACE, seed=1)

    async def snapshot(trial: ah.Trial) -> None:
        assert len(search.history) >= trial.id + 1
        if trial.id == 5:
            await search.save(tmp_path / "snapshot.ckpt")

    await search.run(lambda p: p["x"], steps=10, callbacks=snapshot, quiet=True)
    copy = ah.Search(SPACE)
    await copy.load(tmp_path / "snapshot.ckpt")
    assert 6 <= len(copy.history) <= 10
    assert copy.history.values.tolist() == search.history.values.tolist()[: len(copy.history)]
