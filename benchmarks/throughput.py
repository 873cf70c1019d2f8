"""Trials per second with an objective that costs nothing, and how that changes as a search grows."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import (
    bare_tasks,
    in_loop,
    optuna_study,
    optuna_value,
    ours,
    pyhopper_run,
    rate,
    value,
)

_GROWN = 20_000


def measure(rounds: int, quick: bool = False) -> list[Row]:
    n = 3_000 if quick else 10_000
    measures: dict[str, Any] = {
        "ours 1": lambda: rate(n, lambda: in_loop(ours(n, 1))),
        "ours 100": lambda: rate(n, lambda: in_loop(ours(n, 100))),
        "tasks 1": lambda: rate(n, lambda: in_loop(bare_tasks(n, 1))),
        "tasks 100": lambda: rate(n, lambda: in_loop(bare_tasks(n, 100))),
    }
    if installed("uvloop"):
        measures["uvloop 1"] = lambda: rate(n, lambda: in_loop(ours(n, 1), uvloop=True))
        measures["uvloop 100"] = lambda: rate(n, lambda: in_loop(ours(n, 100), uvloop=True))
    if installed("pyhopper"):
        measures["pyhopper"] = lambda: rate(n, lambda: pyhopper_run(n))
    if installed("optuna"):
        measures["optuna"] = lambda: rate(n // 5, lambda: optuna_study().optimize(optuna_value, n_trials=n // 5))
    got = take_turns(measures, rounds)
    rows = []
    for c in (1, 100):
        what = f"trials/s, trivial coroutine, no storage, concurrency {c}"
        mine = got[f"ours {c}"]
        if "pyhopper" in got:
            rows.append(row(what, mine, "PyHopper", got["pyhopper"], "/s", at_least=4))
        if "optuna" in got:
            rows.append(row(what, mine, "Optuna, random", got["optuna"], "/s"))
        rows.append(row(what, mine, "one asyncio task each", got[f"tasks {c}"], "/s"))
        if f"uvloop {c}" in got:
            rows.append(row(f"{what}, on uvloop", got[f"uvloop {c}"], "ours on asyncio", mine, "/s"))
    return rows + growth(max(rounds // 2, 3), quick)


def growth(rounds: int, quick: bool) -> list[Row]:
    """Processor time per trial of a search's first trials against its last."""
    first: list[float] = []
    last: list[float] = []
    late: list[float] = []
    n = _GROWN // 4 if quick else _GROWN
    for _ in range(rounds):
        cpu, wall = _marks(n)
        first.append((cpu[1000] - cpu[0]) / 1000 * 1e6)
        last.append((cpu[n - 1] - cpu[n - 1001]) / 1000 * 1e6)
        late.append((n - 1 - n // 2) / (wall[n - 1] - wall[n // 2]))
    rows = [
        row(f"processor time a trial, trials {n - 1000:,} to {n:,}", last, "its first 1,000", first, "us", at_most=1.05)
    ]
    if installed("optuna"):
        random, tpe = [], []
        for _ in range(min(rounds, 3)):
            random.append(_optuna_late("random", n // 2, 300))
            tpe.append(_optuna_late("tpe", 8_000 if not quick else 1_000, 10))
        what = f"trials/s, default algorithm, trials {n // 2:,} to {n:,}"
        rows.append(row(what, late[: len(random)], "Optuna, random, as far on", random, "/s", at_least=5))
        rows.append(row(what, late[: len(tpe)], "Optuna, TPE, at 8,000", tpe, "/s", at_least=500))
    return rows


def _marks(n: int) -> tuple[list[float], list[float]]:
    """Processor and wall clock at the start of each evaluation."""
    cpu: list[float] = []
    wall: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        cpu.append(time.process_time())
        wall.append(time.perf_counter())
        return value(params)

    in_loop(ours(n, 1, objective))
    return cpu, wall


def _optuna_late(sampler: str, after: int, trials: int) -> float:
    """Trials per second of a study that holds `after` trials already."""
    import optuna

    study = optuna_study(sampler)
    seeds = optuna_study("random")
    seeds.optimize(optuna_value, n_trials=200)
    finished = seeds.get_trials(deepcopy=False)
    study.add_trials(
        [
            optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=t.value)
            for t in (finished[i % len(finished)] for i in range(after))
        ]
    )
    return rate(trials, lambda: study.optimize(optuna_value, n_trials=trials))
