"""What a sampler is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asynchopper.space import Generator, Space
from asynchopper.state import State
from asynchopper.trial import Proposal


@dataclass(slots=True)
class View:
    """The search at the moment of a proposal. `progress` is the part of the budget that is spent, from 0 to 1."""

    state: State
    progress: float
    seeding: bool
    temperature: float
    seeding_fixed: bool = False
    """Whether the user said how long to seed; otherwise the sampler may stop earlier."""
    stream: Callable[[int], Generator] | None = None
    """Random streams by number, apart from those of trials, for what a sampler makes for many trials at once."""

    @property
    def space(self) -> Space:
        return self.state.space


@runtime_checkable
class Sampler(Protocol):
    """Proposes candidates.

    `propose` is pure: it reads the view, draws only from `rng`, and keeps nothing, so that the same history and the same
    generator give the same candidate after any number of restarts.
    """

    def propose(self, view: View, rng: Generator) -> Proposal: ...
