"""Candidates by the block: where evaluations cost next to nothing, one call makes those of many trials.

A block is a function of what was known when the last granule of trials was full, so that a search that is resumed in the
middle of one makes the same block again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from asynchopper.samplers.base import View
from asynchopper.samplers.latent import Vector, array_at
from asynchopper.samplers.screen import Candidates, Screen
from asynchopper.samplers.tuning import CMA
from asynchopper.space import Array, Choice, Space
from asynchopper.trial import Proposal

_SPARE = 4  # one more candidate for so many

Keyed = tuple[int, Proposal]


class Blocks:
    """The blocks of a memory, one at a time, for a space that is `Latent.simple`."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.memory = screen, screen.memory
        latent = screen.latent
        params = [latent.space.leaves[i].param for i in latent.scalars]
        self._columns = [None if isinstance(p, Choice) else Array(p, (1,), p.init) for p in params]  # type: ignore[arg-type]  # all others are scalars
        self._rows = self._warmth = -1
        self._size = 0
        self._block: list[Keyed | None] = []

    def next(self, view: View) -> Keyed | None:
        """The candidate for the next trial, and its key; `None` where all that are left have been asked before."""
        state, rows = view.state, self.memory.rows
        seen = state.seen
        warmth = round(5.0 * view.temperature)  # in steps, so that the block lasts
        if rows != self._rows or warmth != self._warmth:
            assert view.stream is not None
            self._size = self.memory.tuning.granule(rows)
            self._block = self._make(self._size, warmth / 5, view.stream(rows))
            self._rows, self._warmth = rows, warmth
        size = self._size
        place = (state.next_id - rows) % size
        keyed = self._block[place]
        if keyed is not None and (seen is None or keyed[0] not in seen):
            return keyed
        for keyed in self._block[size + place // _SPARE :]:
            if keyed is not None and (seen is None or keyed[0] not in seen):
                return keyed
        return None

    def _make(self, size: int, warmth: float, rng: np.random.Generator) -> list[Keyed | None]:
        """A candidate for each trial, and some in the place of those that turn out to be known; `None` for what is none."""
        memory, space = self.memory, self.memory.latent.space
        size += size // _SPARE
        odds = np.array(memory.odds)
        if memory.distribution is None:
            odds[CMA] = 0.0
        made = self.screen.candidates([*rng.multinomial(size, odds / odds.sum()).tolist(), 0], warmth, rng)
        far = memory.elites[min(len(memory.elites) - 1, memory.tuning.cma_parent)].row
        values, key, block = self._values(space, made), space.key, list[Keyed | None]()
        for new, parent, move, step in zip(values, made.parents, made.moves, _short(made.steps), strict=True):
            if new == parent.values:
                block.append(None)
            else:
                note = [move, step, far if move == CMA else parent.row]
                block.append((key(new), Proposal(new, "local", note)))
        return [block[i] for i in rng.permutation(size).tolist()]

    def _values(self, space: Space, made: Candidates) -> list[tuple[Any, ...]]:
        """The candidates; what did not move is its parent's to the last digit."""
        latent, elites = self.memory.latent, self.memory.elites[: int(made.chosen.max()) + 1]
        columns: list[list[Any] | None] = [None] * space.n
        moved = made.z != np.array([e.vector for e in elites])[made.chosen]
        for k, i in enumerate(latent.scalars):
            array, z = self._columns[k], made.z[:, k]
            if array is None:
                n = int(space.leaves[i].param.cardinality)
                fresh = np.minimum((z * n).astype(np.int64), n - 1)
            else:
                fresh = array_at(array, z)
            columns[i] = np.where(moved[:, k], fresh, np.array([e.values[i] for e in elites])[made.chosen]).tolist()
        for k, i in enumerate(latent.options):
            columns[i] = made.codes[:, k].tolist()
        rest = elites[0].values
        filled = [[rest[i]] * len(made.z) if column is None else column for i, column in enumerate(columns)]
        return list(zip(*filled, strict=True))


def _short(steps: Vector) -> list[float]:
    """To four digits: no more are logged."""
    power = 10.0 ** (3 - np.floor(np.log10(np.maximum(steps, 1e-12))))
    return list((np.rint(steps * power) / power).tolist())
