"""The same small problem for every tuner: five mixed parameters, and an objective that costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

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


def pyhopper_run(trials: int, objective: Any = value, n_jobs: int = 1) -> Any:
    """PyHopper counts candidates that it has had before as steps, and does not evaluate them."""
    search = pyhopper_search()
    with contextlib.redirect_stdout(io.StringIO()):
        search.run(objective, "max", steps=trials, quiet=True, n_jobs=n_jobs)
    return search


def pyhopper_holding(trials: int) -> Any:
    """A search whose history holds so many trials: it runs on until what it dropped as duplicates is made up for."""
    search = pyhopper_search()
    with contextlib.redirect_stdout(io.StringIO()):
        while missing := trials - len(search.history):
            search.run(value, "max", steps=missing, quiet=True)
    return search


def optuna_study(sampler: str = "random", storage: Any = None) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = optuna.samplers.RandomSampler(1) if sampler == "random" else optuna.samplers.TPESampler(seed=1)
    return optuna.create_study(direction="maximize", sampler=chosen, storage=storage)


def optuna_journal(path: Path, trials: int) -> Any:
    """A study on Optuna's journal file that holds so many trials. They were made in memory, and written at once."""
    import optuna
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

    class InMemory(BaseJournalBackend):  # type: ignore[misc]  # optuna may be missing
        def __init__(self) -> None:
            self.logs: list[dict[str, Any]] = []

        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return self.logs[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.logs += json.loads(json.dumps(logs))

    made = InMemory()
    study = optuna_study("random", optuna.storages.JournalStorage(made))
    study.optimize(optuna_value, n_trials=trials)
    JournalFileBackend(str(path)).append_logs(made.logs)
    return optuna_reopened(path)


def optuna_reopened(path: Path) -> Any:
    """The only study on a journal file."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=None, storage=storage, sampler=optuna.samplers.RandomSampler(1))


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


def nevergrad_run(trials: int, name: str = "RandomSearch") -> Any:
    """Nevergrad's ask and tell, one at a time. It minimizes."""
    import nevergrad as ng

    warnings.simplefilter("ignore")  # its own, about its own dependencies
    space = ng.p.Dict(
        lr=ng.p.Log(lower=1e-5, upper=1e-1),
        units=ng.p.Scalar(lower=16, upper=512).set_integer_casting(),
        layers=ng.p.Scalar(lower=1, upper=8).set_integer_casting(),
        opt=ng.p.Choice(OPTIMIZERS),
        drop=ng.p.Scalar(lower=0, upper=0.5),
    )
    optimizer = ng.optimizers.registry[name](space, budget=trials)
    for _ in range(trials):
        candidate = optimizer.ask()
        optimizer.tell(candidate, -value(candidate.value))
    return optimizer


def hyperopt_run(trials: int, algorithm: str = "rand") -> Any:
    """Hyperopt's `fmin`. It minimizes."""
    import hyperopt
    from hyperopt import hp

    logging.getLogger("hyperopt").setLevel(logging.ERROR)
    space = {
        "lr": hp.loguniform("lr", math.log(1e-5), math.log(1e-1)),
        "units": hp.uniformint("units", 16, 512),
        "layers": hp.uniformint("layers", 1, 8),
        "opt": hp.choice("opt", OPTIMIZERS),
        "drop": hp.uniform("drop", 0, 0.5),
    }
    return hyperopt.fmin(
        lambda p: -value(p),
        space,
        algo=getattr(hyperopt, algorithm).suggest,
        max_evals=trials,
        show_progressbar=False,
        verbose=False,
        rstate=np.random.default_rng(1),
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
