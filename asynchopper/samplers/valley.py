"""Above `Tuning.wide` coordinates: where a quadratic through the trials around the best one is lowest.

There are fewer trials than coordinates, so that its prior decides what they say (see `quadratic.py`). One candidate in
`Tuning.valley_each` comes from it: so many share what it costs, and what the others found lies between two of them.
"""

from __future__ import annotations

import numpy as np

from asynchopper.samplers.latent import Flags, Vector
from asynchopper.samplers.memory import Elite, Memory
from asynchopper.samplers.quadratic import FEWEST, around
from asynchopper.samplers.tuning import QUADRATIC, Tuning
from asynchopper.state import State
from asynchopper.trial import Values


class Valley:
    """The latest trials of a memory's descent, as points."""

    def __init__(self, memory: Memory, tuning: Tuning) -> None:
        self.memory, self._tuning, self._latent = memory, tuning, memory.latent
        self._lately: dict[int, Elite] = {}
        self._lowest_at = -1
        self._lowest: tuple[Vector, float] | None = None

    def lowest(self, state: State) -> tuple[Vector, float] | None:
        """Where it is lowest within its radius, for the options of the best trial, and the step to there: the root of the mean
        square over the coordinates. `None` where nothing is to be learnt."""
        if self._lowest_at != self.memory.rows:
            self._lowest, self._lowest_at = self._found(state), self.memory.rows
        return self._lowest

    def _found(self, state: State) -> tuple[Vector, float] | None:
        memory, latent, t = self.memory, self._latent, self._tuning
        best, before = memory.elites[0], self._lately
        self._lately = {row: before.get(row) or memory.trial(state, row) for row in memory.recent}
        trials = [best, *(e for e in self._lately.values() if e.row != best.row and self._alike(e, best))]
        alive = self._alive(best.values)
        if len(trials) < FEWEST or not alive.any():
            return None
        x = np.array([e.vector for e in trials])[:, alive]
        found = around(x - x[0], np.array([e.loss for e in trials]), t.valley_points)
        return None if found is None else found.lowest(latent, best.vector, alive, memory.steps[QUADRATIC])

    def _alike(self, a: Elite, b: Elite) -> bool:
        """Whether they have the same options."""
        leaves = self._latent.space.leaves
        return all(leaves[i].same(a.values[i], b.values[i]) for i in self._latent.options)

    def _alive(self, values: Values) -> Flags:
        """Which coordinates a candidate has."""
        latent, alive = self._latent, np.ones(self._latent.d, np.bool_)
        alive[: len(latent.scalars)] = [values[i] is not None for i in latent.scalars]
        for i, start, end in latent.arrays:
            alive[start:end] = values[i] is not None
        return alive
