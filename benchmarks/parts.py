"""The pieces that a search is made of, put together without a run, so that each can be measured by itself."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import asynchopper as ah
from asynchopper.budget import Budget, Schedule
from asynchopper.ledger import Ledger
from asynchopper.opening import Opening, begun, opened
from asynchopper.samplers import PortfolioSampler
from asynchopper.samplers.tuning import Tuning
from asynchopper.state import State
from asynchopper.trial import Completed
from benchmarks.tuners import our_search, value

MANY = 10**9  # steps: so many that no schedule moves while something is measured


class Layer(NamedTuple):
    """What one layer takes for a trial, in microseconds, and the least that could."""

    name: str
    ours: float
    floor: float | None
    floor_is: str
    whole: bool = False


def moves_alone() -> PortfolioSampler:
    """The default sampler without its model, whose few candidates are made beside the loop."""
    return PortfolioSampler(Tuning(model=False))


def ledger_of(
    sampler: Any = None, trials: int = 0, duplicates: Any = "reject", search: ah.Search | None = None, **words: Any
) -> Ledger:
    """The ledger of a search in memory that has told so many trials."""
    space = (search or our_search()).space
    schedule = {"seeding_ratio": 0.25, "seeding_steps": None, "seeding_runtime": None} | words
    opening = Opening.of(
        space,
        "maximize",
        Budget.of(None, MANY, False),
        Schedule.of(**schedule, start_temperature=0.5, end_temperature=0.5),
        sampler=moves_alone() if sampler is None else sampler,
        pruner=None,
        duplicates=duplicates,
        checkpoint_path=None,
        storage=None,
        resume="auto",
        overwrite_checkpoint=False,
    )

    async def open_it() -> Ledger:
        return await begun(await opened(opening, State(space)), opening, 1, deque())

    ledger = asyncio.run(open_it())
    for _ in range(trials):
        turn(ledger)
    return ledger


def turn(ledger: Ledger, score: Callable[[dict[str, Any]], float] = value) -> None:
    """One trial, asked and told."""
    new = ledger.ask()
    assert new is not None, ledger.dry
    trial, known = new
    ledger.tell(trial, known or Completed(score(trial.params)))


def asked_and_told(
    ledger: Ledger, trials: int, score: Callable[[dict[str, Any]], float] = value
) -> tuple[float, float]:
    """Microseconds of the processor for asking, and for telling, of trials one after the other."""
    clock, asking, telling = time.process_time, 0.0, 0.0
    began = clock()
    for _ in range(trials):
        clock()
    look = (clock() - began) / trials  # what a look at the clock takes is not theirs
    for _ in range(trials):
        began = clock()
        new = ledger.ask()
        asking += clock() - began - look
        assert new is not None, ledger.dry
        outcome = new[1] or Completed(score(new[0].params))
        began = clock()
        ledger.tell(new[0], outcome)
        telling += clock() - began - look
    return asking / trials * 1e6, telling / trials * 1e6


def cost(
    work: Callable[[], object],
    calls: int,
    repeats: int = 7,
    clock: Callable[[], float] = time.process_time,
    before: Callable[[], object] | None = None,
) -> float:
    """Microseconds for each of the calls that `work` makes: the median of some repeats. `before` is not counted."""
    taken = []
    for _ in range(repeats):
        if before is not None:
            before()
        gc.collect()
        began = clock()
        work()
        taken.append(clock() - began)
    return statistics.median(taken) / calls * 1e6
