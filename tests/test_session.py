"""Ask and tell, for those who evaluate elsewhere; and `iterate`, for those who want each trial as it comes."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import asynchopper as ah
from asynchopper.errors import ObjectiveError, UsageError
from tests.scripts.places import Unprintable

pytestmark = pytest.mark.every_loop

SPACE = {"x": ah.float(-1, 1), "n": ah.int(1, 1000)}
BOUND_S = 30


@pytest.mark.parametrize("stored", [False, True])
async def test_one_after_the_other(stored: bool, tmp_path: Any) -> None:
    search = ah.Search(SPACE, seed=1)
    words = {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    async with search.session("minimize", steps=20, **words) as session:
        while (trial := await session.ask()) is not None:
            assert trial.attempt == 1 and set(trial.params) == {"x", "n"}
            await session.tell(trial, trial.params["x"] ** 2)
            assert search.history[-1].id == trial.id
    assert len(search.history) == 20
    assert search.best_value == min(t.params["x"] ** 2 for t in search.history)
    assert search.outcome is not None and search.outcome.reason == "steps"


@pytest.mark.parametrize("left", [False, True], ids=["stopped", "left"])
async def test_what_is_out_hears_that_the_search_is_being_stopped(left: bool) -> None:
    search = ah.Search(SPACE, seed=1)
    async with search.session(steps=20) as session:
        trial = await session.ask()
        assert trial is not None and not trial.interrupted.is_set()
        heard = asyncio.ensure_future(trial.interrupted.wait())
        if not left:
            search.stop()
            await asyncio.wait_for(heard, BOUND_S)
    await asyncio.wait_for(heard, BOUND_S)


async def test_a_candidate_that_was_given_up_while_it_was_asked_is_asked_again(tmp_path: Any) -> None:
    search = ah.Search(x=ah.choice("a", "b"))
    async with search.session(endless=True, checkpoint_path=tmp_path / "a.ckpt") as session:
        first = await session.ask()
        given_up, in_vain = (asyncio.ensure_future(session.ask()) for _ in range(2))
        for _ in range(2):
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up, in_vain])
        assert first is not None and in_vain.result() is None
        await session.tell(first, 1.0)
        again = await session.ask()
        assert again is not None and again.params != first.params


async def test_a_session_and_a_run_propose_the_same() -> None:
    run, session_search = ah.Search(SPACE, seed=4), ah.Search(SPACE, seed=4)
    await run.run(lambda p: p["x"], steps=40, quiet=True)
    async with session_search.session(steps=40) as session:
        while (trial := await session.ask()) is not None:
            await session.tell(trial, trial.params["x"])
    assert [t.params for t in run.history] == [t.params for t in session_search.history]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from a thread"])
async def test_a_stop_ends_the_candidates_and_what_is_out_can_still_be_told(elsewhere: bool, tmp_path: Any) -> None:
    search, words = ah.Search(SPACE, seed=1), {"checkpoint_path": tmp_path / "a.ckpt", "steps": 20}
    async with search.session(**words) as session:
        out = [await session.ask() for _ in range(3)]
        if elsewhere:
            await asyncio.to_thread(search.stop)
        else:
            search.stop()
        assert await session.ask() is None
        assert out[0] is not None
        await session.tell(out[0], 1.0)
    assert search.outcome is not None and search.outcome.reason == "stopped" and len(search.history) == 1
    async with search.session(**words) as session:  # it goes on where it was
        again = [await session.ask() for _ in range(2)]
        assert [t and (t.id, t.attempt, t.params) for t in again] == [t and (t.id, 2, t.params) for t in out[1:]]


@pytest.mark.parametrize("n", [1, 16, 1000])
async def test_any_number_may_be_out_at_once(n: int, tmp_path: Any) -> None:
    search = ah.Search(SPACE, seed=1)
    async with search.session(steps=2 * n, checkpoint_path=tmp_path / "a.ckpt") as session:
        for _ in range(2):
            out = await asyncio.gather(*(session.ask() for _ in range(n)))
            assert len({t.id for t in out if t is not None}) == n
            await asyncio.gather(*(session.tell(t, t.params["x"]) for t in reversed(out) if t is not None))
        assert await session.ask() is None
    assert len({(t.params["x"], t.params["n"]) for t in search.history}) == 2 * n


async def test_ask_gives_none_when_the_budget_is_given_out_and_never_waits() -> None:
    async with ah.Search(SPACE).session(steps=3) as session:
        out = [await session.ask() for _ in range(3)]
        assert await session.ask() is None and await session.ask() is None
        assert out[0] is not None
        await session.tell(out[0], 1.0)
        assert await session.ask() is None  # it was the budget's, not a slot's


async def test_ask_gives_none_when_the_space_is_used_up() -> None:
    search = ah.Search({"x": ah.int(1, 5)})
    async with search.session(steps=100) as session:
        seen = []
        while (trial := await session.ask()) is not None:
            seen.append(trial.params["x"])
            await session.tell(trial, 1.0)
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert search.outcome is not None and search.outcome.reason == "exhausted"


async def test_ask_gives_none_when_the_time_is_over_and_tell_still_counts() -> None:
    search = ah.Search(SPACE)
    async with search.session("max", 0.02) as session:
        first = await session.ask()
        assert first is not None
        async with asyncio.timeout(BOUND_S):
            while await session.ask() is not None:
                await asyncio.sleep(0.001)
        await session.tell(first, 5.0)
    assert search.best_value == 5.0 and search.outcome is not None and search.outcome.reason == "runtime"


async def test_what_has_no_time_for_another_evaluation_has_used_its_time_up(tmp_path: Any) -> None:
    search = ah.Search(SPACE, seed=1)
    for _ in range(3):  # each session has a time of its own
        told = 0
        async with search.session(runtime=0.3, checkpoint_path=tmp_path / "a.ckpt") as session:
            while (trial := await session.ask()) is not None:
                await asyncio.sleep(0.02)  # what is left in the end is too short for another one
                await session.tell(trial, 1.0)
                told += 1
        assert search.outcome is not None
        assert (search.outcome.reason, search.outcome.trials) == ("runtime", told)
        assert told > 0


async def test_telling_twice_counts_once() -> None:
    search = ah.Search(SPACE)
    async with search.session(steps=5) as session:
        trial = await session.ask()
        assert trial is not None
        await session.tell(trial, 1.0)
        await session.tell(trial, 99.0)
        await asyncio.gather(*(session.tell(trial, float(i)) for i in range(10)))
    assert search.history.values.tolist() == [1.0]


async def test_a_result_whose_telling_was_cancelled_can_be_told_again() -> None:
    class Thinks(ah.RandomSampler):
        """Is at it until it is let go."""

        begun, go = threading.Event(), threading.Event()

        def prompt(self, view: Any, rng: Any) -> Any:
            return None if len(view.state.pending) else super().propose(view, rng)

        def propose(self, view: Any, rng: Any) -> Any:
            self.begun.set()
            assert self.go.wait(BOUND_S)
            return super().propose(view, rng)

    search, sampler = ah.Search(SPACE), Thinks()
    async with search.session(steps=5, sampler=sampler) as session:
        trial = await session.ask()
        assert trial is not None
        sampler.begun.clear()
        asking = asyncio.ensure_future(session.ask())
        assert await asyncio.to_thread(sampler.begun.wait, BOUND_S)
        telling = asyncio.ensure_future(session.tell(trial, 1.0))
        await asyncio.sleep(0)
        telling.cancel()
        await asyncio.wait([telling])
        again = asyncio.ensure_future(session.tell(trial, 1.0))
        sampler.go.set()
        await again
        assert search.history.values.tolist() == [1.0]
        await asking


async def test_outcomes_of_every_kind_can_be_told() -> None:
    search = ah.Search(SPACE)
    async with search.session(steps=10) as session:
        trials = [await session.ask() for _ in range(6)]
        a, b, c, d, e, f = (t for t in trials if t is not None)
        await session.tell(a, True, cost=2.5)
        await session.tell(b, state="failed")
        await session.tell(c, "the worker died", state="failed")
        await session.tell(d, ValueError("bad input"), state="failed")
        await session.tell(e, state="pruned")
        await session.tell(f, math.nan)
    told = list(search.history)
    assert [t.state for t in told] == ["completed", "failed", "failed", "failed", "pruned", "nan"]
    assert (told[0].value, told[0].cost) == (1.0, 2.5)
    assert [t.error for t in told[1:4]] == [
        "TrialFailed: told as failed",
        "TrialFailed: the worker died",
        "ValueError: bad input",
    ]


async def test_what_cannot_be_told_is_refused_and_can_be_told_again() -> None:
    search, other = ah.Search(SPACE), ah.Search(SPACE)
    async with search.session(steps=5) as session, other.session(steps=5) as second:
        trial, stranger = await session.ask(), await second.ask()
        assert trial is not None and stranger is not None
        with pytest.raises(ObjectiveError, match="tell got None instead of a number"):
            await session.tell(trial)
        with pytest.raises(ObjectiveError, match="tell got 'great'"):
            await session.tell(trial, "great")
        with pytest.raises(UsageError, match="state='done': must be"):
            await session.tell(trial, 1.0, state="done")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(UsageError, match="trial 0 was not asked in this session"):
            await session.tell(stranger, 1.0)
        await session.tell(trial, 1.0)
        with pytest.raises(UsageError, match="trial 0 was not asked in this session"):
            await session.tell(stranger, 1.0)  # also where that number has been told here
        for nothing in (None, 0):
            with pytest.raises(UsageError, match="tell takes a trial that `ask` has given, got"):
                await session.tell(nothing, 1.0)  # type: ignore[arg-type]  # that is the point
    assert search.history.values.tolist() == [1.0]


@pytest.mark.parametrize("stored", [False, True])
async def test_a_cost_is_a_number_of_any_kind_or_refused(stored: bool, tmp_path: Any) -> None:
    search, words = ah.Search(SPACE), {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    async with search.session(steps=5, **words) as session:
        trials = [await session.ask() for _ in range(3)]
        a, b, c = (t for t in trials if t is not None)
        for cost in ("a", None, math.nan, math.inf, -1.0, 1j):
            with pytest.raises(ObjectiveError, match="cost"):
                await session.tell(a, 1.0, cost=cost)  # type: ignore[arg-type]  # that is the point
            with pytest.raises(ObjectiveError, match="cost"):
                a.add_cost(cost)  # type: ignore[arg-type]  # as above
            with pytest.raises(ObjectiveError, match="cost"):
                a.cost = cost  # type: ignore[assignment]  # as above
        await session.tell(a, 1.0, cost=np.float64(2))
        b.cost = np.float64(3)
        await session.tell(b, 1.0, cost=np.int64(1))
        c.add_cost(np.float32(0.5))
        await session.tell(c, state="failed")
    loaded = ah.Search(SPACE)
    await loaded.load(await search.save(tmp_path / "saved.ckpt"))
    for known in (search, loaded):
        assert [t.cost for t in known.history] == [2.0, 4.0, 0.5]


async def test_a_session_outlives_errors_that_no_log_could_hold(tmp_path: Any) -> None:
    search = ah.Search(SPACE)
    async with search.session(steps=5, checkpoint_path=tmp_path / "a.ckpt") as session:
        for error in ("half \ud800", ValueError("half \ud800"), Unprintable()):
            trial = await session.ask()
            assert trial is not None
            await session.tell(trial, error, state="failed")
    loaded = ah.Search(SPACE)
    await loaded.load(tmp_path / "a.ckpt")
    for known in (search, loaded):
        assert [t.error for t in known.history] == [
            "TrialFailed: half \\ud800",
            "ValueError: half \\ud800",
            "Unprintable: (an error that cannot be printed)",
        ]


async def test_a_session_works_only_inside_of_its_block() -> None:
    session = ah.Search(SPACE).session(steps=5)
    with pytest.raises(UsageError, match="the session is not open"):
        await session.ask()
    async with session:
        trial = await session.ask()
        assert repr(session) == "Session(1 out, 0 told)"
    assert trial is not None and repr(session) == "Session(closed, 0 told)"
    with pytest.raises(UsageError, match="the session is not open"):
        await session.tell(trial, 1.0)


async def test_concurrent_workers_share_a_session(tmp_path: Any) -> None:
    search = ah.Search(SPACE, seed=2)

    async def worker(session: ah.Session) -> int:
        done = 0
        while (trial := await session.ask()) is not None:
            await asyncio.sleep(0)
            await session.tell(trial, trial.params["x"])
            done += 1
        return done

    async with search.session(steps=500, checkpoint_path=tmp_path / "a.ckpt") as session:
        done = await asyncio.gather(*(worker(session) for _ in range(20)))
    assert sum(done) == 500 == len(search.history) and min(done) > 0
    again = ah.Search(SPACE)
    await again.load(tmp_path / "a.ckpt")
    assert [(t.id, t.value, t.params) for t in again.history] == [(t.id, t.value, t.params) for t in search.history]


async def test_trials_that_are_out_at_the_end_come_back_first(tmp_path: Any) -> None:
    path = tmp_path / "a.ckpt"
    async with ah.Search(SPACE, seed=1).session(steps=10, checkpoint_path=path) as session:
        out = [await session.ask() for _ in range(4)]
        assert out[0] is not None and out[1] is not None
        out[0].add_cost(2.5)
        await session.tell(out[1], 1.0)
    told = [r for r in map(orjson.loads, path.read_bytes().splitlines()) if r["kind"] == "told"]
    assert [(r["id"], r["state"], r.get("cost")) for r in told] == [
        (1, "completed", None),
        (0, "interrupted", 2.5),
        (2, "interrupted", None),
        (3, "interrupted", None),
    ]
    again = ah.Search(SPACE)
    async with again.session(steps=10, checkpoint_path=path) as session:
        back = [await session.ask() for _ in range(3)]
        assert [(t.id, t.attempt, t.params) for t in back if t] == [(t.id, 2, t.params) for t in out if t and t.id != 1]
        rest = []
        while (trial := await session.ask()) is not None:
            rest.append(trial)
        assert [t.id for t in rest] == [4, 5, 6, 7, 8, 9]


async def test_an_error_in_the_block_is_the_callers_and_ends_the_session() -> None:
    search = ah.Search(SPACE)
    with pytest.raises(ZeroDivisionError):
        async with search.session(steps=10) as session:
            trial = await session.ask()
            assert trial is not None
            await session.tell(trial, 1.0)
            raise ZeroDivisionError
    assert search.outcome is not None and search.outcome.reason == "error"
    assert len(search.history) == 1
    await search.run(lambda p: 1.0, steps=10, quiet=True)
    assert len(search.history) == 10


async def test_a_pruner_follows_a_session() -> None:
    search = ah.Search(SPACE, seed=1)
    async with search.session(steps=12, pruner=ah.pruners.TopKPruner(2)) as session:
        while (trial := await session.ask()) is not None:
            quality = float(trial.id % 4)
            try:
                for _ in range(3):
                    await trial.report(quality)
            except ah.TrialPruned:
                await session.tell(trial, state="pruned")
            else:
                await session.tell(trial, quality)
    states = [t.state for t in search.history]
    assert states[:2] == ["completed"] * 2 and "pruned" in states[4:]
    assert all(len(t.estimates) == 3 for t in search.history if t.state == "completed")


async def test_an_objectives_own_state_can_be_saved_in_a_session(tmp_path: Any) -> None:
    path = tmp_path / "a.ckpt"
    async with ah.Search(SPACE).session(steps=1, checkpoint_path=path) as session:
        trial = await session.ask()
        assert trial is not None
        await trial.save({"epoch": 4})
    async with ah.Search(SPACE).session(steps=1, checkpoint_path=path) as session:
        trial = await session.ask()
        assert trial is not None and (trial.attempt, trial.restored) == (2, {"epoch": 4})
        await session.tell(trial, 1.0)
        with pytest.raises(UsageError, match="trial 0 is not running any more"):
            await trial.save(5)


# -- iterate


async def test_state_that_json_cannot_hold_is_refused_by_name(tmp_path: Any) -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    async with ah.Search(SPACE, seed=1).session(steps=1, checkpoint_path=tmp_path / "a.ckpt") as session:
        trial = await session.ask()
        assert trial is not None
        with pytest.raises(TypeError, match="this holds builtins"):
            await trial.save({"epoch": object()})
        with pytest.raises(TypeError, match="and this is nested more than 64 levels"):
            await trial.save(deep)


async def test_iterate_hands_out_each_trial_once_it_is_known() -> None:
    search = ah.Search(SPACE, seed=1)
    seen = []
    async for trial in search.iterate(lambda p: p["x"], "minimize", steps=25, concurrency=3, quiet=True):
        assert len(search.history) > len(seen)
        seen.append(trial)
    assert [t.id for t in seen] == [t.id for t in search.history] and len(seen) == 25
    assert search.outcome is not None and search.outcome.reason == "steps"


async def test_iterate_takes_callbacks_too() -> None:
    heard: list[int] = []
    async for _ in ah.Search(SPACE).iterate(lambda p: 1.0, steps=3, quiet=True, callbacks=lambda t: heard.append(t.id)):
        pass
    async for _ in ah.Search(SPACE).iterate(
        lambda p: 1.0, steps=3, quiet=True, callbacks=[lambda t: heard.append(t.id)]
    ):
        pass
    assert heard == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("how", ["closing", "break"])
async def test_leaving_the_loop_early_cancels_what_runs(how: str) -> None:
    search = ah.Search(SPACE, seed=1)
    cancelled: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id < 3 or trial.attempt == 2:
            return 1.0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(trial.id)
            raise
        return 1.0

    trials = search.iterate(objective, steps=10, concurrency=2, quiet=True)
    async for trial in trials:
        if trial.id == 2:
            break
    if how == "closing":
        await trials.aclose()
    del trials
    await search.run(objective, steps=5, quiet=True)
    assert cancelled and set(cancelled) <= {3, 4}
    assert sorted(t.id for t in search.history) == [0, 1, 2, 3, 4]


async def test_what_the_objective_raises_comes_out_of_the_loop() -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        return 1 / (3 - trial.id)

    seen = []
    with pytest.raises(ZeroDivisionError):
        async for trial in ah.Search(SPACE).iterate(objective, steps=9, quiet=True):
            seen += [trial.state]
    assert seen == ["completed"] * 3 + ["failed"]


async def test_an_error_in_the_body_of_the_loop_ends_the_search() -> None:
    search = ah.Search(SPACE)
    with pytest.raises(KeyError):
        async for _ in search.iterate(lambda p: 1.0, endless=True, quiet=True):
            raise KeyError
    await search.run(lambda p: 1.0, steps=3, quiet=True)


@pytest.mark.parametrize("how", ["spent", "fails", "closed"])
async def test_all_tasks_that_share_an_iteration_come_to_its_end(how: str) -> None:
    read: list[int] = []
    all_read = asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await asyncio.sleep(0)
        if trial.id == 7 and how != "spent":
            await all_read.wait()
            if how == "closed":
                await asyncio.Event().wait()
            raise ZeroDivisionError
        return 1.0

    search = ah.Search(SPACE)
    trials = search.iterate(objective, steps=9, quiet=True)

    async def reads() -> None:
        async for trial in trials:
            read.append(trial.id)
            if len(read) == 7:
                all_read.set()

    readers = asyncio.gather(*(reads() for _ in range(4)), return_exceptions=True)
    await asyncio.wait_for(all_read.wait(), 10)
    if how == "closed":
        await asyncio.sleep(0)
        await trials.aclose()
    ends = await asyncio.wait_for(readers, 10)
    assert [type(end) for end in ends if end is not None] == ([ZeroDivisionError] if how == "fails" else [])
    assert read == list(range({"spent": 9, "fails": 8, "closed": 7}[how]))
    await search.run(lambda p: 1.0, steps=1, quiet=True)


@pytest.mark.parametrize("by", ["whoever left it", "its callback"])
async def test_what_an_iteration_left_has_ended_when_the_search_loads(tmp_path: Any, by: str) -> None:
    search, loaded = ah.Search(SPACE), asyncio.Event()
    await ah.Search(SPACE).save(tmp_path / "other.ckpt")

    async def load(_: ah.Search) -> None:
        await search.load(tmp_path / "other.ckpt")
        loaded.set()

    watch = ah.Callback()
    if by == "its callback":
        watch.on_end = load  # type: ignore[method-assign]  # for short
    words: dict[str, Any] = {"steps": 9, "checkpoint_path": tmp_path / "a.ckpt", "callbacks": watch, "quiet": True}
    async for _ in search.iterate(lambda p: 1.0, **words):
        break
    if by == "whoever left it":
        await load(search)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.wait_for(loaded.wait(), 10)
    assert len(search.history) == 0


async def test_an_ask_that_was_cancelled_after_the_budget_was_given_out_is_asked_again(tmp_path: Path) -> None:
    search = ah.Search(SPACE)
    async with search.session(steps=2, checkpoint_path=tmp_path / "a.ckpt") as session:
        first = await session.ask()
        asking = asyncio.create_task(session.ask())
        await asyncio.sleep(0)
        other = asyncio.create_task(session.ask())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await other is None
        again = await session.ask()
        assert first is not None and again is not None and again.attempt == 2
