"""The default: a portfolio of moves, each tried as often as it has paid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self
from weakref import ref

import numpy as np

from asynchopper.samplers.base import Next, Source, Stream, View, then_of
from asynchopper.samplers.block import Blocks, Seeds
from asynchopper.samplers.changes import flip, nudged, settle
from asynchopper.samplers.latent import Vector, reflect
from asynchopper.samplers.memory import TURNS, Elite, Memory
from asynchopper.samplers.screen import Candidates, Screen
from asynchopper.samplers.tuning import CMA, DENSE, DIFFERENCE, QUADRATIC, RACE, SPARSE, Tuning
from asynchopper.samplers.valley import Valley
from asynchopper.space import Generator, Space
from asynchopper.state import State
from asynchopper.trial import Proposal, Values


class PortfolioSampler:
    """Draws a few candidates from the whole space, then moves good ones."""

    beside = True
    """The search may go on while it thinks: it looks at no more than what its view says is known."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        self._tuning = tuning or Tuning()
        self._state: ref[State] | None = None
        self._rewound = 0
        self._memory: Memory | None = None
        self._screen: Screen | None = None
        self._valley: Valley | None = None
        self._blocks: Blocks | None = None
        self._seeds: Seeds | None = None

    def apart(self) -> Self:
        """The same with a memory of its own: one sampler may be given to searches that run at once."""
        return type(self)(self._tuning)

    def propose(self, view: View, rng: Generator) -> Proposal:
        prompt = self.prompt(view, rng)
        if prompt is not None:
            return prompt
        memory = self._recall(view.state, view.then.known)
        if memory.wide:
            return self._across(memory, view) or self._wide(memory, view, rng)
        if memory.turn(view.state, view.then.out, view.then.number) > self._tuning.turn_whole:
            return self._downhill(memory, view, rng) or self._moved(memory, view, rng)
        assert self._screen is not None
        untried = self._screen.untried(view)
        if untried and rng.random() < self._tuning.untried:
            return self._screened(memory, view, rng, untried)
        found = self._raced(memory, view, rng)
        if found is None and rng.random() < memory.quadratic:
            found = self._downhill(memory, view, rng)
        return self._screened(memory, view, rng) if found is None else found

    def prompt(self, view: View, rng: Generator) -> Proposal | None:
        """The candidate, where it takes next to no time; `None` where a model has to be asked."""
        state = view.state
        memory = self._recall(state, view.then.known)
        if view.source is None:  # a redraw does not decide again, since more may have been learnt
            if memory.swift:  # as the blocks do, it knows all that has been told
                view.await_latest()
                memory = self._recall(state, view.then.known)
            view.source = self._source(memory, view)
        then = view.then
        if view.source == "model" and self._asked(memory, view, rng):
            return None
        if then.known < then.latest and view.source != "space":
            memory = self._recall(state, then.latest)
        if view.source == "space" or not memory.elites:  # what is new may have ended a descent
            return Proposal(self._seed(memory, rng, view.seeding_fixed), "seeding")
        return self._moved(memory, view, rng)

    def _moved(self, memory: Memory, view: View, rng: Generator) -> Proposal:
        """A candidate of a move."""
        return (self._narrow if memory.latent.narrow else self._wide)(memory, view, rng)

    def expects(self, view: View, rng: Generator) -> bool:
        """Whether a model will have to be asked."""
        then = view.then
        memory = self._recall(view.state, then.known)
        if memory.swift or self._source(memory, view) != "model":
            return False
        return self._asked(memory, view, rng)

    def _asked(self, memory: Memory, view: View, rng: Generator) -> bool:
        """Whether the model has a say in a candidate that it could have one in."""
        out, number = view.then.out, view.then.number
        return memory.turn(view.state, out, number) > 1 or rng.random() >= self._tuning.unscreened(out)

    def _source(self, memory: Memory, view: View) -> Source:
        """What the next candidate comes from."""
        out = view.then.out
        if self._seeding(memory, view.state, view.seeding, view.seeding_fixed, out):
            return "space"
        if memory.completed < 4 or not memory.turn(view.state, out, view.then.number):
            return "moves"
        if memory.wide:
            return "moves" if memory.distribution is None else "model"
        if self._screen is None or self._screen.memory is not memory:
            self._screen = Screen(memory, self._tuning)
        return "model" if self._screen.ready else "moves"

    def _seeding(self, memory: Memory, state: State, seeding: bool, fixed: bool, out: int) -> bool:
        """Whether the next candidate comes from the whole space."""
        if not memory.elites or (seeding and fixed):
            return True
        return (seeding or bool(memory.since)) and memory.seeding(state, out)

    def _seed(self, memory: Memory, rng: Generator, fixed: bool) -> Values:
        """A draw from the whole space, its numbers moved a part of the way to the first guess; among many numbers, where nothing
        else was said, they are drawn around that guess."""
        latent, space, t = memory.latent, memory.latent.space, self._tuning
        drawn, wide = space.sample(rng), memory.wide
        if not t.pull or memory.since or not latent.d or (wide and fixed):
            return drawn
        values = list(drawn)
        if latent.arrays or wide:
            origin = latent.vector(space.initial(rng))
            if wide:
                away = np.maximum(t.wide_step, 0.5 * latent.widths) * rng.standard_normal(latent.d)
            else:
                away = (1.0 - t.pull * float(rng.random())) * (latent.vector(drawn) - origin)
            latent.fill(values, latent.reflect(origin + away), None)
            return tuple(values)
        guess = latent.guess or latent.encode(space.initial(rng))
        part = 1.0 - t.pull * float(rng.random())
        for i, unit, at, start in zip(latent.scalars, latent.unit, latent.at, guess, strict=True):
            if (value := values[i]) is not None:
                values[i] = at(start + part * (unit(value) - start))
        return tuple(values)

    def together(self, state: State, seeding: bool, fixed: bool, temperature: float, stream: Stream) -> Next | None:
        """A candidate of those that were made together, where there are such; it needs no draws of its own."""
        swift = self._memory is not None and self._memory.swift
        memory = self._recall(state, len(state.table.ids) if swift else state.asked_at)
        latent = memory.latent
        if not latent.simple:
            return None
        if swift or memory.swift:
            if not swift:
                memory = self._recall(state, len(state.table.ids))
            if not memory.swift:
                return None
            if state.next_id - memory.led in TURNS and memory.turn(state, 0, state.next_id):
                return None
            if self._blocks is None or self._blocks.memory is not memory:
                self._blocks = Blocks(memory)
            return self._blocks.next(state, temperature, stream)
        if memory.rows - memory.since >= memory.first and memory.elites and not fixed:
            return None
        if memory.since:
            return None  # seeds of a later descent are not moved to the first guess
        if memory.elites or len(state.table.ids) > memory.rows:  # where nothing is known, there is nothing but seeds
            then = then_of(state)
            if not self._seeding(self._recall(state, then.known), state, seeding, fixed, then.out):
                return None
        if self._seeds is None or self._seeds.latent is not latent:
            self._seeds = Seeds(latent, self._tuning.pull if 0 < latent.d <= self._tuning.wide else 0.0)
        return self._seeds.next(state, stream)

    def learn(self, state: State, rows: int) -> None:
        """Takes in the first `rows`, as far as they may be known before a candidate is wanted."""
        self._recall(state, min(rows, state.asked_at))

    def _recall(self, state: State, rows: int) -> Memory:
        """The memory of so many trials of this state, or of those that it has taken in; kept between calls."""
        memory, rewound = self._memory, state.table.rewound
        if memory is None or self._state is None or self._state() is not state or self._rewound != len(rewound):
            memory = self._memory = self._learnt(state)
        if rows >= memory.due or memory.rows <= state.best_row < rows:
            self._memory = None  # what is taken in by half is of no use
            memory.catch_up(state, rows)
            self._memory = memory
        return memory

    def _learnt(self, state: State) -> Memory:
        """The memory there is, unless it is another state's, or has learnt rows that are not what they were; else a new one."""
        memory, since = self._memory, self._rewound
        other = self._state is None or self._state() is not state
        self._state, self._rewound = ref(state), len(state.table.rewound)
        if memory is None or other or state.table.altered(since) < memory.rows:
            return Memory(state, self._tuning)
        return memory

    def _pick(self, memory: Memory, u: float) -> int:
        for move, odds in enumerate(memory.odds):
            u -= odds
            if u < 0.0 and (move != CMA or memory.distribution is not None):
                return move
        return DENSE

    def _parent(self, memory: Memory, u: float) -> Elite:
        elites, best = memory.elites, self._tuning.best_parent
        if u < best:
            return elites[0]
        few = min(len(elites), max(2, min(10, memory.completed // 8)))
        return elites[int((u - best) / (1.0 - best) * few)]

    def _screened(
        self, memory: Memory, view: View, rng: Generator, untried: Sequence[tuple[int, int]] = ()
    ) -> Proposal:
        """The candidate that the model likes best among those that were never asked; of those that have one of the `untried`
        options, where there are any."""
        assert self._screen is not None
        found = self._screen.ranked(view, rng, untried)
        at, new = self._unasked(memory, view, rng, found) or (found.order[0], None)
        if new is None:  # the proposer looks further
            new = self._written(memory, found.parents[at], found.z[at], found.codes[at].tolist(), rng)
        return Proposal(new, "local", [found.moves[at], float(f"{found.steps[at]:.4g}"), found.parents[at].row])

    def _unasked(self, memory: Memory, view: View, rng: Generator, found: Candidates) -> tuple[int, Values] | None:
        """The first of these candidates that was never asked."""
        for i in found.order:
            new = self._written(memory, found.parents[i], found.z[i], found.codes[i].tolist(), rng)
            if view.state.seen is None or view.space.key(new) not in view.state.seen:
                return i, new
        return None

    def _raced(self, memory: Memory, view: View, rng: Generator) -> Proposal | None:
        """The candidate that the model likes best in the branch whose turn it is; `None` where it has nothing new."""
        assert self._screen is not None
        if (branch := memory.branches.next(view, rng)) is None:
            return None
        found = self._screen.ranked(view, rng, branch=branch)
        if (unasked := self._unasked(memory, view, rng, found)) is None:
            return None
        at, new = unasked
        return Proposal(new, "local", [RACE, float(f"{found.steps[at]:.4g}"), found.parents[at].row])

    def _downhill(self, memory: Memory, view: View, rng: Generator) -> Proposal | None:
        """The lowest point of a quadratic around the best trial; `None` where there is none that was never asked. So what has
        been told gives one at most, however many are out."""
        assert self._screen is not None
        found = self._screen.downhill(view)
        if found is None:
            return None
        z, codes, step = found
        if not step > 0:
            return None
        return self._down(memory, view, self._written(memory, memory.elites[0], z, codes, rng), step)

    def _across(self, memory: Memory, view: View) -> Proposal | None:
        """The same for hundreds of coordinates."""
        if self._valley is None or self._valley.memory is not memory:
            self._valley = Valley(memory, self._tuning)
        found = self._valley.lowest(view.state)
        if found is None or not found[1] > 0:
            return None
        z, step = found
        best = memory.elites[0]
        values = list(best.values)
        memory.latent.fill(values, z, z != best.vector)
        return self._down(memory, view, tuple(values), step)

    def _down(self, memory: Memory, view: View, new: Values, step: float) -> Proposal | None:
        """A candidate of the quadratic; `None` where it was asked."""
        best, seen = memory.elites[0], view.state.seen
        if seen is not None:
            known = view.space.key(new) in seen
        else:
            fresh = memory.latent.vector(new)
            others = [best.vector, *(memory.latent.vector(values) for _, values in view.running)]
            known = any(bool((other == fresh).all()) for other in others)
        return None if known else Proposal(new, "local", [QUADRATIC, float(f"{step:.4g}"), best.row])

    def _written(self, memory: Memory, parent: Elite, z: Vector, codes: list[int], rng: Generator) -> Values:
        """The candidate at coordinates `z` with these options; what did not move is its parent's to the last digit."""
        latent, space = memory.latent, memory.latent.space
        values: list[Any] = list(parent.values)
        for k, i in enumerate(latent.options):
            values[i] = codes[k] if codes[k] >= 0 else None
        new = set()
        for leaf in space.leaves if space.conditional else ():
            i = leaf.index
            if leaf.parent is not None:
                if values[leaf.parent[0]] != leaf.parent[1]:
                    values[i] = None
                elif values[i] is None:
                    if i in latent.still:
                        values[i] = leaf.draw(0.5, rng)
                    else:
                        new.add(i)
        latent.fill(values, z, z != parent.vector, frozenset(new))
        return tuple(values)

    # -- up to some dozens of numbers: lists of floats

    def _narrow(self, memory: Memory, view: View, rng: Generator) -> Proposal:
        latent, elites = memory.latent, memory.elites
        d = latent.d
        us = rng.random(8 + 2 * latent.n).tolist()
        move = self._pick(memory, us[0])
        parent = self._parent(memory, us[1])
        z = parent.z
        step = 0.0
        moved: list[int]
        flips: list[int]
        if move == CMA:
            assert memory.distribution is not None
            point = memory.distribution.sample(rng.standard_normal(d)).tolist()
            z, moved, step = point, list(range(d)), float(memory.distribution.generation)
            flips = self._flips(memory, us, 1.0 / max(2, latent.n))
            origin = elites[min(len(elites) - 1, self._tuning.cma_parent)].row
        else:
            origin = parent.row
            if move == DENSE:
                g = rng.standard_normal(d + 1).tolist()
                step = memory.steps[move] * math.exp(0.5 * g[d])
                z = [x + max(step, 0.35 * c) * e for x, c, e in zip(z, latent.cells, g, strict=False)]
                moved = list(range(d))
                flips = self._flips(memory, us, min(0.25, 1.0 / max(1, len(latent.options))))
            elif move == SPARSE:
                k = min(1 + int(3 * us[2]), latent.n)
                g = rng.standard_normal(k + 1).tolist()
                step = memory.steps[move] * math.exp(0.8 * g[k])
                chosen = {int(u * latent.n) for u in us[8 : 8 + k]}
                moved = [i for i in chosen if i < d]
                flips = [i - d for i in chosen if i >= d]
                z = list(z)
                for i, e in zip(moved, g, strict=False):
                    z[i] += max(step, 0.5 * latent.cells[i]) * e
            elif move == DIFFERENCE:
                few = min(len(elites), max(4, min(memory.room, memory.completed // 2)))
                a, b = elites[int(us[2] * few)], elites[int(us[3] * few)]
                force = 0.2 + 0.8 * us[4]
                rate = 0.3 if us[5] < 0.5 else 0.9
                moved = [i for i in range(d) if us[8 + i] < rate]
                az, bz = a.z, b.z
                if us[6] < 0.3:
                    top = elites[0].z
                    z = [x + force * (p - q + t - x) for x, p, q, t in zip(z, az, bz, top, strict=True)]
                else:
                    z = [x + force * (p - q) for x, p, q in zip(z, az, bz, strict=True)]
                flips = [i for i in range(len(latent.options)) if us[8 + d + i] < rate * 0.5]
            else:
                t = view.temperature
                k = max(1, round(t * latent.n))
                step = 0.3 * t
                order = sorted(range(latent.n), key=us[8 : 8 + latent.n].__getitem__)[:k]
                moved = [i for i in order if i < d]
                flips = [i - d for i in order if i >= d]
                g = rng.standard_normal(d).tolist()
                z = list(z)
                for i in moved:
                    z[i] += step * math.sqrt(us[8 + latent.n + i]) * g[i]
        values = list(parent.values)
        scalars, at, free = latent.scalars, latent.at, latent.free
        for i in moved:
            leaf = scalars[i]
            if values[leaf] is not None:
                x = z[i]
                values[leaf] = at[i](x if 0.0 <= x < 1.0 or (free and free[i]) else reflect(x))
        if flips:
            flip(memory, values, flips, move, view.temperature, rng)
        space = latent.space
        if space.conditional:
            settle(memory, values, rng)
        new = tuple(values)
        if new == parent.values if latent.plain else _same(space, new, parent.values):
            new = nudged(memory, values, rng)
        return Proposal(new, "local", [move, step if move == CMA else float(f"{step:.4g}"), origin])

    def _flips(self, memory: Memory, us: list[float], p: float) -> list[int]:
        latent = memory.latent
        start = 8 + latent.n + latent.d
        return [i for i in range(len(latent.options)) if us[start + i] < p]

    # -- arrays and many numbers

    def _wide(self, memory: Memory, view: View, rng: Generator) -> Proposal:
        latent, elites = memory.latent, memory.elites
        d = latent.d
        us = rng.random(8).tolist()
        move = self._pick(memory, us[0])
        parent = self._parent(memory, us[1])
        origin, step, rate = parent.row, 0.0, 1.0
        moved: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        if move == CMA:
            assert memory.distribution is not None
            z, step = memory.distribution.sample(rng.standard_normal(d)), float(memory.distribution.generation)
            run = view.state.run
            asked = view.state.next_id - (run.base_steps if run is not None else 0)
            if view.progress * self._tuning.wide_end > (1.0 - view.progress) * asked:
                near = (
                    0.1 + 0.3 * us[2]
                )  # the mean is better than what is drawn around it, and a search is its best trial
                z = memory.distribution.mean + near * (z - memory.distribution.mean)
            origin = elites[min(len(elites) - 1, self._tuning.cma_parent)].row
            rate = 0.3 / max(1, len(latent.options))
        elif move == DENSE:
            step = memory.steps[move] * math.exp(0.5 * float(rng.standard_normal()))
            z = parent.vector + np.maximum(step, 0.35 * latent.widths) * rng.standard_normal(d)
            rate = 1.0 / max(4, len(latent.options))
        elif move == SPARSE:
            part = (0.02, 0.1, 0.3)[int(3 * us[2])]
            step = memory.steps[move] * math.exp(0.8 * float(rng.standard_normal()))
            moved = self._some(max(1, round(part * d)), d, rng)
            z = parent.vector + np.maximum(step, 0.5 * latent.widths) * rng.standard_normal(d)
            rate = part
        elif move == DIFFERENCE:
            few = min(len(elites), max(4, memory.completed // 2))
            a, b = elites[int(us[2] * few)].vector, elites[int(us[3] * few)].vector
            force = 0.2 + 0.8 * us[4]
            rate = 0.3 if us[5] < 0.5 else 0.9
            base = parent.vector
            z = base + force * (a - b)
            if us[6] < 0.3:
                z += force * (elites[0].vector - base)
            moved = rng.random(d) < rate
            rate *= 0.5
        else:
            rate = t = view.temperature
            step = 0.3 * t
            moved = self._some(max(1, round(t * d)), d, rng)
            z = parent.vector + step * np.sqrt(rng.random(d)) * rng.standard_normal(d)
        values = list(parent.values)
        latent.fill(values, latent.reflect(z), moved)
        if latent.options:
            flips = np.flatnonzero(rng.random(len(latent.options)) < rate).tolist()
            if flips:
                flip(memory, values, flips, move, view.temperature, rng)
        if latent.space.conditional:
            settle(memory, values, rng)
        return Proposal(tuple(values), "local", [move, step if move == CMA else float(f"{step:.4g}"), origin])

    def _some(self, k: int, d: int, rng: Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A mask with about `k` of `d` set, and at least one."""
        mask = rng.random(d) < k / d
        if not mask.any():
            mask[int(rng.integers(d))] = True
        return mask


def _same(space: Space, a: Values, b: Values) -> bool:
    """Whether two candidates are the same, where `==` does not tell."""
    return all(leaf.same(x, y) for leaf, x, y in zip(space.leaves, a, b, strict=True))
