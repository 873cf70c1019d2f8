"""How a worker comes to a search that it shares: it joins, reads, agrees on the budget, and says in the log that it is there."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from asynchopper.budget import budget_words
from asynchopper.closing import closed
from asynchopper.errors import CheckpointCorrupted, StudyMismatch
from asynchopper.journal import Replay, encoded, fold_portion
from asynchopper.ledger import Ledger
from asynchopper.opening import (
    Opening,
    check_same_direction,
    has_run,
    new_header,
    parted,
    prepared,
    run_fact,
    say_changes,
    say_spent,
)
from asynchopper.samplers import Proposer
from asynchopper.shared import SharedJournal
from asynchopper.space import Given, Space
from asynchopper.state import FINISHED, Asked, Ended, Fact, Run, State
from asynchopper.storage import Joined, SharedStorage, aside
from asynchopper.worker import SharedLedger

_log = logging.getLogger("asynchopper")


class _Found(NamedTuple):
    """A search as it is in the log, and the record by which each trial was last asked."""

    state: State
    asked_by: dict[int, int]


async def joined(
    storage: SharedStorage, opening: Opening, mine: State, seed: int | None, guesses: deque[Given]
) -> Ledger:
    """The ledger of a worker. Makes the search where there is none.

    Raises `StudyMismatch` for another direction, another history than this object's, or another budget than the one that
    others are at work on.
    """
    while True:
        here = await storage.join(resume=opening.resume, overwrite=opening.overwrite)
        try:  # from here on it is ours to close
            ledger = await _taken_part(storage, here, opening, mine, seed, guesses)
        except BaseException:
            await closed(storage.close())
            raise
        if ledger is not None:
            return ledger


async def _taken_part(
    storage: SharedStorage,
    here: Joined,
    opening: Opening,
    mine: State,
    seed: int | None,
    guesses: deque[Given],
) -> Ledger | None:
    """The ledger of a worker that has joined; `None` when there was no search, and another worker was faster to make it."""
    nothing_to_do: str | None = None
    if here.seq:
        state, nothing_to_do = await _entered(storage, here, opening, mine, seed)
    else:
        created = await _created(storage, opening, mine, seed)
        if created is None:
            return None
        state = created
    header = state.header
    assert header is not None
    await prepared(state, opening, seed, storage.location)
    lane = here.number if here.others else 0  # who is alone proposes what a search in a file would
    proposer = Proposer(opening.sampler, opening.schedule, guesses, header.seed, lane)
    journal = SharedJournal(state, storage, dedupe=opening.duplicates != "allow", others=here.others > 0)
    ledger = SharedLedger(journal, proposer, opening.budget, opening.pruner, max(here.elapsed, state.elapsed))
    ledger.dry = nothing_to_do
    return ledger


async def _created(storage: SharedStorage, opening: Opening, mine: State, seed: int | None) -> State | None:
    """A new search, of what this object knows; `None` when another worker was faster."""
    state = State(mine.space, remember=False)
    facts: list[Fact] = [new_header(mine.space, opening.direction, seed)]
    if mine.header is not None:
        facts = [f for f in await aside(lambda: list(mine.facts())) if not isinstance(f, Ended)]
    for fact in facts:
        state.fold(fact)
    _check_direction(state, opening)
    state.reason = mine.reason
    run = run_fact(state, opening.budget, state.elapsed)
    state.fold(run)
    facts.append(run)
    records = await aside(encoded, facts, mine.space)
    if not await storage.create(records, _limit(run, opening)):
        return None
    if len(records) > 2:
        asked_by = {f.id: seq for seq, f in enumerate(facts) if isinstance(f, Asked)}
        await _indexed(storage, _Found(state, asked_by))
    return state


async def _entered(
    storage: SharedStorage, here: Joined, opening: Opening, mine: State, seed: int | None
) -> tuple[State, str | None]:
    """A search that is there, as this worker begins in it; or the reason why there is nothing to do."""
    found = await _read(storage, mine.space)
    state = found.state
    _check_direction(state, opening)
    _check_history(state, mine, storage.location)
    say_changes(state, storage.location)
    if not here.counted:
        await _indexed(storage, found)
    mine_words = opening.budget.describe()
    others = here.others if here.begun is None else here.begun  # who has not begun has no budget yet, either
    runs, elapsed = here.runs, max(here.elapsed, state.elapsed)
    while True:
        spent = state.reason in FINISHED and state.reason != "exhausted"  # by a space that may have been a smaller one
        if spent and state.run is not None and state.run.budget == mine_words:
            if not _saw_it_end(mine, state.run):
                _log.warning(
                    "%s: this search has spent its budget (%s), and there is nothing left to do in it; give another budget to "
                    "go on, or ?workers=1 for a plain checkpoint, where every run brings a new one",
                    storage.location, budget_words(state.run.budget),
                )  # fmt: skip
                return state, state.reason
        elif others and state.run is not None and state.reason is None and state.run.budget != mine_words:
            raise StudyMismatch(
                f"{storage.location}: {others} other worker{'s are' if others > 1 else ' is'} at work on a budget of "
                f"{budget_words(state.run.budget)}, and this one came with {budget_words(mine_words)}; a search has one budget "
                "at a time: give the same, or wait until it is spent"
            )
        run = run_fact(state, opening.budget, elapsed)
        reply = await storage.begin(encoded([run], state.space)[0], _limit(run, opening), runs)
        fold_portion(reply.news, state, storage.location)
        if reply.kept[0]:
            state.fold(run)
            say_spent(state, opening.budget)
            return state, None
        others, runs, elapsed = reply.workers - 1, reply.runs, reply.elapsed


async def _read(storage: SharedStorage, space: Space) -> _Found:
    found = _Found(State(space, remember=False), {})
    log = Replay(found.state, storage.location, found.asked_by)
    async for portion in storage.read():
        await aside(log.fold, portion)
    log.end()
    if found.state.header is None:
        raise CheckpointCorrupted(f"{storage.location} holds no header")
    return found


async def _indexed(storage: SharedStorage, found: _Found) -> None:
    state, asked_by = found
    out = [(p.id, p.attempt, asked_by[p.id]) for p in state.pending.values()]
    await storage.index(state.told, state.next_id, out, state.elapsed)


def _check_direction(state: State, opening: Opening) -> None:
    if state.header is not None and not has_run(state):
        state.fold(state.header._replace(direction=opening.direction))  # it was saved before it had ever run
    check_same_direction(state, opening)


def _check_history(state: State, mine: State, location: str) -> None:
    """An object that knows something goes on only with the search that it knows."""
    if mine.header is None or not mine.told or state.header is None:
        return
    if mine.header.search_id != state.header.search_id or mine.told > state.told or parted(mine, state):
        raise StudyMismatch(
            f"{location} holds another search ({state.told} trials) than this object ({mine.told}); use a fresh Search to join "
            "it, or another name, or overwrite_checkpoint=True to replace it"
        )


def _saw_it_end(mine: State, run: Run) -> bool:
    """Whether this very object was there when the budget was spent, so that running it again asks for a new one."""
    base = (run.base_steps, run.base_elapsed)
    return mine.run is not None and (mine.run.base_steps, mine.run.base_elapsed) == base and mine.reason in FINISHED


def _limit(run: Run, opening: Opening) -> int | None:
    return None if opening.budget.steps is None else run.base_steps + opening.budget.steps
