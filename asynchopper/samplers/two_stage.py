"""Random seeding, then mutation of the best under a falling temperature (Lechner et al., PyHopper, arXiv:2210.04728)."""

from __future__ import annotations

from asynchopper.samplers.base import View
from asynchopper.space import Generator
from asynchopper.trial import Proposal


class TwoStageSampler:
    """While seeding, draws from the whole space; then mutates max(1, round(T n)) of the best candidate's n parameters,
    each within T times half its range, T being the temperature."""

    def propose(self, view: View, rng: Generator) -> Proposal:
        best = view.state.best_values
        if view.seeding or best is None:
            return Proposal(view.space.sample(rng), "seeding")
        return Proposal(view.space.mutate(best, rng, view.temperature), "local")
