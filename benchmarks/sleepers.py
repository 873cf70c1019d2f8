"""Evaluations that wait, as remote ones do: wall time against the ideal, and memory of many at once."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from typing import Any

from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import in_loop, optuna_study, optuna_value, ours, value

_PAUSE_S, _TRIALS = 0.05, 1_000


async def sleeper(params: dict[str, Any]) -> float:
    await asyncio.sleep(_PAUSE_S)
    return value(params)


def measure(rounds: int, quick: bool = False) -> list[Row]:
    rows = []
    for concurrency, most in ((100, 1.05), (1000, 1.3)):
        ideal = _TRIALS / concurrency * _PAUSE_S
        measures: dict[str, Any] = {
            "ours": lambda c=concurrency: _wall(lambda: in_loop(ours(_TRIALS, c, sleeper))),
            "tasks": lambda c=concurrency: _wall(lambda: in_loop(_tasks(c))),
        }
        if installed("optuna") and not quick:
            measures["optuna"] = lambda c=concurrency: _wall(lambda: _optuna(c))
        got = take_turns(measures, rounds)
        what = f"1,000 x 50 ms at concurrency {concurrency}"
        perfect = [ideal] * rounds
        rows.append(row(what, got["ours"], "the ideal", perfect, "s", at_most=most))
        rows.append(row(f"{what}: asyncio tasks alone", got["tasks"], "the ideal", perfect, "s"))
        if "optuna" in got:
            rows.append(row(f"{what}: Optuna with threads", got["optuna"], "the ideal", perfect, "s"))
    return [*rows, memory(rounds)]


def memory(rounds: int) -> Row:
    """Bytes that a running trial takes, beside a task alone."""
    n = 10_000
    mine = [_peak(lambda: ours(n, n, sleeper)) / n for _ in range(min(rounds, 3))]
    floor = [_peak(lambda: _bare(n)) / n for _ in range(min(rounds, 3))]
    extra = [a - b for a, b in zip(mine, floor, strict=True)]
    return row(
        "memory a running trial, 10,000 at once, beyond its task", extra, "3 KB", [3072.0] * len(extra), "B", at_most=1
    )


def _peak(make: Any) -> float:
    tracemalloc.start()
    try:
        in_loop(make())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _wall(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def _tasks(concurrency: int, trials: int = _TRIALS) -> None:
    limit = asyncio.Semaphore(concurrency)

    async def one() -> None:
        async with limit:
            await sleeper({"lr": 1e-3, "units": 64, "drop": 0.1})

    async with asyncio.TaskGroup() as group:
        for _ in range(trials):
            group.create_task(one())


async def _bare(n: int) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.wait([loop.create_task(sleeper({"lr": 1e-3, "units": 64, "drop": 0.1})) for _ in range(n)])


def _optuna(concurrency: int) -> None:
    def objective(trial: Any) -> float:
        found = optuna_value(trial)
        time.sleep(_PAUSE_S)
        return found

    optuna_study().optimize(objective, n_trials=_TRIALS, n_jobs=concurrency)
