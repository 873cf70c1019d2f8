"""The search space is not part of the state: it may change between runs, and what changed is said once."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import asynchopper as ah


@pytest.fixture(params=["file", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run.ckpt") if request.param == "file" else f"memory://{uuid.uuid4()}"


async def run(space: dict[str, Any], where: str, steps: int = 30, objective: Any = None, **words: Any) -> ah.Search:
    search = ah.Search(space, seed=1)
    await search.run(objective or (lambda p: 1.0), steps=steps, checkpoint_path=where, quiet=True, **words)
    return search


async def loaded(space: dict[str, Any], where: str) -> ah.Search:
    search = ah.Search(space)
    await search.load(where)
    return search


def column(search: ah.Search, name: str, start: int = 0) -> list[Any]:
    return search.history[name].tolist()[start:]


BASE = {"x": ah.float(0, 1), "n": ah.int(1, 1000), "opt": ah.choice("adam", "sgd")}


async def test_a_new_parameter_has_its_first_guess_in_old_trials(where: str, caplog: pytest.LogCaptureFixture) -> None:
    await run(BASE, where)
    assert caplog.text == ""
    search = await run({**BASE, "depth": ah.int(1, 9, init=3)}, where)
    assert column(search, "depth")[:30] == [3] * 30 and len(set(column(search, "depth")[30:])) > 3
    assert all(t.params["depth"] == 3 for t in search.history[:30])
    assert (
        caplog.text.count("the search space has changed: depth is new (old trials count with its initial value)") == 1
    )
    caplog.clear()
    await run({**BASE, "depth": ah.int(1, 9, init=3)}, where)
    assert caplog.text == ""  # it was said, and written down


async def test_a_removed_parameter_leaves_the_proposals_and_stays_in_the_history(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await run(BASE, where, objective=lambda p: p["x"])
    space = {"x": BASE["x"], "opt": BASE["opt"]}
    search = await run(space, where, objective=lambda p: p["x"])
    assert "n is gone (its values stay in the history)" in caplog.text
    assert [t.params for t in search.history[:30]] == [t.params for t in first.history]
    assert all(set(t.params) == {"x", "opt"} for t in search.history[30:])
    assert search.history["n"].tolist()[:30] == first.history["n"].tolist()
    assert all(v is None or np.isnan(v) for v in search.history["n"].tolist()[30:])
    # and comes back when the parameter does
    again = await loaded(BASE, where)
    assert column(again, "n")[:30] == column(first, "n") and column(again, "n")[30:] == [500] * 30


async def test_a_renamed_parameter_is_one_that_went_and_one_that_came(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    await run(BASE, where)
    search = await run({"rate": ah.float(0, 1, init=0.25), "n": BASE["n"], "opt": BASE["opt"]}, where)
    assert "rate is new" in caplog.text and "x is gone" in caplog.text
    assert column(search, "rate")[:30] == [0.25] * 30
    assert all(set(t.params) == {"x", "rate", "n", "opt"} for t in search.history[:30])
    assert all(set(t.params) == {"rate", "n", "opt"} for t in search.history[30:])


async def test_larger_bounds_let_the_search_go_further(where: str, caplog: pytest.LogCaptureFixture) -> None:
    def objective(params: dict[str, Any]) -> float:
        return float(params["x"])

    first = await run({"x": ah.float(0, 1)}, where, objective=objective)
    second = await run({"x": ah.float(0, 10)}, where, steps=60, objective=objective)
    assert "x is different" in caplog.text
    assert column(second, "x")[:30] == column(first, "x")
    assert max(column(second, "x")[30:]) > 5 and second.best_value == max(column(second, "x"))


@pytest.mark.parametrize(
    ("before", "now", "legal"),
    [
        (ah.float(0, 100), ah.float(0, 1), lambda v: 0 <= v <= 1),
        (ah.float(1e-3, 1e3, log=True), ah.float(1e-3, 1e-1, log=True), lambda v: 1e-3 <= v <= 1e-1),
        (ah.float(0, 100), ah.float(0, 1, precision=1), lambda v: v in [i / 10 for i in range(11)]),
        (ah.float(0, 100), ah.float(precision=0), lambda v: v == round(v)),
        (ah.int(1, 1000), ah.int(1, 10), lambda v: 1 <= v <= 10),
        (ah.int(1, 2**80), ah.int(1, 10), lambda v: 1 <= v <= 10),
        (ah.int(1, 1000), ah.int(16, 64, power_of=2), lambda v: v in (16, 32, 64)),
        (ah.int(1, 1000), ah.int(1, 100, multiple_of=7), lambda v: v % 7 == 0 and 7 <= v <= 98),
        (ah.float(0, 100, shape=3), ah.float(0, 1, shape=3), lambda v: min(v) >= 0 and max(v) <= 1),
        (ah.int(0, 100, shape=3), ah.int(0, 9, shape=3), lambda v: min(v) >= 0 and max(v) <= 9),
    ],
    ids=lambda p: str(p.describe()) if isinstance(p, ah.Parameter) else "",
)
async def test_every_proposal_lies_in_the_new_bounds_also_where_the_best_does_not(
    before: Any, now: Any, legal: Any, where: str
) -> None:
    """Eight other parameters, so that most local steps leave this one as the best had it."""
    others = {f"y{i}": ah.float(0, 1) for i in range(8)}
    first = await run({"v": before, **others}, where, objective=lambda p: 1e9 + float(np.sum(p["v"])))
    search = await run({"v": now, **others}, where, steps=60, objective=lambda p: p["y0"])
    assert search.best_value == first.best_value
    assert [repr(t.params["v"]) for t in search.history[:30]] == [repr(t.params["v"]) for t in first.history]
    assert "local" in {t.origin for t in search.history[30:]}
    assert all(legal(t.params["v"]) for t in search.history[30:])


async def test_guesses_are_filled_from_the_best_within_the_new_bounds(where: str) -> None:
    await run({"v": ah.float(0, 100), "y": ah.float(0, 1)}, where, objective=lambda p: p["v"])
    search = ah.Search({"v": ah.float(0, 1), "y": ah.float(0, 1)})
    search += {"y": 0.5}
    await search.run(lambda p: 0.0, steps=1, checkpoint_path=where, quiet=True)
    assert search.history[-1].params == {"v": 1.0, "y": 0.5}


async def test_options_may_be_added_and_reordered(where: str) -> None:
    first = await run({"opt": ah.choice("adam", "sgd"), "x": ah.float(0, 1)}, where)
    search = await run({"opt": ah.choice("lion", "sgd", "adam"), "x": ah.float(0, 1)}, where)
    assert column(search, "opt")[:30] == column(first, "opt")
    assert set(column(search, "opt")[30:]) == {"lion", "sgd", "adam"}


async def test_an_option_that_is_gone_stays_in_the_history(where: str) -> None:
    first = await run(BASE, where, objective=lambda p: (p["opt"] == "sgd") * 10 + p["x"])
    assert first.best is not None and first.best["opt"] == "sgd"
    search = await run({**BASE, "opt": ah.choice("adam", "lion")}, where, objective=lambda p: p["x"])
    assert column(search, "opt")[:30] == column(first, "opt")
    assert search.best == first.best
    assert set(column(search, "opt")[30:]) == {"adam", "lion"}


async def test_a_parameter_that_becomes_a_constant_or_another_kind(where: str) -> None:
    first = await run(BASE, where)
    search = await run({"x": ah.float(0, 1), "n": 64, "opt": ah.float(0, 1)}, where)
    assert [t.params for t in search.history[:30]] == [t.params for t in first.history]
    assert all(t.params["n"] == 64 and isinstance(t.params["opt"], float) for t in search.history[30:])


async def test_an_int_may_become_a_float_but_not_the_other_way_round(where: str) -> None:
    first = await run({"n": ah.int(1, 1000)}, where)
    search = await run({"n": ah.float(1, 1000)}, where)
    assert column(search, "n")[:30] == column(first, "n")
    assert len(search.history) == 60
    third = await run({"n": ah.int(1, 1000, init=7)}, where)
    assert [t.params["n"] for t in third.history][:30] == column(first, "n")
    assert all(isinstance(t.params["n"], float) for t in third.history[30:60])
    assert all(isinstance(t.params["n"], int) for t in third.history[60:])


async def test_an_array_of_another_shape_is_another_parameter(where: str) -> None:
    first = await run({"w": ah.float(0, 1, shape=3)}, where)
    search = await run({"w": ah.float(0, 1, shape=(2, 2))}, where)
    assert [t.params["w"].tolist() for t in search.history[:30]] == [t.params["w"].tolist() for t in first.history]
    assert {t.params["w"].shape for t in search.history[30:]} == {(2, 2)}


async def test_a_branch_keeps_its_trials_when_it_gains_or_loses_a_parameter(where: str) -> None:
    before = {
        "model": ah.choice({"kind": "svm", "C": ah.float(0, 1)}, {"kind": "knn", "k": ah.int(1, 99), "p": ah.int(1, 2)})
    }
    after = {
        "model": ah.choice(
            {"kind": "forest", "trees": ah.int(1, 500)},
            {"kind": "knn", "k": ah.int(1, 99)},
            {"kind": "svm", "C": ah.float(0, 1), "gamma": ah.float(0, 1, init=0.125)},
        )
    }
    first = await run(before, where)
    search = await run(after, where)
    for old, now in zip(first.history, search.history[:30], strict=True):
        expected = dict(old.params["model"])
        if expected["kind"] == "svm":
            expected["gamma"] = 0.125
        assert now.params["model"] == expected
    assert {t.params["model"]["kind"] for t in search.history[30:]} == {"forest", "knn", "svm"}


async def test_a_parameter_may_move_into_a_dict_and_out_of_a_list(where: str) -> None:
    before = {"layers": [{"units": ah.int(1, 9)}, {"units": ah.int(1, 9)}], "x": ah.float(0, 1)}
    first = await run(before, where)
    search = await run({"layers": [{"units": ah.int(1, 9)}], "x": ah.float(0, 1)}, where)
    assert search.history["layers.1.units"].tolist()[:30] == column(first, "layers.1.units")
    assert search.history[0].params["layers.1.units"] == first.history[0].params["layers"][1]["units"]
    assert search.history[-1].params["layers"][0]["units"] == column(search, "layers.0.units")[-1]


async def test_trials_that_are_in_flight_survive_a_change(where: str) -> None:
    async def waiting(params: dict[str, Any]) -> float:
        search.stop()
        await asyncio.Event().wait()
        return 1.0

    search = ah.Search(BASE, seed=1)
    search += {"x": 0.75, "n": 999, "opt": "sgd"}
    await search.run(waiting, steps=10, grace=0, checkpoint_path=where, quiet=True)
    seen: list[tuple[int, dict[str, Any]]] = []

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        seen.append((trial.attempt, params))
        return 1.0

    await run(
        {"x": ah.float(0, 0.5), "opt": BASE["opt"], "new": ah.bool(init=True)}, where, steps=1, objective=objective
    )
    assert seen == [(2, {"x": 0.75, "opt": "sgd", "new": True})]


async def test_duplicates_are_known_across_a_change(where: str) -> None:
    await run({"a": ah.int(1, 6)}, where)
    search = await run({"a": ah.int(1, 8)}, where)
    assert sorted(column(search, "a")) == [1, 2, 3, 4, 5, 6, 7, 8]
    search = await run({"a": ah.int(1, 3), "b": ah.bool()}, where)
    assert sorted((t.params["a"], t.params["b"]) for t in search.history[8:]) == [(1, True), (2, True), (3, True)]


async def test_a_changed_search_saves_what_it_does_not_know(tmp_path: Path, where: str) -> None:
    first = await run({"x": ah.float(0, 1), "f": ah.choice(np.sin, np.cos), "big": ah.int(2**70, 2**71)}, where)
    changed = await loaded({"x": ah.float(0, 1)}, where)
    await changed.save(tmp_path / "copy.ckpt")
    back = await loaded(
        {"x": ah.float(0, 1), "f": ah.choice(np.cos, np.sin), "big": ah.int(2**70, 2**71)}, str(tmp_path / "copy.ckpt")
    )
    assert [t.params for t in back.history] == [t.params for t in first.history]


async def test_the_log_says_which_space_each_run_had(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    await run({"x": ah.float(0, 1)}, str(path), steps=1)
    await run({"x": ah.float(0, 2)}, str(path), steps=1)
    await run({"x": ah.float(0, 2)}, str(path), steps=1)
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    runs = [r for r in records if r["kind"] == "run"]
    assert records[0]["space"]["x"]["high"] == 1.0
    assert [r.get("space", {}).get("x", {}).get("high") for r in runs] == [None, 2.0, None]


NESTED = ah.choice(
    {"name": "adam", "eps": 1, "lr": ah.float(0, 1)}, {"name": "sgd", "lr": ah.float(0, 1), "m": [ah.bool()]}
)
BARE = ah.choice("auto", ah.float(1, 2), ah.choice(7, ah.int(10, 20)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"opt": NESTED}, {"opt": {"name": "adam", "lr": ah.float(0, 1)}}),
        ({"opt": NESTED}, {"opt": ah.choice({"name": "adam", "eps": 2, "lr": ah.float(0, 1)}, "none")}),
        ({"opt": NESTED, "x": ah.int(1, 1)}, {"x": ah.int(1, 1)}),
        ({"opt": BARE}, {"opt": ah.float(1, 2)}),
        ({"opt": BARE, "x": ah.int(1, 1)}, {"x": ah.int(1, 1)}),
        ({"in": {"opt": BARE}}, {"in": {"opt": ah.int(1, 2)}}),
    ],
)
async def test_what_was_evaluated_is_shown_with_its_values_whatever_the_space_has_become(
    where: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first = await run(before, where, steps=20)
    changed = await loaded(after, where)
    for old, now in zip(first.history, changed.history, strict=True):
        assert {k: v for k, v in now.params.items() if k in before} == plain(old.params)
    name = "in.opt" if "in" in before else "opt"
    shown = [plain(t.params["in"]["opt"] if "in" in before else t.params["opt"]) for t in first.history]
    assert plain(changed.history[name].tolist()) == shown
    assert changed.history.to_pandas()[name].map(plain).tolist() == shown


def plain(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


async def test_looking_at_what_a_space_does_not_know_changes_nothing_of_it(where: str, tmp_path: Path) -> None:
    first = await run({"opt": NESTED, "x": ah.int(1, 1)}, where)
    changed = await loaded({"x": ah.int(1, 1)}, where)
    assert changed.best is not None and len(list(changed.history)) == 30
    await changed.save(tmp_path / "copy.ckpt")
    back = await loaded({"opt": NESTED, "x": ah.int(1, 1)}, str(tmp_path / "copy.ckpt"))
    assert [t.params for t in back.history] == [t.params for t in first.history]


async def test_every_frame_has_what_the_space_has_lost(where: str) -> None:
    await run({"x": ah.float(0, 1), "gone": ah.float(0, 1), "n": ah.int(1, 9)}, where, steps=3)
    search = await run({"x": ah.float(0, 1)}, where, steps=2)
    frame = search.history.to_pandas()
    assert frame["gone"].dtype == np.float64 and frame["gone"].isna().tolist() == [False] * 3 + [True] * 2
    assert {"gone", "n"} <= set(search.history.to_polars().columns)
    numbers = search.history["n"].tolist()
    assert all(type(v) is int for v in numbers[:3]) and numbers[3:] == [None, None]


async def test_a_parameter_that_was_nothing_whenever_it_was_there_is_a_column_too(where: str) -> None:
    await run({"x": ah.int(1, 1), "weight": ah.choice(None)}, where, steps=1)
    changed = await loaded({"x": ah.int(1, 1)}, where)
    assert changed.history["weight"].tolist() == [None] and "weight" in changed.history.to_pandas()
    with pytest.raises(KeyError, match="'other' is not a parameter"):
        changed.history["other"]


async def test_a_star_that_is_a_value_stays_one(where: str) -> None:
    await run({"opt": ah.choice({"a": "*", "b": 1}, ["*", 2])}, where, steps=2)
    for space in ({"opt": {"a": "K", "x": ah.bool()}}, {"opt": ["K", ah.int(5, 9)]}, {"x": ah.bool()}):
        shown = [t.params["opt"] for t in (await loaded(space, where)).history]
        assert {"a": "*", "b": 1} in shown and ["*", 2] in shown


@pytest.mark.parametrize(
    ("before", "after", "now"),
    [
        ({"opt": ah.choice("lion", "adam", "sgd")}, {"opt": ah.choice("sgd", "adam")}, {"opt": "sgd"}),
        ({"w": ah.int(1, 1, shape=3)}, {"w": ah.int(2, 2, shape=2)}, {"w": [2, 2]}),
        ({"x": ah.int(3, 3), "gone": ah.int(1, 1)}, {"x": ah.int(3, 3)}, {"x": 3}),
    ],
)
async def test_what_was_in_flight_counts_as_what_it_ran_as(
    where: str, before: dict[str, Any], after: dict[str, Any], now: dict[str, Any]
) -> None:
    async with ah.Search(before, seed=1).session(steps=10, checkpoint_path=where) as session:
        assert await session.ask() is not None
    ran: list[Any] = []

    def objective(params: dict[str, Any]) -> float:
        ran.append({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in params.items()})
        return 1.0

    search = await run(after, where, steps=10, objective=objective)
    told = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in t.params.items()} for t in search.history]
    assert told == ran and ran[0] == now
    assert all(ran.count(params) == 1 for params in ran)
    assert (await loaded(after, where)).history[0].attempt == 2
