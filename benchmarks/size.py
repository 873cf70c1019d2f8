"""Loading a long history, its memory, and the time of an import."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import in_loop, our_search, ours, pyhopper_search, value


def measure(rounds: int, quick: bool = False) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))
    try:
        return [*loading(folder, rounds, 10_000 if quick else 100_000), finished(rounds, quick), *startup(rounds)]
    finally:
        shutil.rmtree(folder)


def loading(folder: Path, rounds: int, n: int) -> list[Row]:
    path = folder / "long.ckpt"
    in_loop(ours(n, 1000, checkpoint_path=path))

    def load() -> float:
        search = our_search()
        began = time.perf_counter()
        in_loop(search.load(path))
        assert len(search.history) == n
        return (time.perf_counter() - began) * 1e3

    measures = {"ours": load}
    other = folder / "pyhopper.ckpt"
    if installed("pyhopper"):
        first = pyhopper_search()
        first.run(value, "max", steps=n, quiet=True)
        first.save(str(other))

        def theirs() -> float:
            search = pyhopper_search()
            began = time.perf_counter()
            search.load(str(other))
            return (time.perf_counter() - began) * 1e3

        measures["pyhopper"] = theirs
    got = take_turns(measures, min(rounds, 5))
    mine = [_traced(lambda: in_loop(our_search().load(path)))]
    if "pyhopper" not in got:
        return []
    memory = [_traced(lambda: pyhopper_search().load(str(other)))]
    return [
        row(f"load {n:,} results: time", got["ours"], "PyHopper", got["pyhopper"], "ms", at_most=1),
        row(f"load {n:,} results: memory while loading", mine, "PyHopper", memory, "MiB", at_most=0.25),
    ]


def _traced(work: object) -> float:
    tracemalloc.start()
    try:
        work()  # type: ignore[operator]  # a callable
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def finished(rounds: int, quick: bool) -> Row:
    """Bytes in memory that a finished trial of five scalars takes."""
    n = 5_000 if quick else 20_000
    taken = []
    in_loop(ours(100, 100))  # what is imported and cached on first use is no trial's
    for _ in range(min(rounds, 3)):
        tracemalloc.start()
        small, large = (_held(n), _held(2 * n))
        tracemalloc.stop()
        taken.append((large - small) / n)
    return row("memory a finished trial", taken, "150 B", [150.0] * len(taken), "B", at_most=1)


def _held(n: int) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    search = in_loop(ours(n, 100, handle_signals=False))
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    del search
    return held


def startup(rounds: int) -> list[Row]:
    """Import time over that of an empty interpreter, of the name and of what a first search needs."""

    def over(statement: str) -> float:
        return _start(statement) - _start("pass")

    measures = {
        "ours": lambda: over("import asynchopper"),
        "search": lambda: over("from asynchopper import Search"),
        "numpy": lambda: over("import numpy"),
    }
    if installed("pyhopper"):
        measures["pyhopper"] = lambda: over("import pyhopper")
    got = take_turns(measures, max(rounds, 7))
    first = "from asynchopper import Search"
    rows = [row(first, got["search"], "import numpy", got["numpy"], "ms")]
    if "pyhopper" in got:
        rows.insert(0, row("import asynchopper", got["ours"], "import pyhopper", got["pyhopper"], "ms", at_most=0.6))
        rows.insert(1, row(first, got["search"], "import pyhopper", got["pyhopper"], "ms"))
    return rows


def _start(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return (time.perf_counter() - began) * 1e3
