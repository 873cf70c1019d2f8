"""Objectives that another process can import, and what it takes to see where they ran."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asynchopper as ah


class Awkward(Exception):
    """Cannot be put together again from its own arguments."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} at {where}")


class Plain(Exception):
    pass


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no note."""

    code: int


def where(params: dict[str, Any]) -> float:
    return float(os.getpid())


def where_slowly(params: dict[str, Any]) -> float:
    time.sleep(0.02)
    return float(os.getpid())


def raises(params: dict[str, Any]) -> float:
    raise Plain("no good", params["x"] >= 0)


def raises_frozen(params: dict[str, Any]) -> float:
    raise Frozen(7)


async def awaits_and_raises_frozen(params: dict[str, Any]) -> float:
    raise Frozen(7)


def raises_awkwardly(params: dict[str, Any]) -> float:
    raise Awkward(7, where="home")


def raises_oserror(params: dict[str, Any]) -> float:
    raise FileNotFoundError(2, "no such data", "train.csv")


def returns_a_lock(params: dict[str, Any]) -> Any:
    return threading.Lock()


def talks_from_threads(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Each thread hears its own answer; one goes on talking when the evaluation is over."""
    answers: list[bool] = []

    def talk() -> None:
        for _ in range(20):
            answers.append(trial.should_prune(1.0))
            trial.save([1])
            trial.add_cost(1.0)

    def go_on() -> None:
        while True:
            trial.add_cost(0.0)

    threading.Thread(target=go_on, daemon=True).start()
    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return float(answers == [False] * 80)


def exits(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    if trial.id == 1:
        os._exit(3)
    return float(os.getpid())


def crashes(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    if trial.id == 1:
        ctypes.string_at(0)
    return float(os.getpid())


def leaves_a_child_and_crashes(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """The child holds whatever the worker had open, its end of the pipe included."""
    if trial.id == 1:
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    return float(os.getpid())


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises_oddly(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    raise ValueError("half \ud800") if trial.id % 2 else Unprintable


def reports(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    for i in range(5):
        trial.report(params["x"] + i)
    trial.add_cost(2.5)
    trial.save({"at": 5})
    return params["x"]


def yields(params: dict[str, Any]) -> Iterator[float]:
    for i in range(3):
        yield params["x"] + i


async def awaits(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    await asyncio.sleep(0)
    trial.add_cost(1)
    await trial.save([1, 2])
    return float(os.getpid())


def pays(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.cost = 3
    trial.cost += 1
    trial.add_cost(2)
    return trial.cost


async def ayields(params: dict[str, Any]) -> AsyncIterator[float]:
    for i in range(3):
        await asyncio.sleep(0)
        yield params["x"] + i


async def awaits_its_interruption(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.report(0.0)
    await trial.interrupted.wait()
    return 1.0


def sees_its_interruption(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.report(0.0)
    while not trial.interrupted.is_set():
        time.sleep(0.002)
    return 1.0


def stops_its_own_program(params: dict[str, Any]) -> float:
    """0 when a program that the objective starts can be ended with SIGTERM, as usual."""
    code = "import signal; print(int(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL), flush=True); signal.pause()"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert program.stdout is not None
    default = int(program.stdout.readline())
    program.terminate()
    program.communicate(timeout=30)
    return 0.0 if default and program.returncode == -signal.SIGTERM else 1.0


def has_children_of_its_own(params: dict[str, Any]) -> float:
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(sum(pool.map(abs, [-1, 2])))


def never_ends(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    trial.report(float(os.getpid()))
    time.sleep(600)
    return 0.0


def scaled(params: dict[str, Any], *, by: float) -> float:
    return params["x"] * by


def reports_whatever_comes(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    with contextlib.suppress(Exception):
        trial.report(0.5)
    return float(params["x"])
