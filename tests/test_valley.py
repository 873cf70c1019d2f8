"""Arrays and many numbers: seeds around the first guess, and a quadratic through fewer trials than coordinates."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.budget import Schedule
from asynchopper.samplers import PortfolioSampler, Proposer
from asynchopper.samplers.tuning import QUADRATIC, Tuning
from tests.test_samplers import Driven, made_ahead, read_back

BOTTOM = np.random.default_rng(8).uniform(-4, 4, 80)
WIDE = {"x": ah.float(-5, 5, shape=80)}
MIXED = {
    "x": ah.float(-5, 5, shape=(5, 12)),
    "k": ah.int(0, 9, shape=6),
    "y": ah.float(),
    "kind": ah.choice("a", {"own": ah.float(0, 1, shape=4)}, "c"),
}


def bowl(params: dict[str, Any]) -> float:
    return float(((params["x"] - BOTTOM) ** 2).sum())


def of_mixed(params: dict[str, Any]) -> float:
    own = params["kind"]["own"].sum() - 2.0 if isinstance(params["kind"], dict) else 1.0
    return float((params["x"] ** 2).sum() + ((params["k"] - 3) ** 2).sum() + abs(params["y"]) + own)


def moves(search: Driven) -> list[int]:
    return [move for move, _, _ in search.state.table.notes.values()]


def test_many_numbers_of_a_bowl_are_found() -> None:
    for slots in (1, 16):
        search = Driven(WIDE, 400, seed=slots)
        assert search.run(bowl, 400, slots) < 1e-6
        assert moves(search).count(QUADRATIC) > 15
    without = Driven(WIDE, 400, seed=16, sampler=PortfolioSampler(Tuning(valley_widest=0)))
    assert without.run(bowl, 400, 16) > 1.0


def test_a_bottom_in_a_corner_and_other_kinds_beside_are_no_obstacle() -> None:
    slope = Driven(WIDE, 300)
    assert slope.run(lambda p: float(p["x"].sum()), 300, 16) < -300.0  # of -400
    mixed = Driven(MIXED, 300)
    assert mixed.run(of_mixed, 300, 16) < 30.0
    assert moves(mixed).count(QUADRATIC) > 10


def test_seeds_of_many_numbers_lie_around_the_first_guess_unless_the_seeding_was_said() -> None:
    for schedule, most in ((Schedule(), 1.0), (Schedule(seeding_steps=12), 4.0)):
        search = Driven(WIDE, 200)
        search.proposer = Proposer(search.sampler, schedule, deque(), 3)
        drawn = [search.ask()[1]["x"] for _ in range(12)][1:]
        assert most / 4 < float(np.abs(drawn).mean()) < most


def test_the_quadratic_comes_the_more_rarely_the_more_steps_there_are_unless_they_are_slow() -> None:
    for steps, seconds, each in ((2000, 0.0, 16), (5000, 0.0, 64), (5000, 1.0, 16), (100_000, 0.01, 128)):
        search = Driven(WIDE, steps, seconds=seconds)
        search.run(bowl, 3 * each + 20, 4)
        rows = [row for row, move in enumerate(moves(search)) if move == QUADRATIC]
        assert np.diff(rows).tolist() == [each, each]
    search = Driven(WIDE, 10_000_000, seconds=0.0)
    search.run(bowl, 200, 4)
    assert QUADRATIC not in moves(search)


@pytest.mark.parametrize("tree", [WIDE, MIXED], ids=["array", "mixed"])
@pytest.mark.parametrize("slots", [1, 12])
def test_a_search_that_was_read_back_goes_on_alike(tree: dict[str, Any], slots: int) -> None:
    value = of_mixed if tree is MIXED else bowl
    whole = Driven(tree, 1000)
    whole.run(value, 70, slots)
    waiting = [whole.ask() for _ in range(slots)]
    for _ in range(slots // 2):
        id, params = waiting.pop(0)
        whole.tell(id, value(params))
    again = read_back(whole)
    for _ in range(40):
        (a, one), (b, two) = whole.ask(), again.ask()
        assert a == b and repr(one) == repr(two)
        whole.tell(a, value(one))
        again.tell(b, value(two))
    assert moves(whole)[-40:].count(QUADRATIC) >= 1


def test_what_is_made_ahead_is_what_would_be_made_when_it_is_wanted() -> None:
    ahead = made_ahead(Driven(WIDE, 1000), bowl, 120)
    assert [made.proposal.note[0] for made in ahead].count(QUADRATIC) >= 4


async def test_it_is_made_beside_the_loop_and_ahead() -> None:
    async def objective(params: dict[str, Any]) -> float:
        return bowl(params)

    search = ah.Search(WIDE, seed=2)
    await search.run(objective, "minimize", steps=320, concurrency=16, quiet=True)
    assert len(search.history) == 320
    assert search.best_value is not None and search.best_value < 1.0
