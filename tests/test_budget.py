"""Budgets, and what follows from how much of them is spent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.budget import Budget, Schedule, parse_runtime
from asynchopper.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (0.25, 0.25),
        ("90", 90),
        ("1.5", 1.5),
        ("2h 30min", 9000),
        ("2h30m", 9000),
        ("3d 4h", 273_600),
        ("1:30:00", 5400),
        ("5:00", 300),
        ("0:01.5", 1.5),
        ("8h", 28_800),
        ("45 seconds", 45),
        ("1 day, 2 hours", 93_600),
        ("250ms", 0.25),
        ("1.5 hours", 5400),
        ("  10 MIN ", 600),
        ("1w", 604_800),
    ],
)
def test_a_runtime_is_seconds_or_a_text(text: Any, seconds: float) -> None:
    assert parse_runtime(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "soon", "5 parsecs", "1:2:3:4", "-5", "0", 0, -1, math.nan, math.inf, True, None, [], "h"]
)
def test_a_runtime_that_means_nothing_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="runtime="):
        parse_runtime(text)


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_units_add_up(d: int, h: int, m: int, s: int) -> None:
    total = ((d * 24 + h) * 60 + m) * 60 + s
    assert parse_runtime(f"{d}d {h}h {m}min {s}s") == total
    assert parse_runtime(f"{d * 24 + h}:{m:02d}:{s:02d}") == total


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"steps": 10, "runtime": 5},
        {"steps": 10, "endless": True},
        {"runtime": 5, "endless": True},
    ],
)
async def test_a_budget_is_exactly_one_of_three(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="exactly one of runtime=, steps= and endless=True; got"):
        await ah.Search(x=ah.bool()).run(lambda p: 1, quiet=True, **words)


@pytest.mark.parametrize("name", ["endless", "ignore_nans", "overwrite_checkpoint"])
async def test_a_text_is_neither_true_nor_false(name: str, tmp_path: Path) -> None:
    search = ah.Search(x=ah.bool())
    words: dict[str, Any] = {"checkpoint_path": tmp_path / "a.ckpt", name: "no"}
    with pytest.raises(UsageError, match=f"{name}='no': must be True or False"):
        await search.run(lambda p: 1, quiet=True, **({} if name == "endless" else {"steps": 1}), **words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", [True, 1, np.bool_(1), np.int64(1)])
async def test_what_is_true_is_a_flag(flag: Any) -> None:
    await ah.Search(x=ah.bool()).run(lambda p: math.nan, steps=2, ignore_nans=flag, duplicates="allow", quiet=True)


async def test_a_runtime_in_the_direction_s_place_is_called_no_direction() -> None:
    with pytest.raises(UsageError, match="direction='2h': must be one of 'max'"):
        await ah.Search(x=ah.bool()).run(lambda p: 1, "2h", quiet=True)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(UsageError, match="direction='2h': must be one of 'max'"):
        ah.Search(x=ah.bool()).session("2h")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("runtime", [10**400, np.array([1.0, 2.0]), 1j])
async def test_a_runtime_is_a_number_of_seconds_that_a_float_holds(runtime: Any) -> None:
    with pytest.raises(UsageError, match="runtime="):
        await ah.Search(x=ah.bool()).run(lambda p: 1, runtime=runtime, quiet=True)


async def test_numbers_may_be_numpys_and_callbacks_none() -> None:
    search = ah.Search(x=ah.float(0, 1))
    await search.run(
        lambda p: 1,
        steps=np.int64(2),  # type: ignore[arg-type]  # NumPy's numbers are numbers
        grace=np.int64(1),  # type: ignore[arg-type]  # as above
        timeout=np.float32(5),  # type: ignore[arg-type]  # as above
        seeding_ratio=np.float32(0.5),  # type: ignore[arg-type]  # as above
        callbacks=None,
        quiet=True,
    )
    async for _ in search.iterate(lambda p: 1, steps=2, callbacks=None, quiet=True):
        pass
    assert len(search.history) == 4


async def test_a_class_in_the_place_of_an_instance_is_said_to_be_one() -> None:
    with pytest.raises(UsageError, match=r"pruner= takes an instance, .*; write pruner=TopKPruner\(\.\.\.\)"):
        await ah.Search(x=ah.bool()).run(lambda p: 1, steps=1, pruner=ah.pruners.TopKPruner)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("pruner", ["x", ah.pruners.TopKPruner])
async def test_what_is_no_pruner_is_refused_before_anything_is_written_or_read(tmp_path: Any, pruner: Any) -> None:
    search = ah.Search(x=ah.bool())
    await search.save(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="pruner= takes"):
        await search.load(tmp_path / "a.ckpt", pruner=pruner)
    with pytest.raises(UsageError, match="pruner= takes"):
        await search.save(tmp_path / "b.ckpt", pruner=pruner)
    assert not (tmp_path / "b.ckpt").exists()


@pytest.mark.parametrize("steps", [0, -1, 1.5, "10", True, math.nan])
async def test_steps_are_a_positive_integer(steps: Any) -> None:
    with pytest.raises(UsageError, match="steps="):
        await ah.Search(x=ah.bool()).run(lambda p: 1, steps=steps, quiet=True)


@pytest.mark.parametrize(
    "words",
    [
        {"seeding_ratio": 1.5},
        {"seeding_ratio": -0.1},
        {"seeding_ratio": math.nan},
        {"seeding_ratio": "half"},
        {"seeding_steps": -1},
        {"seeding_steps": 2.5},
        {"seeding_runtime": "never"},
        {"seeding_steps": 3, "seeding_runtime": 3},
        {"start_temperature": 0},
        {"start_temperature": 1.5},
        {"end_temperature": math.nan},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"concurrency": True},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": math.nan},
        {"timeout": "5"},
        {"grace": -1},
        {"grace": math.inf},
        {"grace": True},
        {"on_error": "ignore"},
        {"executor": "gpu"},
        {"duplicates": "maybe"},
        {"resume": "perhaps"},
        {"direction": "up"},
        {"direction": ["max"]},
        {"direction": np.array(["max", "min"])},
        {"on_error": ["raise"]},
        {"concurrency": np.array([2])},
        {"seeding_steps": np.array([2])},
        {"sampler": 3},
        {"pruner": "median"},
        {"storage": "run.ckpt"},
        {"callbacks": [3]},
        {"callbacks": 3},
        {"callbacks": "print"},
        {"kwargs": 3},
        {"kwargs": [("a", 1)]},
        {"kwargs": {1: 2}},
        {"pruner": ah.pruners.TopKPruner},
        {"sampler": ah.RandomSampler},
        {"timeout": 10**400},
        {"grace": 10**400},
        {"seeding_runtime": 10**400},
        {"checkpoint_path": 5},
        {"checkpoint_path": b"run.ckpt"},
        {"resume": "must"},
        {"checkpoint_path": ""},
        {"checkpoint_path": "nosuch://place"},
        {"checkpoint_path": "memory://x", "storage": ah.Search},
        {"checkpoint_path": "memory://x", "resume": "must", "overwrite_checkpoint": True},
    ],
    ids=str,
)
async def test_a_word_that_means_nothing_is_refused_before_anything_runs(words: dict[str, Any]) -> None:
    ran = []
    search = ah.Search(x=ah.bool())
    with pytest.raises(UsageError):
        await search.run(lambda p: ran.append(p) or 1, steps=3, quiet=True, **words)  # type: ignore[func-returns-value]  # it gives None
    assert ran == [] and len(search.history) == 0
    await search.run(lambda p: 1, steps=1, quiet=True)  # it left nothing behind that would be in the way


async def origins(steps: int, **words: Any) -> list[str]:
    search = ah.Search({"x": ah.float(0, 1), "y": ah.float(0, 1)}, seed=5)
    await search.run(lambda p: p["x"], steps=steps, quiet=True, **words)
    return [t.origin for t in search.history]


async def test_a_quarter_of_the_budget_is_seeding_in_two_stages() -> None:
    assert await origins(40, sampler=ah.TwoStageSampler()) == ["initial"] + ["seeding"] * 9 + ["local"] * 30


@pytest.mark.parametrize(
    ("words", "seeded"),
    [({"seeding_ratio": 0.5}, 10), ({"seeding_ratio": 0}, 1), ({"seeding_ratio": 1}, 20), ({"seeding_steps": 7}, 7)],
    ids=str,
)
async def test_seeding_is_a_ratio_or_a_number_of_steps(words: dict[str, Any], seeded: int) -> None:
    told = await origins(20, **words)
    assert told == ["initial"] + ["seeding"] * (seeded - 1) + ["local"] * (20 - seeded)


async def test_seeding_may_be_a_time() -> None:
    assert set(await origins(20, seeding_runtime="1h")) == {"initial", "seeding"}
    assert "local" in await origins(20, seeding_runtime=1e-9)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_the_temperature_falls_from_start_to_end(start: float, end: float, progress: float) -> None:
    schedule = Schedule.of(None, None, None, start, end)
    assert schedule.temperature(0) == start
    assert schedule.temperature(1) == pytest.approx(end)
    assert min(start, end) - 1e-9 <= schedule.temperature(progress) <= max(start, end) + 1e-9


async def test_local_steps_get_smaller() -> None:
    search = ah.Search({"x": ah.float(0, 1)}, seed=5)
    moves: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        if search.best is not None:
            moves.append(abs(params["x"] - search.best["x"]))
        return -abs(params["x"] - 0.3)

    await search.run(objective, steps=400, quiet=True, end_temperature=0.05, sampler=ah.TwoStageSampler())
    assert max(moves[-50:]) <= 0.5 * (0.05 + 0.15) < max(moves[100:200])


async def test_a_runtime_ends_the_run_and_counts_as_its_reason() -> None:
    search = ah.Search({"x": ah.float(0, 1)}, seed=5)
    await search.run(lambda p: p["x"], "max", 0.05, quiet=True)
    assert search.outcome is not None
    assert search.outcome.reason == "runtime"
    assert 0.05 <= search.outcome.seconds < 5
    assert search.outcome.trials == len(search.history) > 0


async def test_an_endless_search_ends_when_it_is_stopped() -> None:
    search = ah.Search({"x": ah.float(0, 1)}, seed=5)

    def stop_at_100(trial: ah.Trial) -> None:
        if trial.id == 99:
            search.stop()

    await search.run(lambda p: p["x"], endless=True, quiet=True, callbacks=stop_at_100)
    assert search.outcome is not None and search.outcome.reason == "stopped"
    assert 100 <= len(search.history) < 110
    assert {"seeding", "local"} <= {t.origin for t in search.history}


def test_budgets_describe_themselves_for_the_log() -> None:
    assert Budget.of(None, 7, False).describe() == {"steps": 7}
    assert Budget.of("1min", None, False).describe() == {"runtime": 60.0}
    assert Budget.of(None, None, True).describe() == {"endless": True}
