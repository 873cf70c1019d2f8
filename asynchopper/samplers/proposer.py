"""What runs next: guesses first, then the first guess of the space, then the sampler; and no candidate twice."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Set
from typing import Any, Literal, TypeAlias

import numpy as np

from asynchopper.budget import Schedule
from asynchopper.errors import SpaceError, UsageError
from asynchopper.samplers.base import LARGE, Next, Sampler, View
from asynchopper.space import Array, Choice, Generator, Given, Scalar, Space
from asynchopper.state import State
from asynchopper.trial import Proposal, Values
from asynchopper.values import whole

Duplicates: TypeAlias = Literal["reject", "reuse", "allow"]

_SAMPLER_TRIES = 16  # redraws from the sampler before drawing from the whole space
_SPACE_TRIES = 64  # redraws from the whole space before counting through it, or giving up where that is impossible
_UNKNOWN_TRIES = 1000  # the same, for spaces whose size is unknown
_LATELY = 64  # candidates
_BATCHES = 2**63  # what separates the lanes of batches from those of trials
_COUNTABLE = 2**40  # larger finite spaces are never used up in practice


_Propose: TypeAlias = "Callable[[View, Generator], Proposal | None]"


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


class Checked:
    """What somebody else's sampler proposes, with its numbers as Python has them. Raises `UsageError` for what the space
    does not have."""

    def __init__(self, sampler: Sampler, propose: Callable[[View, Generator], Any], may_be_none: bool) -> None:
        self._name, self._propose, self._may_be_none = type(sampler).__name__, propose, may_be_none

    def __call__(self, view: View, rng: Generator) -> Any:
        found, leaves = self._propose(view, rng), view.space.leaves
        if found is None and self._may_be_none:
            return None
        if not (isinstance(found, Proposal) and len(found.values) == len(leaves) and isinstance(found.origin, str)):
            raise UsageError(
                f"{self._name}.propose gave {found!r:.80}, and not a Proposal with a value for each parameter and a text for its "
                "origin; Space.sample and Space.mutate make such values"
            )
        values = list(found.values)
        for leaf, value in zip(leaves, found.values, strict=True):
            if not isinstance(leaf.param, (Scalar, Choice, Array)):
                continue
            try:
                if value is None:
                    if leaf.parent is None or values[leaf.parent[0]] == leaf.parent[1]:
                        raise SpaceError("has no value, and exists in this candidate")
                elif isinstance(leaf.param, Choice):
                    number = values[leaf.index] = whole(value)
                    if number is None or not 0 <= number < leaf.param.n:
                        raise SpaceError(f"{value!r:.80} is not the number of an option")
                else:
                    values[leaf.index] = leaf.param.accept(value)
            except SpaceError as e:
                raise UsageError(f"{self._name}.propose gave a value that does not belong: {leaf.path}: {e}") from None
        return found._replace(values=tuple(values))


class Proposer:
    """Chooses the next candidate. Holds nothing that the state and the guesses do not determine.

    `guesses` stays whole, so that those of a run whose log broke can be used again; `guesses_used` counts.
    """

    def __init__(
        self,
        sampler: Sampler,
        schedule: Schedule,
        guesses: deque[Given],
        seed: int,
        lane: int = 0,
    ) -> None:
        self._lane = lane  # one a worker, so that workers who know the same do not propose the same
        self._schedule = schedule
        self._guesses = guesses
        self.guesses_used = 0
        self._seed, self._streams = seed, Streams(seed)
        self._propose: Callable[[View, Generator], Proposal] = sampler.propose
        prompt: _Propose | None = getattr(sampler, "prompt", None)
        if not type(sampler).__module__.startswith("asynchopper.samplers"):
            self._propose = Checked(sampler, self._propose, False)
            prompt = prompt and Checked(sampler, prompt, True)
        self._prompt: _Propose = prompt or self._propose
        self._expects: Callable[[View, Generator], bool] = getattr(sampler, "expects", _never)
        self._make_together = getattr(sampler, "together", None)
        self.beside = bool(getattr(sampler, "beside", False))
        """Whether the search may go on while the sampler thinks."""
        self._quick = _LATELY  # candidates that took no time, since the last that did
        self._begun = False  # the first guess had been asked by somebody before
        self._together: Streams | None = None
        self._fixed = schedule.fixed
        self._counted = 0  # every point of the counting order before this one has been asked

    def view(self, state: State, elapsed: float, progress: float) -> View:
        """What a sampler is given. `progress` is the budget's, from 0 to 1."""
        seeding = self._schedule.seeding(state, progress, elapsed)
        return View(state, progress, seeding, self._schedule.temperature(progress), self._fixed)

    def next(self, state: State, elapsed: float, progress: float) -> Next | None:
        """The next candidate, or `None` when the space is used up, however long it takes."""
        found = self.prompt(state, elapsed, progress)
        return self.think(found) if isinstance(found, View) else found

    def prompt(self, state: State, elapsed: float, progress: float) -> Next | View | None:
        """The next candidate, or `None` when the space is used up. Where it would take milliseconds, what to `think` about."""
        if self.guesses_used < len(self._guesses) or not (state.initial_asked or self._begun):
            first = self._first(state)
            if first is not None:
                return first
            self._begun = True
        schedule = self._schedule
        seeding, temperature = schedule.seeding(state, progress, elapsed), schedule.temperature(progress)
        large = state.space.size >= LARGE
        if self._make_together is not None and not large:
            found: Next | None = self._make_together(state, seeding, self._fixed, temperature, self._stream)
            if found is not None:
                self._quick += 1
                return found
        view = View(state, progress, seeding, temperature, self._fixed)
        if large:
            self._quick = 0
            return view
        rng = self._streams.at(state.next_id, self._lane)
        proposal = self._prompt(view, rng)
        if proposal is None:
            self._quick = 0
            return view
        self._quick += 1
        return self._fresh(view, rng, self._prompt, proposal)

    @property
    def guesses_wait(self) -> bool:
        """Whether there is a guess to be tried first."""
        return self.guesses_used < len(self._guesses)

    @property
    def slow(self) -> bool:
        """Whether candidates took time of late, so that it is of use to look ahead."""
        return self._quick < _LATELY

    def expects(self, state: State, elapsed: float, progress: float) -> View | None:
        """What to think about ahead, before a candidate is wanted, if anything."""
        if not self.beside or self.guesses_wait or not (state.initial_asked or self._begun):
            return None
        view = self.view(state, elapsed, progress)
        if view.then.alone:
            return None
        large = state.space.size >= LARGE
        return view if large or self._expects(view, self._streams.at(view.then.number, self._lane)) else None

    def think(self, view: View) -> Next | None:
        """The candidate of a view, or `None` when the space is used up. May be called in any thread, one call at a time."""
        view.forget_latest()
        rng, propose = self._streams.at(view.then.number, self._lane), self._propose
        return self._fresh(view, rng, propose, propose(view, rng))

    def _fresh(self, view: View, rng: Generator, propose: _Propose, proposal: Proposal) -> Next | None:
        """The candidate; where it has been asked before, its answer, if answers are wanted, or another one."""
        state = view.state
        if state.seen is None:
            return Next(proposal, None)
        key = state.space.key(proposal.values)
        if key not in state.seen:
            return Next(proposal, key)
        if state.trial_of is not None:
            if (id := state.trial_of.get(key)) is None:  # it failed
                return Next(proposal, key)
            if (row := _finished_row(state, id)) is not None:
                return Next(proposal, key, row)
        return self._other(view, rng, propose)

    def _first(self, state: State) -> Next | None:
        """What comes before anything that a sampler proposes, and was never asked."""
        space = state.space
        rng = self._streams.at(state.next_id, self._lane)
        while self.guesses_used < len(self._guesses):
            guess = self._guesses[self.guesses_used]
            self.guesses_used += 1
            values = space.filled(guess, state.best_values, rng)
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

    def _other(self, view: View, rng: Generator, propose: _Propose) -> Next | None:
        """A candidate that has not been asked, when the sampler's first one had."""
        state, space = view.state, view.space
        seen = state.seen
        assert seen is not None
        if len(seen) >= space.cardinality and self._used_up(state):
            return None
        origin = "seeding"
        for _ in range(_SAMPLER_TRIES):
            proposal = propose(view, rng)
            if proposal is None:  # what began without a model goes on without it
                continue
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
        for _ in range(2):
            while self._counted < n:
                values = space.point(self._counted * stride % n)
                key = space.key(values)
                if key not in seen:
                    return Next(Proposal(values, origin), key)
                self._counted += 1
            if len(seen) >= n:
                break
            self._counted = 0  # what was wished for, and so was counted, was not granted
        return None

    def _used_up(self, state: State) -> bool:
        """Whether every point has been asked; `seen` may hold points that the space has lost since, so count."""
        assert state.seen is not None
        return self._count_through(state.space, state.seen, "") is None

    def _key(self, state: State, values: Values) -> int | None:
        return None if state.seen is None else state.space.key(values)


def _never(view: View, rng: Generator) -> bool:
    return False


def answering(state: State, values: Values) -> int | None:
    """The row of the finished trial that answers for a candidate, where answers are wanted."""
    id = None if state.trial_of is None else state.trial_of.get(state.space.key(values))
    return None if id is None else _finished_row(state, id)


def _finished_row(state: State, id: int) -> int | None:
    """The row of a finished trial. Ids are nearly in order of rows, so the search starts there and widens."""
    ids, end = state.table.ids, len(state.table.ids)
    if id in state.pending or not end:
        return None
    start = min(id, end - 1)
    for step in range(end):
        for row in (start - step, start + step):
            if 0 <= row < end and ids[row] == id:
                return row
    return None


def _coprime(n: int) -> int:
    """A stride near the golden section of `n` that visits every residue."""
    stride = max(1, int(n * 0.6180339887498949))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride
