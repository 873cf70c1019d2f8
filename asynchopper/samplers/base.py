"""What a sampler is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from asynchopper.space import Generator, Space
from asynchopper.state import State
from asynchopper.trial import Proposal, Values

LARGE = 20_000  # numbers a candidate; from here on it takes milliseconds, whatever makes it
_AMONG = 8  # where so many are out, a result of news is worth less than a slot's wait


Source: TypeAlias = Literal["space", "moves", "model"]


Stream: TypeAlias = "Callable[[int], Generator]"
"""Random streams by number, apart from those of trials, for what a sampler makes for many trials at once."""


class Next(NamedTuple):
    """What to run next. `answered` is the finished trial's row when the candidate is known already."""

    proposal: Proposal
    key: int | None
    answered: int | None = None


class Then(NamedTuple):
    """What may be known for a trial."""

    number: int
    """The trial's."""
    latest: int
    """How many finished trials a candidate knows that takes next to no time: all there are."""
    known: int
    """How many a candidate knows that takes milliseconds: where several are out, those that had finished when the trial
    before it was asked. So it can be made ahead, and is the same if it is made later."""
    out: int
    """How many trials were out when so many had finished."""
    alone: bool
    """Whether a candidate waits for the newest result: so few are out, or it may be its answer."""


def then_of(state: State, alone: bool = False) -> Then:
    """What may be known for the next trial; `alone` has it wait for the newest result, however many are out."""
    told, at = len(state.table.ids), state.asked_at
    out = len(state.pending) + told - at
    if alone or out < _AMONG or state.trial_of is not None:
        return Then(state.next_id, told, told, len(state.pending), True)
    return Then(state.next_id, at if state.space.size >= LARGE else told, at, out, False)


@dataclass(slots=True)
class View:
    """The search at the moment of a proposal. `progress` is the part of the budget that is spent, from 0 to 1."""

    state: State
    progress: float
    seeding: bool
    temperature: float
    seeding_fixed: bool = False
    """Whether the user said how long to seed; otherwise the sampler may stop earlier."""
    source: Source | None = field(init=False, default=None)
    """What the candidate comes from, once the sampler has decided it."""
    _then: Then | None = field(init=False, default=None)
    _running: list[tuple[int, Values]] | None = field(init=False, default=None)

    @property
    def space(self) -> Space:
        return self.state.space

    @property
    def then(self) -> Then:
        """What may be known for this trial, as it was when somebody first asked."""
        if self._then is None:
            self._then = then_of(self.state)
        return self._then

    def await_latest(self) -> None:
        """Has the candidate wait for the newest result, however many are out."""
        self._then = then_of(self.state, alone=True)

    def forget_latest(self) -> None:
        """Has no more be known than what was known to a candidate that is made ahead."""
        self._then = self.then._replace(latest=self.then.known)

    @property
    def running(self) -> list[tuple[int, Values]]:
        """The trials that were out then, by id, and their candidates, as it was when somebody first asked."""
        if self._running is None:
            state, table = self.state, self.state.table
            told = [(table.ids[row], table.row(row)) for row in range(self.then.known, len(table.ids))]
            self._running = sorted([*((p.id, p.values) for p in state.pending.values()), *told], key=itemgetter(0))
        return self._running


@runtime_checkable
class Sampler(Protocol):
    """Proposes candidates.

    `propose` is pure: it reads the view, draws only from `rng`, and keeps nothing, so that the same history and the same
    generator give the same candidate after any number of restarts.

    A sampler whose candidates may take milliseconds has a method more, `prompt(view, rng)`: the candidate where it takes
    next to no time, and otherwise `None`; then `propose` is called in a thread, with the same view, and the search stands
    still until it returns. With `beside = True` and `expects(view, rng)`, which says whether `prompt` will give none, the
    search goes on meanwhile, and candidates are made ahead. Such a sampler looks only at the first `view.then.known` trials
    and at `view.running`, since all else changes beside it. One that learns from results may have `learn(state, rows)`,
    which is called in a thread before a run begins on a history, with more and more rows. A stop does not wait for a sampler
    that has the search stand still: what it is at work on is dropped, and what it looks at changes.
    """

    def propose(self, view: View, rng: Generator) -> Proposal: ...
