"""Results per second that are on the disk, beside a bare write and sync of the same bytes."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.tuners import in_loop, optuna_study, optuna_value, our_search, ours, pyhopper_run, rate, value


def measure(rounds: int, quick: bool = False) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))
    try:
        return _measure(folder, rounds, quick)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path, rounds: int, quick: bool) -> list[Row]:
    n = 500 if quick else 1_000
    grown = 1_000 if quick else 10_000
    start = folder / "grown.ckpt"
    in_loop(ours(grown, 64, checkpoint_path=start))
    size = start.stat().st_size
    record = size / grown

    def run(concurrency: int) -> float:
        copy = folder / "run.ckpt"
        shutil.copy(start, copy)
        return rate(n, lambda: in_loop(_continue(copy, n, concurrency)))

    measures: dict[str, Any] = {
        "1": lambda: run(1),
        "64": lambda: run(64),
        "100": lambda: run(100),
        "bare": lambda: bare(folder, n, round(record)),
    }
    got = take_turns(measures, rounds)
    seconds = {k: [1e6 / x for x in v] for k, v in got.items()}
    at = f"at {grown:,} results"
    rows = [
        row(
            "durable results/s, file, concurrency 1",
            got["1"],
            "bare append + fdatasync",
            got["bare"],
            "/s",
            at_least=0.5,
        ),
        row(
            "durable results/s, file, concurrency 64",
            got["64"],
            "bare append + fdatasync",
            got["bare"],
            "/s",
            at_least=1,
        ),
        row(
            f"time a durable result, one at a time, {at}", seconds["1"], "bare loop", seconds["bare"], "us", at_most=1.5
        ),
        row(
            f"time a durable result, 100 in flight, {at}",
            seconds["100"],
            "bare loop",
            seconds["bare"],
            "us",
            at_most=0.08,
        ),
        flat(folder, rounds, grown),
        row(f"bytes written a result, {at}", [record], "its records", [_records(start) / grown], "B", at_most=1.3),
    ]
    return rows + peers(folder, got["1"], grown, quick)


async def _continue(path: Path, n: int, concurrency: int) -> None:
    await our_search().run(_trivial, steps=n, concurrency=concurrency, checkpoint_path=path, quiet=True)


async def _trivial(params: dict[str, Any]) -> float:
    return value(params)


def bare(folder: Path, n: int, size: int) -> float:
    """The floor: one append and one sync a result, by a program that does nothing else."""
    data = b"x" * (size - 1) + b"\n"
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        began = time.perf_counter()
        for _ in range(n):
            os.write(fd, data)
            os.fdatasync(fd)
        return n / (time.perf_counter() - began)
    finally:
        os.close(fd)


def flat(folder: Path, rounds: int, grown: int) -> Row:
    """Processor time a durable result at 100 results against many."""
    early, late = [], []
    for i in range(rounds):
        cpu: list[float] = []

        async def objective(params: dict[str, Any], cpu: list[float] = cpu) -> float:
            cpu.append(time.process_time())
            return value(params)

        in_loop(ours(grown, 1 if grown <= 1000 else 8, objective, checkpoint_path=folder / f"flat{i}.ckpt"))
        early.append((cpu[600] - cpu[100]) / 500 * 1e6)
        late.append((cpu[-1] - cpu[-501]) / 500 * 1e6)
    return row(
        f"processor time a durable result, at {grown:,} results", late, "at 100 results", early, "us", at_most=1.2
    )


def _records(path: Path) -> float:
    """Bytes of the records alone, as they are before numbering and checksums."""
    return float(sum(len(line) - 28 for line in path.read_bytes().split(b"\n") if line))


def peers(folder: Path, mine: list[float], grown: int, quick: bool) -> list[Row]:
    ours_us = [1e6 / statistics.median(mine)]
    rows = []
    if installed("pyhopper"):
        path = folder / "pyhopper.ckpt"
        few = 5 if quick else 10
        took = _slope(lambda n: pyhopper_run(n, path), grown, few, path)
        rows.append(
            row("time a durable result, file, one at a time", ours_us, "PyHopper", [took], "us", at_most=1 / 500)
        )
    if installed("optuna"):
        took = _optuna_journal(folder, grown)
        rows.append(
            row("time a durable result, file, one at a time", ours_us, "Optuna's journal", [took], "us", at_most=0.1)
        )
    return rows


def _slope(run: Any, grown: int, few: int, path: Path) -> float:
    """Microseconds a step of PyHopper that continues `grown` results, written without syncing."""
    from benchmarks.tuners import pyhopper_search

    first = pyhopper_search()
    first.run(value, "max", steps=grown, quiet=True)
    first.save(str(path))
    search = pyhopper_search()
    search.load(str(path))
    began = time.perf_counter()
    search.run(value, "max", steps=few, quiet=True, checkpoint_path=str(path))
    return (time.perf_counter() - began) / few * 1e6


def _optuna_journal(folder: Path, grown: int) -> float:
    """Microseconds a trial of Optuna's random sampler on its journal file, which it writes without syncing each."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna_study("random", JournalStorage(JournalFileBackend(str(folder / "journal.log"))))
    study.optimize(optuna_value, n_trials=300)
    return 1e6 / rate(200, lambda: study.optimize(optuna_value, n_trials=200))
