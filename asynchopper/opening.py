"""How a run begins: its words checked and grouped, its log opened and folded, and what it says first in that log."""

from __future__ import annotations

import datetime
import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from asynchopper.budget import Budget, Schedule, budget_words
from asynchopper.callbacks.base import Watcher
from asynchopper.errors import StudyMismatch, UsageError
from asynchopper.journal import Journal, replay
from asynchopper.ledger import Ledger, restore_pruner
from asynchopper.policy import DIRECTIONS, check_word
from asynchopper.pruners import Pruner
from asynchopper.samplers import PortfolioSampler, Proposer, Sampler
from asynchopper.samplers.proposer import Duplicates
from asynchopper.space import Given, Space
from asynchopper.state import FINISHED, Fact, Header, Run, State
from asynchopper.storage import Location, Resume, Storage, aside, open_storage
from asynchopper.values import check_flag

_log = logging.getLogger("asynchopper")

_LEARNT = 500  # trials that a sampler learns at a time

Direction = Literal["max", "maximize", "maximise", "min", "minimize", "minimise"]


class RunWords(TypedDict, total=False):
    """The keywords of `Search.run`, for those who pass them on."""

    steps: int | None
    endless: bool
    concurrency: int
    executor: Literal["thread", "process"] | None
    timeout: float | None
    kwargs: Mapping[str, Any] | None
    sampler: Sampler | None
    pruner: Pruner | None
    seeding_ratio: float | None
    seeding_steps: int | None
    seeding_runtime: float | str | None
    start_temperature: float
    end_temperature: float
    duplicates: Duplicates
    ignore_nans: bool
    on_error: Literal["raise", "record"]
    checkpoint_path: Location | None
    storage: Storage | None
    resume: Resume
    overwrite_checkpoint: bool
    grace: float
    handle_signals: bool
    callbacks: Watcher | Iterable[Watcher | None] | None
    quiet: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a run's log is, how it is continued, and how it searches: what `run` and `session` share."""

    direction: str
    budget: Budget
    schedule: Schedule
    sampler: Sampler
    pruner: Pruner | None
    duplicates: Duplicates
    storage: Storage | None
    resume: Resume
    overwrite: bool

    @classmethod
    def of(
        cls,
        space: Space,
        direction: str,
        budget: Budget,
        schedule: Schedule,
        *,
        sampler: Sampler | None,
        pruner: Pruner | None,
        duplicates: Duplicates,
        checkpoint_path: Location | None,
        storage: Storage | None,
        resume: Resume,
        overwrite_checkpoint: bool,
    ) -> Opening:
        """Checks the words; opens nothing. Raises `UsageError`, or `SpaceError` for values that no log can hold."""
        check_word("duplicates", duplicates, ("reject", "reuse", "allow"))
        check_word("resume", resume, ("auto", "never", "must"))
        check_flag("overwrite_checkpoint", overwrite_checkpoint)
        if checkpoint_path is not None and storage is not None:
            raise UsageError("checkpoint_path= and storage= exclude each other")
        if storage is not None and not isinstance(storage, Storage):
            raise UsageError(f"storage= takes a Storage, got {storage!r:.80}; for a path or a URL use checkpoint_path=")
        _check_instance("sampler", sampler)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise UsageError(f"sampler= takes an object with propose(view, rng), got {sampler!r:.80}")
        check_pruner(pruner)
        if resume == "must" and overwrite_checkpoint:
            raise UsageError("resume='must' and overwrite_checkpoint=True contradict each other")
        where = open_storage(checkpoint_path) if checkpoint_path is not None else storage
        if where is None and resume == "must":
            raise UsageError("resume='must' needs a checkpoint_path or a storage")
        if where is not None:
            space.check_storable()
        return cls(
            direction=DIRECTIONS[direction],
            budget=budget,
            schedule=schedule,
            sampler=_own(sampler),
            pruner=pruner,
            duplicates=duplicates,
            storage=where,
            resume=resume,
            overwrite=overwrite_checkpoint,
        )


def new_header(space: Space, direction: str, seed: int | None) -> Header:
    """The first fact of a new search. Without a seed, one is drawn."""
    return Header(secrets.token_hex(8), direction, secrets.randbits(63) if seed is None else seed, space.describe())


async def opened(opening: Opening, mine: State) -> Journal:
    """The journal of a run: of the log that was just opened, or, where there is none or it is empty, of what is known."""
    header = mine.header
    if header is not None and header.direction != opening.direction and not mine.told and not mine.pending:
        mine.fold(header._replace(direction=opening.direction))  # it was saved before it had ever run
    if opening.storage is None:
        return Journal(mine, None)
    return await _continued(opening.storage, mine)


async def _continued(storage: Storage, mine: State) -> Journal:
    stored = State(mine.space, remember=False)
    await replay(storage, stored)
    if stored.header is None:
        journal = Journal(mine, storage)
        if mine.header is not None:
            journal.stage_log(await aside(lambda: list(mine.facts())))
        return journal
    if mine.told and mine.header is not None:
        ahead = _ahead(mine, stored)
        if mine.header.search_id != stored.header.search_id or ahead is None:
            raise StudyMismatch(
                f"{storage.location} holds another search ({stored.told} trials) than this object ({mine.told}); use a "
                "fresh Search to continue it, or another path, or overwrite_checkpoint=True to replace it"
            )
        if ahead:
            journal = Journal(mine, storage)
            journal.stage_log(ahead)
            return journal
    say_changes(stored, storage.location)
    return Journal(stored, storage)


async def begun(journal: Journal, opening: Opening, seed: int | None, guesses: deque[Given]) -> Ledger:
    """Says in the log that a run begins; gives its ledger once that is durable."""
    state = journal.state
    if state.header is None:
        journal.stage(new_header(state.space, opening.direction, seed))
    header = state.header
    assert header is not None
    check_same_direction(state, opening)
    await prepared(state, opening, seed, None if journal.storage is None else journal.storage.location)
    journal.stage(run_fact(state, opening.budget, state.elapsed))
    await journal.commit()
    say_spent(state, opening.budget)
    proposer = Proposer(opening.sampler, opening.schedule, guesses, header.seed)
    return Ledger(journal, proposer, opening.budget, opening.pruner)


def has_run(state: State) -> bool:
    """Whether anything was ever asked; a search may have been saved before."""
    return bool(state.told or state.pending or state.run is not None)


def check_same_direction(state: State, opening: Opening) -> None:
    """Raises `StudyMismatch` for a search in the other direction."""
    header = state.header
    if header is not None and header.direction != opening.direction:
        said, instead = "saved", "overwrite_checkpoint=True: it has not run yet"
        if has_run(state):
            said, instead = "started", "start a new search"
        where = "" if opening.storage is None else f"{opening.storage.location}: "
        raise StudyMismatch(
            f"{where}this search was {said} to {header.direction}, and now it is asked to {opening.direction}; "
            f"use the same direction, or {instead}"
        )


async def prepared(state: State, opening: Opening, seed: int | None, location: str | None) -> None:
    """Brings a folded log's state, and the pruner, to where a run can begin."""
    header = state.header
    assert header is not None
    if seed is not None and seed != header.seed and location is not None:
        _log.warning("%s goes on with its own seed %d, not %d", location, header.seed, seed)
    wanted = opening.duplicates != "allow", opening.duplicates == "reuse"
    if not state.told and not state.pending:  # a thread takes longer than this
        state.remember_candidates(*wanted)
    else:
        await aside(state.remember_candidates, *wanted)
    learn = getattr(opening.sampler, "learn", None)
    if learn is not None:  # off the loop, and piece by piece: a thread that is busy for long may keep it from its turn
        for rows in range(_LEARNT, state.told + _LEARNT, _LEARNT):
            await aside(learn, state, rows)
    if opening.pruner is not None:
        opening.pruner.direction = opening.direction
        await aside(restore_pruner, opening.pruner, state)


def run_fact(state: State, budget: Budget, elapsed: float) -> Run:
    """A run that continues the budget of one that was cut short, or begins to count anew, at so many seconds: after one that
    was spent, and where the budget is of another kind."""
    old = state.run
    if old is None or state.reason in FINISHED or old.budget.keys() != budget.describe().keys():
        base = state.told, elapsed, state.cost
    else:
        base = old.base_steps, old.base_elapsed, old.base_cost
    described = state.space.describe()
    return Run(
        budget=budget.describe(),
        base_steps=base[0],
        base_elapsed=base[1],
        base_cost=base[2],
        space=None if described == state.described else described,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def say_spent(state: State, budget: Budget) -> None:
    """Where a run goes on with a budget of which nothing is left, it ends at once; so that is said."""
    if budget.spent(state, state.elapsed):
        _log.warning(
            "nothing is left of %s: the run before was stopped, and what it has spent of such a budget counts "
            "(%d steps, %.3g s); give more than that",
            budget_words(budget.describe()), state.spent_steps, state.spent_seconds,
        )  # fmt: skip


def say_changes(state: State, location: str) -> None:
    """The space may change between runs; what did is said once."""
    before, now = state.described or {}, state.space.describe()
    changes = [f"{path} is new (old trials count with its initial value)" for path in now if path not in before]
    changes += [f"{path} is gone (its values stay in the history)" for path in before if path not in now]
    changes += [f"{path} is different" for path in now if path in before and before[path] != now[path]]
    if changes:
        _log.warning("%s: the search space has changed: %s", location, "; ".join(changes))


def parted(mine: State, stored: State) -> bool:
    """Whether two histories of one search differ in a trial that both have."""
    a, b = mine.table, stored.table
    both = min(len(a), len(b))
    return a.ids[:both] != b.ids[:both] or a.values[:both].tobytes() != b.values[:both].tobytes()


def _ahead(mine: State, stored: State) -> list[Fact] | None:
    """The facts by which `mine` is ahead of what is stored; `None` when neither continues the other."""
    if parted(mine, stored):
        return None
    if len(mine.table) <= len(stored.table):
        return []
    known = set(stored.table.ids)
    return [f for f in mine.facts() if not isinstance(f, Header) and getattr(f, "id", -1) not in known]


def _own(sampler: Sampler | None) -> Sampler:
    """The sampler of one run."""
    if sampler is None:
        return PortfolioSampler()
    return sampler.apart() if type(sampler) is PortfolioSampler else sampler


def check_pruner(pruner: Pruner | None) -> None:
    """Raises `UsageError` for what is no pruner."""
    _check_instance("pruner", pruner)
    needed = ("should_prune", "observe", "state_dict", "load_state_dict")
    if pruner is not None and (lacking := [name for name in needed if not callable(getattr(pruner, name, None))]):
        raise UsageError(f"pruner= takes a Pruner, got {pruner!r:.80}, which has no {', '.join(lacking)}")


def _check_instance(name: str, given: object) -> None:
    if isinstance(given, type):
        raise UsageError(f"{name}= takes an instance, got the class itself; write {name}={given.__name__}(...)")
