"""The same small problem for every tuner: five mixed parameters, and an objective that costs nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asynchopper as ah

OPTIMIZERS = ("adam", "sgd", "rmsprop")


def our_search(seed: int = 1) -> ah.Search:
    return ah.Search(
        {
            "lr": ah.float(1e-5, 1e-1, log=True),
            "units": ah.int(16, 512),
            "layers": ah.int(1, 8),
            "opt": ah.choice(*OPTIMIZERS),
            "drop": ah.float(0, 0.5),
        },
        seed=seed,
    )


def value(params: dict[str, Any]) -> float:
    return float(params["lr"] * params["units"] - params["drop"])


async def trivial(params: dict[str, Any]) -> float:
    return value(params)


def in_loop(main: Coroutine[Any, Any, Any], uvloop: bool = False) -> Any:
    """Runs a coroutine on a fresh loop."""
    if not uvloop:
        return asyncio.run(main)
    import uvloop as fast

    with asyncio.Runner(loop_factory=fast.new_event_loop) as runner:
        return runner.run(main)


async def ours(trials: int, concurrency: int, objective: Any = trivial, **words: Any) -> ah.Search:
    search = our_search()
    await search.run(objective, steps=trials, concurrency=concurrency, quiet=True, **words)
    return search


def rate(trials: int, work: Callable[[], object]) -> float:
    """Trials per second of wall time."""
    began = time.perf_counter()
    work()
    return trials / (time.perf_counter() - began)


def pyhopper_search() -> Any:
    import pyhopper

    return pyhopper.Search(
        {
            "lr": pyhopper.float(1e-5, 1e-1, log=True),
            "units": pyhopper.int(16, 512),
            "layers": pyhopper.int(1, 8),
            "opt": pyhopper.choice(list(OPTIMIZERS)),
            "drop": pyhopper.float(0, 0.5),
        }
    )


def pyhopper_run(trials: int, path: Path | None = None) -> Any:
    """PyHopper counts candidates that it has had before as steps, and does not evaluate them."""
    search = pyhopper_search()
    search.run(value, "max", steps=trials, quiet=True, checkpoint_path=path)
    return search


def optuna_study(sampler: str = "random", storage: Any = None) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = optuna.samplers.RandomSampler(1) if sampler == "random" else optuna.samplers.TPESampler(seed=1)
    return optuna.create_study(direction="maximize", sampler=chosen, storage=storage)


def optuna_value(trial: Any) -> float:
    return value(
        {
            "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True),
            "units": trial.suggest_int("units", 16, 512),
            "layers": trial.suggest_int("layers", 1, 8),
            "opt": trial.suggest_categorical("opt", OPTIMIZERS),
            "drop": trial.suggest_float("drop", 0, 0.5),
        }
    )


async def bare_tasks(trials: int, concurrency: int) -> None:
    """The floor: one asyncio task an evaluation, `concurrency` at a time, and nothing else."""
    params = {"lr": 1e-3, "units": 64, "drop": 0.1}
    loop = asyncio.get_running_loop()
    left = trials
    while left:
        batch = [loop.create_task(trivial(params)) for _ in range(min(concurrency, left))]
        left -= len(batch)
        for task in batch:
            await task
