"""A noisy objective, averaged, stays what it was: a coroutine function gives an async generator."""

from __future__ import annotations

import asyncio
import inspect
import math
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.errors import UsageError


def noisy(params: dict[str, Any], i: int) -> float:
    return float(params["x"] + i)


async def noisy_async(params: dict[str, Any], i: int) -> float:
    return float(params["x"] + i)


async def run(objective: Any, **words: Any) -> ah.Trial:
    search = ah.Search({"x": ah.int(10, 10)})
    await search.run(objective, steps=1, quiet=True, **words)
    return search.history[0]


@pytest.mark.parametrize("objective", [noisy, noisy_async])
@pytest.mark.parametrize(
    ("words", "value", "estimates"),
    [
        ({}, 11.5, (10.0, 10.5, 11.0, 11.5)),
        ({"yield_after": 2}, 11.5, (11.0, 11.5)),
        ({"yield_after": 3}, 11.5, (11.5,)),
        ({"reduction": "max"}, 13.0, (10.0, 11.0, 12.0, 13.0)),
        ({"reduction": "min"}, 10.0, (10.0, 10.0, 10.0, 10.0)),
        ({"reduction": "sum"}, 46.0, (10.0, 21.0, 33.0, 46.0)),
        ({"reduction": "median"}, 11.5, (10.0, 10.5, 11.0, 11.5)),
        ({"reduction": lambda values: values[0] - len(values)}, 6.0, (9.0, 8.0, 7.0, 6.0)),
    ],
    ids=str,
)
async def test_values_are_reduced_as_they_come(objective: Any, words: Any, value: float, estimates: Any) -> None:
    trial = await run(ah.wrap_n_times(objective, 4, pass_index_arg=True, **words))
    assert (trial.value, trial.estimates) == (value, estimates)


def test_an_objective_that_takes_no_index_is_not_given_one() -> None:
    async def alone(params: dict[str, Any]) -> float:
        return 1.0

    with pytest.raises(UsageError, match="takes no second argument for the index"):
        ah.wrap_n_times(alone, 3, pass_index_arg=True)
    ah.wrap_n_times(lambda *given: float(given[1]), 3, pass_index_arg=True)


def test_the_kind_is_kept() -> None:
    assert inspect.isasyncgenfunction(ah.wrap_n_times(noisy_async, 3).__call__)
    assert inspect.isgeneratorfunction(ah.wrap_n_times(noisy, 3).__call__)
    assert ah.wrap_n_times(noisy, 3).__name__ == "noisy"  # type: ignore[attr-defined]  # taken over


async def test_a_pruner_stops_the_repetitions() -> None:
    calls = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        return float(params["x"])

    search = ah.Search({"x": ah.float(0, 1)}, seed=3)
    await search.run(ah.wrap_n_times(objective, 10), steps=40, pruner=ah.pruners.TopKPruner(2), quiet=True)
    assert search.history.pruned.sum() > 10
    assert calls == sum(len(t.estimates) for t in search.history) < 300


async def test_the_trial_and_kwargs_reach_the_objective() -> None:
    seen: list[tuple[int, int, str]] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial, tag: str) -> float:
        seen.append((trial.id, ah.current_trial().id, tag))
        return 1.0

    def plain(params: dict[str, Any], trial: ah.RunningTrial, *, tag: str = "none") -> float:
        seen.append((trial.id, ah.current_trial().id, tag))
        return 1.0

    await run(ah.wrap_n_times(objective, 2), kwargs={"tag": "a"})
    await run(ah.wrap_n_times(plain, 2), kwargs={"tag": "b"})
    await run(ah.wrap_n_times(plain, 1))
    assert seen == [(0, 0, "a")] * 2 + [(0, 0, "b")] * 2 + [(0, 0, "none")]


async def asynchronous(params: dict[str, Any], i: int = 0) -> float:
    return float(params["x"] + i)


def gives_a_coroutine(params: dict[str, Any]) -> Any:
    return asynchronous(params)


@pytest.mark.parametrize("executor", [None, "process"])
async def test_a_function_that_gives_an_awaitable_is_awaited_each_time(executor: Any) -> None:
    trial = await run(ah.wrap_n_times(gives_a_coroutine, 3), executor=executor)
    assert (trial.value, trial.estimates) == (10.0, (10.0, 10.0, 10.0))


async def test_a_lambda_that_gives_a_coroutine_is_cancelled_where_it_awaits() -> None:
    async def waiting(i: int) -> float:
        try:
            if i:
                await asyncio.Event().wait()
        finally:
            left.append(i)
        return 1.0

    left: list[int] = []
    trial = await run(ah.wrap_n_times(lambda p, i: waiting(i), 3, pass_index_arg=True), timeout=0.2, on_error="record")
    assert (trial.state, trial.estimates, left) == ("failed", (1.0,), [0, 1])


async def test_an_index_and_the_trial_may_both_be_had() -> None:
    async def objective(params: dict[str, Any], i: int, trial: ah.RunningTrial) -> float:
        return 10.0 * i + trial.id

    trial = await run(ah.wrap_n_times(objective, 3, reduction="sum", pass_index_arg=True))
    assert trial.value == 30.0
    named_so = await run(ah.wrap_n_times(lambda params, trial: trial, 3, reduction="sum", pass_index_arg=True))
    assert named_so.value == 3.0


async def test_what_cannot_be_called_is_refused_before_the_run() -> None:
    wrong: list[tuple[Any, bool]] = [(lambda p, trial, more: 1.0, False), (lambda p, i, trial, more: 1.0, True)]
    for objective, indexed in wrong:
        with pytest.raises(UsageError, match="missing a required argument: 'more'"):
            await run(ah.wrap_n_times(objective, 2, pass_index_arg=indexed))
    with pytest.raises(UsageError, match="unexpected keyword argument 'data'"):
        await run(ah.wrap_n_times(asynchronous, 2), kwargs={"data": 1})


def in_another_process(params: dict[str, Any]) -> float:
    return float(params["x"])


async def test_it_can_be_sent_to_another_process() -> None:
    trial = await run(ah.wrap_n_times(in_another_process, 3), executor="process")
    assert (trial.value, trial.estimates) == (10.0, (10.0, 10.0, 10.0))


async def test_what_the_objective_raises_is_the_callers() -> None:
    async def objective(params: dict[str, Any], i: int) -> float:
        if i == 2:
            raise ZeroDivisionError("third time unlucky")
        return 1.0

    with pytest.raises(ZeroDivisionError, match="third time unlucky") as caught:
        await run(ah.wrap_n_times(objective, 5, pass_index_arg=True))
    assert "in trial 0 (attempt 1) with params {'x': 10}" in caught.value.__notes__[0]


async def test_a_repetition_without_a_number_is_refused() -> None:
    with pytest.raises(ah.ObjectiveError, match="the objective returned None instead of a number"):
        await run(ah.wrap_n_times(lambda params: None, 2))


async def test_a_reduction_without_a_number_is_refused() -> None:
    with pytest.raises(ah.ObjectiveError, match="the reduction got None"):
        await run(ah.wrap_n_times(lambda params: 1.0, 2, reduction=lambda values: None))  # type: ignore[arg-type,return-value]  # that is the point


async def test_nan_in_one_repetition_is_nan_in_the_mean() -> None:
    trial = await run(
        ah.wrap_n_times(lambda p, i: math.nan if i == 1 else 1.0, 3, pass_index_arg=True), ignore_nans=True
    )
    assert trial.state == "nan"


async def generator(params: dict[str, Any]) -> Any:
    yield 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ah.wrap_n_times(noisy, 0), "n=0"),
        (lambda: ah.wrap_n_times(noisy, 1.5), "n=1.5"),  # type: ignore[arg-type]  # that is the point
        (lambda: ah.wrap_n_times(noisy, True), "n=True"),
        (lambda: ah.wrap_n_times(noisy, 3, yield_after=3), "from 0 to n - 1 = 2"),
        (lambda: ah.wrap_n_times(noisy, 3, yield_after=-1), "yield_after=-1"),
        (lambda: ah.wrap_n_times(noisy, 3, yield_after=1.5), "yield_after=1.5"),  # type: ignore[arg-type]  # as above
        (lambda: ah.wrap_n_times(noisy, 3, yield_after="x"), "yield_after='x'"),  # type: ignore[arg-type]  # as above
        (lambda: ah.wrap_n_times(noisy, 3, reduction=[]), r"reduction=\[\]"),  # type: ignore[arg-type]  # as above
        (lambda: ah.wrap_n_times(noisy, 3, reduction="mode"), "reduction='mode'"),  # type: ignore[arg-type]  # as above
        (lambda: ah.wrap_n_times(generator, 3), "not one that yields estimates"),
        (lambda: ah.wrap_n_times(7, 3), "callable"),  # type: ignore[arg-type]  # as above
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()
