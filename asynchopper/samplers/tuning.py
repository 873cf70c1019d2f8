"""The constants of the portfolio, in one place, so that an ablation can change one of them."""

from __future__ import annotations

from dataclasses import dataclass

DENSE, SPARSE, DIFFERENCE, SHRINKING, CMA = range(5)
MOVES = 5


@dataclass(frozen=True, slots=True)
class Tuning:
    adaptive: float = 0.6
    """The part of the odds that follows success; the rest is `floors`."""
    floors: tuple[float, ...] = (0.1, 0.1, 0.1, 0.05, 0.05)
    bias: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    first_odds: tuple[float, ...] = (0.25, 0.2, 0.25, 0.1, 0.2)
    every: int = 4
    """Outcomes after which the odds are computed anew, and older outcomes count `memory` times as much as before."""
    memory: float = 0.92
    first_step: float = 0.25
    longest_step: float = 0.5
    shortest_step: float = 1e-7
    grow: float = 1.8
    shrink: float = 0.86
    elites: int = 100
    best_parent: float = 0.75
    cma_step: float = 0.1
    cma_parent: int = 4
    seeds_per_number: float = 2.0
    seeds_part: float = 0.2
    most_seeds: int = 30
    wide: int = 48
    """Coordinates; above, the distribution leads and the odds are fixed."""
    wide_odds: tuple[float, ...] = (0.1, 0.05, 0.05, 0.0, 0.8)
    few_steps: int = 400
    slow: float = 0.05
    """Seconds for an evaluation; from here on the model is used, if it also keeps up with the slots: """
    slow_each: float = 0.01
    model: bool = True
    model_width: int = 128
    """Features; above, no model."""
    best: int = 100
    latest: int = 50
    fitted: int = 90
    unscreened: float = 0.25
    candidates: tuple[int, ...] = (60, 60, 20, 10, 25, 15)
    betas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
