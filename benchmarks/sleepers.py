"""Evaluations that wait, as remote ones do: wall time against the ideal, processor time, and memory of many at once."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import resource
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import asynchopper as ah
from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import in_loop, optuna_study, optuna_value, ours, pyhopper_run, value

_PAUSE_S, _TRIALS = 0.05, 1_000


async def sleeper(params: dict[str, Any]) -> float:
    await asyncio.sleep(_PAUSE_S)
    return value(params)


def blocker(params: dict[str, Any]) -> float:
    time.sleep(_PAUSE_S)
    return value(params)


def measure(rounds: int, quick: bool = False) -> list[Row]:
    rows = []
    for concurrency, most in ((100, 1.05), (1000, 1.3)):
        rows += waiting(concurrency, most, rounds, quick)
    rows += [thinking(1, 40, None, rounds), thinking(16, 320, 1.02, rounds)]
    return [*rows, memory(rounds, 2_000 if quick else 10_000)]


def waiting(concurrency: int, most: float, rounds: int, quick: bool) -> list[Row]:
    ideal = _TRIALS / concurrency * _PAUSE_S
    cpu: dict[str, list[float]] = {}

    def spent(name: str, work: Callable[[], object]) -> Callable[[], float]:
        def timed() -> float:
            before, began = _processor_s(), time.perf_counter()
            work()
            wall = time.perf_counter() - began
            for process in multiprocessing.active_children():  # its time is known once it has ended
                process.join(10)
            cpu.setdefault(name, []).append((_processor_s() - before) / _TRIALS * 1e6)
            return wall

        return timed

    works: dict[str, Callable[[], object]] = {
        "ours": lambda: in_loop(ours(_TRIALS, concurrency, sleeper)),
        "asyncio tasks alone": lambda: in_loop(_tasks(concurrency)),
    }
    if installed("uvloop"):
        works["uvloop"] = lambda: in_loop(ours(_TRIALS, concurrency, sleeper), uvloop=True)
    few: dict[str, Callable[[], object]] = {}
    if installed("optuna"):
        few["Optuna with threads"] = lambda: _optuna(concurrency)
    if installed("pyhopper") and not (quick and concurrency > 100):  # a thousand processes take a while
        few["PyHopper with processes"] = lambda: pyhopper_run(_TRIALS, blocker, concurrency)
    got = take_turns({name: spent(name, work) for name, work in works.items()}, rounds)
    peers = take_turns({name: spent(name, work) for name, work in few.items()}, 1 if quick else min(rounds, 2))
    what = f"1,000 x 50 ms, {concurrency:,} at a time"
    perfect = [ideal] * rounds
    rows = [row(what, got["ours"], "the ideal", perfect, "s", at_most=most, uvloop=got.get("uvloop"))]
    tasks = "asyncio tasks alone"
    rows.append(row(what, got["ours"], tasks, got[tasks], "s", uvloop=got.get("uvloop")))
    rows += [
        row(f"{what}: {name}", wall, "the ideal", perfect, "s") for name, wall in ({tasks: got[tasks]} | peers).items()
    ]
    if peers:
        best = min(peers, key=lambda name: min(cpu[name]))
        mine = f"processor time a trial, 50 ms, {concurrency:,} at a time"
        words = {"uvloop": cpu.get("uvloop")}
        rows.append(row(mine, cpu["ours"], f"{best}, the best peer", cpu[best], "us", at_most=1 / 6, **words))
        rows.append(row(mine, cpu["ours"], tasks, cpu[tasks], "us", **words))
    return rows


def thinking(concurrency: int, trials: int, most: float | None, rounds: int) -> Row:
    """What slots wait for the model, which a search so short asks for every candidate but the first."""

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await asyncio.sleep(_PAUSE_S * (1 + 2 * (0.618034 * trial.id % 1)))  # from 50 to 150 ms
        return value(params)

    def wall(sampler: Any) -> float:
        began = time.perf_counter()
        in_loop(ours(trials, concurrency, objective, sampler=sampler))
        return time.perf_counter() - began

    got = take_turns({"model": lambda: wall(None), "random": lambda: wall(ah.RandomSampler())}, rounds)
    what = f"{trials} x 50 to 150 ms, {concurrency} at a time, candidates of the model"
    return row(what, got["model"], "random candidates", got["random"], "s", at_most=most)


def _processor_s() -> float:
    """Processor time of this process, and of those that it has started and seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(rounds: int, n: int) -> Row:
    """Bytes that a running trial takes, beside a task alone, at the moment when all of them run."""
    rounds = min(rounds, 3)
    mine = [_held(n, lambda objective: ours(n, n, objective)) for _ in range(rounds)]
    floor = [_held(n, lambda objective: _bare(n, objective)) for _ in range(rounds)]
    extra = [a - b for a, b in zip(mine, floor, strict=True)]
    what = f"memory a running trial, {n:,} at once, beyond its task's {floor[0]:,.0f} B"
    return row(what, extra, "3 KB", [3072.0] * len(extra), "B", at_most=1)


def _held(n: int, make: Any) -> float:
    """Bytes for each of `n` evaluations, when the last of them has begun and none has ended."""
    begun, held = 0, 0.0
    gate = asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        nonlocal begun, held
        begun += 1
        if begun == n:
            held = (tracemalloc.get_traced_memory()[0] - before) / n
            gate.set()
        await gate.wait()
        return value(params)

    in_loop(ours(10, 10))  # what is imported and cached on first use is no trial's
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        in_loop(make(objective))
        return held
    finally:
        tracemalloc.stop()


async def _tasks(concurrency: int, trials: int = _TRIALS) -> None:
    limit = asyncio.Semaphore(concurrency)

    async def one() -> None:
        async with limit:
            await sleeper({"lr": 1e-3, "units": 64, "drop": 0.1})

    async with asyncio.TaskGroup() as group:
        for _ in range(trials):
            group.create_task(one())


async def _bare(n: int, objective: Any) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.wait([loop.create_task(objective({"lr": 1e-3, "units": 64, "drop": 0.1})) for _ in range(n)])


def _optuna(concurrency: int) -> None:
    def objective(trial: Any) -> float:
        found = optuna_value(trial)
        time.sleep(_PAUSE_S)
        return found

    optuna_study().optimize(objective, n_trials=_TRIALS, n_jobs=concurrency)
