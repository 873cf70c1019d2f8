"""Candidates by the block: where results come quickly, they cost little, lie in the space, and follow from the log alone."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.records import decode, encode
from asynchopper.samplers import PortfolioSampler
from asynchopper.samplers.base import View
from asynchopper.samplers.block import Blocks, Seeds
from asynchopper.samplers.memory import Memory
from asynchopper.samplers.tuning import CMA, DENSE, Tuning
from asynchopper.space import Generator
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
    for i in (*range(60), *range(1100, 2000)):  # the first are seeds
        row = search.state.table.row(i)
        params = search.state.space.build(row)
        assert search.state.space.fit(params, None, search.proposer._streams.at(0)) == row  # each of its values is one
        assert {k: type(v) for k, v in params.items()} == {
            k: type(v) for k, v in search.state.space.build(search.state.table.row(0)).items()
        }


@pytest.mark.parametrize("trials", [40, 400, 1500])
@pytest.mark.parametrize("slots", [1, 16, 100])
def test_a_search_that_resumes_within_a_block_goes_on_with_it(slots: int, trials: int) -> None:
    search = Quick(MIXED, 1e-4)
    search.run(value, trials, slots)
    other = search.resumed()
    for _ in range(300):  # into the next blocks
        mine, theirs = search.ask(), other.ask()
        assert search.by_the_block == other.by_the_block == (trials == 1500)
        assert mine == theirs
        search.tell(mine[0], value(mine[1]))
        other.tell(theirs[0], value(theirs[1]))


def test_a_search_that_resumes_while_all_that_was_asked_are_seeds_asks_the_same_ones() -> None:
    search = Quick(MIXED, 1e-4)
    asked = [search.ask()[1] for _ in range(101)]
    other = search.resumed()
    for _ in range(899):  # through the larger blocks
        mine, theirs = search.ask(), other.ask()
        assert mine == theirs
        asked.append(mine[1])
    assert len({str(params) for params in asked}) == 1000


def apart(a: list[Any], b: list[Any]) -> float:
    """How far two samples are from having one distribution: the Kolmogorov-Smirnov statistic."""
    x, y = np.sort(np.array(a, np.float64)), np.sort(np.array(b, np.float64))
    at = np.concatenate((x, y))
    return float(np.abs(np.searchsorted(x, at, "right") / len(x) - np.searchsorted(y, at, "right") / len(y)).max())


def stream(number: int) -> Generator:
    return np.random.Generator(np.random.Philox(key=np.array((7, number), np.uint64)))


@pytest.mark.parametrize("space", SPACES)
def test_seeds_of_a_block_are_spread_as_single_ones_are(space: str) -> None:
    search, many = Quick(SPACES[space], 1e-4), 4000
    memory, rng = Memory(search.state, Tuning()), stream(0)
    alone = [search.sampler._seed(memory, rng, False) for _ in range(many)]
    seeds, together = Seeds(memory.latent, Tuning().pull if memory.latent.d else 0.0), []
    for number in range(many):
        search.state.next_id = number
        keyed = seeds.next(search.state, stream)
        assert keyed is not None
        together.append(keyed.proposal.values)
    for a, b in zip(zip(*alone, strict=True), zip(*together, strict=True), strict=True):
        assert apart(list(a), list(b)) < 0.045  # one pair of samples in a thousand of this size is


@pytest.mark.parametrize("space", SPACES)
def test_moves_of_a_block_are_spread_as_single_ones_are(space: str) -> None:
    search, many = Quick(SPACES[space], 1e-4), 4000
    search.run(value, 300)
    memory, sampler, rng = search.sampler._memory, search.sampler, stream(0)
    assert memory is not None
    view = View(search.state, 0.5, False, 0.6)
    alone = [sampler._narrow(memory, view, rng) for _ in range(many)]
    block = Blocks(memory)._make(many, 0.6, rng)
    for a, b in zip(zip(*[p.values for p in alone], strict=True), zip(*block.values, strict=True), strict=True):
        assert apart(list(a), list(b)) < 0.045
    assert apart([p.note[0] for p in alone], block.moves) < 0.045
    for move in range(CMA + 1):
        singly, steps = (
            [p.note[1] for p in alone if p.note[0] == move],
            np.array(block.steps)[np.array(block.moves) == move],
        )
        assert (
            apart(singly, list(steps)) < 1.95 * math.sqrt(1 / len(singly) + 1 / len(steps))
            if len(singly)
            else not len(steps)
        )
    changed = [
        sum(v != w for v, w in zip(search.state.table.row(p.note[2]), p.values, strict=True))
        for p in alone
        if p.note[0] != CMA
    ]
    in_block = [
        sum(v != w for v, w in zip(search.state.table.row(parent), new, strict=True))
        for parent, new, move in zip(block.parents, block.values, block.moves, strict=True)
        if move != CMA
    ]
    assert apart(changed, in_block) < 0.045


@pytest.mark.parametrize("space", SPACES)
def test_a_block_has_the_keys_of_its_candidates(space: str) -> None:
    search = Quick(SPACES[space], 1e-4)
    search.run(value, 300)
    memory = search.sampler._memory
    assert memory is not None
    block = Blocks(memory)._make(1000, 0.6, stream(0))
    assert block.keys == [search.state.space.key(values) for values in block.values]


def test_a_candidate_of_a_block_is_passed_over_while_it_is_known_to_have_been_asked() -> None:
    search = Quick(MIXED, 1e-4)
    search.run(value, 1300)
    memory, state = search.sampler._memory, search.state
    assert memory is not None and state.seen is not None
    blocks = Blocks(memory)
    own = blocks.next(state, 0.6, stream)
    assert own is not None and own.key is not None
    state.seen.add(own.key)
    spare = blocks.next(state, 0.6, stream)
    assert spare is not None and spare.key is not None
    state.seen.add(spare.key)
    other = blocks.next(state, 0.6, stream)
    assert other is not None and len({own.key, spare.key, other.key}) == 3
    state.seen.discard(spare.key)  # it could not be made durable, or was refused
    assert blocks.next(state, 0.6, stream) == spare
    state.seen.discard(own.key)
    assert blocks.next(state, 0.6, stream) == own


@pytest.mark.parametrize("place", [0, 5, 63])
def test_a_new_best_ends_a_block(place: int) -> None:
    search = Quick(MIXED, 1e-4)
    search.run(value, 1300)
    id, _ = search.ask()
    memory = search.sampler._memory
    assert memory is not None
    for _ in range(64):
        if memory.rows == search.state.told:  # where a block begins
            break
        search.tell(id, 100.0)
        id, _ = search.ask()
    assert memory.until == memory.rows + 64
    rows = memory.rows
    for _ in range(place):
        search.tell(id, 100.0)
        id, _ = search.ask()
    assert memory.rows == rows
    search.tell(id, -100.0)
    best = search.state.told - 1
    other = search.resumed()
    for _ in range(30):
        mine = search.ask()
        assert mine == other.ask()
    assert memory.rows == best + 1
    parents = [p.note[2] for p in search.state.pending.values()]
    assert parents.count(best) > 10


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


def test_failures_of_one_block_do_not_shrink_a_step_to_nothing() -> None:
    """Where nothing is found any more, steps shrink, from one block to the next, to about half of what that was made with."""
    search = Quick({f"x{i}": ah.float(0, 1) for i in range(4)}, 1e-4, tuning=Tuning(model=False))
    search.run(lambda params: float(sum(params.values())), 1200, 4)
    assert search.by_the_block
    memory = search.sampler._memory
    until, steps = memory.until, [memory.steps[DENSE]]
    while len(steps) < 12:
        id, _ = search.ask()
        search.tell(id, 100.0)
        if memory.until != until:
            steps.append(memory.steps[DENSE])
            until = memory.until
    ratios = [b / a for a, b in pairwise(steps)]
    assert min(ratios) > 0.1
    assert sum(ratio < 0.8 for ratio in ratios) > 5


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
    assert found[True] < max(1e-10, 100 * found[False])
