"""Trials per second with an objective that costs nothing, and how that changes as a search grows."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import (
    bare_tasks,
    hyperopt_run,
    in_loop,
    nevergrad_run,
    optuna_study,
    optuna_value,
    ours,
    pyhopper_run,
    rate,
    value,
)

_GROWN = 20_000


def measure(rounds: int, quick: bool = False) -> list[Row]:
    n = 2_000 if quick else 10_000
    few = n // 5
    measures: dict[str, Any] = {}
    for c in (1, 100):
        measures[f"ours {c}"] = lambda c=c: rate(n, lambda: in_loop(ours(n, c)))
        measures[f"tasks {c}"] = lambda c=c: rate(n, lambda: in_loop(bare_tasks(n, c)))
        if installed("uvloop"):
            measures[f"uvloop {c}"] = lambda c=c: rate(n, lambda: in_loop(ours(n, c), uvloop=True))
            measures[f"tasks on uvloop {c}"] = lambda c=c: rate(n, lambda: in_loop(bare_tasks(n, c), uvloop=True))
    peers: dict[str, Any] = {}
    if installed("pyhopper"):
        peers["PyHopper"] = lambda: rate(n, lambda: pyhopper_run(n))
    if installed("optuna"):
        peers["Optuna, random"] = lambda: rate(few, lambda: optuna_study().optimize(optuna_value, n_trials=few))
    if installed("nevergrad"):
        peers["Nevergrad, random, its first 100"] = lambda: rate(100, lambda: nevergrad_run(100))
    if installed("hyperopt"):
        peers["Hyperopt, random, its first 400"] = lambda: rate(400, lambda: hyperopt_run(400))
    got = take_turns(measures | peers, rounds)
    rows = []
    for c in (1, 100):
        what = f"trials/s, trivial coroutine, no storage, {c} at a time"
        words = {"uvloop": got.get(f"uvloop {c}")}
        for name in peers:
            aim = {"at_least": 4.0} if name == "PyHopper" else {}
            rows.append(row(what, got[f"ours {c}"], name, got[name], "/s", **aim, **words))
        rows.append(row(what, got[f"ours {c}"], "one asyncio task each", got[f"tasks {c}"], "/s", **words))
        if f"uvloop {c}" in got:
            rows.append(
                row(
                    f"{what}, uvloop",
                    got[f"uvloop {c}"],
                    "one task each on uvloop",
                    got[f"tasks on uvloop {c}"],
                    "/s",
                )
            )
    return rows + late(max(rounds // 2, 3), quick)


def late(rounds: int, quick: bool) -> list[Row]:
    """The default algorithm past its seeding, with a history behind it."""
    n = _GROWN // 5 if quick else _GROWN
    half, far = n // 2, 1_000 if quick else 8_000
    first: list[float] = []
    last: list[float] = []

    def mine() -> float:
        cpu, wall = _marks(n)
        first.append((cpu[1000] - cpu[0]) / 1000 * 1e6)
        last.append((cpu[n - 1] - cpu[n - 1001]) / 1000 * 1e6)
        return (n - 1 - half) / (wall[n - 1] - wall[half])

    measures: dict[str, Any] = {"ours": mine}
    if installed("uvloop"):
        measures["uvloop"] = lambda: _late_rate(n, half)
    if installed("optuna"):
        measures["random"] = lambda: _optuna_late("random", half, 300)
        measures["tpe"] = lambda: _optuna_late("tpe", far, 10)
    if installed("nevergrad"):
        measures["ngopt"] = lambda: rate(100, lambda: nevergrad_run(100, "NGOpt"))
    if installed("hyperopt"):
        measures["hyperopt"] = lambda: rate(100, lambda: hyperopt_run(100, "tpe"))
    got = take_turns(measures, rounds)
    what = f"trials/s, default algorithm, trials {half:,} to {n:,}"
    peers = {
        "random": ("Optuna, random, as far on", 5.0),
        "tpe": (f"Optuna, TPE, at {far:,}", 500.0),
        "ngopt": ("Nevergrad, NGOpt, its first 100", None),
        "hyperopt": ("Hyperopt, TPE, its first 100", None),
    }
    rows = [
        row(what, got["ours"], against, got[name], "/s", at_least=aim, uvloop=got.get("uvloop"))
        for name, (against, aim) in peers.items()
        if name in got
    ]
    grown = f"processor time a trial, trials {n - 1000:,} to {n:,}"
    return [*rows, row(grown, last, "its first 1,000", first, "us", at_most=1.05)]


def _marks(n: int, uvloop: bool = False) -> tuple[list[float], list[float]]:
    """Processor and wall clock at the start of each evaluation."""
    cpu: list[float] = []
    wall: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        cpu.append(time.process_time())
        wall.append(time.perf_counter())
        return value(params)

    in_loop(ours(n, 1, objective), uvloop)
    return cpu, wall


def _late_rate(n: int, half: int) -> float:
    wall = _marks(n, uvloop=True)[1]
    return (n - 1 - half) / (wall[n - 1] - wall[half])


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
