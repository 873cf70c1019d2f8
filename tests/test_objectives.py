"""What an objective may be, what it may return, and what its trial does for it."""

from __future__ import annotations

import asyncio
import decimal
import fractions
import functools
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import pytest

import asynchopper as ah
from asynchopper.errors import ObjectiveError, UsageError

pytestmark = pytest.mark.every_loop

SPACE = {"x": ah.float(-1, 1)}


async def run(objective: Any, direction: Any = "maximize", steps: int = 10, **words: Any) -> ah.Search:
    search = ah.Search(SPACE, seed=words.pop("seed", 1))
    await search.run(objective, direction, steps=steps, quiet=True, **words)
    return search


# -- the four kinds, with params or params and trial


async def coroutine(params: dict[str, Any]) -> float:
    await asyncio.sleep(0)
    return float(params["x"])


async def coroutine_with_trial(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    await trial.report(params["x"] / 2)
    return float(params["x"])


async def async_generator(params: dict[str, Any]) -> Any:
    yield params["x"] / 2
    await asyncio.sleep(0)
    yield params["x"]


async def async_generator_with_trial(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
    assert trial.params is params
    yield params["x"] / 2
    yield params["x"]


def function(params: dict[str, Any]) -> float:
    return float(params["x"])


def function_with_trial(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.report(params["x"] / 2)
    return float(params["x"])


def generator(params: dict[str, Any]) -> Any:
    yield params["x"] / 2
    yield params["x"]


def generator_with_trial(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
    assert trial.params is params
    yield params["x"] / 2
    yield params["x"]


KINDS = [
    (coroutine, 0),
    (coroutine_with_trial, 1),
    (async_generator, 2),
    (async_generator_with_trial, 2),
    (function, 0),
    (function_with_trial, 1),
    (generator, 2),
    (generator_with_trial, 2),
]


@pytest.mark.parametrize(("objective", "estimates"), KINDS, ids=[k[0].__name__ for k in KINDS])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_all_kinds_of_objectives_run(objective: Any, estimates: int, concurrency: int) -> None:
    search = await run(objective, concurrency=concurrency)
    assert len(search.history) == 10
    for trial in search.history:
        assert trial.value == trial.params["x"] and len(trial.estimates) == estimates
        if estimates:
            assert trial.estimates[0] == trial.params["x"] / 2
    assert search.best_value == max(search.history.values)
    assert search.best == {"x": search.best_value}


@pytest.mark.parametrize("objective", [coroutine, async_generator, function, generator])
async def test_all_kinds_of_objectives_run_in_threads(objective: Any) -> None:
    search = await run(objective, executor="thread")
    assert [t.value for t in search.history] == [t.params["x"] for t in search.history]


async def test_callable_objects_methods_partials_and_lambdas_are_objectives() -> None:
    class Scorer:
        async def __call__(self, params: dict[str, Any]) -> float:
            return float(params["x"])

        def method(self, params: dict[str, Any], trial: ah.RunningTrial) -> float:
            return float(params["x"])

    async def one_that_gives_another(params: dict[str, Any]) -> Any:
        return coroutine(params)

    async def scaled(factor: float, params: dict[str, Any]) -> float:
        return factor * float(params["x"])

    for objective in (
        Scorer(),
        Scorer().method,
        functools.partial(scaled, 1.0),
        lambda params: params["x"],
        lambda p: coroutine(p),
        one_that_gives_another,
    ):
        search = await run(objective)
        assert [t.value for t in search.history] == [t.params["x"] for t in search.history]


async def test_kwargs_are_passed_on() -> None:
    async def objective(params: dict[str, Any], data: list[int], *, scale: float) -> float:
        return scale * sum(data)

    search = await run(objective, kwargs={"data": [1, 2], "scale": 10})
    assert search.best_value == 30.0

    def by_name(params: dict[str, Any], *, trial: ah.RunningTrial, scale: float) -> float:
        return scale * trial.attempt

    assert (await run(by_name, kwargs={"scale": 3})).best_value == 3.0


@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "wrapped"])
async def test_who_names_a_trial_gets_it_wherever_it_stands(wrapped: bool) -> None:
    def second(params: dict[str, Any], t: ah.RunningTrial) -> float:
        return 3.0 * t.attempt

    def by_position(params: dict[str, Any], trial: ah.RunningTrial, /) -> float:
        return 3.0 * trial.attempt

    def third(params: dict[str, Any], scale: float, trial: ah.RunningTrial) -> float:
        return scale * trial.attempt

    def after_a_default(params: dict[str, Any], scale: float = 3.0, *, trial: ah.RunningTrial) -> float:
        return scale * trial.attempt

    for objective in (second, by_position, third, after_a_default):
        words: dict[str, Any] = {"kwargs": {"scale": 3}} if objective is third else {}
        search = await run(ah.wrap_n_times(objective, 2) if wrapped else objective, steps=1, **words)
        assert search.best_value == 3.0


@pytest.mark.parametrize(
    ("objective", "words", "said"),
    [
        (7, {}, "must be callable"),
        (lambda: 1, {}, "must take the parameters as its first argument"),
        (lambda params, trial, more: 1, {}, "cannot be called with params, trial"),
        (lambda params: 1, {"kwargs": {"data": 1}}, "cannot be called with params and kwargs"),
        (lambda params, *, data: 1, {}, "missing a required"),
    ],
)
async def test_an_objective_that_cannot_be_called_is_refused_before_the_run(
    objective: Any, words: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        await run(objective, **words)


async def test_a_value_is_anything_that_is_one_number() -> None:
    values = [
        1,
        2.5,
        True,
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.array(4.0),
        np.array([5.0]),
        np.array([[6]]),
        np.array([[7.0]], np.float32),
        np.longdouble(8),
        fractions.Fraction(1, 2),
        decimal.Decimal("1.5"),
    ]
    given = iter(values)

    async def objective(params: dict[str, Any]) -> Any:
        return next(given)

    search = await run(objective, steps=len(values))
    assert search.history.values.tolist() == [float(v.item() if isinstance(v, np.ndarray) else v) for v in values]
    assert all(type(t.value) is float for t in search.history)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "{} None instead of a number; {} (or yield)"),
        ("0.5", "{} '0.5' of type str, which is not a number"),
        ((1.0, {}), "of type tuple, which is not a number; return one number"),
        ({"loss": 1}, "of type dict, which is not a number; return one number"),
        (np.zeros(3), "not one number"),
        (np.zeros(0), "not one number"),
        (np.array([1j]), "not one number"),
        (np.array([None]), "not one number"),
        (1j, "of type complex, which is not a number"),
        (b"1", "not a number"),
        (object(), "not a number"),
        (10**400, "not one number"),
    ],
    ids=lambda v: str(type(v).__name__),
)
@pytest.mark.parametrize("kind", ["coroutine", "function", "async generator", "report"])
async def test_what_is_not_a_number_is_an_error_that_says_so(value: Any, said: str, kind: str) -> None:
    async def returning(params: dict[str, Any]) -> Any:
        return value

    async def yielding(params: dict[str, Any]) -> Any:
        yield value

    async def reporting(params: dict[str, Any]) -> float:
        ah.report(value)
        return 1.0

    objective = {"coroutine": returning, "function": lambda p: value, "async generator": yielding, "report": reporting}[
        kind
    ]
    words = ("the objective returned", "return") if kind in ("coroutine", "function") else ("report got", "give")
    with pytest.raises(ObjectiveError, match=re.escape(said.format(*words))) as caught:
        await run(objective)
    assert caught.value.__notes__[0].startswith("in trial 0 (attempt 1) with params {'x': 0.0}")
    search = await run(objective, on_error="record")
    assert [t.state for t in search.history] == ["failed"] * 10 and search.best is None


@pytest.mark.parametrize("kind", [1, 2])
async def test_a_generator_that_yields_nothing_is_an_error(kind: int) -> None:
    async def nothing(params: dict[str, Any]) -> Any:
        for _ in ():
            yield 1.0

    def nothing_plain(params: dict[str, Any]) -> Any:
        yield from ()

    with pytest.raises(ObjectiveError, match="yielded nothing"):
        await run(nothing if kind == 1 else nothing_plain)


async def test_a_plain_generator_may_also_return_its_value() -> None:
    def objective(params: dict[str, Any]) -> Any:
        yield 1.0
        return 7.0

    search = await run(objective, steps=1)
    assert (search.history[0].value, search.history[0].estimates) == (7.0, (1.0,))


# -- NaN and infinities


async def test_nan_stops_the_run_and_says_what_to_do() -> None:
    with pytest.raises(ObjectiveError, match=r"returned NaN.*ignore_nans=True") as caught:
        await run(lambda p: math.nan)
    assert "in trial 0 (attempt 1)" in caught.value.__notes__[0]


async def test_nan_is_recorded_when_asked_for() -> None:
    search = await run(lambda p: math.nan if p["x"] < 0 else p["x"], steps=30, ignore_nans=True)
    states = [t.state for t in search.history]
    assert states.count("nan") > 1 and states.count("completed") > 5
    assert all((t.state == "nan") == (t.params["x"] < 0) for t in search.history)
    assert search.best_value is not None and search.best_value >= 0
    assert all(math.isnan(t.value) for t in search.history if t.state == "nan")
    search = await run(lambda p: math.nan, steps=3, on_error="record")
    assert [t.state for t in search.history] == ["nan"] * 3 and search.best is None


async def test_infinities_are_values() -> None:
    search = await run(
        lambda p: math.inf if p["x"] > 0.5 else -math.inf if p["x"] < -0.5 else p["x"], "minimize", steps=30
    )
    assert search.best_value == -math.inf
    assert {t.state for t in search.history} == {"completed"}


# -- what a trial does for its objective


async def test_a_trial_says_who_it_is() -> None:
    seen: list[ah.RunningTrial] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        assert ah.current_trial() is trial and trial.params is params
        seen.append(trial)
        return 1.0

    await run(objective, steps=3)
    assert [(t.id, t.attempt, t.restored) for t in seen] == [(0, 1, None), (1, 1, None), (2, 1, None)]
    assert repr(seen[0]) == "RunningTrial(0, attempt 1, {'x': 0.0})"


@pytest.mark.parametrize("where", ["coroutine", "thread", "helper task"])
async def test_report_reaches_the_trial_through_a_context_variable(where: str) -> None:
    async def in_coroutine(params: dict[str, Any]) -> float:
        await ah.report(1.0)
        assert not ah.should_prune(2.0)
        return 3.0

    def in_thread(params: dict[str, Any]) -> float:
        assert threading.current_thread() is not threading.main_thread()
        ah.report(1.0)
        assert not ah.should_prune(2.0)
        return 3.0

    async def in_helper(params: dict[str, Any]) -> float:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(in_coroutine(params))
        return task.result()

    objective: Any = {"coroutine": in_coroutine, "thread": in_thread, "helper task": in_helper}[where]
    search = await run(objective, steps=4, concurrency=2)
    assert {t.estimates for t in search.history} == {(1.0, 2.0)}


def test_there_is_no_current_trial_outside_of_an_objective() -> None:
    for word in (ah.current_trial, lambda: ah.report(1.0), lambda: ah.should_prune(1.0)):
        with pytest.raises(UsageError, match="outside of an objective"):
            word()


class Always(ah.pruners.Pruner):
    """Prunes at the second estimate."""

    def should_prune(self, estimates: Any) -> bool:
        return len(estimates) >= 2

    def observe(self, trial: ah.Trial) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def reset(self) -> None: ...


@pytest.mark.parametrize("kind", ["coroutine", "async generator", "function", "generator"])
async def test_reporting_raises_when_the_pruner_gives_up(kind: str) -> None:
    went_on: list[int] = []
    cleaned_up: list[int] = []

    async def coroutine(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        try:
            for i in range(9):
                await trial.report(i)
            went_on.append(trial.id)
        finally:
            cleaned_up.append(trial.id)
        return 1.0

    async def agen(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        try:
            for i in range(9):
                yield i
            went_on.append(trial.id)
        finally:
            cleaned_up.append(trial.id)

    def function(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        try:
            for i in range(9):
                trial.report(i)
            went_on.append(trial.id)
        finally:
            cleaned_up.append(trial.id)
        return 1.0

    def gen(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        try:
            yield from range(9)
            went_on.append(trial.id)
        finally:
            cleaned_up.append(trial.id)

    objective: Any = {"coroutine": coroutine, "async generator": agen, "function": function, "generator": gen}[kind]
    search = await run(objective, steps=3, pruner=Always())
    assert [t.state for t in search.history] == ["pruned"] * 3
    assert [t.estimates for t in search.history] == [(0.0, 1.0)] * 3
    assert went_on == [] and cleaned_up == [0, 1, 2]
    assert search.best is None and search.outcome is not None and search.outcome.reason == "steps"


@pytest.mark.parametrize("executor", [None, "thread"])
async def test_should_prune_leaves_the_decision_to_the_objective(executor: Any) -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        assert not trial.should_prune(1.0)
        assert trial.should_prune(2.0)
        return 5.0

    search = await run(objective, steps=2, pruner=Always())
    assert [t.state for t in search.history] == ["completed"] * 2


async def test_raising_trial_pruned_prunes_also_out_of_a_task_group() -> None:
    async def plain(params: dict[str, Any]) -> float:
        raise ah.TrialPruned

    async def child() -> None:
        await asyncio.sleep(0)
        raise ah.TrialPruned("enough")

    async def grouped(params: dict[str, Any]) -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(asyncio.Event().wait())
        return 1.0

    for objective in (plain, grouped):
        search = await run(objective, steps=2)
        assert [t.state for t in search.history] == ["pruned"] * 2


async def test_cost_adds_up() -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        trial.add_cost(0.5)
        trial.add_cost(np.int64(2))
        return 1.0

    search = await run(objective, steps=4)
    assert [t.cost for t in search.history] == [2.5] * 4
    with pytest.raises(ObjectiveError, match="add_cost got 'lots'"):
        await run(lambda p: ah.current_trial().add_cost("lots"))  # type: ignore[arg-type]  # that is the point


async def test_what_a_trial_saves_is_restored_in_its_next_attempt(tmp_path: Any) -> None:
    seen: list[Any] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        seen.append((trial.attempt, trial.restored))
        if trial.attempt == 1:
            await trial.save({"epoch": 1})
            await trial.save({"epoch": 2, "weights": [0.5, math.inf]})
            search.stop()
            await asyncio.Event().wait()
        return 1.0

    for path in (None, tmp_path / "a.ckpt"):
        seen.clear()
        search = ah.Search(SPACE, seed=1)
        await search.run(objective, steps=1, checkpoint_path=path, grace=0, quiet=True)
        assert search.outcome is not None and search.outcome.reason == "stopped" and len(search.history) == 0
        search = ah.Search(SPACE, seed=1) if path else search
        await search.run(objective, steps=1, checkpoint_path=path, quiet=True)
        assert seen == [(1, None), (2, {"epoch": 2, "weights": [0.5, math.inf]})]
        assert [t.attempt for t in search.history] == [2]


async def test_save_works_from_a_thread() -> None:
    restored: list[Any] = []

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        restored.append(trial.restored)
        if trial.attempt == 1:
            trial.save([1, 2, 3])
            search.stop()
            while not trial.interrupted.is_set():
                pass
            trial.report(1.0)  # the search listens until the grace is over
            while True:
                ah.report(1.0)  # and then ends the thread
        return 1.0

    search = ah.Search(SPACE, seed=1)
    await search.run(objective, steps=1, grace=0.01, quiet=True)
    await search.run(objective, steps=1, quiet=True)
    assert restored == [None, [1, 2, 3]]


async def saves_aside(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    await asyncio.to_thread(trial.save, {"attempt": trial.attempt})
    saved.append(on_disk(trial.id))
    return 1.0


def saves_in_a_thread_of_its_own(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    def save() -> None:
        trial.save({"attempt": trial.attempt})
        saved.append(on_disk(trial.id))

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    return 1.0


saved: list[bool] = []
log: list[Any] = []


def on_disk(id: int) -> bool:
    return any(r["kind"] == "saved" and r["id"] == id for r in map(orjson.loads, log[0].read_bytes().splitlines()))


@pytest.mark.parametrize("objective", [saves_aside, saves_in_a_thread_of_its_own])
async def test_save_is_durable_when_it_returns_in_whatever_thread(tmp_path: Any, objective: Any) -> None:
    log[:], saved[:] = [tmp_path / "a.ckpt"], []
    await run(objective, steps=4, checkpoint_path=tmp_path / "a.ckpt")
    assert saved == [True] * 4


@pytest.mark.parametrize("word", ["report", "should_prune"])
@pytest.mark.parametrize("where", ["aside", "a thread of its own"])
async def test_a_pruner_is_asked_on_the_loop_only(where: str, word: str) -> None:
    threads: set[int] = set()

    class Watches(Always):
        def should_prune(self, estimates: Any) -> bool:
            threads.add(threading.get_ident())
            return super().should_prune(estimates)

    async def aside(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        said = [await asyncio.to_thread(getattr(trial, word), float(i)) for i in range(2)]
        assert word == "should_prune" and said == [False, True]
        raise ah.TrialPruned

    def plain(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        with ThreadPoolExecutor(1) as pool:
            said = [pool.submit(getattr(trial, word), float(i)).result() for i in range(2)]
        assert word == "should_prune" and said == [False, True]
        raise ah.TrialPruned

    search = await run(aside if where == "aside" else plain, steps=4, concurrency=2, pruner=Watches())
    assert threads == {threading.get_ident()}
    assert [(t.state, t.estimates) for t in search.history] == [("pruned", (0.0, 1.0))] * 4


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_save_refuses_what_is_not_json_and_what_is_large(kind: str) -> None:
    def saving(state: Any) -> Any:
        async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
            await trial.save(state)
            return 1.0

        def plain(params: dict[str, Any], trial: ah.RunningTrial) -> float:
            trial.save(state)
            return 1.0

        return objective if kind == "coroutine" else plain

    with pytest.raises(TypeError, match=r"trial\.save takes a JSON value, and this holds builtins\.object"):
        await run(saving({"a": object()}))
    with pytest.raises(ObjectiveError, match=r"trial\.save is for small values"):
        await run(saving("x" * 2**21))


async def test_interrupted_tells_an_objective_to_wrap_up() -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        asyncio.get_running_loop().call_soon(search.stop)
        assert not trial.interrupted.is_set()
        await trial.interrupted.wait()
        assert trial.interrupted.is_set()
        return 7.0

    search = ah.Search(SPACE, seed=1)
    await search.run(objective, steps=100, quiet=True)
    assert search.outcome is not None and search.outcome.reason == "stopped"
    assert search.history.values.tolist() == [7.0]


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
async def test_a_loop_in_a_thread_hears_of_the_interruption_too(debug: bool) -> None:
    search = ah.Search(SPACE, seed=1)

    async def inner(trial: ah.RunningTrial) -> float:
        search.stop()
        await trial.interrupted.wait()
        return 7.0

    asyncio.get_running_loop().set_debug(debug)
    async with asyncio.timeout(20):
        await search.run(lambda params, trial: asyncio.run(inner(trial)), steps=3, grace=15, quiet=True)
    assert search.history.values.tolist() == [7.0]


async def test_a_value_that_is_masked_is_none() -> None:
    with pytest.raises(ObjectiveError, match="which is not one number: it is masked"):
        await run(lambda params: np.ma.masked)
    await run(lambda params: np.ma.array([1.0])[0])

    class Column:
        """As one of a frame, whose `mask` is a method."""

        def mask(self) -> None: ...
        def __float__(self) -> float:
            return 1.5

    assert (await run(lambda params: Column())).best_value == 1.5
