"""What a log says, one fact a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from asynchopper.history import Table
from asynchopper.trial import State as TrialState
from asynchopper.trial import Values
from asynchopper.values import Json


class Header(NamedTuple):
    """Who the search is. The first fact of every log."""

    search_id: str
    direction: str
    seed: int
    space: dict[str, Json]
    packed: bool = False
    """Whether trials are told many at a time."""


class Run(NamedTuple):
    """A run begins. The budget counts from `base_*`: what had been spent when this budget was first given."""

    budget: dict[str, Json]
    base_steps: int
    base_elapsed: float
    base_cost: float
    space: dict[str, Json] | None
    """The space, where it differs from the one said before."""
    started: str
    host: str
    pid: int
    elapsed: float = 0.0
    """What the search's runs had taken, where no other fact says so much."""


class Asked(NamedTuple):
    """A candidate is about to be evaluated. `foreign` holds parameters that the present space does not know; `key` is the
    space's own, where the caller has it already. `saved` is not of this fact: the state keeps there what a trial that is out
    has saved."""

    id: int
    attempt: int
    values: Values
    origin: str
    note: Json = None
    foreign: Mapping[str, Any] | None = None
    key: int | None = None
    saved: Json = None


class Finished(NamedTuple):
    """Trials that were asked and told before: some rows of a table of their own. Those between them that are missing may be
    asked later."""

    table: Table
    start: int
    end: int


class Saved(NamedTuple):
    """The objective's own state, for its next attempt. `elapsed` is what the search's runs had taken by then, where it was
    said."""

    id: int
    attempt: int
    data: Json
    elapsed: float = 0.0


class Told(NamedTuple):
    """An evaluation ended. `seconds` is its own duration, `elapsed` what the search's runs had taken by then."""

    id: int
    attempt: int
    state: TrialState
    value: float
    estimates: tuple[float, ...]
    cost: float
    seconds: float
    elapsed: float
    error: str | None = None


class PrunerSaw(NamedTuple):
    """A pruner's state after all that was told before."""

    name: str
    data: Json


class Ended(NamedTuple):
    """A run ended, and why."""

    reason: str
    elapsed: float


Fact: TypeAlias = Header | Run | Asked | Saved | Told | Finished | PrunerSaw | Ended

FINISHED = frozenset({"steps", "runtime", "cost", "exhausted"})
"""Reasons after which the next run gets a new budget; after any other it continues the old one."""
