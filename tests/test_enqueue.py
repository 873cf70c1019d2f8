"""Guesses of one's own run first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.errors import SpaceError

pytestmark = pytest.mark.every_loop

SPACE = {"x": ah.float(0, 1), "n": ah.int(1, 100, init=10), "opt": ah.choice("adam", "sgd"), "c": "constant"}
STEPPED = {"n": ah.int(8, 64, multiple_of=8), "w": ah.int(0, 64, shape=2, multiple_of=8)}


async def test_guesses_run_first_in_their_order_and_are_told_apart() -> None:
    search = ah.Search(SPACE, seed=1)
    search.enqueue({"x": 0.125, "n": 3, "opt": "sgd"})
    search += {"x": 0.75}
    search += {"n": 99, "c": "constant"}
    await search.run(lambda p: -p["x"], steps=6, quiet=True)
    params = [t.params for t in search.history]
    assert params[0] == {"x": 0.125, "n": 3, "opt": "sgd", "c": "constant"}
    assert params[1] == {"x": 0.75, "n": 3, "opt": "sgd", "c": "constant"}
    assert params[2] == {"x": 0.125, "n": 99, "opt": "sgd", "c": "constant"}
    assert params[3] == {"x": 0.5, "n": 10, "opt": "adam", "c": "constant"}
    assert [t.origin for t in search.history][:4] == ["enqueued"] * 3 + ["initial"]


async def test_missing_parameters_take_the_best_known_values_or_the_first_guess() -> None:
    search = ah.Search(SPACE, seed=1)
    search += {"x": 0.25}
    await search.run(lambda p: -abs(p["n"] - 42), steps=100, quiet=True)
    assert search.history[0].params == {"x": 0.25, "n": 10, "opt": "adam", "c": "constant"}
    best = search.best
    assert best is not None
    search += {"x": 0.0625}
    await search.run(lambda p: 0.0, steps=1, quiet=True)
    assert search.history[-1].params == best | {"x": 0.0625}


async def test_a_guess_that_several_options_fit_means_the_best_known_of_them_or_the_first() -> None:
    kinds = [
        {"name": name, "rate": ah.float(0, 1), "inner": ah.choice({"n": ah.int(1, 9)}, {"n": ah.int(1, 5)})}
        for name in "abc"
    ]
    search = ah.Search({"o": ah.choice(*kinds)}, seed=1)
    search.enqueue({"o": {"rate": 0.25}})
    search.enqueue({"o": {"name": "b", "inner": {"n": 7}}})
    await search.run(lambda p: p["o"]["name"] == "b", "max", steps=8, quiet=True)
    assert [trial.params["o"]["name"] for trial in search.history[:2]] == ["a", "b"]
    assert search.history[1].params["o"]["inner"] == {"n": 7}
    search.enqueue({"o": {"rate": 0.75}})
    search.enqueue({"o": {"name": "c", "rate": 0.5}})
    await search.run(lambda p: 0.0, "max", steps=2, quiet=True)
    assert [trial.params["o"]["name"] for trial in search.history[-2:]] == ["b", "c"]
    assert search.history[-2].params["o"]["rate"] == 0.75


async def test_guesses_may_come_while_the_search_runs() -> None:
    search = ah.Search(SPACE, seed=1)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 4:
            search.enqueue({"x": 0.0625})
        return float(params["x"])

    await search.run(objective, steps=8, quiet=True)
    assert [t.origin for t in search.history].index("enqueued") == 5
    assert search.history[5].params["x"] == 0.0625


async def test_the_best_of_one_search_can_be_the_guess_of_another() -> None:
    space = {
        **SPACE,
        "model": ah.choice({"kind": "a", "depth": ah.int(1, 9)}, {"kind": "b"}),
        "w": ah.float(0, 1, shape=3),
    }
    first, second = ah.Search(space, seed=1), ah.Search(space, seed=2)
    best = await first.run(lambda p: p["x"], steps=30, quiet=True)
    assert best is not None
    second += best
    await second.run(lambda p: p["x"], steps=1, quiet=True)
    told = second.history[0].params
    assert told.pop("w").tolist() == best.pop("w").tolist() and told == best


async def test_a_guess_that_ran_already_is_not_run_again() -> None:
    search = ah.Search(SPACE, seed=1)
    search += {"x": 0.125}
    search += {"x": 0.125}
    await search.run(lambda p: p["x"], steps=4, quiet=True)
    search += {"x": 0.125, "n": 10, "opt": "adam"}
    await search.run(lambda p: p["x"], steps=4, quiet=True)
    assert [t.params["x"] for t in search.history].count(0.125) == 1 and len(search.history) == 8


async def test_the_same_guess_runs_again_where_duplicates_are_allowed() -> None:
    search = ah.Search(SPACE, seed=1)
    for _ in range(3):
        search += {"x": 0.125, "n": 10, "opt": "adam"}
    await search.run(lambda p: p["x"], steps=4, duplicates="allow", quiet=True)
    assert [t.params["x"] for t in search.history].count(0.125) == 3


async def test_a_session_hands_guesses_out_too() -> None:
    search = ah.Search(SPACE)
    search += {"x": 0.125}
    async with search.session(steps=2) as session:
        first = await session.ask()
        assert first is not None and first.params["x"] == 0.125
        search += {"x": 0.25}
        second = await session.ask()
        assert second is not None and second.params["x"] == 0.25


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        ({"y": 1}, "unknown parameter 'y'; the space has 'x', 'n', 'opt', 'c'"),
        ({"x": 2}, r"x: 2\.0 is outside \[0\.0, 1\.0\]"),
        ({"opt": "rmsprop"}, "opt: 'rmsprop' is not one of the 2 options"),
        ({"c": "other"}, "c: is the constant 'constant'"),
        (["x"], "a guess is a dict of parameters"),
        (None, "a guess is a dict of parameters"),
    ],
    ids=str,
)
def test_a_guess_that_does_not_belong_is_refused_when_it_is_made(guess: Any, said: str) -> None:
    search = ah.Search(SPACE)
    with pytest.raises(SpaceError, match=said):
        search.enqueue(guess)
    with pytest.raises(SpaceError, match=said):
        search += guess


@pytest.mark.parametrize("guess", [{"n": 12}, {"w": [0, 12]}, {"n": 9.0}])
def test_an_integer_that_is_not_one_of_the_values_is_refused_and_not_rounded(guess: Any) -> None:
    with pytest.raises(SpaceError, match="is not one of the values"):
        ah.Search(STEPPED).enqueue(guess)


async def test_a_guess_is_what_it_was_when_it_was_made() -> None:
    search = ah.Search(w=ah.float(-1, 1, shape=3), order=ah.custom(sample=lambda: [0]), seed=1)
    w, order = np.zeros(3), [1, 2]
    for i in range(3):
        w[:], order[0] = np.eye(3)[i], i
        search += {"w": w, "order": order}
    w[:], order[0] = 9.0, 9
    await search.run(lambda p: 1.0, steps=3, quiet=True)
    assert [t.params["w"].tolist() for t in search.history] == np.eye(3).tolist()
    assert [t.params["order"] for t in search.history] == [[0, 2], [1, 2], [2, 2]]


async def test_a_guess_may_say_again_what_is_constant() -> None:
    search = ah.Search(mask=np.arange(3), x=ah.float(0, 1), seed=1)
    search += {"mask": np.arange(3), "x": 0.25}
    await search.run(lambda p: p["x"], steps=1, quiet=True)
    assert search.history[0].params["x"] == 0.25
    with pytest.raises(SpaceError, match="mask: is the constant"):
        search += {"mask": np.arange(1, 4)}
