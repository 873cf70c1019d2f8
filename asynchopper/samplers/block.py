"""Candidates by the block: where evaluations cost next to nothing, or many begin at once, one call makes those of many trials.

A block of moves is a function of what was known when the last one ended: when so many trials had finished as it has
candidates, or with a new best. One of seeds is a function of its number alone. So a search that is resumed in the middle of
one makes the same block again.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from asynchopper.columns import Column
from asynchopper.samplers.base import Next, Stream
from asynchopper.samplers.cma import Distribution
from asynchopper.samplers.latent import Coordinate, Flags, Latent, Vector, option
from asynchopper.samplers.memory import Memory
from asynchopper.samplers.tuning import CMA, DENSE, DIFFERENCE, SHRINKING, SPARSE
from asynchopper.space import Generator, Space
from asynchopper.state import State
from asynchopper.trial import Proposal, Values

_SPARE = 2  # one more candidate for so many
_FIRST, _SEEDS = 64, 256  # seeds in the first block, and in any other
_APART = 2**63  # what separates the streams of seeds from those of moves
_NTH = np.arange(3.0)  # of the parameters that a sparse move may choose

Codes = np.ndarray[Any, np.dtype[np.intp]]


class Seeds:
    """Draws from the whole space, their numbers moved a part of the way to the first guess, for a space that is
    `Latent.simple`. Few searches need more than the first block; where more begin at once, larger ones cost less."""

    def __init__(self, latent: Latent, pull: float) -> None:
        self.latent, self.pull = latent, pull
        leaves = latent.space.leaves
        self._coordinates = [Coordinate(leaves[i].param) for i in latent.scalars]
        self._number = -1
        self._block: list[Values] = []
        self._keys: list[int] = []

    def next(self, state: State, stream: Stream) -> Next | None:
        """The seed of the next trial; `None` where it has been asked before."""
        size = _FIRST if state.next_id < _FIRST else _SEEDS
        number, place = divmod(state.next_id, size)
        number += size  # no two blocks have the same
        if number != self._number:
            self._block, self._keys = _listed(self.latent.space, self._make(size, stream(number + _APART)))
            self._number = number
        key, seen = self._keys[place], state.seen
        return None if seen is not None and key in seen else Next(Proposal(self._block[place], "seeding"), key)

    def _make(self, size: int, rng: Generator) -> list[Column]:
        latent, leaves = self.latent, self.latent.space.leaves
        columns = _guesses(latent.space, size)
        part = 1.0 - self.pull * rng.random(size)
        for i, coordinate, start in zip(latent.scalars, self._coordinates, latent.guess, strict=True):
            drawn = coordinate.draw(size, rng)
            if self.pull:
                drawn = coordinate.at(start + part * (coordinate.unit(drawn) - start))
            columns[i] = drawn
        for i in latent.options:
            columns[i] = option(rng.random(size), int(leaves[i].param.cardinality))
        return columns


class Block(NamedTuple):
    """Candidates that were made together, in the order in which they are to be had; `parents` are rows."""

    values: list[Values]
    keys: list[int]
    moves: list[int]
    steps: list[float]
    parents: list[int]


class Blocks:
    """The blocks of a memory, one at a time, for a space that is `Latent.simple`: the moves as they are made one by one, for
    many trials in one call."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        latent = memory.latent
        leaves = latent.space.leaves
        self._coordinates = [Coordinate(leaves[i].param) for i in latent.scalars]
        self._others = np.array([leaves[i].param.cardinality - 1 for i in latent.options], np.float64)
        self._movable = [leaf for leaf in leaves if leaf.param.cardinality > 1]
        self._rows = self._warmth = -1
        self._size = 0
        self._block = Block([], [], [], [], [])
        self._asked, self._dropped = bytearray(), 0
        """Which of the block are known to have been asked, since so many keys were dropped."""

    def next(self, state: State, temperature: float, stream: Stream) -> Next | None:
        """The candidate for the next trial; `None` where all that are left have been asked before."""
        rows, seen = self.memory.rows, state.seen
        if seen is None and state.next_id - len(state.table.ids) >= self.memory.until - rows:
            return None  # nobody remembers what was had, and more are out than there are
        # in steps, so that the block lasts
        warmth = 20 * round(5.0 * temperature) if temperature >= 0.2 else 5 * max(1, round(20.0 * temperature))
        if rows != self._rows or warmth != self._warmth:
            self._size = self.memory.until - rows
            self._block = self._make(self._size + self._size // _SPARE, warmth / 100, stream(rows))
            self._rows, self._warmth, self._asked = rows, warmth, bytearray(len(self._block.keys))
        values, keys, moves, steps, parents = self._block
        at = (state.next_id - rows) % self._size
        if seen is not None and keys[at] in seen:
            if seen.dropped != self._dropped:
                self._asked, self._dropped = bytearray(len(keys)), seen.dropped
            asked = self._asked
            at = asked.find(0, self._size + at // _SPARE)
            while at >= 0 and keys[at] in seen:
                asked[at] = 1
                at = asked.find(0, at)
            if at < 0:
                return None
        return Next(Proposal(values[at], "local", [moves[at], steps[at], parents[at]]), keys[at])

    def _make(self, size: int, warmth: float, rng: Generator) -> Block:
        memory, latent, t = self.memory, self.memory.latent, self.memory.tuning
        elites, space = memory.elites, latent.space
        odds = list(memory.odds)
        if memory.distribution is None:
            odds[DENSE], odds[CMA] = odds[DENSE] + odds[CMA], 0.0
        total = sum(odds)
        counts = rng.multinomial(size, [p / total for p in odds]).tolist()
        few = min(len(elites), max(2, min(10, memory.completed // 8)))
        u = (rng.random(size) - t.best_parent) * (few / (1.0 - t.best_parent))
        chosen = np.maximum(u, 0.0, out=u).astype(np.intp)  # three in four are the best
        z, moved, flips, steps = self._moves(counts, chosen, warmth, rng)
        near = elites[:10]
        columns = _guesses(space, size)
        same = np.ones(size, np.bool_)
        for k, i in enumerate(latent.scalars):
            own = np.array([e.values[i] for e in near]).take(chosen)
            columns[i] = np.where(moved[:, k], self._coordinates[k].at(z[:, k]), own)
            same &= columns[i] == own
        if latent.options:
            known = np.array([[e.values[i] for i in latent.options] for e in near], np.intp)
            theirs = known.take(chosen, axis=0)
            codes = self._flipped(known, theirs, flips, counts, rng)
            same &= (codes == theirs).all(axis=1)
            for k, i in enumerate(latent.options):
                columns[i] = codes[:, k].copy()
        values, keys = _listed(space, columns)
        if self._movable:
            unmoved = np.flatnonzero(same).tolist()
            for at, (u, v) in zip(unmoved, rng.random((len(unmoved), 2)).tolist(), strict=True):
                values[at] = self._nudged(values[at], u, v, rng)
                keys[at] = space.key(values[at])
        moves = np.repeat(np.arange(len(counts)), counts)
        far = elites[min(len(elites) - 1, t.cma_parent)].row
        parents = np.where(moves == CMA, far, np.array([e.row for e in near]).take(chosen))
        order = rng.permutation(size)
        return Block(
            [values[at] for at in order.tolist()],
            [keys[at] for at in order.tolist()],
            moves[order].tolist(),
            _short(steps[order]),
            parents[order].tolist(),
        )

    def _moves(
        self, counts: list[int], chosen: Codes, warmth: float, rng: Generator
    ) -> tuple[Vector, Flags, Flags, Vector]:
        """Where so many of each move lead, from the parents of these ranks; what has moved, which options are to change, and
        the steps."""
        memory, latent = self.memory, self.memory.latent
        d, n, elites, size = latent.d, latent.n, memory.elites, len(chosen)
        dense, sparse, difference, shrinking, cma = (
            slice(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)
        )
        base = np.array([e.vector for e in elites[:10]]).take(chosen, axis=0)
        z, noise, us = base.copy(), rng.standard_normal((size, d)), rng.random((size, n))
        steps, flips = rng.standard_normal(size), np.zeros((size, n - d), np.bool_)
        if counts[DENSE]:
            step = steps[dense] = memory.steps[DENSE] * np.exp(0.5 * steps[dense])
            z[dense] += np.maximum(step[:, None], 0.35 * latent.widths) * noise[dense]
            np.less(us[dense, d:], min(0.25, 1.0 / max(1, n - d)), out=flips[dense])
        if count := counts[SPARSE]:
            step = steps[sparse] = memory.steps[SPARSE] * np.exp(0.8 * steps[sparse])
            u = rng.random((count, 4))
            which = (u[:, 1:] * n).astype(np.intp)
            np.copyto(which, which[:, :1], where=3.0 * u[:, :1] < _NTH)  # one to three of them are different
            some = np.zeros((count, n), np.bool_)
            some[np.arange(count)[:, None], which] = True
            z[sparse] += np.maximum(step[:, None], 0.5 * latent.widths) * noise[sparse] * some[:, :d]
            flips[sparse] = some[:, d:]
        if count := counts[DIFFERENCE]:
            pool = min(len(elites), max(4, min(memory.room, memory.completed // 2)))
            u = rng.random((5, count))
            pairs = (u[:2].ravel() * pool).astype(np.intp).tolist()
            ends = np.concatenate([elites[i].vector for i in pairs]).reshape(len(pairs), d)
            away = ends[:count] - ends[count:] + (u[2] < 0.3)[:, None] * (elites[0].vector - base[difference])
            rate = (0.3 + 0.6 * (u[3] < 0.5))[:, None]
            z[difference] += (0.2 + 0.8 * u[4])[:, None] * away * (us[difference, :d] < rate)
            np.less(us[difference, d:], 0.5 * rate, out=flips[difference])
            steps[difference] = 0.0
        if count := counts[SHRINKING]:
            some = us[shrinking].argsort(axis=1) < max(1, round(warmth * n))
            z[shrinking] += 0.3 * warmth * np.sqrt(rng.random((count, d))) * noise[shrinking] * some[:, :d]
            flips[shrinking] = some[:, d:]
            steps[shrinking] = 0.3 * warmth
        if counts[CMA]:
            assert isinstance(memory.distribution, Distribution)
            z[cma] = memory.distribution.samples(noise[cma])
            np.less(us[cma, d:], 1.0 / max(2, n), out=flips[cma])
            steps[cma] = memory.distribution.generation
        moved = z != base
        return latent.reflect(z), moved, flips, steps

    def _flipped(self, known: Codes, own: Codes, flips: Flags, counts: list[int], rng: Generator) -> Codes:
        """The options of the candidates: their parents' `own`, but where they change, what another elite has, or any other."""
        u = rng.random((3, *flips.shape))
        others = np.take_along_axis(known, (u[0] * len(known)).astype(np.intp), axis=0)
        changed = (u[1] * self._others).astype(np.intp)
        changed += changed >= own
        before, mixed = sum(counts[:DIFFERENCE]), (u[2] < 0.4) & (others != own)
        mixed[before : before + counts[DIFFERENCE]] = True
        np.copyto(changed, others, where=mixed)
        return np.where(flips, changed, own)

    def _nudged(self, values: Values, u: float, v: float, rng: Generator) -> Values:
        """One leaf moved to a neighbour, where nothing else has changed."""
        new, leaf = list(values), self._movable[int(u * len(self._movable))]
        new[leaf.index] = leaf.move(values[leaf.index], v, rng, 0.1)
        return tuple(new)


def _guesses(space: Space, size: int) -> list[Column]:
    """The first guess so many times."""
    return [np.full(size, leaf.param.init) for leaf in space.leaves]


def _listed(space: Space, columns: list[Column]) -> tuple[list[Values], list[int]]:
    """The candidates of these columns, and their keys."""
    keys = space.keys(columns)
    assert keys is not None
    return list(zip(*[column.tolist() for column in columns], strict=True)), keys.tolist()


def _short(steps: Vector) -> list[float]:
    """To four digits: no more are logged."""
    power = 10.0 ** (3.0 - np.floor(np.log10(np.maximum(steps, 1e-12))))
    return list((np.rint(steps * power) / power).tolist())
