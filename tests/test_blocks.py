"""Candidates by the block: where results come quickly, they cost little, lie in the space, and follow from the log alone."""

import math
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.records import decode, encode
from asynchopper.samplers import PortfolioSampler
from asynchopper.samplers.tuning import Tuning
from asynchopper.state import Told
from tests.test_samplers import MIXED, NESTED, Driven

SPACES: dict[str, dict[str, Any]] = {
    "mixed": MIXED,
    "rounded": {"a": ah.float(-1, 1, precision=1), "b": ah.float(1e-3, 1e3, "0.2g"), "c": ah.int(8, 512, power_of=2)},
    "unbounded": {"x": ah.float(), "y": ah.float(precision=2), "z": ah.int(0, 10**6), "one": ah.int(4, 4)},
    "options": {f"o{i}": ah.choice(*"abcdefg") for i in range(6)},
}


class Quick(Driven):
    """Results come `pace` seconds after each other."""

    def __init__(self, tree: dict[str, Any], pace: float, seed: int = 3, tuning: Tuning | None = None) -> None:
        super().__init__(tree, 100_000, seed, 0.0, PortfolioSampler(tuning))
        self.pace, self.clock = pace, 0.0

    def tell(self, id: int, value: float, state: Any = "completed") -> None:
        self.clock += self.pace
        self.say(Told(id, 1, state, value, (), 0.0, self.seconds, self.clock))

    def resumed(self) -> "Quick":
        """The same search in another process, from the log."""
        other = Quick(dict(self.state.space.tree), self.pace)
        other.clock = self.clock
        for fact in self.facts[2:]:
            again = decode(encode(fact, self.state.space), other.state.space)
            assert again is not None
            other.say(again)
        return other

    @property
    def by_the_block(self) -> bool:
        memory = self.sampler._memory
        return memory is not None and memory.swift


def value(params: dict[str, Any]) -> float:
    """Something with a slope in every parameter."""
    return sum(
        math.sin(3 * i + 0.01 * (v if isinstance(v, (int, float)) else len(str(v)) + ord(str(v)[0])))
        + 0.001 * abs(v if isinstance(v, (int, float)) else 0)
        for i, v in enumerate(params.values())
    )


@pytest.mark.parametrize("space", SPACES)
def test_a_block_holds_what_the_space_has_and_nothing_twice(space: str) -> None:
    search = Quick(SPACES[space], 1e-4)
    search.run(value, 2000, 4)
    assert search.by_the_block
    keys = [search.state.space.key(search.state.table.row(i)) for i in range(2000)]
    assert len(set(keys)) == 2000
    for i in range(1100, 2000):
        row = search.state.table.row(i)
        params = search.state.space.build(row)
        assert search.state.space.fit(params, None, search.proposer._streams.at(0)) == row  # each of its values is one
        assert {k: type(v) for k, v in params.items()} == {
            k: type(v) for k, v in search.state.space.build(search.state.table.row(0)).items()
        }


@pytest.mark.parametrize("slots", [1, 16, 100])
def test_a_search_that_resumes_within_a_block_goes_on_with_it(slots: int) -> None:
    search = Quick(MIXED, 1e-4)
    search.run(value, 1500 - slots, slots)
    other = search.resumed()
    for _ in range(300):  # into the next blocks
        mine, theirs = search.ask(), other.ask()
        assert search.by_the_block and other.by_the_block
        assert mine == theirs
        search.tell(mine[0], value(mine[1]))
        other.tell(theirs[0], value(theirs[1]))


def test_where_results_take_their_time_every_candidate_knows_all_of_them() -> None:
    search = Quick(MIXED, 0.01)
    search.run(value, 1300)
    assert not search.by_the_block
    assert search.sampler._memory.rows == 1299  # the last one is told, and nobody has asked since


def test_a_search_that_becomes_slow_leaves_the_blocks_and_one_that_becomes_quick_comes_back() -> None:
    search = Quick(MIXED, 1e-4)
    search.run(value, 1200)
    assert search.by_the_block
    search.pace = 0.1
    search.run(value, 200)
    assert not search.by_the_block
    search.pace = 1e-4
    search.run(value, 200)
    assert search.by_the_block


def test_nested_spaces_and_arrays_are_proposed_one_by_one() -> None:
    search = Quick(NESTED, 1e-4)
    search.run(lambda p: abs(math.log(p["lr"])), 1300)
    assert not search.by_the_block


def test_blocks_find_about_as_good_a_place_as_one_by_one() -> None:
    def bowl(params: dict[str, Any]) -> float:
        return sum((v - 0.7) ** 2 * 10.0**i for i, v in enumerate(params.values()))

    space = {f"x{i}": ah.float(-5, 5) for i in range(5)}
    found = {
        block: sorted(Quick(space, 1e-4, seed, Tuning(block=block)).run(bowl, 3000) for seed in range(3))[1]
        for block in (True, False)
    }
    assert found[True] < max(1e-6, 100 * found[False])
