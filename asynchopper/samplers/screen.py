"""Proposals with a model: many candidates from the moves, and the one that the model likes best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from asynchopper.samplers.base import View
from asynchopper.samplers.branches import Branch
from asynchopper.samplers.cma import Distribution
from asynchopper.samplers.latent import Flags, Latent, Vector
from asynchopper.samplers.linear import product
from asynchopper.samplers.memory import Elite, Memory
from asynchopper.samplers.model import Lengths, Surrogate, fit, squash
from asynchopper.samplers.quadratic import FEWEST, around
from asynchopper.samplers.tuning import CMA, DENSE, DIFFERENCE, QUADRATIC, SHRINKING, SPARSE, Tuning
from asynchopper.space import Choice, Generator
from asynchopper.state import State

Codes = np.ndarray[Any, np.dtype[np.intp]]

_RUNNING = 64  # running points that the model looks at


class Candidates(NamedTuple):
    """Rows of coordinates and options, where each came from, and in which order they look promising."""

    z: Vector
    codes: Codes
    parents: list[Elite]
    moves: list[int]
    steps: Vector
    order: list[int]


class Features:
    """Candidates as the model sees them: coordinates, then one column for two options, k columns for k of them; and where there
    are options, each of them once more, for what it does wherever the others are."""

    def __init__(self, latent: Latent, alone: float) -> None:
        """`alone` is what options say by themselves, in units of all else."""
        self.latent = latent
        space = latent.space
        self.sizes = [_options(space.leaves[i].param) for i in latent.options]
        groups = list(range(latent.d))
        for k, n in enumerate(self.sizes):
            groups += [latent.d + k] * (0 if n == 0 else 1 if n == 2 else n)
        self.groups = np.array(groups, np.intp)
        """Of the columns that have lengths: which one."""
        self._alone = math.sqrt(alone / max(1, len(self.sizes)))
        place = {i: k for k, i in enumerate(latent.options)}
        self.parents: list[tuple[int, int, int]] = []
        """Of each conditional leaf: (its column, its owner's place among the options, the option)."""
        self.usable = all(self.sizes)
        for leaf in space.leaves:
            parent = leaf.parent
            while parent is not None and parent[0] in latent.still:  # an only option is there whenever its own owner is
                parent = space.leaves[parent[0]].parent
            if parent is not None:
                owner, option = place[parent[0]], parent[1]
                if leaf.index in place:
                    self.parents.append((latent.d + place[leaf.index], owner, option))
                self.parents += [(c, owner, option) for c in latent.columns(leaf.index)]
        self.owners = {
            column - latent.d: (owner, option) for column, owner, option in self.parents if column >= latent.d
        }
        """Of each option that is conditional: its owner's place among the options, the option."""

    def way(self, k: int, option: int) -> list[tuple[int, int]]:
        """An option, and those that it is nested in."""
        way = [(k, option)]
        while (owner := self.owners.get(way[-1][0])) is not None:
            way.append(owner)
        return way

    def of(self, z: Vector, codes: Codes) -> Vector:
        """Features of candidates; a code of -1 is an option that does not exist there."""
        columns = [z]
        for k, n in enumerate(self.sizes):
            c = codes[:, k]
            if n == 2:
                columns.append(np.where(c < 0, 0.5, c).astype(np.float64)[:, None])
            else:
                columns.append((c[:, None] == np.arange(n)) * 0.7071067811865476)
        columns += [(codes[:, k, None] == np.arange(n)) * self._alone for k, n in enumerate(self.sizes)]
        return np.concatenate(columns, axis=1) if len(columns) > 1 else z


class Screen:
    """The model of a memory, and its choice among candidates."""

    def __init__(self, memory: Memory, tuning: Tuning) -> None:
        self.memory, self.tuning, self.latent = memory, tuning, memory.latent
        self.features = Features(memory.latent, tuning.alone)
        self._fitted_to: list[Elite] | None = None
        self._lengths: Lengths | None = None
        self._made_at = self._lowest_at = -1
        self._lowest: tuple[Vector, list[int], float] | None = None
        self._out: dict[int, Elite] = {}  # the last that were running
        self._surrogate: Surrogate | None = None
        self._untried = {(k, option) for k, n in enumerate(self.features.sizes) for option in range(n)}
        self._looked = 0  # at so many trials, for options that have been tried
        self.ready = self.features.usable and 0 < len(self.features.groups) <= tuning.model_width and not memory.wide

    def _points(self, elites: list[Elite]) -> tuple[Vector, Codes]:
        z = np.array([e.vector for e in elites]).reshape(len(elites), self.latent.d)
        options = self.latent.options
        codes = np.array([[-1 if (v := e.values[i]) is None else v for i in options] for e in elites], np.intp)
        return z, codes.reshape(len(elites), len(options))

    def _model(self, state: State) -> Surrogate:
        memory = self.memory
        if self._made_at != memory.rows:
            if self._fitted_to is not memory.sampled:
                self._fitted_to = some = memory.sampled
                x = self.features.of(*self._points(some))
                self._lengths = fit(x, squash(np.array([e.loss for e in some])), self.features.groups)
            assert self._lengths is not None
            points = memory.known(state)
            x = self.features.of(*self._points(points))
            y = squash(np.array([e.loss for e in points]))
            failing = self._failing(x)
            x, y = np.concatenate([x, failing]), np.append(y, np.full(len(failing), y.max()))
            self._surrogate = Surrogate(x, y, self._lengths, self.features.groups)
            self._made_at = memory.rows
        assert self._surrogate is not None
        return self._surrogate

    def _failing(self, x: Vector) -> Vector:
        """The features of trials without a value, where two of the three nearest to them, among these and the points `x`, have
        none either: others may have failed by chance."""
        if len(self.memory.failed) < 3:  # each needs two others
            return x[:0]
        assert self._lengths is not None
        failed = self.features.of(*self._points(list(self.memory.failed)))
        n, scale = len(x), self._lengths.values[self.features.groups]
        there = np.concatenate([x, failed])[:, : len(scale)] / scale
        square = (there * there).sum(1)
        away = square[n:, None] + square - 2.0 * product(there[n:], there.T)
        away[np.arange(len(failed)), n + np.arange(len(failed))] = math.inf  # from itself
        nearest = np.argsort(away, 1, kind="stable")[:, :3]
        return np.asarray(failed[(nearest >= n).sum(1) >= 2])

    def untried(self, view: View) -> list[tuple[int, int]]:
        """Options that no trial has had, nor has one that is out: (the place among the options, the option)."""
        if not self._untried:
            return []
        state, options = view.state, self.latent.options
        while self._looked < self.memory.rows and self._untried:
            if self._looked not in state.table.foreign:  # those have other options by now than they had
                values = state.space.legal(state.table.row(self._looked))
                self._untried.difference_update([(k, values[i]) for k, i in enumerate(options)])
            self._looked += 1
        out = {(k, values[i]) for _, values in view.running for k, i in enumerate(options)}
        return sorted(self._untried - out)

    def ranked(
        self, view: View, rng: Generator, untried: Sequence[tuple[int, int]] = (), branch: Branch | None = None
    ) -> Candidates:
        """Candidates, the most promising first: the lowest mu - beta s (Srinivas et al., arXiv:0912.3995); beta goes
        through a cycle, so that candidates that are out together differ. Each has one of the `untried` options, where there
        are any, or is of the `branch`."""
        state = view.state
        model = self._model(state)
        counts = self.tuning.candidates if self.latent.options else self.tuning.candidates_of_numbers
        elites = self.memory.elites if branch is None else self.memory.best_of(branch, state)
        made = self.candidates(elites, counts, view.temperature, rng, untried, branch)
        mean, deviation = model.predict(self.features.of(made.z, made.codes), self._running(view))
        betas = self.tuning.betas
        beta = betas[view.then.number % len(betas)] * (1.0 - 0.7 * view.progress)
        return made._replace(order=np.argsort(mean - beta * deviation, kind="stable").tolist())

    def downhill(self, view: View) -> tuple[Vector, list[int], float] | None:
        """Where a quadratic around the best trial is lowest within its radius, the best's options, and the step to it: the
        root of the mean square over the coordinates. It is made from the trials that have the same options."""
        if self._lowest_at != self.memory.rows:
            self._lowest, self._lowest_at = self._find_lowest(view), self.memory.rows
        return self._lowest

    def _find_lowest(self, view: View) -> tuple[Vector, list[int], float] | None:
        memory, latent = self.memory, self.latent
        best, points = memory.elites[0], memory.known(view.state)
        z, codes = self._points(points)
        own = codes[0].tolist()
        same = (codes == codes[0]).all(1)
        alive = np.ones(latent.d, np.bool_)
        for column, owner, option in self.features.parents:
            if column < latent.d:
                alive[column] = own[owner] == option
        d = int(alive.sum())
        if not d or same.sum() < FEWEST:
            return None
        x, y = z[same][:, alive], np.array([e.loss for e in points])[same]
        t = self.tuning
        enough = min(t.around, math.ceil(t.around_each * (d + 1) * (d + 2) / 2))
        found = around(x - x[0], y, enough)
        if found is not None and found.noise >= t.noise and enough < t.around:
            found = around(x - x[0], y, t.around)  # more of them where the nearest show noise
        if found is None:
            return None
        length = memory.steps[QUADRATIC] if found.noise < t.noise else max(memory.steps[QUADRATIC], t.noisy_radius)
        to, step = found.lowest(latent, best.vector, alive, length)
        return to, own, step

    def _running(self, view: View) -> Vector | None:
        few, out = view.running[-_RUNNING:], self._out
        if not few:
            return None
        self._out = {
            id: known if (known := out.get(id)) and known.values is values else Elite(0.0, -1, values, self.latent)
            for id, values in few  # a trial that is shared has got its number only when it is granted
        }
        return self.features.of(*self._points(list(self._out.values())))

    def _inactive(self, z: Vector, codes: Codes) -> Flags:
        """Which coordinates do not exist; empties the options that do not, in place. Owners come before what they own."""
        out = np.zeros(z.shape, np.bool_)
        for column, owner, option in self.features.parents:
            off = codes[:, owner] != option
            if column < self.latent.d:
                out[off, column] = True
            else:
                codes[off, column - self.latent.d] = -1
        return out

    def candidates(
        self,
        elites: list[Elite],
        counts: Sequence[int],
        temperature: float,
        rng: Generator,
        untried: Sequence[tuple[int, int]] = (),
        branch: Branch | None = None,
    ) -> Candidates:
        """So many candidates from each move of these elites, and from the whole space, in this order."""
        memory, latent = self.memory, self.latent
        d, n = latent.d, max(1, latent.n)
        least = 0.0 if branch is None else self.tuning.race_step  # the steps are those of the best one
        m = sum(counts)
        kind = np.repeat(np.arange(len(counts)), counts)
        few = min(len(elites), 10)
        chosen = np.where(rng.random(m) < 0.6, 0, rng.integers(few, size=m))
        base, base_codes = self._points(elites[:few])
        z, codes = base[chosen].copy(), base_codes[chosen].copy()
        steps = np.zeros(m)
        noise = rng.standard_normal((m, d))
        if d:
            for move, spread in ((DENSE, 1.0), (SPARSE, 1.0)):
                rows = kind == move
                k = counts[move]
                if not k:
                    continue
                steps[rows] = np.minimum(max(least, memory.steps[move]) * np.exp(spread * rng.standard_normal(k)), 1.0)
                jump = np.maximum(steps[rows][:, None], (0.35 if move == DENSE else 0.5) * latent.widths) * noise[rows]
                if move == SPARSE:
                    jump = np.where(rng.random((k, d)) < (1 + rng.integers(3, size=(k, 1))) / n, jump, 0.0)
                z[rows] += jump
            rows = kind == DIFFERENCE
            if k := counts[DIFFERENCE]:
                pool = min(len(elites), max(4, min(memory.room, memory.completed // 2)))
                vectors = np.array([e.vector for e in elites[:pool]])
                force = rng.uniform(0.2, 1.0, (k, 1))
                move_to = z[rows] + force * (vectors[rng.integers(pool, size=k)] - vectors[rng.integers(pool, size=k)])
                move_to += np.where(rng.random((k, 1)) < 0.3, force * (vectors[0] - z[rows]), 0.0)
                mask = rng.random((k, d)) < np.where(rng.random((k, 1)) < 0.5, 0.3, 0.9)
                z[rows] = np.where(mask, move_to, z[rows])
            rows = kind == SHRINKING
            if k := counts[SHRINKING]:
                jump = 0.3 * temperature * np.sqrt(rng.random((k, d))) * noise[rows]
                z[rows] += np.where(rng.random((k, d)) < temperature, jump, 0.0)
            rows = kind == CMA
            if counts[CMA] and isinstance(memory.distribution, Distribution):
                z[rows] = memory.distribution.samples(noise[rows])
            rows = kind == CMA + 1
            z[rows] = rng.random((counts[CMA + 1], d))
            z = latent.reflect(z)
        if latent.options:
            rates = np.array([min(0.3, 1.5 / n), 1.5 / n, 0.0, max(1.5 / n, temperature - 0.5), 1.0 / n, 1.0])[kind]
            flip = rng.random((m, len(latent.options))) < rates[:, None]
            any_ = (rng.random(flip.shape) * np.array(self.features.sizes)).astype(np.intp)
            from_elite = base_codes[rng.integers(few, size=flip.shape), np.arange(len(latent.options))]
            new = np.where(
                (rng.random(flip.shape) < 0.4) & (from_elite >= 0) & (kind < CMA + 1)[:, None], from_elite, any_
            )
            codes = np.where(flip, new, codes)
            mix = (kind == DIFFERENCE)[:, None] & (rng.random(flip.shape) < 0.5) & (from_elite >= 0)
            codes = np.where(mix, from_elite, codes)
        meant = np.zeros(codes.shape, np.bool_)
        for row, at in enumerate(rng.integers(len(untried), size=m).tolist() if untried else ()):
            for k, option in self.features.way(*untried[at]):
                codes[row, k], meant[row, k] = option, True
        if branch is not None:
            for k, option in self.features.way(*branch):
                codes[:, k], meant[:, k] = option, True
        if self.features.parents:
            z = self._activate(z, codes, base_codes[chosen], meant, elites, rng)
        z = self.latent.snap(z)
        if self.features.parents:
            z[self._inactive(z, codes)] = 0.5
        parents = [elites[i] for i in chosen.tolist()]
        return Candidates(z, codes, parents, np.minimum(kind, CMA).tolist(), steps, [])

    def _activate(
        self, z: Vector, codes: Codes, before: Codes, meant: Flags, elites: list[Elite], rng: Generator
    ) -> Vector:
        """Fills what exists in a candidate and did not in its parent: from an elite that has it, or at random; but for the
        options that are `meant`."""
        for column, owner, option in self.features.parents:
            new = (codes[:, owner] == option) & (before[:, owner] != option)
            k = int(new.sum())
            if not k:
                continue
            copied = rng.random(k) < 0.6
            if column < self.latent.d:
                leaf = self.latent.owner(column)
                donor = next((e for e in elites if e.values[leaf] is not None), None)
                fresh = rng.random(k)
                if donor is not None:
                    near = donor.vector[column] + 0.15 * rng.standard_normal(k)
                    fresh = np.where(copied, np.clip(near, 0.0, 1.0 - 1e-12), fresh)
                z[new, column] = fresh
            else:
                place = column - self.latent.d
                leaf = self.latent.options[place]
                donor = next((e for e in elites if e.values[leaf] is not None), None)
                fresh_codes = rng.integers(self.features.sizes[place], size=k)
                if donor is not None:
                    fresh_codes = np.where(copied, donor.values[leaf], fresh_codes)
                codes[new, place] = np.where(meant[new, place], codes[new, place], fresh_codes)
        return z


def _options(param: Any) -> int:
    """How many options the model may choose from; 0 for what has moves of its own."""
    own = param.user_sample is not None or param.user_mutate is not None
    return param.n if isinstance(param, Choice) and not own else 0
