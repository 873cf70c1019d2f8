"""Pruners decide as their papers and names say, and their state is had again from a record or from the history."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.errors import UsageError
from asynchopper.pruners import Pruner, QuantilePruner, TopKPruner
from asynchopper.values import from_json, to_json


def trial(estimates: list[float], value: float | None = None, state: str = "completed", id: int = 0) -> ah.Trial:
    value = (estimates[-1] if estimates else 0.0) if value is None and state == "completed" else value
    return ah.Trial(id, 1, {}, value, state, "seeding", tuple(estimates))


def observed(pruner: Pruner, *trials: ah.Trial, direction: str = "maximize") -> Pruner:
    pruner.direction = direction
    for t in trials:
        pruner.observe(t)
    return pruner


numbers = st.floats(-1e6, 1e6)
trials = st.lists(
    st.builds(
        trial,
        st.lists(numbers | st.just(float("inf")) | st.just(float("nan")), max_size=5),
        numbers,
        st.sampled_from(["completed", "completed", "pruned", "failed", "nan"]),
    ),
    max_size=30,
)
kinds = st.sampled_from([lambda: QuantilePruner(0.3, warmup=2), lambda: TopKPruner(3)])


@given(kinds, trials, st.lists(numbers, min_size=1, max_size=5), st.sampled_from(["maximize", "minimize"]))
def test_a_restored_pruner_decides_as_the_saved_one(
    make: Any, seen: Any, estimates: list[float], direction: str
) -> None:
    saved = observed(make(), *seen, direction=direction)
    restored = make()
    restored.direction = direction
    restored.load_state_dict(from_json(orjson.loads(orjson.dumps(to_json(saved.state_dict())))))
    assert restored.should_prune(estimates) == saved.should_prune(estimates)
    observed(saved, *seen, direction=direction)
    observed(restored, *seen, direction=direction)
    assert to_json(restored.state_dict()) == to_json(saved.state_dict())


@given(kinds, trials)
def test_reset_forgets(make: Any, seen: Any) -> None:
    pruner = observed(make(), *seen)
    pruner.reset()
    assert pruner.state_dict() == make().state_dict()


@given(kinds, trials, st.lists(numbers, min_size=1, max_size=5))
def test_deciding_changes_nothing(make: Any, seen: Any, estimates: list[float]) -> None:
    pruner = observed(make(), *seen)
    before = to_json(pruner.state_dict())
    first = pruner.should_prune(estimates)
    assert pruner.should_prune(estimates) == first
    assert to_json(pruner.state_dict()) == before


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=40), st.floats(0.01, 0.99), st.floats(-150, 150))
def test_the_quantile_is_numpys(earlier: list[float], q: float, x: float) -> None:
    up = observed(QuantilePruner(q), *(trial([e, 0.0]) for e in earlier))
    down = observed(QuantilePruner(q), *(trial([e, 0.0]) for e in earlier), direction="minimize")
    bar, ceiling = np.quantile(earlier, q), np.quantile(earlier, 1 - q)
    if abs(x - bar) > 1e-9:
        assert up.should_prune([x]) == (x < bar)
    if abs(x - ceiling) > 1e-9:
        assert down.should_prune([x]) == (x > ceiling)


def test_a_quantile_pruner_warms_up_and_lets_the_last_estimate_be() -> None:
    pruner = observed(QuantilePruner(0.5, warmup=3), *(trial([1.0, 2.0, 3.0]) for _ in range(2)))
    assert not pruner.should_prune([-9.0])
    observed(pruner, trial([1.0, 2.0], state="pruned"))
    assert pruner.should_prune([-9.0]) and pruner.should_prune([9.0, -9.0])
    assert not pruner.should_prune([0.0, 0.0, -9.0])  # the evaluation is done anyway
    assert not pruner.should_prune([0.0, 0.0, 0.0, -9.0])  # nobody else got this far
    assert pruner.should_prune([float("nan")])
    observed(pruner, trial([99.0] * 3, state="failed"), trial([99.0] * 3, state="nan", value=float("nan")))
    assert not pruner.should_prune([1.0])


@given(
    st.lists(st.floats(-5, 5) | st.sampled_from([math.inf, -math.inf]), min_size=5, max_size=12),
    st.floats(0.01, 0.99),
    st.sampled_from(["minimize", "maximize"]),
)
def test_what_is_better_than_all_before_is_never_pruned(earlier: list[float], q: float, direction: str) -> None:
    pruner = observed(QuantilePruner(q), *(trial([e, 0.0]) for e in earlier), direction=direction)
    best = min(earlier) if direction == "minimize" else max(earlier)
    assert not pruner.should_prune([best])
    assert not pruner.should_prune([best - 1.0 if direction == "minimize" else best + 1.0])


async def test_a_pruner_that_has_seen_another_search_begins_anew() -> None:
    pruner = TopKPruner(2)

    async def run(scale: float) -> list[str]:
        async def objective(params: dict[str, Any]) -> Any:
            yield scale * params["x"]
            yield scale * params["x"]

        search = ah.Search(x=ah.float(0, 1), seed=1)
        await search.run(objective, steps=6, pruner=pruner, quiet=True)
        return [t.state for t in search.history]

    alone = await run(1.0)
    await run(1000.0)
    assert await run(1.0) == alone and "completed" in alone


def test_a_percentage_is_a_quantile() -> None:
    assert QuantilePruner(25).q == 0.25 and QuantilePruner(0.25).q == 0.25


def test_top_k_prunes_what_is_worse_than_all_of_the_best() -> None:
    pruner = observed(TopKPruner(2), trial([5.0, 6.0], 6.0))
    assert not pruner.should_prune([-9.0])  # the first k run whole
    observed(pruner, trial([3.0, 4.0], 4.0), trial([9.0, 1.0], 1.0))
    assert pruner.should_prune([2.9]) and not pruner.should_prune([3.0])
    assert not pruner.should_prune([2.9, -9.0])  # that was the last estimate
    observed(pruner, trial([8.0, 7.0], 7.0))
    assert pruner.should_prune([4.9]) and not pruner.should_prune([5.0])


def test_the_best_say_nothing_where_they_had_no_number() -> None:
    pruner = observed(TopKPruner(2), trial([math.nan, 6.0, 6.0], 6.0), trial([math.nan, 5.0, 5.0], 5.0))
    assert not pruner.should_prune([math.nan]) and not pruner.should_prune([1.0])
    assert pruner.should_prune([1.0, 4.0])
    pruner = observed(TopKPruner(2), trial([math.nan, 6.0, 6.0], 6.0), trial([4.0, 5.0, 5.0], 5.0))
    assert pruner.should_prune([3.0]) and not pruner.should_prune([4.5])


def test_top_k_minimizes_too() -> None:
    pruner = observed(TopKPruner(1), trial([5.0, 6.0], 6.0), trial([3.0, 4.0], 4.0), direction="minimize")
    assert pruner.should_prune([3.1]) and not pruner.should_prune([3.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuantilePruner(0),
        lambda: QuantilePruner(100),
        lambda: QuantilePruner(-0.5),
        lambda: QuantilePruner(float("nan")),
        lambda: QuantilePruner(0.5, warmup=0),
        lambda: QuantilePruner("a"),  # type: ignore[arg-type]  # that is the point
        lambda: QuantilePruner(0.5, warmup=1.5),  # type: ignore[arg-type]  # as above
        lambda: TopKPruner(0),
        lambda: TopKPruner(1.5),  # type: ignore[arg-type]  # as above
        lambda: TopKPruner("a"),  # type: ignore[arg-type]  # as above
    ],
)
def test_a_pruner_that_means_nothing_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match="Pruner"):
        make()


def test_a_pruner_of_ones_own_must_say_all_five_words() -> None:
    class Half(Pruner):
        def should_prune(self, estimates: Any) -> bool:
            return False

    with pytest.raises(TypeError, match=r"load_state_dict.*observe"):
        Half()  # type: ignore[abstract]  # that is the point


@pytest.mark.every_loop
@pytest.mark.parametrize("make", [lambda: QuantilePruner(0.5, warmup=3), lambda: TopKPruner(3)])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
async def test_a_search_prunes_what_is_not_worth_going_on_with(make: Any, direction: Any) -> None:
    search = ah.Search({"x": ah.float(-1, 1)}, seed=1)
    finished: list[float] = []

    async def objective(params: dict[str, Any]) -> Any:
        for _ in range(5):
            yield params["x"]
        finished.append(params["x"])
        yield params["x"]

    # random candidates, since a sampler that finds good ones at once leaves a pruner nothing to do
    words = {"pruner": make(), "sampler": ah.RandomSampler(), "quiet": True}
    await search.run(objective, direction, steps=60, concurrency=4, **words)
    history = search.history
    completed = int((~history.pruned).sum())
    assert 5 < history.pruned.sum() < 55
    assert len(finished) == completed
    assert all(t.value is None and 1 <= len(t.estimates) <= 5 for t in history if t.state == "pruned")
    assert all(len(t.estimates) == 6 for t in history if t.state == "completed")
    best = max(finished) if direction == "maximize" else min(finished)
    assert search.best_value == best


async def test_a_pruner_needs_what_it_is_asked_for_and_no_more(tmp_path: Path) -> None:
    class Never(ah.pruners.Pruner):
        def should_prune(self, estimates: Any) -> bool:
            return False

        def observe(self, trial: ah.Trial) -> None: ...
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    class Half:
        def should_prune(self, estimates: Any) -> bool:
            return False

    class Duck(Half):  # without reset, and with another one's state
        def observe(self, trial: ah.Trial) -> None: ...
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise ValueError

    search = ah.Search({"x": ah.float(-1, 1)}, seed=1)
    await search.run(lambda p: p["x"], steps=2, pruner=Never(), quiet=True)
    half, duck = cast("Any", Half()), cast("Any", Duck())
    await search.save(tmp_path / "a.ckpt", duck)
    await search.load(tmp_path / "a.ckpt", duck)
    with pytest.raises(UsageError, match="which has no observe, state_dict, load_state_dict"):
        await search.run(lambda p: p["x"], steps=2, pruner=half, quiet=True)


@pytest.mark.parametrize("q", [1, 1.0, True, 0, 100])
def test_a_quantile_that_could_be_a_percent_or_all_is_refused(q: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1, or a percentage above 1 and below 100"):
        QuantilePruner(q)
