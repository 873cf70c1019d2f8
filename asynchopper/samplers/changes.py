"""What a candidate changes by name: options that flip, branches that are emptied and filled, and the least change there is."""

from __future__ import annotations

from typing import Any

from asynchopper.samplers.memory import Elite, Memory
from asynchopper.samplers.tuning import DIFFERENCE
from asynchopper.space import Generator
from asynchopper.trial import Values


def flip(memory: Memory, values: list[Any], flips: list[int], move: int, strength: float, rng: Generator) -> None:
    """Other options for some leaves: what another elite has, or any."""
    latent, elites = memory.latent, memory.elites
    us = rng.random(3 * len(flips)).tolist()
    few = min(len(elites), 10)
    for j, k in enumerate(flips):
        i = latent.options[k]
        if values[i] is None:
            continue
        leaf = latent.space.leaves[i]
        if us[3 * j] < (1.0 if move == DIFFERENCE else 0.4):
            other = elites[int(us[3 * j + 1] * few)].values[i]
            if other is not None and (move == DIFFERENCE or not leaf.same(other, values[i])):
                values[i] = other
                continue
        values[i] = leaf.move(values[i], us[3 * j + 2], rng, strength)


def settle(memory: Memory, values: list[Any], rng: Generator) -> None:
    """Empties the branches that are not taken; fills the ones that are new from an elite that has them, or draws."""
    space, elites = memory.latent.space, memory.elites
    donor: Elite | None = None
    copies = rng.random() < 0.7
    for leaf in space.leaves:
        i = leaf.index
        if leaf.parent is not None and values[leaf.parent[0]] != leaf.parent[1]:
            values[i] = None
        elif values[i] is None:
            if copies and (donor is None or donor.values[i] is None):
                donor = next((e for e in elites if e.values[i] is not None), None)
                copies = donor is not None
            if copies and donor is not None:
                values[i] = donor.values[i]
            else:
                values[i] = leaf.draw(float(rng.random()), rng)


def nudged(memory: Memory, values: list[Any], rng: Generator) -> Values:
    """One leaf moved to a neighbour, where nothing else has changed."""
    space = memory.latent.space
    alive = [leaf for leaf in space.leaves if values[leaf.index] is not None and leaf.param.cardinality > 1]
    if alive:
        u, v = rng.random(2).tolist()
        leaf = alive[int(u * len(alive))]
        values[leaf.index] = leaf.move(values[leaf.index], v, rng, 0.1)
        if space.conditional:
            settle(memory, values, rng)
    return tuple(values)
