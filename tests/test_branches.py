"""Options with parameters of their own: what was good first does not keep the others from being tried."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.records import decode, encode
from asynchopper.samplers.base import View
from asynchopper.samplers.branches import Branch, Branches
from asynchopper.samplers.latent import Latent
from asynchopper.samplers.memory import Memory
from asynchopper.samplers.tuning import RACE, Tuning
from asynchopper.space import Space
from asynchopper.state import Asked, Header, State, Told
from tests.test_samplers import Driven


def branch(name: str, *numbers: str) -> dict[str, Any]:
    return {"name": name, **{number: ah.float(0, 1) for number in numbers}}


def nest(seed: int) -> tuple[dict[str, Any], Any]:
    """Six branches of two numbers, and a bowl in each; the lowest bottom is at 0."""
    rng = np.random.default_rng(seed)
    centre, scale = rng.random((6, 2)), rng.uniform(0.5, 3.0, (6, 2))
    bottom = rng.permutation([0.0, *rng.uniform(0.05, 0.5, 5)])

    def value(params: dict[str, Any]) -> float:
        m = params["m"]
        i = int(m["name"])
        return float(bottom[i] + (scale[i] * (np.array([m["x"], m["y"]]) - centre[i]) ** 2).sum())

    return {"m": ah.choice([branch(str(i), "x", "y") for i in range(6)])}, value


@pytest.mark.parametrize("slots", [1, 4])
def test_the_branch_that_was_good_first_is_not_always_the_one_that_stays(slots: int) -> None:
    ends = []
    for seed in range(24):
        tree, value = nest(seed)
        ends.append(Driven(tree, 100, seed).run(value, 100, slots))
    assert np.mean(ends) < 0.02


def turns(search: Driven, progress: float, times: int = 300) -> Counter[Branch]:
    """Whose turn it would be, many times."""
    memory = Memory(search.state, Tuning())
    memory.catch_up(search.state, len(search.state.table.ids))
    found = Counter[Branch]()
    for seed in range(times):
        view = View(search.state, progress, False, 0.5)
        turn = memory.branches.next(view, np.random.default_rng(seed))
        if turn is not None:
            found[turn] += 1
    return found


def test_a_candidate_is_of_the_branch_whose_turn_it_is_also_where_it_is_nested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = {
        "m": ah.choice({"name": "nest", "in": ah.choice([branch(n, "x") for n in "pqr"])}, branch("flat", "x", "y"))
    }
    said: list[Branch | None] = []
    really = Branches.next

    def spied(self: Branches, view: View, rng: Any) -> Branch | None:
        said.append(really(self, view, rng))
        return said[-1]

    monkeypatch.setattr(Branches, "next", spied)
    nested = 0
    for seed in range(8):
        search = Driven(tree, 100, seed)
        options = Latent(search.state.space).options
        for _ in range(100):
            id, params = search.ask()
            made = search.facts[-1]
            if made.note and made.note[0] == RACE:
                turn = said[-1]
                assert turn is not None and made.values[options[turn.owner]] == turn.option
                nested += turn.owner == 1
            m = params["m"]
            search.tell(id, 1.0 + m["in"]["x"] if "in" in m else m["x"])
    assert nested > 10


def test_what_was_pruned_is_a_trial_of_its_branch() -> None:
    search = Driven({"m": ah.choice([branch(n, "x") for n in "abc"])}, 100)
    for n in range(30):
        search.say(Asked(n, 1, (n % 3, *[0.5 if i == n % 3 else None for i in range(3)]), "local", None, None, None))
        search.tell(n, float(n), "pruned" if n % 3 == 2 and n > 2 else "completed")
    for n, option in ((30, 0), (31, 1), (32, 0)):
        search.say(Asked(n, 1, (option, *[0.6 if i == option else None for i in range(3)]), "local", None, None, None))
        search.tell(n, 40.0)
    assert {turn.option for turn in turns(search, 0.0)} == {2}
    search.say(Asked(33, 1, (2, None, None, 0.6), "local", None, None, None))
    search.tell(33, 50.0, "pruned")
    assert {turn.option for turn in turns(search, 0.0)} == {1}  # as many trials as the others, and a smaller loss


def test_what_was_out_when_another_descent_began_does_not_count_in_its_race() -> None:
    tree, _ = nest(1)
    search = Driven(tree, 200)
    rng = np.random.default_rng(3)
    for n in range(12):
        search.say(Asked(n, 1, search.state.space.sample(rng), "local", None, None, None))
    for n in range(10):
        search.tell(n, float(n))
    memory = Memory(search.state, Tuning())
    memory.catch_up(search.state, 10)
    memory._start(10)
    search.say(Asked(12, 1, search.state.space.sample(rng), "local", [RACE, 0.1, 3], None, None))
    search.tell(12, -1.0)
    search.tell(11, 5.0)
    memory.catch_up(search.state, 12)
    assert [elite.loss for elite in memory.elites] == [5.0]


def test_fewer_and_fewer_branches_are_in_the_race() -> None:
    tree, value = nest(3)
    search = Driven(tree, 100)
    search.run(value, 40)
    assert {*turns(search, 0.0)} != {*turns(search, 0.5)}  # the one with the fewest trials is out
    assert 60 < turns(search, 0.5).total() < 120
    assert not turns(search, 0.9)


def test_a_branch_that_has_no_more_to_be_tried_leaves_the_race_to_the_others() -> None:
    few = {"name": "few", "on": ah.choice(False, True)}
    tree = {"m": ah.choice(few, branch("x", "x"), branch("y", "y"), "none")}
    search = Driven(tree, 100)

    def value(params: dict[str, Any]) -> float:
        m = params["m"]
        return 0.0 if m == "none" else m.get("on", 0.1) + (m.get("x", 0.3) - 0.3) ** 2 + (m.get("y", 0.6) - 0.6) ** 2

    search.run(value, 40)
    assert {turn.option for turn in turns(search, 0.0)} <= {1, 2}
    assert turns(search, 0.0)


def test_alternatives_add_up_to_what_a_branch_may_be() -> None:
    inner = ah.choice([{"name": n, "on": ah.choice(False, True)} for n in "abc"])
    space = Space({"m": ah.choice({"in": inner, "off": ah.choice(1, 2)}, {"x": ah.float(0, 1)})})
    branches = Branches(Latent(space), Tuning())
    assert sorted(branches._sizes.values()) == [2, 2, 2, 12, math.inf]


def test_a_branch_may_have_more_candidates_than_a_float_counts() -> None:
    wide = {f"n{i}": ah.int(0, 10**18) for i in range(40)} | {"x": ah.float(0, 1)}
    Driven({"m": ah.choice(wide, branch("y", "y"))}, 20).run(lambda p: p["m"].get("x", 1.0), 20)


def test_trials_of_an_option_that_the_space_has_lost_are_no_other_ones() -> None:
    before = State(Space({"m": ah.choice([branch(n, "x") for n in "abc"])}))
    after = State(Space({"m": ah.choice([branch(n, "x") for n in "bc"])}))
    for state in (before, after):
        state.fold(Header("s", "minimize", 1, {}))
    for n, fact in enumerate(
        [Asked(n, 1, (n, *[0.5 if i == n else None for i in range(3)]), "local", None, None, None) for n in range(3)]
    ):
        back = decode(encode(fact, before.space), after.space)
        assert back is not None
        after.fold(back)
        after.fold(Told(n, 1, "completed", float(n), (), 0.0, 1.0, 0.0))
    memory = Memory(after, Tuning())
    memory.catch_up(after, 3)
    assert {branch.option: best for branch, best in memory.branches.best.items()} == {0: [(1.0, 1)], 1: [(2.0, 2)]}


def test_where_most_of_a_branch_fails_the_failures_are_trials_of_it() -> None:
    search = Driven({"m": ah.choice(branch("a", "x"), branch("b", "x"))}, 100)
    rng = np.random.default_rng(5)
    for n in range(30):
        search.say(Asked(n, 1, values := search.state.space.sample(rng), "local", None, None, None))
        failed = values[0] == 1 and n % 4
        search.tell(n, math.nan if failed else float(n), "failed" if failed else "completed")
    had = Counter(search.state.space.build(search.state.table.row(row))["m"]["name"] for row in range(30))
    fewest = min(had, key=had.__getitem__)
    assert had["a"] != had["b"]
    assert {turn.option for turn in turns(search, 0.0)} == {"ab".index(fewest)}


def test_a_best_that_no_move_has_found_is_a_gain_all_the_same() -> None:
    tree, value = nest(0)
    search = Driven(tree, 200)
    search.run(value, 60)
    search.ask()
    memory = search.sampler._memory
    assert memory is not None
    memory.idle, memory.level = 5, True
    id = search.state.next_id
    search.say(Asked(id, 1, search.state.space.sample(np.random.default_rng(0)), "local", None, None, None))
    search.tell(id, -1.0)
    search.ask()
    assert (memory.idle, memory.level) == (0, False)
