"""What runs next: guesses first, then the first guess of the space, then the sampler; and no candidate twice."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Set
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from asynchopper.budget import Schedule
from asynchopper.samplers.base import Sampler, View
from asynchopper.space import Generator, Space
from asynchopper.state import State
from asynchopper.trial import Proposal, Values

Duplicates: TypeAlias = Literal["reject", "reuse", "allow"]

_SAMPLER_TRIES = 16  # redraws from the sampler before drawing from the whole space
_SPACE_TRIES = 64  # redraws from the whole space before counting through it, or giving up where that is impossible
_UNKNOWN_TRIES = 1000  # the same, for spaces whose size is unknown
_BATCHES = 2**63  # what separates the lanes of batches from those of trials
_COUNTABLE = 2**40  # larger finite spaces are never used up in practice


class Streams:
    """One random stream a trial number, from one seed. Philox, so a stream costs a counter and not a generator."""

    def __init__(self, seed: int) -> None:
        key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state

    def at(self, number: int, lane: int = 0) -> Generator:
        """The stream of a trial. Valid until the next call; `lane` separates draws for other purposes."""
        state = self._state
        state["state"]["counter"][:] = (0, 0, number, lane)
        state["buffer_pos"] = 4
        state["has_uint32"] = 0
        self._bits.state = state
        return self._generator


class Next(NamedTuple):
    """What to run next. `answered` is the finished trial's row when the candidate is known already."""

    proposal: Proposal
    key: int | None
    answered: int | None = None


class Proposer:
    """Chooses the next candidate. Holds nothing that the state and the guesses do not determine.

    `guesses` stays whole, so that those of a run whose log broke can be used again; `guesses_used` counts.
    """

    def __init__(
        self,
        sampler: Sampler,
        schedule: Schedule,
        guesses: deque[Mapping[Any, Any]],
        seed: int,
        lane: int = 0,
    ) -> None:
        self._lane = lane  # one a worker, so that workers who know the same do not propose the same
        self._sampler, self._schedule = sampler, schedule
        self._guesses = guesses
        self.guesses_used = 0
        self._seed, self._streams = seed, Streams(seed)
        self._thinks = getattr(sampler, "thinks", None)
        self._ahead = getattr(sampler, "ahead", None)
        self._together: Streams | None = None
        self._fixed = schedule.fixed
        self._counted = 0  # every point of the counting order before this one has been asked

    def thinks(self, state: State) -> bool:
        """Whether the next candidate may take milliseconds."""
        return self._thinks is not None and bool(self._thinks(state))

    def next(self, state: State, elapsed: float, progress: float) -> Next | None:
        """The next candidate, or `None` when the space is used up. `progress` is the budget's, from 0 to 1."""
        if self.guesses_used < len(self._guesses) or not state.initial_asked:
            first = self._first(state)
            if first is not None:
                return first
        schedule, seen = self._schedule, state.seen
        view = View(
            state,
            progress,
            schedule.seeding(state, progress, elapsed),
            schedule.temperature(progress),
            self._fixed,
            self._stream,
        )
        if self._ahead is not None:
            found = self._ahead(view)
            if found is not None:
                return Next(found[1], found[0])
        rng = self._streams.at(state.next_id, self._lane)
        proposal = self._sampler.propose(view, rng)
        if seen is None:
            return Next(proposal, None)
        key = state.space.key(proposal.values)
        if key not in seen:
            return Next(proposal, key)
        if state.trial_of is not None and (row := _finished_row(state, state.trial_of[key])) is not None:
            return Next(proposal, key, row)
        return self._other(view, rng)

    def _first(self, state: State) -> Next | None:
        """What comes before anything that a sampler proposes, and was never asked."""
        space = state.space
        rng = self._streams.at(state.next_id, self._lane)
        while self.guesses_used < len(self._guesses):
            guess = self._guesses[self.guesses_used]
            self.guesses_used += 1
            values = space.fit(guess, state.best_values, rng)
            key = self._key(state, values)
            if key is None or state.seen is None or key not in state.seen:
                return Next(Proposal(values, "enqueued"), key)
        if not state.initial_asked:
            values = space.initial(rng)
            key = self._key(state, values)
            if key is None or state.seen is None or key not in state.seen:
                return Next(Proposal(values, "initial"), key)
        return None

    def _stream(self, number: int) -> Generator:
        """The stream of a batch, apart from those of the trials."""
        if self._together is None:
            self._together = Streams(self._seed)
        return self._together.at(number, self._lane + _BATCHES)

    def _other(self, view: View, rng: Generator) -> Next | None:
        """A candidate that has not been asked, when the sampler's first one had."""
        state, space = view.state, view.space
        seen = state.seen
        assert seen is not None
        if len(seen) >= space.cardinality and self._used_up(state):
            return None
        origin = "seeding"
        for _ in range(_SAMPLER_TRIES):
            proposal = self._sampler.propose(view, rng)
            origin, key = proposal.origin, space.key(proposal.values)
            if key not in seen:
                return Next(proposal, key)
        tries = _UNKNOWN_TRIES if math.isinf(space.cardinality) else _SPACE_TRIES
        for _ in range(tries):
            values = space.sample(rng)
            key = space.key(values)
            if key not in seen:
                return Next(Proposal(values, origin), key)
        return self._count_through(space, seen, origin)

    def _count_through(self, space: Space, seen: Set[int], origin: str) -> Next | None:
        """The next point that was never asked, in a scattered order of all; amortised, each point is looked at once."""
        if not space.cardinality < _COUNTABLE:
            return None
        n = int(space.cardinality)
        stride = _coprime(n)
        while self._counted < n:
            values = space.point(self._counted * stride % n)
            key = space.key(values)
            if key not in seen:
                return Next(Proposal(values, origin), key)
            self._counted += 1
        return None

    def _used_up(self, state: State) -> bool:
        """Whether every point has been asked; `seen` may hold points that the space has lost since, so count."""
        assert state.seen is not None
        return self._count_through(state.space, state.seen, "") is None

    def _key(self, state: State, values: Values) -> int | None:
        return None if state.seen is None else state.space.key(values)


def _finished_row(state: State, id: int) -> int | None:
    """The row of a finished trial. Ids are nearly in order of rows, so the search starts there and widens."""
    ids = state.table.ids
    if id in state.pending or not len(ids):
        return None
    start = min(id, len(ids) - 1)
    for step in range(len(ids)):
        for row in (start - step, start + step):
            if 0 <= row < len(ids) and ids[row] == id:
                return row
    return None


def _coprime(n: int) -> int:
    """A stride near the golden section of `n` that visits every residue."""
    stride = max(1, int(n * 0.6180339887498949))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride
