"""Independent draws from the whole space."""

from __future__ import annotations

from asynchopper.samplers.base import View
from asynchopper.space import Generator
from asynchopper.trial import Proposal


class RandomSampler:
    """Draws every candidate from the whole space. The baseline that any sampler has to beat."""

    def propose(self, view: View, rng: Generator) -> Proposal:
        return Proposal(view.space.sample(rng), "seeding")
