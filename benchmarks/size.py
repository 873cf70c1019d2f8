"""Loading a long history, the memory of one, and the time of an import."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from asynchopper.samplers import RandomSampler
from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import (
    in_loop,
    optuna_journal,
    optuna_reopened,
    optuna_study,
    optuna_value,
    our_search,
    ours,
    pyhopper_run,
    pyhopper_search,
)


def measure(rounds: int, quick: bool = False) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))
    scale = 10 if quick else 1
    try:
        rows = loading(folder, rounds, 100_000 // scale)
        if installed("optuna"):
            rows.append(journal(folder, min(rounds, 3), 20_000 // scale))
    finally:
        shutil.rmtree(folder)
    return [*rows, *finished(min(rounds, 3), 20_000 // scale), *startup(rounds)]


# -- loading


def loading(folder: Path, rounds: int, n: int) -> list[Row]:
    path, other = folder / "long.ckpt", folder / "pyhopper.ckpt"
    in_loop(ours(n, 1000, checkpoint_path=path))
    loads: dict[str, Callable[[], Any]] = {
        "ours": lambda: _loaded(path, n),
        "a file's lines, orjson into dicts": lambda: _dicts(path),
    }
    if installed("uvloop"):
        loads["uvloop"] = lambda: _loaded(path, n, uvloop=True)
    if installed("pyhopper"):
        pyhopper_run(n).save(str(other))
        loads["PyHopper"] = lambda: _pyhopper_loaded(other)
    got = take_turns({name: lambda load=load: _ms(load) for name, load in loads.items()}, rounds)
    aims = {"PyHopper": 1.0}
    theirs = [name for name in loads if name not in ("ours", "uvloop")]
    what = f"load {n:,} results"
    rows = [
        row(f"{what}: time", got["ours"], name, got[name], "ms", at_most=aims.get(name), uvloop=got.get("uvloop"))
        for name in sorted(theirs, reverse=True)
    ]
    if "PyHopper" in loads:
        peak, held = _memory(loads["ours"])
        their_peak, their_held = _memory(loads["PyHopper"])
        rows.append(row(f"{what}: most memory meanwhile", [peak], "PyHopper", [their_peak], "MiB", at_most=0.25))
        rows.append(row(f"{what}: memory held afterwards", [held], "PyHopper", [their_held], "MiB", at_most=0.25))
    return rows


def journal(folder: Path, rounds: int, n: int) -> Row:
    """Optuna's journal takes too long for the size of the others."""
    path, log = folder / "fewer.ckpt", folder / "journal.log"
    in_loop(ours(n, 1000, checkpoint_path=path))
    optuna_journal(log, n)
    got = take_turns(
        {"ours": lambda: _ms(lambda: _loaded(path, n)), "theirs": lambda: _ms(lambda: optuna_reopened(log))}, rounds
    )
    return row(f"load {n:,} results: time", got["ours"], "Optuna's journal, as many", got["theirs"], "ms")


def _loaded(path: Path, n: int, uvloop: bool = False) -> Any:
    search = our_search()
    in_loop(search.load(path), uvloop)
    assert len(search.history) == n
    return search


def _dicts(path: Path) -> Any:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _pyhopper_loaded(path: Path) -> Any:
    search = pyhopper_search()
    search.load(str(path))
    return search


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def _memory(load: Callable[[], Any]) -> tuple[float, float]:
    """MiB that loading needs at most, and that what was loaded holds."""
    gc.collect()
    tracemalloc.start()
    try:
        held = load()
        peak = tracemalloc.get_traced_memory()[1]
        gc.collect()
        left = tracemalloc.get_traced_memory()[0]
        del held
        return peak / 2**20, left / 2**20
    finally:
        tracemalloc.stop()


# -- memory


def finished(rounds: int, n: int) -> list[Row]:
    """Bytes in memory that a finished trial of five scalars takes."""

    def mine(**words: Any) -> Callable[[], float]:
        return lambda: _each(lambda trials: in_loop(ours(trials, 100, **words)), n)

    measures: dict[str, Callable[[], float]] = {
        "default sampler": mine(),
        "random sampler": mine(sampler=RandomSampler()),
    }
    few = n // 10
    if installed("pyhopper"):
        measures["PyHopper"] = lambda: _each(pyhopper_run, few)
    if installed("optuna"):
        measures["Optuna"] = lambda: _each(_optuna, few)
    got = take_turns(measures, rounds)
    names = ("default sampler", "random sampler")
    what = "memory a finished trial"
    rows = [row(f"{what}, {name}", got[name], "150 B", [150.0] * rounds, "B", at_most=1) for name in names]
    mine_now = got["default sampler"]
    return rows + [row(what, mine_now, name, got[name], "B") for name in measures if name not in names]


def _each(make: Callable[[int], object], n: int) -> float:
    """Bytes that each of the second `n` trials adds."""
    make(100)  # what is imported and cached on first use is no trial's
    tracemalloc.start()
    try:
        return (_held(make, 2 * n) - _held(make, n)) / n
    finally:
        tracemalloc.stop()


def _held(make: Callable[[int], object], n: int) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    kept = make(n)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    del kept
    return held


def _optuna(trials: int) -> Any:
    study = optuna_study()
    study.optimize(optuna_value, n_trials=trials)
    return study


# -- import


def startup(rounds: int) -> list[Row]:
    """Import time over that of an empty interpreter, of the name and of what a first search needs."""

    def over(statement: str) -> Callable[[], float]:
        return lambda: _start(statement) - _start("pass")

    first = "from asynchopper import Search"
    measures = {"ours": over("import asynchopper"), "search": over(first), "numpy": over("import numpy")}
    if installed("pyhopper"):
        measures["pyhopper"] = over("import pyhopper")
    if installed("optuna"):
        measures["optuna"] = over("import optuna")
    got = take_turns(measures, max(rounds, 7))
    rows = []
    for name in ("pyhopper", "optuna"):
        if name in got:
            aim = 0.6 if name == "pyhopper" else None
            rows.append(row("import asynchopper", got["ours"], f"import {name}", got[name], "ms", at_most=aim))
            rows.append(row(first, got["search"], f"import {name}", got[name], "ms"))
    return [*rows, row(first, got["search"], "import numpy", got["numpy"], "ms")]


def _start(statement: str) -> float:
    words = [sys.executable, "-c", statement]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return _ms(lambda: subprocess.run(words, check=True, env=env))
