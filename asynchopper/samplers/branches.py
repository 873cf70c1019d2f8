"""Which branch is tried next: a branch is an option with parameters of its own.

What a branch is worth shows when its parameters are good, and the one that was good first would get all the trials. So the
branches race: a part of the candidates go to those that had the fewest trials, and fewer and fewer of them are in it, as in
Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple

from asynchopper.history import Table
from asynchopper.samplers.base import View
from asynchopper.samplers.latent import Latent
from asynchopper.samplers.tuning import Tuning
from asynchopper.space import Generator


class Branch(NamedTuple):
    owner: int
    """Its choice's place among the options."""
    option: int


class Branches:
    """The best trials of each branch in a descent, and how many it had."""

    def __init__(self, latent: Latent, tuning: Tuning) -> None:
        space = latent.space
        self._tuning, self._leaves = tuning, space.leaves
        self.owners = [(owner, leaf) for owner, leaf in enumerate(latent.options) if space.sizes(leaf)]
        """Choices that have branches: (the place among the options, the leaf)."""
        self._sizes = {
            Branch(owner, option): size for owner, leaf in self.owners for option, size in enumerate(space.sizes(leaf))
        }
        """How many candidates its own parameters make."""
        self.forget()

    def forget(self) -> None:
        """A descent begins."""
        self.best: dict[Branch, list[tuple[float, int]]] = {}
        """The losses and the rows of each one's best trials, best first."""
        self._had: dict[Branch, int] = {}

    def count(self, table: Table, row: int) -> list[Branch]:
        """A trial of the branches that are returned has come to its end, whatever came of it."""
        branches = self._of(table, row)
        for branch in branches:
            self._had[branch] = self._had.get(branch, 0) + 1
        return branches

    def add(self, branches: Iterable[Branch], loss: float, row: int) -> None:
        """It has a loss."""
        room = self._tuning.race_parents
        for branch in branches:
            best = self.best.setdefault(branch, [])
            if len(best) < room or loss < best[-1][0]:
                insort(best, (loss, row))
                del best[room:]

    def _of(self, table: Table, row: int) -> list[Branch]:
        foreign = table.foreign.get(row, ())  # it had something else there, which the space has lost
        return [
            Branch(owner, option)
            for owner, leaf in self.owners
            if (option := table.columns[leaf][row]) is not None and self._leaves[leaf].path not in foreign
        ]

    def next(self, view: View, rng: Generator) -> Branch | None:
        """The branch of a choice that had the fewest trials, of those that are in the race; `None` where that is the best
        one, which has all other candidates. Nothing is drawn where there are no branches."""
        part = view.progress / self._tuning.race_end
        if not self.owners or part >= 1.0 or rng.random() >= self._tuning.race:
            return None
        owner, leaf = self.owners[int(rng.random() * len(self.owners))]
        had = self._had.copy()
        for _, values in view.running:
            if (option := values[leaf]) is not None:
                had[Branch(owner, option)] = had.get(Branch(owner, option), 0) + 1
        some = {branch: best[0] for branch, best in self.best.items() if branch.owner == owner}
        if not some:
            return None
        left = round(self._leaves[leaf].param.cardinality ** (1.0 - part))
        order = sorted((loss, had.get(branch, 0), branch) for branch, (loss, _) in some.items())  # equal ones by trials
        there = [(tried, loss, branch) for loss, tried, branch in order[:left] if tried < self._sizes[branch]]
        chosen = min(there)[2] if there else None
        return None if chosen == min(some, key=some.__getitem__) else chosen
