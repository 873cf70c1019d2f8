"""What the portfolio knows: a fold over the finished trials, in the order in which they were told.

It is derived from the table alone, so it is never saved: a search that is resumed folds its history once. A trial's note
says which move made it, the step that was taken and the row of the parent.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from asynchopper.history import COMPLETED, FAILED, NAN
from asynchopper.samplers.branches import Branch, Branches
from asynchopper.samplers.cma import FULL, Distribution
from asynchopper.samplers.diagonal import Diagonal
from asynchopper.samplers.latent import Latent, Vector
from asynchopper.samplers.tuning import CMA, MOVES, QUADRATIC, RACE, SPARSE, Tuning
from asynchopper.state import State
from asynchopper.trial import Values

_HEAVIEST = 1e100
_PACED = 64  # trials whose pace is looked at
_FAR = 1e6  # where there are no bounds: farther out, a coordinate has fewer digits than a trial's number
_LARGEST = 1e150  # its square is a float still
Box = list[tuple[int, Any, Any]]
TURNS = frozenset(n << k for k in range(50) for n in (2, 3))
"""How many trials after the last success of the model it is asked again, where it is not to cost much: 8, 12, 16, 24, ...; but no
fewer than `Tuning` says."""


class Elite:
    """A good trial, with its coordinates once somebody has asked for them."""

    __slots__ = ("_latent", "_list", "_vector", "loss", "row", "values")

    def __init__(self, loss: float, row: int, values: Values, latent: Latent) -> None:
        self.loss, self.row, self.values, self._latent = loss, row, values, latent
        self._list: list[float] | None = None
        self._vector: Vector | None = None

    @property
    def z(self) -> list[float]:
        if self._list is None:
            self._list = self._latent.encode(self.values)
        return self._list

    @property
    def vector(self) -> Vector:
        if self._vector is None:
            self._vector = self._latent.vector(self.values)
        return self._vector


class Memory:
    """The elites, what each move has achieved, the steps, and the distribution."""

    def __init__(self, state: State, tuning: Tuning) -> None:
        self.latent = Latent(state.space)
        self.tuning = tuning
        self.rows = 0
        self.sign = state.sign
        self.room = max(4, min(tuning.elites, 40_000_000 // (8 * max(1, self.latent.d))))
        self.tried = [0.0] * MOVES
        self.won = [0.0] * MOVES
        self.wide = self.latent.d > tuning.wide
        """Whether there are too many coordinates for a covariance, and for a process."""
        self._blocks = tuning.block and self.latent.simple and not self.wide
        self._odds: Sequence[float] | None = tuning.wide_odds
        if not self.wide:
            self._odds = self._possible(tuning.first_odds)
        self.weight = 1.0
        """What an outcome counts: more and more, instead of what came before less and less."""
        self._counts = self.won, self.tried, self.weight
        self.learnt = 0
        self._patience = 10 + 4 * self.latent.usual
        self.spent = 0.0
        """Seconds that all evaluations took together."""
        self.due = 1
        """How many trials have to be finished for `catch_up` to do anything."""
        self.swift = False
        """Whether results are so many and come so quickly that candidates are made by the block."""
        self.pace = 0.0
        """Seconds between results, when that was last looked at."""
        self.until = _PACED
        """The row at which it is decided anew whether it is so; a new best ends a block before."""
        self.record = math.inf
        """The smallest loss of all."""
        each = tuning.seeds_with_options if self.latent.options else tuning.seeds_per_number
        most = tuning.wide_seeds if self.wide else tuning.most_seeds
        self.first = int(max(4, min(each * (self.latent.n + 1), most)))
        """How many trials have to be finished for the distribution to begin."""
        self.failed: deque[Elite] = deque(maxlen=tuning.failed)
        """The last trials that came to no value; not those that were pruned, of which there are estimates."""
        self.bottoms: deque[Elite] = deque(maxlen=tuning.bottoms)
        """Where the last descents ended."""
        self._boxes: deque[Box] = deque(maxlen=tuning.bottoms)
        """For each of them, what the numbers of a trial lie between if it is near."""
        self.branches = Branches(self.latent, tuning)
        self._start(0)

    def _start(self, row: int) -> None:
        """A descent begins. What was learnt from trials before `row` is left behind, but for the odds of the moves."""
        self.since = row
        """The first row that counts; what descends from an earlier one does not."""
        self.led = row
        """The row at which the model has last led to a new best: the quadratic, or whatever came when it was soon asked again; or
        where it could not be asked before."""
        self.completed = 0
        self.elites: list[Elite] = []
        """The best trials of this descent, best first; of equals, the earlier first."""
        self._losses: list[float] = []
        self.bets, self.gains = [0.0, 0.0], [0.0, 0.0]
        """How often a new best was sought and found: by all the moves, and by the quadratic."""
        self.steps = [self.tuning.first_step] * MOVES
        self.distribution: Distribution | Diagonal | None = None
        self.branches.forget()
        self.recent: deque[int] = deque(maxlen=self.tuning.valley_window if self.wide else self.tuning.latest)
        """The rows of the last trials that completed."""
        self._made: dict[int, Elite] = {}
        self.checkpoint = 0
        """How many had completed when the model's lengths were last to be fitted; `sampled` says on what."""
        self.sampled: list[Elite] = []
        self.idle, self.level = 0, False
        """Trials that came from the best since the last gain and led nowhere; whether the ground around it was level."""

    def seeding(self, state: State, out: int) -> bool:
        """Whether the next candidate comes from the whole space, where so many are out."""
        if self.rows - self.since >= self.first:
            return False
        wanted, steps = self.first, self._budget(state)
        if steps is not None:
            wanted = max(4, min(wanted, math.ceil(self.tuning.seeds_part * steps)))
        return self.rows - self.since + out < wanted

    def turn(self, state: State, out: int, number: int) -> int:
        """How rarely the model makes a candidate, where it makes that of trial `number` while so many are out: 1 where it has a
        say in nearly all, else one in about so many. 0 where it makes none."""
        t, steps, mean = self.tuning, self._budget(state), self.spent / max(1, self.rows)
        if not t.model or self.latent.d > t.valley_widest:
            return 0
        slow = mean >= max(t.slow, t.slow_each * (1 + out))
        each = t.takes(self.latent.n, self.wide) / max(1e-9, t.turn_part * mean / (1 + out))
        if self.wide:
            each = 0 if slow else each if steps is None else min(each, steps / t.valley_turns)
            return _due(number, max(t.valley_each, each), t.turn_rarest)
        if not self.swift:
            if slow or (steps is not None and steps <= t.few_steps):
                return 1
            if out >= t.turn_among and self.rows < t.turn_after * out:  # they all began, and will end, at the same time
                return 0
            if due := _due(number, max(2, each), t.turn_rarest if self.latent.d else t.turn_whole):
                return due
        soonest = max(t.turn_least, (self.rows if steps is None else steps) / t.turns)
        if self.swift:
            soonest = max(soonest, t.takes(self.latent.n, False) / (t.block_part * self.pace))
        since = number - self.led
        able = self.latent.d or since <= t.turn_whole  # where there are no numbers, there is no quadratic
        return since if able and since in TURNS and since >= soonest else 0

    @staticmethod
    def _budget(state: State) -> int | None:
        """How many trials the present run may have, where that was said."""
        steps = state.run.budget.get("steps") if state.run is not None else None
        return steps if isinstance(steps, int) else None

    def catch_up(self, state: State, end: int) -> None:
        """Folds the rows that are new before `end`: all of them, or where they come swiftly, whole granules and new bests
        only."""
        elapsed, t = state.table.elapsed, self.tuning
        while self.rows < end:
            stop = self.until
            if self.swift:
                news = self._news(state, min(stop, end))
                if news is not None:
                    stop = news + 1
                elif stop > end:
                    break
            self._take_in(state, min(stop, end))
            if self.rows == stop:  # looked at only here, so that it is a fold as well
                pace = self.pace = (elapsed[stop - 1] - elapsed[stop - _PACED]) / _PACED
                led = bool(self.elites)  # by nobody, where a descent has just begun
                self.swift = self._blocks and led and stop >= t.block_after and 0.0 < pace < t.block_pace
                self.until = stop + (t.granule(stop) if self.swift else _PACED)
        self.due = self.until if self.swift else self.rows + 1

    def _news(self, state: State, end: int) -> int | None:
        """The first row that is better than all before it, where there is one."""
        values, states, sign, best = state.table.values, state.table.states, self.sign, self.record
        for row in range(self.rows, end):
            if -sign * values[row] < best and states[row] == COMPLETED:
                return row
        return None

    def _take_in(self, state: State, end: int) -> None:
        table, sign = state.table, self.sign
        values, seconds, states = table.values, table.seconds, table.states
        moves, steps, parents = table.notes.usual
        branched = bool(self.branches.owners)
        for row in range(self.rows, end):
            self.spent += seconds[row]
            branches = self.branches.count(table, row) if branched else ()
            if states[row] != COMPLETED:
                if states[row] in (FAILED, NAN):
                    self.failed.append(self._elite(state, math.inf, row))
                continue
            loss = -sign * values[row]
            if loss < self.record:
                self.record = loss
            if not -_LARGEST <= loss <= _LARGEST:
                loss = min(max(loss, -_LARGEST), _LARGEST)
            move = moves[row] if row < len(moves) else -1
            if move < 0:  # a seed, or somebody else's: the model has had no say yet
                self.led = row
            if 0 <= move <= RACE and parents[row] < row:  # a search may have been led by others before
                if parents[row] < self.since:  # it was out when this descent began
                    continue
                if self.elites and move < MOVES:
                    self._learn(state, loss, row, move, steps[row], parents[row])
            if not 0 <= move < MOVES and self.elites and loss < self._losses[0]:
                self._led(state, loss, row)
            if self.bottoms and self._known_ground(state, loss, row):
                if move >= 0 and self.elites and loss < self._losses[0]:
                    self._start(row + 1)  # it leads where another one has been
                continue
            if branches:
                self.branches.add(branches, loss, row)
            self.completed += 1
            if len(self.elites) < self.room or loss < self._losses[-1]:
                self._keep(self._elite(state, loss, row))
            self.recent.append(row)
            if self.completed >= self.checkpoint * 1.25 + 1:
                self.checkpoint = self.completed
                fitted = self.tuning.fitted
                self.sampled = self._some(state, 2 * fitted // 3, fitted // 3)
            if self.completed == self.first and self.latent.d:
                self._begin()
            if self.level and self.idle >= self._patience and self.tuning.restarts:  # nothing more is to be found here
                self.bottoms.append(self.elites[0])
                self._boxes.append(self._box(self.elites[0]))
                self._start(row + 1)
        self.rows = end

    def _led(self, state: State, loss: float, row: int) -> None:
        """There is a new best that no move has found, as in another branch."""
        self.idle, self.level = 0, False
        if self.distribution is not None:
            self.distribution.feed(loss, self._elite(state, loss, row), -1.0)

    def _loss(self, state: State, row: int) -> float:
        """What is to be small. Infinities become large, since differences of losses are taken."""
        return min(max(-self.sign * state.table.values[row], -_LARGEST), _LARGEST)

    def _elite(self, state: State, loss: float, row: int) -> Elite:
        """A trial, within the present bounds."""
        return Elite(loss, row, tuple(state.space.legal(state.table.row(row))), self.latent)

    def _keep(self, elite: Elite) -> None:
        at = bisect_right(self._losses, elite.loss)
        self._losses.insert(at, elite.loss)
        self.elites.insert(at, elite)
        if len(self.elites) > self.room:
            del self.elites[-1], self._losses[-1]

    def _learn(self, state: State, loss: float, row: int, move: int, step: float, parent: int) -> None:
        """What the outcome says about the move that made the trial, its step, and its parent."""
        t, weight = self.tuning, self.weight
        self.tried[move] += weight
        if loss < self._loss(state, parent):
            self.won[move] += weight
            if move != CMA and step > 0:
                self.steps[move] = min(t.longest_step, t.grow * math.sqrt(self.steps[move] * step))
        elif move < CMA:
            stale = self.swift and step > t.stale * self.steps[move]  # it was made when the step was longer
            shorter = self.steps[move] * (1.0 if stale else t.shrink)
            self.steps[move] = shorter if shorter >= t.shortest_step else t.first_step  # nothing is to be found here
        elif move == QUADRATIC:
            self.steps[move] = max(t.shortest_radius, t.shrink * min(self.steps[move], 4.0 * step))
        new_best, kind = loss < self._losses[0], move == QUADRATIC
        self.idle += parent == self.elites[0].row  # what was out before the best was known says nothing
        if new_best or kind:
            self._compare(loss, step if kind else 0.0)
        self.bets[kind] += weight
        if new_best:
            self.gains[kind] += weight
            since = state.table.ids[row] - self.led
            if kind or (t.turn_least <= since <= t.turn_whole and since in TURNS):
                self.led = row
        if self.distribution is not None and (move == CMA or new_best):
            self.distribution.feed(loss, self._elite(state, loss, row), step if move == CMA else -1.0)
            if self.distribution.step < t.shortest_step:
                self._begin()  # as wide as at first, around what is best
        self.learnt += 1
        if self.learnt % t.every == 0:
            self.weight /= t.memory
            if self.weight > _HEAVIEST:
                for counts in (self.tried, self.won, self.bets, self.gains):
                    counts[:] = [n / self.weight for n in counts]
                self.weight = 1.0
            if not self.wide:
                self._counts = self.won[:QUADRATIC], self.tried[:QUADRATIC], self.weight
                self._odds = None

    def _compare(self, loss: float, step: float) -> None:
        """Whether something was gained, and by a step of the quadratic, if it was one, whether the ground around the best
        trial is level."""
        t, best = self.tuning, self._losses[0]
        spread = self._losses[len(self._losses) // 2] - best
        if loss < best - t.worth * spread:
            self.idle, self.level = 0, False
        change = abs(loss - best)
        plateau = change == 0.0 and spread * step * step > math.ulp(best)  # a bowl would not have come out equal
        if 0.0 < step < t.short and change <= t.slope * step * spread and not plateau:
            self.level = True

    def _box(self, bottom: Elite) -> Box:
        """What each number of a trial within reach of a bottom lies between: a little more than that, for the rounding."""
        latent, reach = self.latent, 1.01 * self.tuning.reach
        box = []
        for k, (leaf, at, z) in enumerate(zip(latent.scalars, latent.at, bottom.vector.tolist(), strict=False)):
            bounded = not (latent.free and latent.free[k])
            if not bounded and abs(z) > _FAR:
                continue
            low = -math.inf if bounded and z <= reach else math.nextafter(at(z - reach), -math.inf)
            high = math.inf if bounded and z + reach >= 1.0 else math.nextafter(at(z + reach), math.inf)
            box.append((leaf, low, high))
        return box

    def _known_ground(self, state: State, loss: float, row: int) -> bool:
        """Whether a trial lies where an earlier descent ended, with the same options."""
        columns = state.table.columns
        # as it stands in the table, since this is asked for each trial and most are elsewhere; what a change of the space has
        # left outside of its range stands elsewhere than it counts
        for box in self._boxes if not state.space.strays else ((),):
            for leaf, low, high in box:
                value = columns[leaf][row]
                if value is not None and not low <= value <= high:
                    break
            else:
                return self._at_a_bottom(self._elite(state, loss, row))
        return False

    def _at_a_bottom(self, elite: Elite) -> bool:
        latent, reach = self.latent, self.tuning.reach
        near = [b for b in self.bottoms if float(np.abs(b.vector - elite.vector).max(initial=0.0)) < reach]
        options = [latent.space.leaves[i] for i in latent.options] if near else []
        return any(all(leaf.same(b.values[leaf.index], elite.values[leaf.index]) for leaf in options) for b in near)

    @property
    def odds(self) -> Sequence[float]:
        """How probable each move is, by what it has achieved up to the last `every` outcomes."""
        if self._odds is None:
            t = self.tuning
            won, tried, weight = self._counts
            rates = [(w + 0.1 * weight) / (n + 0.4 * weight) for w, n in zip(won, tried, strict=True)]
            total = sum(rates)
            self._odds = self._possible([t.adaptive * r / total + f for r, f in zip(rates, t.floors, strict=True)])
        return self._odds

    def _possible(self, odds: Sequence[float]) -> Sequence[float]:
        """The odds of the moves that there are: sparse ones are for spaces with options."""
        if self.latent.options:
            return odds
        total = sum(odds) - odds[SPARSE]
        return [0.0 if move == SPARSE else p / total for move, p in enumerate(odds)]

    @property
    def quadratic(self) -> float:
        """The part of the screened proposals that the quadratic gets."""
        low, high = self.tuning.quadratic
        weight = self.weight
        others, own = [(g + 0.5 * weight) / (n + weight) for g, n in zip(self.gains, self.bets, strict=True)]
        return min(max(own / (own + others), low), high)

    def best_of(self, branch: Branch, state: State) -> list[Elite]:
        """The best trials of a branch."""
        return [self._elite(state, loss, row) for loss, row in self.branches.best[branch]]

    def trial(self, state: State, row: int) -> Elite:
        """A trial that completed."""
        return self._elite(state, self._loss(state, row), row)

    def known(self, state: State) -> list[Elite]:
        """The trials that the model knows: the best, and the latest."""
        known = self._some(state, self.tuning.best, self.tuning.latest)
        self._made = {e.row: e for e in known[-self.tuning.latest :]}  # so that their coordinates are found once
        return known

    def _some(self, state: State, best: int, latest: int) -> list[Elite]:
        chosen = self.elites[:best]
        have = {e.row for e in chosen}
        rows = [row for row in list(self.recent)[-latest:] if row not in have]
        return chosen + [self._made.get(row) or self.trial(state, row) for row in rows]

    def _begin(self) -> None:
        """The seeds are in: the distribution starts from them."""
        points = [(e.loss, e.vector) for e in self.elites]
        made = Distribution if self.latent.d <= FULL else Diagonal
        step = self.tuning.wide_step if self.wide else self.tuning.cma_step
        self.distribution = made(points, step, self.latent.widths)


def _due(number: int, each: float, rarest: int) -> int:
    """`each` or a little more, as a power of two, where that divides the number and is not too rare; else 0."""
    power = 1 << math.ceil(math.log2(each))
    return power if power <= rarest and number % power == 0 else 0
