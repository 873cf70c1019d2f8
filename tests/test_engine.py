"""One run: many evaluations at once, each its own scope; errors, timeouts, threads; nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.errors import TrialTimeout, UsageError
from asynchopper.trial import Proposal
from tests.scripts import places

pytestmark = pytest.mark.every_loop

SPACE = {"x": ah.float(-1, 1)}
BOUND_S = 30


async def run(objective: Any, steps: int = 10, **words: Any) -> ah.Search:
    search = ah.Search(SPACE, seed=1)
    await asyncio.wait_for(search.run(objective, steps=steps, quiet=True, **words), BOUND_S)
    return search


def reason(search: ah.Search) -> str:
    assert search.outcome is not None
    return search.outcome.reason


# -- how many at once


@pytest.mark.parametrize("concurrency", [1, 7, 64])
async def test_exactly_as_many_run_at_once_as_were_asked_for(concurrency: int) -> None:
    running, most, full = 0, 0, asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == concurrency:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        running -= 1
        return 1.0

    search = await run(objective, steps=concurrency * 3, concurrency=concurrency)
    assert (most, running) == (concurrency, 0)
    assert len(search.history) == concurrency * 3


async def test_ten_thousand_coroutines_sleep_at_once() -> None:
    n, out, awake = 10_000, 0, asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        nonlocal out
        out += 1
        if out == n:
            awake.set()
        await awake.wait()
        return float(params["x"])

    search = await run(objective, steps=n + 500, concurrency=n)
    assert len(search.history) == n + 500
    assert sorted(t.id for t in search.history) == list(range(n + 500))
    assert len({t.params["x"] for t in search.history}) == n + 500


async def test_a_slot_is_filled_as_soon_as_it_is_free() -> None:
    """One evaluation that takes for ever does not hold the others up."""
    last = asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 0:
            await last.wait()
        if trial.id == 19:
            last.set()
        return 1.0

    search = await run(objective, steps=20, concurrency=2)
    assert [t.id for t in search.history] == [*range(1, 20), 0]


async def test_trials_are_told_in_the_order_in_which_they_end() -> None:
    ends: dict[int, asyncio.Event] = {i: asyncio.Event() for i in range(8)}

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 7:
            ends[7].set()
        await ends[trial.id].wait()
        if trial.id > 0:
            asyncio.get_running_loop().call_soon(ends[trial.id - 1].set)
        return float(trial.id)

    search = await run(objective, steps=8, concurrency=8)
    assert search.history.values.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


async def test_evaluations_are_tasks_of_their_own_with_their_own_context() -> None:
    tasks: set[Any] = set()
    trials: list[bool] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        tasks.add(asyncio.current_task())
        for _ in range(3):
            await asyncio.sleep(0)
            trials.append(ah.current_trial() is trial)
        return 1.0

    await run(objective, steps=20, concurrency=10)
    assert len(tasks) == 20 and all(trials) and len(trials) == 60
    with pytest.raises(UsageError):
        ah.current_trial()


async def test_a_search_runs_once_at_a_time() -> None:
    search, started = ah.Search(SPACE), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        started.set()
        await asyncio.sleep(0)
        return 1.0

    first = asyncio.create_task(search.run(objective, steps=50, quiet=True))
    await started.wait()
    with pytest.raises(UsageError, match="this search is running already"):
        await search.run(objective, steps=5, quiet=True)
    with pytest.raises(UsageError, match="this search is running already"):
        async with search.session(steps=5):
            pass
    await first
    assert len(search.history) == 50


async def test_two_searches_run_side_by_side_and_one_inside_another() -> None:
    async def inner(params: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        return float(params["x"])

    async def outer(params: dict[str, Any]) -> float:
        search = await run(inner, steps=5)
        assert search.best_value is not None
        return search.best_value + float(params["x"])

    one, two = await asyncio.gather(run(outer, steps=5, concurrency=2), run(inner, steps=9, concurrency=3))
    assert len(one.history) == 5 and len(two.history) == 9


# -- errors


class Unlucky(Exception):
    pass


async def test_an_exception_stops_the_run_and_is_raised_as_itself_with_a_note() -> None:
    cancelled: list[int] = []
    started = asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id < 3:
            return 1.0
        if trial.id == 3:
            await started.wait()
            raise Unlucky("at three")
        if trial.id == 5:
            started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(trial.id)
            raise
        return 1.0

    search = ah.Search(SPACE, seed=1)
    with pytest.raises(Unlucky, match="at three") as caught:
        await search.run(objective, steps=100, concurrency=3, quiet=True)
    assert caught.value.__notes__ == [f"in trial 3 (attempt 1) with params {search.history[-1].params!r}"]
    assert sorted(cancelled) == [4, 5]
    assert [t.state for t in search.history] == ["completed"] * 3 + ["failed"]
    assert search.history[-1].error == "Unlucky: at three"
    assert reason(search) == "error"


async def test_an_exception_is_raised_as_itself_also_where_the_params_cannot_be_printed() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    async def objective(params: dict[str, Any]) -> float:
        raise Unlucky("at once")

    search = ah.Search({"x": ah.choice(Mute(), Mute(), labels=["one", "two"])})
    with pytest.raises(Unlucky, match="at once") as caught:
        await search.run(objective, steps=3, quiet=True)
    assert caught.value.__notes__ == ["in trial 0 (attempt 1) with params (that cannot be printed)"]


async def test_what_was_known_before_the_exception_is_kept_and_the_rest_runs_again(tmp_path: Any) -> None:
    attempts: list[tuple[int, int]] = []
    broken = True
    both = asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        attempts.append((trial.id, trial.attempt))
        if trial.id == 4 and broken:
            await both.wait()
            raise Unlucky
        if trial.id == 5 and broken:
            both.set()
            await asyncio.Event().wait()
        return float(trial.id)

    path = tmp_path / "run.ckpt"
    with pytest.raises(Unlucky):
        await run(objective, steps=10, concurrency=2, checkpoint_path=path)
    broken = False
    search = await run(objective, steps=10, concurrency=2, checkpoint_path=path)
    assert sorted(t.id for t in search.history) == list(range(10))
    assert attempts.count((5, 2)) == 1 and (4, 2) not in attempts
    assert [t.state for t in search.history if t.id == 4] == ["failed"]


async def test_the_first_of_several_exceptions_is_raised() -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        try:
            if trial.id:
                await asyncio.Event().wait()
        finally:
            if trial.id:
                raise Unlucky("while being cancelled")
        raise ZeroDivisionError("first")

    with pytest.raises(ZeroDivisionError, match="first"):
        await run(objective, concurrency=5)


async def test_with_on_error_record_the_search_goes_on() -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id % 3 == 1:
            raise Unlucky(f"number {trial.id}")
        return float(params["x"])

    search = await run(objective, steps=12, on_error="record", concurrency=2)
    history = sorted(search.history, key=lambda t: t.id)
    assert [t.state for t in history] == ["completed", "failed", "completed"] * 4
    assert history[4].error == "Unlucky: number 4" and history[4].value is None
    assert reason(search) == "steps" and search.best_value == max(t.value for t in history if t.value is not None)


ODD = [
    (ValueError("half \ud800"), "ValueError: half \\ud800"),
    (places.Unprintable(), "Unprintable: (an error that cannot be printed)"),
]


@pytest.mark.parametrize(("error", "text"), ODD)
async def test_an_error_whose_text_no_log_could_hold_is_raised_as_itself(
    error: Exception, text: str, tmp_path: Any
) -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 2:
            raise error
        return 1.0

    search = ah.Search(SPACE, seed=1)
    with pytest.raises(type(error)) as caught:
        await search.run(objective, steps=5, checkpoint_path=tmp_path / "a.ckpt", quiet=True)
    assert caught.value is error and any("in trial 2" in said for said in error.__notes__)
    assert [t.error for t in search.history] == [None, None, text]


@pytest.mark.parametrize("depth", [1, 3])
async def test_exception_groups_are_unwrapped(depth: int) -> None:
    async def child(n: int) -> None:
        await asyncio.sleep(0)
        if n == 0:
            raise Unlucky("deep inside")
        async with asyncio.TaskGroup() as group:
            group.create_task(child(n - 1))
            group.create_task(asyncio.Event().wait())

    async def objective(params: dict[str, Any]) -> float:
        await child(depth)
        return 1.0

    with pytest.raises(Unlucky, match="deep inside") as caught:
        await run(objective)
    assert "in trial 0" in caught.value.__notes__[0]


async def test_a_group_of_several_exceptions_stays_a_group() -> None:
    async def child(error: Exception) -> None:
        await asyncio.sleep(0)
        raise error

    async def objective(params: dict[str, Any]) -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(child(Unlucky("one")))
            group.create_task(child(ValueError("two")))
        return 1.0

    with pytest.raises(ExceptionGroup) as caught:
        await run(objective)
    assert {type(e) for e in caught.value.exceptions} == {Unlucky, ValueError}
    assert "in trial 0" in caught.value.__notes__[0]


async def test_an_exception_in_a_thread_is_raised_as_itself() -> None:
    def objective(params: dict[str, Any]) -> float:
        raise Unlucky("in a thread")

    with pytest.raises(Unlucky, match="in a thread") as caught:
        await run(objective)
    assert "in trial 0 (attempt 1)" in caught.value.__notes__[0]


async def test_stop_iteration_is_an_error_like_any_other() -> None:
    def objective(params: dict[str, Any]) -> float:
        return float(next(iter(())))

    search = await run(objective, steps=2, on_error="record")
    assert [t.state for t in search.history] == ["failed"] * 2


async def test_an_objective_that_cancels_itself_has_failed() -> None:
    async def objective(params: dict[str, Any]) -> float:
        raise asyncio.CancelledError

    with pytest.raises(ah.ObjectiveError, match="cancelled, and not by the search"):
        await run(objective)
    search = await run(objective, steps=3, on_error="record")
    assert [t.state for t in search.history] == ["failed"] * 3


async def test_an_objective_that_cancels_its_search_ends_it() -> None:
    search = ah.Search(SPACE)

    async def objective(params: dict[str, Any]) -> float:
        task.cancel()
        await asyncio.Event().wait()
        return 1.0

    task = asyncio.create_task(search.run(objective, steps=10, quiet=True))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reason(search) == "stopped" and len(search.history) == 0


# -- cancellation and timeouts


async def test_cancelling_the_run_reaches_what_the_objectives_await() -> None:
    reached: list[int] = []
    started = asyncio.Event()

    async def request(id: int) -> None:
        try:
            if id == 3:
                started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reached.append(id)
            raise

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await request(trial.id)
        return 1.0

    search = ah.Search(SPACE)
    task = asyncio.create_task(search.run(objective, steps=10, concurrency=4, quiet=True))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(reached) == [0, 1, 2, 3]
    assert reason(search) == "stopped"


async def test_a_run_fits_into_a_timeout_of_the_callers() -> None:
    async def objective(params: dict[str, Any]) -> float:
        await asyncio.Event().wait()
        return 1.0

    search = ah.Search(SPACE)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await search.run(objective, steps=10, quiet=True)
    await search.run(lambda p: 1.0, steps=3, quiet=True)
    assert len(search.history) == 3
    assert [t.attempt for t in search.history] == [2, 1, 1]


async def test_a_timeout_ends_one_evaluation_and_not_the_search() -> None:
    cleaned_up: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        try:
            if trial.id % 2:
                await asyncio.Event().wait()
        finally:
            cleaned_up.append(trial.id)
        return 1.0

    search = await run(objective, steps=6, timeout=0.02)
    assert [t.state for t in search.history] == ["completed", "failed"] * 3
    assert search.history[1].error == "TrialTimeout: the evaluation took longer than 0.02 s"
    assert cleaned_up == list(range(6))
    assert issubclass(TrialTimeout, TimeoutError)


async def test_a_coroutine_that_took_too_long_without_awaiting_counts_as_late_all_the_same() -> None:
    async def objective(params: dict[str, Any]) -> float:
        time.sleep(0.05)
        return 1.0

    search = await run(objective, steps=2, timeout=0.01)
    assert [t.state for t in search.history] == ["failed"] * 2


async def test_an_error_of_our_own_kind_that_an_objective_raises_says_where_it_was_raised() -> None:
    async def objective(params: dict[str, Any]) -> float:
        raise ah.StorageError("the data are away")

    with pytest.raises(ah.StorageError, match="the data are away") as caught:
        await run(objective)
    assert "in trial 0" in caught.value.__notes__[0]


async def test_a_timeout_of_the_objectives_own_is_an_error_of_its_own() -> None:
    async def objective(params: dict[str, Any]) -> float:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return 1.0

    for words in ({}, {"timeout": BOUND_S}):
        with pytest.raises(TimeoutError) as caught:
            await run(objective, **words)
        assert not isinstance(caught.value, TrialTimeout)


async def test_a_timeout_leaves_a_blocking_function_behind() -> None:
    release = threading.Event()
    heard: list[BaseException] = []

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 0:
            release.wait(BOUND_S)
            try:
                trial.report(1.0)
            except BaseException as e:
                heard.append(e)
                raise
        return 1.0

    before = time.monotonic()
    search = await run(objective, steps=3, timeout=0.02)
    release.set()
    assert time.monotonic() - before < BOUND_S / 2
    assert [t.state for t in search.history] == ["failed", "completed", "completed"]
    deadline = time.monotonic() + BOUND_S
    while not heard and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    assert not isinstance(heard[0], Exception)  # so that no `except Exception` keeps the thread going


async def test_the_end_of_a_runtime_gives_running_evaluations_the_grace() -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await trial.interrupted.wait()
        return 7.0

    search = ah.Search(SPACE)
    await asyncio.wait_for(search.run(objective, "max", 0.02, concurrency=3, quiet=True), BOUND_S)
    assert search.history.values.tolist() == [7.0] * 3 and reason(search) == "runtime"


async def test_after_the_grace_evaluations_are_cancelled_and_stay_in_flight() -> None:
    async def objective(params: dict[str, Any]) -> float:
        await asyncio.Event().wait()
        return 1.0

    search = ah.Search(SPACE)
    await asyncio.wait_for(search.run(objective, "max", 0.01, grace=0.01, concurrency=3, quiet=True), BOUND_S)
    assert len(search.history) == 0 and reason(search) == "runtime"


async def test_a_coroutine_that_ignores_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    free, search = asyncio.Event(), ah.Search(SPACE)

    async def objective(params: dict[str, Any]) -> float:
        search.stop()
        while not free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await free.wait()
        return 1.0

    await asyncio.wait_for(search.run(objective, steps=5, grace=0.01, quiet=True), BOUND_S)
    assert "trial 0 ignores its cancellation; it is left behind" in caplog.text
    free.set()


# -- stopping


@pytest.mark.parametrize("place", ["objective", "thread", "callback"])
async def test_stop_works_from_anywhere(place: str) -> None:
    search = ah.Search(SPACE)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 5 and place == "objective":
            search.stop()
        if trial.id == 5 and place == "thread":
            thread = threading.Thread(target=search.stop)
            thread.start()
            thread.join()
        await asyncio.sleep(0)
        return 1.0

    def watch(trial: ah.Trial) -> None:
        if trial.id == 5 and place == "callback":
            search.stop()

    best = await asyncio.wait_for(search.run(objective, endless=True, quiet=True, callbacks=watch), BOUND_S)
    assert reason(search) == "stopped" and best == search.best
    assert 5 <= len(search.history) <= 8
    search.stop()  # nothing runs any more, so nothing happens
    assert repr(search).endswith("stopped)")


# -- the loop is never blocked


async def test_plain_functions_never_block_the_loop() -> None:
    """Four functions block their threads until the loop has gone on ticking beside them."""
    ticks = 0
    gate = threading.Event()
    names: set[str] = set()

    async def tick() -> None:
        nonlocal ticks
        while not gate.is_set():
            await asyncio.sleep(0.001)
            ticks += 1
            if ticks == 20:
                gate.set()

    def objective(params: dict[str, Any]) -> float:
        names.add(threading.current_thread().name)
        assert gate.wait(BOUND_S), "the loop stood still"
        return 1.0

    ticking = asyncio.create_task(tick())
    search = await run(objective, steps=4, concurrency=4)
    await ticking
    assert len(search.history) == 4 and len(names) == 4 and threading.main_thread().name not in names


async def test_threads_are_used_again_and_end_with_the_run() -> None:
    names: set[str] = set()

    def objective(params: dict[str, Any]) -> float:
        names.add(threading.current_thread().name)
        return 1.0

    await run(objective, steps=200, concurrency=3)
    assert 1 <= len(names) <= 6
    deadline = time.monotonic() + BOUND_S
    while names & {t.name for t in threading.enumerate()} and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    assert not names & {t.name for t in threading.enumerate()}


async def test_a_large_space_does_not_block_the_loop_while_it_proposes() -> None:
    search = ah.Search({"w": ah.float(-1, 1, shape=300_000)}, seed=1)
    proposed_in: set[str] = set()

    class Slow:
        """A sampler that takes its time, which only a thread of its own may do."""

        def propose(self, view: Any, rng: Any) -> Any:
            proposed_in.add(threading.current_thread().name)
            return ah.RandomSampler().propose(view, rng)

    async def objective(params: dict[str, Any]) -> float:
        return float(params["w"].mean())

    await search.run(objective, steps=4, sampler=Slow(), quiet=True)
    assert threading.main_thread().name not in proposed_in
    assert len(search.history) == 4


# -- nothing is left behind


async def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id % 7 == 3:
            raise Unlucky
        if trial.id % 7 == 5:
            await asyncio.Event().wait()
        yield 1.0

    with caplog.at_level(logging.DEBUG, "asyncio"):
        await run(objective, steps=50, concurrency=5, timeout=0.01, on_error="record", executor=None)
        await run(lambda p: 1.0, steps=50, concurrency=5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        await asyncio.sleep(0)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_run_gives_the_best_parameters() -> None:
    search = ah.Search(SPACE, seed=1)
    best = await search.run(lambda p: -abs(p["x"] - 0.25), steps=100, quiet=True)
    assert best == search.best and best is not None
    assert abs(best["x"] - 0.25) < 0.05
    assert search.best_trial is not None and search.best_trial.params == best
    assert reason(search) == "steps" and search.outcome is not None and search.outcome.trials == 100
    assert repr(search).startswith(f"Search(x; 100 trials, best {search.best_value}")
    assert await ah.Search(SPACE).run(lambda p: 1 / 0, steps=3, on_error="record", quiet=True) is None


@pytest.mark.parametrize("word", ["max", "maximize", "maximise", "min", "minimize", "minimise"])
async def test_directions_have_six_names(word: Any) -> None:
    search = ah.Search(SPACE, seed=1)
    await search.run(lambda p: p["x"], word, steps=20, quiet=True)
    assert search.best_value == (max if word.startswith("max") else min)(search.history.values)


async def test_samplers_of_ones_own_are_welcome() -> None:
    class Corner:
        def propose(self, view: Any, rng: Any) -> Any:
            from asynchopper.trial import Proposal

            return Proposal((float(rng.random()) * 0.1,), "corner", {"progress": view.progress})

    search = await run(lambda p: p["x"], steps=10, sampler=Corner())
    assert [t.origin for t in search.history] == ["initial"] + ["corner"] * 9
    assert max(search.history["x"][1:]) < 0.1


@pytest.mark.parametrize(
    "proposed", [None, (0.5,), Proposal((), "short"), Proposal((0.5, 0.5), "long"), Proposal((0.5,), 3)], ids=str
)
async def test_what_a_sampler_gives_instead_of_a_candidate_is_said(proposed: Any) -> None:
    class Wrong:
        def propose(self, view: Any, rng: Any) -> Any:
            return proposed

    with pytest.raises(UsageError, match=r"Wrong\.propose gave .*, and not a Proposal with a value for each parameter"):
        await run(lambda p: p["x"], steps=10, sampler=Wrong())


async def test_what_a_sampler_proposes_belongs_into_the_space_and_is_python_s(tmp_path: Path) -> None:
    class Mine:
        values: Any = (np.float64(0.25), np.int64(3), np.int64(1), [0.5, 1])

        def propose(self, view: Any, rng: Any) -> Any:
            return Proposal(self.values, "mine")

    space = {"x": ah.float(0, 1), "n": ah.int(1, 9), "o": ah.choice("a", "b"), "w": ah.float(0, 1, shape=2)}
    search = ah.Search(space, seed=1)
    await search.run(lambda p: 1.0, steps=2, sampler=Mine(), checkpoint_path=tmp_path / "run.ckpt", quiet=True)
    params = search.history[1].params
    assert params["w"].dtype == np.float64 and params.pop("w").tolist() == [0.5, 1.0]
    assert params == {"x": 0.25, "n": 3, "o": "b"}
    for values, said in (
        ((7.5, 3, 1, [0, 0]), r"x: 7\.5 is outside"),
        ((0.5, 3, 2, [0, 0]), "o: 2 is not the number of an option"),
        ((0.5, 3, 1, [0, 2]), "w: an entry is outside"),
        ((0.5, 3, 1, np.zeros(3)), "w: cannot make an array of shape"),
        ((0.5, None, 1, [0, 0]), "n: has no value, and exists in this candidate"),
    ):
        Mine.values = values
        with pytest.raises(UsageError, match=said):
            await ah.Search(space, seed=1).run(lambda p: 1.0, steps=2, sampler=Mine(), quiet=True)


async def test_one_sampler_may_be_given_to_searches_that_run_at_once() -> None:
    async def bowl(params: dict[str, Any]) -> float:
        await asyncio.sleep(0.0005)
        return -float(sum((x - 0.3) ** 2 for x in params.values()))

    async def both(*samplers: Any) -> list[Any]:
        searches = [ah.Search({name: ah.float(0, 1) for name in "abcd"}, seed=seed) for seed in (1, 2)]
        runs = [s.run(bowl, steps=40, sampler=x, quiet=True) for s, x in zip(searches, samplers, strict=True)]
        await asyncio.gather(*runs)
        return [[t.params for t in search.history] for search in searches]

    alone = await both(ah.PortfolioSampler(), ah.PortfolioSampler())
    shared = ah.PortfolioSampler()
    assert await both(shared, shared) == alone


# -- the loop has its turn


class Slow(ah.RandomSampler):
    """Takes two milliseconds for a candidate, and notes what else was going on."""

    def __init__(self, thinks_after: int) -> None:
        self.thinks_after, self.turns = thinks_after, 0
        self.asked_at: list[tuple[bool, int]] = []

    def prompt(self, view: Any, rng: Any) -> Any:
        return None if view.state.told >= self.thinks_after else self.propose(view, rng)

    def propose(self, view: Any, rng: Any) -> Any:
        here = threading.current_thread() is threading.main_thread()
        assert not (here and view.state.told >= self.thinks_after), "what takes milliseconds is chosen off the loop"
        self.asked_at.append((here, self.turns))
        time.sleep(0.002)
        return super().propose(view, rng)


async def with_turns(sampler: Slow, **words: Any) -> ah.Search:
    """All evaluations that are out end together, again and again; meanwhile the loop's turns are counted."""
    gate = asyncio.Event()
    out = 0

    def turn() -> None:
        sampler.turns += 1
        ticking.append(asyncio.get_running_loop().call_soon(turn))
        del ticking[0]

    async def objective(params: dict[str, Any]) -> float:
        nonlocal out, gate
        mine, out = gate, out + 1
        if out % 32 == 0:
            mine.set()
            gate = asyncio.Event()
        await mine.wait()
        return float(params["x"])

    ticking = [asyncio.get_running_loop().call_soon(turn)]
    try:
        return await run(objective, steps=128, concurrency=32, sampler=sampler, **words)
    finally:
        ticking[0].cancel()


@pytest.mark.parametrize("durable", [False, True])
async def test_a_sampler_that_begins_to_think_is_not_asked_on_the_loop(durable: bool, tmp_path: Path) -> None:
    sampler = Slow(thinks_after=10)
    search = await with_turns(sampler, checkpoint_path=tmp_path / "a.ckpt" if durable else None)
    assert len(search.history) == 128
    assert not all(here for here, _ in sampler.asked_at)


@pytest.mark.parametrize("durable", [False, True])
async def test_many_slow_candidates_are_not_chosen_in_one_go(durable: bool, tmp_path: Path) -> None:
    sampler = Slow(thinks_after=1000)
    await with_turns(sampler, checkpoint_path=tmp_path / "a.ckpt" if durable else None)
    at = [turn for _, turn in sampler.asked_at]
    assert max(at.count(turn) for turn in at) <= 5
