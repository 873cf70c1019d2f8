"""The constants of the portfolio, in one place, so that an ablation can change one of them."""

from __future__ import annotations

from dataclasses import dataclass

DENSE, SPARSE, DIFFERENCE, SHRINKING, CMA, QUADRATIC = range(6)
MOVES = 6
RACE = 6
"""A candidate of another branch than the best one's: no move, which its outcome says nothing about."""


@dataclass(frozen=True, slots=True)
class Tuning:
    # which move: a part of the odds follows success, the rest is fixed
    adaptive: float = 0.6
    floors: tuple[float, ...] = (0.1, 0.1, 0.1, 0.05, 0.05)
    first_odds: tuple[float, ...] = (0.25, 0.2, 0.25, 0.1, 0.2)
    every: int = 4
    """Outcomes after which the odds are computed anew, and older outcomes count `memory` times as much as before."""
    memory: float = 0.92

    # how far: steps are parts of a coordinate's range
    first_step: float = 0.25
    longest_step: float = 0.5
    shortest_step: float = 1e-7
    grow: float = 1.8
    shrink: float = 0.86
    stale: float = 2.0
    """Of candidates by the block, those with so much longer a step than the present one do not make it shorter."""

    # from where
    elites: int = 100
    best_parent: float = 0.75

    # the distribution
    cma_step: float = 0.1
    cma_parent: int = 4
    """Its points are a success when they beat the elite of this rank."""
    wide: int = 48
    """Coordinates; above, the distribution leads, the odds are fixed, and there is no model."""
    wide_end: float = 16.0
    """The last candidates of a budget, which are drawn near the mean."""
    wide_odds: tuple[float, ...] = (0.0, 0.1, 0.0, 0.0, 0.9)

    wide_seeds: int = 16
    wide_step: float = 0.05
    """How far its seeds are from the first guess, and the first step of its distribution."""
    valley_each: int = 16
    valley_turns: int = 128
    """Of the quadratic there comes one candidate in so many at most, and in a search of quick evaluations about so many in all,
    up to `valley_widest` coordinates. It goes through the `valley_points` nearest to the best of the latest `valley_window`
    trials."""
    valley_points: int = 200
    valley_window: int = 400
    valley_widest: int = 2_000

    # seeds: this many for each thing that can move, but no more than a part of the budget, nor than a number
    seeds_per_number: float = 2.0
    seeds_with_options: float = 1.0
    """The same where there are options, of which several are good as a rule, and not all parameters exist at once."""
    seeds_part: float = 0.2
    most_seeds: int = 30
    pull: float = 0.7
    """How far a seed's numbers may be moved towards the first guess, as a part of the way."""

    # when nearly all candidates are the model's: in short searches, and where an evaluation takes `slow` seconds and a
    # proposal may take a tenth of `slow_each`
    model: bool = True
    few_steps: int = 400
    slow: float = 0.05
    slow_each: float = 0.01

    # where they are not, it makes one in so many that it takes `turn_part` of the time between results, but none more rarely than
    # `turn_rarest`; and one `memory.TURNS` after its last success, but not before `turn_least` trials and the budget by `turns`,
    # or by the block before it takes `block_part` of the time. Where `turn_among` are out, none before `turn_after` times as many
    # results
    turn_part: float = 0.1
    turn_least: int = 8
    turns: int = 64
    block_part: float = 0.025
    turn_among: int = 64
    turn_after: int = 10
    turn_rarest: int = 4096
    turn_whole: int = 16
    """Where it makes fewer than one in so many, the quadratic makes them alone."""

    # when candidates are made by the block: past so many trials, where less than so many seconds pass between results
    block: bool = True
    block_after: int = 1024
    block_pace: float = 0.0005

    # what it sees: features, the best trials, the latest, and those that its lengths are fitted to
    model_width: int = 128
    best: int = 100
    latest: int = 50
    fitted: int = 90
    failed: int = 40
    """The latest trials without a value that it sees."""
    alone: float = 3.0
    """What options say in its kernel wherever the numbers are, in units of all else."""
    untried: float = 0.3
    """The part of its candidates that have an option which was never tried, while there are such options."""

    # the race of the branches: the part of the model's candidates that go to the one that had the fewest trials of those that
    # are still in it, the part of the budget at whose end one is, the shortest step there, and from how many trials
    race: float = 0.3
    race_end: float = 0.9
    race_step: float = 0.1
    race_parents: int = 10

    # the quadratic around the best: the least and the largest part of the screened proposals that it gets, the points
    # that it sees, for each of its coefficients and at most, and the shortest radius, which a smooth function's end needs
    quadratic: tuple[float, float] = (0.1, 0.8)
    around_each: float = 1.3
    around: int = 90
    shortest_radius: float = 1e-10

    # where the nearest trials show more noise than this part, it sees all of them, and its radius is not shorter than this
    noise: float = 0.1
    noisy_radius: float = 0.1

    # when a descent is over: a step of the quadratic below `short` changed the loss by less than `slope` times the step, in
    # units of what the middle elite is above the best, and nothing has gained by more than `worth` since. What lies within
    # `reach` of where it ended is known ground for the next
    restarts: bool = True
    short: float = 1e-4
    slope: float = 0.003
    worth: float = 1e-9
    reach: float = 0.05
    bottoms: int = 64
    """How many ends are remembered."""

    # what it is asked: candidates from each move and from the whole space, where there are options and where all is numbers,
    # and the cycle of beta
    unscreened_alone: float = 0.05
    unscreened_among: float = 0.25
    candidates: tuple[int, ...] = (60, 60, 20, 10, 25, 15)
    candidates_of_numbers: tuple[int, ...] = (90, 0, 30, 15, 40, 15)
    betas: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)

    @staticmethod
    def granule(rows: int) -> int:
        """How many trials have to finish for the next block to know of them, and how many candidates it holds."""
        return 64 if rows < 2048 else 128 if rows < 4096 else 256

    @staticmethod
    def takes(parameters: int, wide: bool) -> float:
        """About how many seconds a candidate of the model takes that is one among many."""
        return 0.03 if wide else min(0.002 + 0.0001 * parameters, 0.005)

    def unscreened(self, running: int) -> float:
        """The part of the proposals that the model has no say in: more of them where more candidates are out."""
        return self.unscreened_alone + (self.unscreened_among - self.unscreened_alone) * min(1.0, running / 8)
