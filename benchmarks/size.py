"""Loading a long history, the memory of one, and the time of an import."""

from __future__ import annotations

import gc
import os
import resource
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

from asynchopper.samplers import RandomSampler, Sampler
from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import (
    in_loop,
    optuna_journal,
    optuna_reopened,
    optuna_study,
    optuna_value,
    our_search,
    ours,
    pyhopper_holding,
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
    return [*rows, *finished(min(rounds, 2), 50_000 // scale), *startup(rounds)]


# -- loading


def loading(folder: Path, rounds: int, n: int) -> list[Row]:
    """PyHopper's saved file, beside our saved file, and beside the log that a run has left."""
    path, saved, other = folder / "long.ckpt", folder / "saved.ckpt", folder / "pyhopper.ckpt"
    in_loop(in_loop(ours(n, 1000, checkpoint_path=path)).save(saved))
    loads: dict[str, Callable[[], Any]] = {
        "saved": lambda: _loaded(saved, n),
        "a run's log": lambda: _loaded(path, n),
        "a file's lines, orjson into dicts": lambda: _dicts(path),
    }
    if installed("uvloop"):
        loads["saved, uvloop"] = lambda: _loaded(saved, n, uvloop=True)
        loads["a run's log, uvloop"] = lambda: _loaded(path, n, uvloop=True)
    if installed("pyhopper"):
        pyhopper_holding(n).save(str(other))
        loads["PyHopper"] = lambda: _pyhopper_loaded(other, n)
    got = take_turns({name: lambda load=load: _ms(load) for name, load in loads.items()}, rounds)
    what, rows, own = f"load {n:,} results", [], ("saved", "a run's log")
    memory = {name: _memory(loads[name]) for name in (*own, "PyHopper") if name in loads}
    for name in own:
        for theirs, aim in (("PyHopper", 1.0), ("a file's lines, orjson into dicts", None)):
            if theirs in loads:
                beside = got.get(f"{name}, uvloop")
                rows.append(
                    row(f"{what}, {name}: time", got[name], theirs, got[theirs], "ms", at_most=aim, uvloop=beside)
                )
        if "PyHopper" in memory:
            for kind, mine, its in zip(
                ("most memory meanwhile", "memory held afterwards"), memory[name], memory["PyHopper"], strict=True
            ):
                rows.append(row(f"{what}, {name}: {kind}", [mine], "PyHopper", [its], "MiB", at_most=0.25))
    size = saved.stat().st_size / n, path.stat().st_size / n
    rows.append(row("bytes of a saved file, a result", [size[0]], "a run's log", [size[1]], "B"))
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


def _pyhopper_loaded(path: Path, n: int) -> Any:
    search = pyhopper_search()
    search.load(str(path))
    assert len(search.history) == n
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
    """Bytes in memory that a finished trial of five scalars takes, in a search of `n`."""
    few = min(n, 5_000)
    measures: dict[str, Callable[[], float]] = {
        "default sampler": lambda: _each(_finished, n),
        "random sampler": lambda: _each(lambda trials: _finished(trials, RandomSampler()), n),
    }
    if installed("pyhopper"):
        measures["PyHopper"] = lambda: _each(pyhopper_run, few)
    if installed("optuna"):
        measures["Optuna"] = lambda: _each(_optuna, few)
    got = take_turns(measures, rounds)
    what, own = f"memory a finished trial, of {n:,}", ("default sampler", "random sampler")
    rows = [row(f"{what}, {name}", got[name], "150 B", [150.0] * rounds, "B", at_most=1) for name in own]
    rows += [row(what, got[own[0]], f"{name}, of {few:,}", got[name], "B") for name in measures if name not in own]
    return rows


def _finished(trials: int, sampler: Sampler | None = None) -> Any:
    return in_loop(ours(trials, 100, sampler=sampler))


def _each(make: Callable[[int], object], n: int) -> float:
    """Bytes of each trial beyond the first 500, with which whatever is made once is made."""
    make(500)
    tracemalloc.start()
    try:
        small = _held(make, 500)  # before the large one, of which something may be left until the next run
        return (_held(make, n) - small) / (n - 500)
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
    """Processor time of an import beyond that of an empty interpreter: of the name, and of what a first search needs."""
    with tempfile.TemporaryDirectory() as folder:
        # a checkout may have no bytecode, where what was installed has it
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}

        def over(statement: str) -> Callable[[], float]:
            _start(statement, env)
            return lambda: _start(statement, env) - _start("pass", env)

        first = "from asynchopper import Search"
        measures = {"ours": over("import asynchopper"), "search": over(first), "import numpy": over("import numpy")}
        peers = [f"import {name}" for name in ("pyhopper", "optuna") if installed(name)]
        got = take_turns(measures | {name: over(name) for name in peers}, max(rounds, 7))
    rows = []
    for name in peers:
        aim = 0.6 if name == "import pyhopper" else None
        rows.append(row("import asynchopper", got["ours"], name, got[name], "ms", at_most=aim))
        rows.append(row(first, got["search"], name, got[name], "ms"))
    return [*rows, row(first, got["search"], "import numpy", got["import numpy"], "ms")]


def _start(statement: str, env: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3
