"""The history by row and by column, and its way into data frames."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asynchopper as ah


async def searched(objective: Any, space: dict[str, Any], steps: int = 20, **words: Any) -> ah.Search:
    search = ah.Search(space, seed=1)
    await search.run(objective, steps=steps, quiet=True, **words)
    return search


MIXED = {
    "lr": ah.float(1e-4, 1, log=True),
    "n": ah.int(1, 100),
    "opt": ah.choice("adam", "sgd"),
    "flag": ah.bool(),
    "w": ah.float(-1, 1, shape=(2, 2)),
    "model": ah.choice({"kind": "a", "depth": ah.int(1, 9)}, {"kind": "b", "rate": ah.float(0, 1)}, None),
    "constant": 3,
}


async def outcome_of_each_kind(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.report(float(trial.id))
    if trial.id % 5 == 1:
        raise ah.TrialPruned
    if trial.id % 5 == 2:
        raise RuntimeError("no luck")
    if trial.id % 5 == 3:
        return math.nan
    trial.add_cost(2.5)
    return float(trial.id)


async def mixed() -> ah.Search:
    return await searched(outcome_of_each_kind, MIXED, on_error="record", ignore_nans=True)


async def test_rows_are_trials_in_the_order_they_were_told() -> None:
    history = (await mixed()).history
    assert len(history) == 20
    assert [t.id for t in history] == list(range(20))
    first = history[0]
    assert (first.id, first.attempt, first.value, first.state, first.origin) == (0, 1, 0.0, "completed", "initial")
    assert (first.estimates, first.cost, first.error) == ((0.0,), 2.5, None)
    assert first.seconds >= 0 and set(first.params) == set(MIXED)
    assert history[-1].id == 19 and [t.id for t in history[3:6]] == [3, 4, 5]
    assert history[2].error == "RuntimeError: no luck"
    assert [t.state for t in history[:5]] == ["completed", "pruned", "failed", "nan", "completed"]
    with pytest.raises(IndexError, match="trial 20 of 20"):
        history[20]


async def test_trials_with_arrays_can_be_compared() -> None:
    search = ah.Search(w=ah.float(0, 1, shape=3), deep=[{"v": ah.int(0, 9, shape=2)}], seed=1)
    await search.run(lambda p: float(p["w"].sum()), steps=5, quiet=True)
    trials = list(search.history)
    assert search.best_trial == search.best_trial and search.best_trial in search.history
    assert [search.history.index(t) for t in trials] == [0, 1, 2, 3, 4]
    assert trials[0] != trials[1] and trials[0] != "a trial"
    assert trials[0] != replace(trials[0], params={**trials[0].params, "w": trials[0].params["w"] + 1})
    assert trials[0] != replace(trials[0], params={**trials[0].params, "w": 1.0})


async def test_columns_have_one_entry_a_trial() -> None:
    history = (await mixed()).history
    assert history["lr"].dtype == np.float64 and history["n"].dtype == np.int64 and history["flag"].dtype == np.bool_
    assert set(history["opt"]) <= {"adam", "sgd"}
    assert history["w"].shape == (20, 2, 2)
    assert [t.params["n"] for t in history] == history["n"].tolist()
    depths, rates = history["model.depth"], history["model.rate"]
    for i, t in enumerate(history):
        model = t.params["model"] or {}
        assert math.isnan(depths[i]) if "depth" not in model else depths[i] == model["depth"]
        assert math.isnan(rates[i]) if "rate" not in model else rates[i] == model["rate"]
    assert history.pruned.tolist() == [i % 5 == 1 for i in range(20)]
    assert history.failed.tolist() == [i % 5 == 2 for i in range(20)]
    assert history.states.tolist() == [t.state for t in history]
    assert history.origins.tolist() == [t.origin for t in history]
    assert [math.isnan(v) for v in history.values] == [t.state != "completed" for t in history]
    assert history.seconds.shape == (20,) and (history.seconds >= 0).all()
    with pytest.raises(KeyError, match="'lrr' is not a parameter; there are lr, n, opt"):
        history["lrr"]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
async def test_best_values_only_ever_get_better(direction: Any) -> None:
    search = ah.Search({"x": ah.float(-1, 1)}, seed=3)
    await search.run(lambda p: p["x"], direction, steps=50, quiet=True)
    values, best = search.history.values, search.history.best_values
    accumulated = np.maximum.accumulate(values) if direction == "maximize" else np.minimum.accumulate(values)
    assert np.array_equal(best, accumulated)
    assert best[-1] == search.best_value


async def test_best_values_before_the_first_are_nan() -> None:
    search = await searched(outcome_of_each_kind, {"x": ah.float()}, on_error="record", ignore_nans=True)
    best = search.history.best_values
    assert best[0] == 0.0 and best[3] == 0.0 and best[4] == 4.0
    assert len(ah.Search(x=ah.bool()).history.best_values) == 0


async def test_columns_are_copies_that_a_live_search_may_outgrow() -> None:
    search = ah.Search({"x": ah.int(0, 1000)}, seed=1)
    columns: list[Any] = []

    async def objective(params: dict[str, Any]) -> float:
        columns.append((search.history["x"], search.history.values))
        return 1.0

    await search.run(objective, steps=30, quiet=True)
    assert [len(x) for x, _ in columns] == list(range(30))


async def test_integers_beyond_64_bits_stay_exact() -> None:
    search = await searched(lambda p: 1, {"x": ah.int(2**80, 2**80 + 10)}, steps=11)
    assert sorted(search.history["x"]) == [2**80 + i for i in range(11)]


async def test_a_history_is_empty_before_anything_ran() -> None:
    search = ah.Search(MIXED)
    history = search.history
    assert (len(history), list(history), history.values.tolist()) == (0, [], [])
    assert (search.best, search.best_value, search.best_trial, search.outcome) == (None, None, None, None)
    assert history["lr"].tolist() == [] and len(history.to_pandas()) == 0
    assert repr(history) == "History(0 trials, best None)"


FRAME = [
    "id",
    "state",
    "origin",
    "value",
    "lr",
    "n",
    "opt",
    "flag",
    "w",
    "model",
    "model.depth",
    "model.rate",
    "cost",
    "seconds",
]


async def test_pandas_gets_a_row_a_trial() -> None:
    search = await mixed()
    frame = search.history.to_pandas()
    assert list(frame.columns) == FRAME
    assert frame["n"].dtype == np.int64 and frame["lr"].dtype == np.float64
    assert frame["id"].tolist() == list(range(20)) and frame["cost"].sum() == 8 * 2.5
    assert frame["lr"].tolist() == search.history["lr"].tolist()
    assert frame.loc[frame.state == "completed", "value"].max() == search.best_value


async def test_parameters_may_be_called_as_a_column_of_the_frame() -> None:
    names = ("id", "state", "origin", "value", "cost", "seconds")
    search = ah.Search({name: ah.float(1, 2) for name in names}, seed=1)
    await search.run(lambda p: p["cost"], steps=5, quiet=True)
    frame = search.history.to_pandas()
    assert [frame[f"params.{name}"].tolist() for name in names] == [search.history[name].tolist() for name in names]
    assert frame["value"].tolist() == search.history.values.tolist() and frame["id"].tolist() == [0, 1, 2, 3, 4]


async def test_polars_gets_a_row_a_trial() -> None:
    search = await mixed()
    frame = search.history.to_polars()
    assert frame.columns == FRAME
    assert frame.height == 20
    assert frame["lr"].to_list() == search.history["lr"].tolist()
    assert frame["opt"].to_list() == search.history["opt"].tolist()


async def test_arrow_gets_a_row_a_trial() -> None:
    search = await mixed()
    table = search.history.to_arrow()
    assert table.column_names == FRAME
    assert table.num_rows == 20
    assert table["lr"].to_pylist() == search.history["lr"].tolist()


class Thing:
    def __repr__(self) -> str:
        return "a thing"


async def test_arrays_that_have_got_another_dimension_fit_every_frame(tmp_path: Path) -> None:
    log = tmp_path / "a.ckpt"
    for shape in (3, (2, 2), 4):
        search = ah.Search({"w": ah.float(0, 1, shape=shape), "x": ah.float(0, 1)}, seed=1)
        await search.run(lambda p: p["x"], steps=3, checkpoint_path=log, quiet=True)
    history = search.history
    assert [np.shape(w) for w in history["w"]] == [(3,)] * 3 + [(2, 2)] * 3 + [(4,)] * 3
    frames = history.to_pandas(), history.to_polars(), history.to_arrow()
    assert [len(frame) for frame in frames] == [9, 9, 9]
    assert frames[2]["w"].to_pylist()[:1] == [str(history["w"][0].tolist())]
    search = ah.Search({"w": ah.float(0, 1, shape=4), "x": ah.float(0, 1)})
    await search.run(lambda p: p["x"], steps=2, quiet=True)
    assert search.history.to_arrow()["w"].to_pylist() == search.history["w"].tolist()


async def test_options_of_mixed_types_fit_every_frame() -> None:
    space = {"x": ah.choice(1, "two", None, Thing(), [3], labels=list("abcde")), "value": ah.int(1, 9)}
    search = await searched(lambda p: 1, space, steps=30)
    history = search.history
    assert history.to_pandas()["x"].tolist() == history["x"].tolist()
    assert history.to_pandas()["params.value"].tolist() == history["value"].tolist()
    for frame in (history.to_polars(), history.to_arrow()):
        assert set(frame["x"].to_pylist() if hasattr(frame, "column_names") else frame["x"].to_list()) == {
            "1",
            "two",
            None,
            "a thing",
            "[3]",
        }


async def test_trials_without_a_number_can_be_compared() -> None:
    search = ah.Search(x=ah.int(1, 1), o=ah.custom(sample=lambda: np.array([math.nan, 1.0])))
    await search.run(lambda p: math.nan, steps=1, ignore_nans=True, quiet=True)
    assert search.history[0] == search.history[0] and search.history[0].state == "nan"


async def test_a_search_is_not_copied_by_halves() -> None:
    search = ah.Search(x=ah.int(1, 1))
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled: save it, and load it"):
            copying(search)


async def test_it_may_be_read_in_any_thread_while_the_search_runs() -> None:
    search, before = ah.Search(x=ah.float(0, 1), seed=1), sys.getswitchinterval()

    def objective(params: dict[str, Any]) -> float:
        for _ in range(10):
            assert len(search.history.values) <= len(search.history.best_values)
        return float(params["x"])

    sys.setswitchinterval(1e-5)
    try:
        await search.run(
            objective, steps=1500, concurrency=8, quiet=True, sampler=ah.RandomSampler(), duplicates="allow"
        )
    finally:
        sys.setswitchinterval(before)
    assert [t.value for t in search.history] == search.history["x"].tolist()
    assert len(search.history) == 1500


async def test_times_of_numpy_stay_what_they_are_and_wide_integers_of_a_branch_numbers() -> None:
    days = [np.datetime64(f"202{n}-01-01", "ns") for n in range(3)]
    search = ah.Search(
        day=ah.choice(*days, labels=["a", "b", "c"]), m=ah.choice({"k": ah.int(0, 2**60)}, {"y": 1}), seed=1
    )
    await search.run(lambda p: 1.0, steps=12, quiet=True)
    assert set(search.history["day"]) <= set(days)
    assert search.history["m.k"].dtype == np.float64  # with NaN where there is none


async def test_options_that_are_numpy_numbers_are_numbers_in_columns() -> None:
    search = ah.Search(
        lr=ah.choice(list(np.logspace(-4, -1, 4))), n=ah.choice(*np.arange(3)), wide=ah.choice(2**53 + 1, 0.5, 10**400)
    )
    await search.run(lambda p: 1.0, steps=12, quiet=True)
    history = search.history
    assert (history["lr"].dtype, history["n"].dtype) == (np.float64, np.int64)
    assert str(history.to_arrow().schema.field("lr").type) == "double"
    assert set(history["wide"]) == {2**53 + 1, 0.5, 10**400}  # to the last digit
