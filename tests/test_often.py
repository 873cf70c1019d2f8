"""How often the model makes a candidate: nearly always in short and slow searches, and now and then in all others."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.budget import Budget, Schedule
from asynchopper.samplers import PortfolioSampler, Proposer, RandomSampler
from asynchopper.samplers.tuning import QUADRATIC, Tuning
from asynchopper.state import Run
from tests.test_blocks import Quick
from tests.test_samplers import MIXED, NESTED, Driven, made_ahead, read_back

NUMBERS = {f"x{i}": ah.float(-5, 5) for i in range(8)}
BOTTOM = [1.0, -2.0, 3.0, 0.5, -0.5, 2.5, -3.0, 1.5]


def valley(params: dict[str, float]) -> float:
    z = [x - b for x, b in zip(params.values(), BOTTOM, strict=True)]
    return sum(10.0 ** (i % 4) * (x + 0.5 * z[i - 1]) ** 2 for i, x in enumerate(z))


def kinks(params: dict[str, float]) -> float:
    """Where no descent ends."""
    return sum(abs(x - b) for x, b in zip(params.values(), BOTTOM, strict=True))


def thought(search: Driven, trials: int, slots: int = 1, objective: Any = valley) -> list[int]:
    """The numbers of the trials whose candidates the model was asked for."""
    numbers, out = [], []
    for _ in range(trials):
        view = search.proposer.prompt(search.state, 0.0, search.budget.progress(search.state, 0.0))
        assert view is not None
        if isinstance(view, tuple):
            made = view
        else:
            numbers.append(search.state.next_id)
            assert view.then.alone or not getattr(search, "by_the_block", False), "blocks know all that has been told"
            made = search.proposer.think(view)
            assert made is not None
        id, params = search.take(made)
        out.append((id, objective(params)))
        while len(out) >= slots:
            search.tell(*out.pop(0))
    return numbers


@pytest.mark.parametrize(
    ("seconds", "slots", "each"),
    [
        (0.01, 1, 4),  # 2.8 ms are a tenth of 28 ms, in which there are 3 results
        (0.01, 12, 64),
        (0.0001, 1, 512),
        (0.05, 100, 64),
    ],
)
def test_it_is_asked_so_often_that_it_takes_little_time_beside_the_evaluations(
    seconds: float, slots: int, each: int
) -> None:
    trials = max(4 * each, 20 * slots, 100)
    numbers = thought(Driven(NUMBERS, 100_000, seconds=seconds), trials, slots, kinks)
    from_ = 11 * slots if slots >= 64 else 40 + slots  # where so many are out, not before each slot has had ten
    regular = set(range(-(-from_ // each) * each, trials, each))
    assert {n for n in numbers if n >= from_} >= regular
    assert len(numbers) <= 1.1 * len(regular) + 40  # those after its last success come besides
    assert slots < 64 or numbers[0] > 10 * slots


@pytest.mark.parametrize(
    ("steps", "slots", "seeds", "soonest"), [(1_000, 1, 17, 16), (1_000, 60, 60, 64), (10_000, 16, 17, 192)]
)
def test_it_is_asked_the_more_rarely_the_longer_it_leads_nowhere(
    steps: int, slots: int, seeds: int, soonest: int
) -> None:
    worse, after = count(), [n for n in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768) if n >= soonest]
    numbers = thought(Driven(NUMBERS, steps, seconds=0.0), 1_000, slots, lambda _: float(next(worse)))
    assert numbers == [seeds + n for n in after]


def test_it_is_not_asked_where_a_64th_of_the_budget_is_more_than_there_is() -> None:
    worse = count()
    assert thought(Driven(NUMBERS, 1_000_000, seconds=0.0), 1_000, 1, lambda _: float(next(worse))) == []


def test_it_is_asked_after_a_history_of_others() -> None:
    search = Driven(NUMBERS, 4_000, seconds=0.0, sampler=RandomSampler())
    search.run(valley, 3_200, 4)
    search.budget, search.sampler = Budget.of(None, 800, False), PortfolioSampler()
    search.say(Run(search.budget.describe(), 3_200, 0.0, 0.0, None, "", "", 0))
    search.proposer = Proposer(search.sampler, Schedule(), deque(), 3)
    assert len(thought(search, 800, 4)) > 20
    assert search.state.best_value is not None and search.state.best_value < 1e-9


def test_it_is_asked_again_soon_where_it_leads_on() -> None:
    search = Driven(NUMBERS, 1_000, seconds=0.0)
    numbers = thought(search, 500)
    assert len(numbers) > 20
    gained = [
        row for row, (move, _, _) in search.state.table.notes.items() if move == QUADRATIC and best_yet(search, row)
    ]
    for row in gained[:10]:
        assert min(n for n in numbers if n > row) - row <= 24, "16 later, for a budget of 1,000, or 24"


def best_yet(search: Driven, row: int) -> bool:
    values = search.state.table.values
    return values[row] < min(values[:row])


def test_a_long_search_finds_the_bottom_of_a_valley() -> None:
    for slots in (1, 16):
        without = Driven(NUMBERS, 1_000, slots, 0.0, PortfolioSampler(Tuning(model=False))).run(valley, 1_000, slots)
        assert without > 1e-3
        assert Driven(NUMBERS, 1_000, slots, 0.0).run(valley, 1_000, slots) < 1e-12


@pytest.mark.parametrize("slots", [1, 16])
async def test_a_search_of_quick_coroutines_finds_the_bottom_of_a_valley(slots: int) -> None:
    async def objective(params: dict[str, float]) -> float:
        await asyncio.sleep(0)
        return valley(params)

    search = ah.Search(NUMBERS, seed=slots)
    await search.run(objective, "minimize", steps=1_000, concurrency=slots, quiet=True)
    assert search.best_value is not None and search.best_value < 1e-12


def test_candidates_by_the_block_have_some_of_the_quadratic_among_them() -> None:
    search = Quick(NUMBERS, 4e-5)
    numbers = thought(search, 6_000, 16)
    assert search.by_the_block
    late = [n for n in numbers if n > 1_100]
    assert 1 <= len(late) <= 3  # 2.8 ms are 2,800 times a fortieth of 4e-5 s
    assert QUADRATIC in [search.state.table.notes[n][0] for n in late]
    again = search.resumed()
    for _ in range(20):
        assert repr(search.ask()) == repr(again.ask())


@pytest.mark.parametrize("tree", [NUMBERS, MIXED, NESTED], ids=["numbers", "mixed", "nested"])
@pytest.mark.parametrize("steps", [1_000, 4_000])
def test_a_search_that_was_read_back_asks_it_for_the_same(tree: dict[str, Any], steps: int) -> None:
    def objective(params: Any) -> float:
        return float(len(repr(params)) % 17)

    whole = Driven(tree, steps, seconds=0.0)
    whole.run(objective, 150, 12)
    again = read_back(whole)
    assert thought(whole, 70, 12, objective) == thought(again, 70, 12, objective) != []
    assert repr(whole.facts[-90:]) == repr(again.facts[-90:])


@pytest.mark.parametrize("slots", [1, 4, 7])
def test_when_it_last_led_on_does_not_depend_on_the_budget_that_is_looked_back_from(slots: int) -> None:
    whole = Driven(NUMBERS, 100_000, seconds=0.0)
    whole.run(kinks, 400, slots)
    whole.budget = Budget.of(None, 2_000, False)
    whole.say(Run(whole.budget.describe(), 400, 0.0, 0.0, None, "", "", 0))
    again = read_back(whole)
    assert thought(whole, 200, slots, kinks) == thought(again, 200, slots, kinks) != []
    assert whole.sampler._memory.led == again.sampler._memory.led
    assert repr(whole.facts[-200:]) == repr(again.facts[-200:])


def test_what_is_made_ahead_now_and_then_is_what_would_be_made_when_it_is_wanted() -> None:
    ahead = made_ahead(Driven(NUMBERS, 1_000, seconds=0.0), valley, 160)
    assert 10 < len(ahead) <= 20
