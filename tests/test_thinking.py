"""Candidates that take a while: made in a thread, ahead where it is possible, and nobody waits who need not."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.budget import Budget, Schedule
from asynchopper.records import decode
from asynchopper.samplers import Proposer
from asynchopper.samplers.base import Next, View
from asynchopper.space import Space
from asynchopper.state import Asked, State
from asynchopper.storage import Entry, open_storage

BOUND_S = 30
SLOTS = 10


class Slow(ah.RandomSampler):
    """Every candidate is one to think about; that of trial `held` is made once it is let go."""

    beside = True

    def __init__(self, held: int = -1, fails: int = -1) -> None:
        self.held, self.fails = held, fails
        self.loop = asyncio.get_running_loop()
        self.begun, self.go = asyncio.Event(), threading.Event()
        self.known: dict[int, tuple[int, bool]] = {}
        """Of each trial: how many had been told, and whether it was made on the loop."""

    def prompt(self, view: Any, rng: Any) -> None:
        return None

    def expects(self, view: Any, rng: Any) -> bool:
        return True

    def propose(self, view: Any, rng: Any) -> Any:
        number = view.then.number
        self.known[number] = view.state.told, threading.current_thread() is threading.main_thread()
        if number == self.held:
            self.loop.call_soon_threadsafe(self.begun.set)
            assert self.go.wait(BOUND_S)
        if number == self.fails:
            raise ArithmeticError("no idea")
        return super().propose(view, rng)


class Gate:
    """An objective whose evaluations end when they are told to."""

    def __init__(self) -> None:
        self.out: dict[int, asyncio.Future[None]] = {}
        self.started = asyncio.Condition()

    async def __call__(self, params: dict[str, Any], trial: ah.RunningTrial) -> float:
        self.out[trial.id] = asyncio.get_running_loop().create_future()
        async with self.started:
            self.started.notify_all()
        await self.out[trial.id]
        return float(params["x"])

    async def has(self, id: int) -> None:
        async with self.started:
            await asyncio.wait_for(self.started.wait_for(lambda: id in self.out), BOUND_S)

    def end(self, id: int) -> None:
        self.out[id].set_result(None)


@pytest.fixture(params=[False, True], ids=["in-memory", "stored"])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    where = {"checkpoint_path": tmp_path / "a.ckpt"} if request.param else {}
    return {"concurrency": SLOTS, "quiet": True, **where}


async def ended(run: asyncio.Task[Any], gate: Gate, steps: int) -> None:
    for id in range(steps):
        await gate.has(id)
        if not gate.out[id].done():
            gate.end(id)
    await asyncio.wait_for(run, BOUND_S)


async def test_the_next_candidate_is_made_before_a_slot_is_free(words: dict[str, Any]) -> None:
    sampler, gate = Slow(held=SLOTS), Gate()
    run = asyncio.create_task(ah.Search(x=ah.float(0, 1)).run(gate, steps=14, sampler=sampler, **words))
    await gate.has(SLOTS - 1)
    await asyncio.wait_for(sampler.begun.wait(), BOUND_S)
    assert sampler.known[SLOTS] == (0, False)
    sampler.go.set()
    gate.end(0)
    await gate.has(SLOTS)
    await ended(run, gate, 14)
    assert not any(here for _, here in sampler.known.values())


async def test_a_result_does_not_wait_for_a_candidate(words: dict[str, Any]) -> None:
    sampler, gate, told = Slow(held=SLOTS), Gate(), asyncio.Event()
    search = ah.Search(x=ah.float(0, 1))
    run = asyncio.create_task(search.run(gate, steps=14, sampler=sampler, callbacks=lambda trial: told.set(), **words))
    await gate.has(SLOTS - 1)
    await asyncio.wait_for(sampler.begun.wait(), BOUND_S)
    for id in (3, 5):
        told.clear()
        gate.end(id)
        await asyncio.wait_for(told.wait(), BOUND_S)
    assert [trial.id for trial in search.history] == [3, 5]
    assert SLOTS not in gate.out
    sampler.go.set()
    await ended(run, gate, 14)
    assert len(search.history) == 14


async def test_few_slots_wait_for_the_newest_result(words: dict[str, Any]) -> None:
    """One in a few is worth more than a slot's wait."""
    sampler, gate = Slow(held=3), Gate()
    sampler.go.set()
    run = asyncio.create_task(
        ah.Search(x=ah.float(0, 1)).run(gate, steps=6, sampler=sampler, **{**words, "concurrency": 3})
    )
    await gate.has(2)
    gate.end(1)
    await gate.has(3)
    assert sampler.known[3] == (1, False)
    await ended(run, gate, 6)


async def test_who_needs_the_whole_state_is_not_asked_ahead_and_has_it_stand_still(words: dict[str, Any]) -> None:
    sampler, gate = Slow(held=SLOTS), Gate()
    sampler.beside, told = False, asyncio.Event()
    search = ah.Search(x=ah.float(0, 1))
    run = asyncio.create_task(search.run(gate, steps=14, sampler=sampler, callbacks=lambda t: told.set(), **words))
    await gate.has(SLOTS - 1)
    gate.end(4)
    await asyncio.wait_for(asyncio.gather(sampler.begun.wait(), told.wait()), BOUND_S)
    assert sampler.known[SLOTS] == (1, False)
    gate.end(6)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(search.history) == 1
    sampler.go.set()
    await ended(run, gate, 14)


async def test_what_goes_wrong_in_the_thread_reaches_the_caller_and_nothing_is_lost(words: dict[str, Any]) -> None:
    async def objective(params: dict[str, Any]) -> float:
        return float(params["x"])

    search = ah.Search(x=ah.float(0, 1))
    with pytest.raises(ArithmeticError, match="no idea"):
        await search.run(objective, steps=30, sampler=Slow(fails=15), **words)
    assert len(search.history) >= 15 - SLOTS
    await search.run(objective, steps=30, **words)
    assert len(search.history) == 30 or "checkpoint_path" not in words


async def test_a_stop_waits_for_what_is_being_made_and_asks_no_more(words: dict[str, Any]) -> None:
    sampler, gate = Slow(held=SLOTS), Gate()
    search = ah.Search(x=ah.float(0, 1))
    run = asyncio.create_task(search.run(gate, steps=14, sampler=sampler, **words))
    await gate.has(SLOTS - 1)
    await asyncio.wait_for(sampler.begun.wait(), BOUND_S)
    search.stop()
    for id in range(SLOTS):
        gate.end(id)
    sampler.go.set()
    await asyncio.wait_for(run, BOUND_S)
    assert len(search.history) == SLOTS == len(gate.out)
    assert search.outcome is not None and search.outcome.reason == "stopped"


async def test_a_session_hears_a_result_while_it_thinks() -> None:
    sampler, search = Slow(held=SLOTS), ah.Search(x=ah.float(0, 1))
    async with search.session(steps=20, sampler=sampler) as session:
        trials = [await session.ask() for _ in range(SLOTS)]
        await asyncio.wait_for(sampler.begun.wait(), BOUND_S)
        asking = asyncio.create_task(session.ask())
        for trial in trials[:2]:
            assert trial is not None
            await asyncio.wait_for(session.tell(trial, 1.0), BOUND_S)
        assert not asking.done() and len(search.history) == 2
        sampler.go.set()
        following = await asyncio.wait_for(asking, BOUND_S)
        assert following is not None and following.id == SLOTS
        assert sampler.known[SLOTS] == (0, False)


async def test_a_guess_comes_before_a_candidate_that_was_made_ahead() -> None:
    sampler, search = Slow(held=SLOTS), ah.Search(x=ah.float(0, 1))
    sampler.go.set()
    async with search.session(steps=20, sampler=sampler) as session:
        for _ in range(SLOTS):
            await session.ask()
        search.enqueue({"x": 0.25})
        got = [await session.ask() for _ in range(3)]
    assert got[0] is not None and got[0].params["x"] == 0.25
    assert len({trial.params["x"] for trial in got if trial is not None}) == 3


class Uneven:
    """An objective whose evaluations take a different number of the loop's turns."""

    async def __call__(self, params: dict[str, Any], trial: ah.RunningTrial) -> float:
        for _ in range(trial.id * 7919 % 400 * (trial.id % 3 > 0)):
            await asyncio.sleep(0)
        return float(zlib.crc32(repr(params).encode()) % 97)


SPACES: dict[str, dict[str, Any]] = {
    "numbers": {"x": ah.float(-1, 1), "y": ah.float(-1, 1), "z": ah.float(-1, 1)},
    "few": {"a": ah.int(0, 4), "b": ah.choice("x", "y", "z"), "c": ah.int(0, 3), "d": ah.bool()},
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("concurrency", [1, 4, 12])
async def test_every_candidate_is_the_one_of_the_log_before_it(space: str, concurrency: int, tmp_path: Path) -> None:
    """Whatever came in while it was made: a search that is resumed right there makes the same one."""
    path, tree = tmp_path / "a.ckpt", SPACES[space]
    search = ah.Search(tree, seed=5)
    await search.run(Uneven(), "min", steps=70, concurrency=concurrency, checkpoint_path=path, quiet=True)
    space_of_all, compared = Space(tree), 0
    facts = [decode(entry.data, space_of_all) async for portion in reading(path) for entry in portion]
    for at, fact in enumerate(facts):
        assert fact is not None
        if isinstance(fact, Asked) and fact.origin != "initial":
            again = State(Space(tree))
            for earlier in facts[:at]:
                assert earlier is not None
                again.fold(earlier)
            budget, schedule = Budget.of(None, 70, False), Schedule()
            proposer = Proposer(ah.PortfolioSampler(), schedule, deque(), 5)
            made = proposer.next(again, again.elapsed, budget.progress(again, again.elapsed))
            assert made is not None
            assert made.proposal.values == fact.values, (
                f"trial {fact.id} would be another one in a search resumed there"
            )
            compared += 1
    assert compared == 69


async def reading(path: Path) -> AsyncIterator[Sequence[Entry]]:
    storage = open_storage(path)
    await storage.open(readonly=True)
    async for portion in storage.read():
        yield portion
    await storage.close()


async def test_a_large_candidate_is_left_to_the_thread_altogether() -> None:
    state = State(Space({"w": ah.float(0, 1, shape=20_000)}))
    sampler = ah.PortfolioSampler()
    proposer = Proposer(sampler, Schedule(), deque(), 1)
    first = proposer.prompt(state, 0.0, 0.0)
    assert isinstance(first, Next)
    state.fold(Asked(0, 1, first.proposal.values, "initial", None, None, first.key))
    assert isinstance(proposer.prompt(state, 0.0, 0.1), View)
    assert sampler._memory is None


class SlowAlone(Slow):
    """The same, with a state that stands still meanwhile."""

    beside = False


@pytest.mark.parametrize("stored", [False, True])
async def test_a_stop_does_not_wait_for_a_sampler(
    stored: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler, gate = SlowAlone(held=3), Gate()
    search = ah.Search(x=ah.float(0, 1))
    where: Any = {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    run = asyncio.create_task(search.run(gate, steps=14, sampler=sampler, concurrency=4, quiet=True, **where))
    await asyncio.wait_for(sampler.begun.wait(), BOUND_S)
    gate.end(0)
    search.stop()
    gate.end(1)
    gate.end(2)
    try:
        await asyncio.wait_for(run, BOUND_S)
    finally:
        sampler.go.set()
    assert [t.id for t in search.history] == [0, 1, 2] and "it is left behind" in caplog.text
    assert search.outcome is not None and search.outcome.reason == "stopped"
