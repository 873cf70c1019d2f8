"""Results that are on the disk: time beside a bare write and sync of the same bytes, and beside others; bytes written."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asynchopper.records import bare as unframed
from benchmarks.bench import Row, installed, row, take_turns
from benchmarks.parts import moves_alone
from benchmarks.tuners import (
    in_loop,
    optuna_journal,
    optuna_value,
    our_search,
    ours,
    pyhopper_run,
    pyhopper_search,
    trivial,
    value,
)

_STEPS = 500


def measure(rounds: int, quick: bool = False) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))  # where the code is: /tmp may be memory
    try:
        return _measure(folder, rounds, quick)
    finally:
        shutil.rmtree(folder)


def _measure(folder: Path, rounds: int, quick: bool) -> list[Row]:
    n = _STEPS
    grown = 1_000 if quick else 10_000
    start = folder / "grown.ckpt"
    in_loop(ours(grown, 64, checkpoint_path=start))
    lines = start.read_bytes().splitlines()
    record = sum(map(len, lines)) / grown
    measures: dict[str, Callable[[], float]] = {"bare": lambda: bare(folder, n, round(record))}
    for c in (1, 100):
        measures[f"{c}"] = lambda c=c: _continued(folder, start, n, c)
        if installed("uvloop"):
            measures[f"{c} on uvloop"] = lambda c=c: _continued(folder, start, n, c, uvloop=True)
    peers: dict[str, tuple[Callable[[], float], int]] = {}
    if installed("pyhopper"):
        peers["PyHopper"] = _pyhopper(folder, grown, 5), 5
    if installed("optuna"):
        peers["Optuna's journal"] = _optuna(folder, grown, 20), 20
    got = take_turns(measures | {name: work for name, (work, _) in peers.items()}, rounds)
    at = f"at {grown:,} results"
    bound = {"1": 1.5, "100": 0.08, "PyHopper": 1 / 500, "Optuna's journal": 1 / 10}
    rows = [
        row(
            f"time a durable result, file, {c} in flight, {at}",
            got[c],
            "bare append + fdatasync, one by one",
            got["bare"],
            "us",
            at_most=bound[c],
            uvloop=got.get(f"{c} on uvloop"),
        )
        for c in ("1", "100")
    ]
    rows += [
        row(f"time a durable result, file, 1 in flight, {at}", got["1"], name, got[name], "us", at_most=bound[name])
        for name in peers
    ]
    rows.append(flat(folder, max(rounds // 2, 3), grown))
    return rows + (written(folder, start, grown, peers) if Path("/proc/self/io").exists() else [])


def _continued(folder: Path, start: Path, n: int, concurrency: int, uvloop: bool = False) -> float:
    """Microseconds a result of a search that continues a log, from its first evaluation to its last, so without reading it."""
    copy = folder / "run.ckpt"
    shutil.copy(start, copy)
    marks: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        marks.append(time.perf_counter())
        return value(params)

    n = n if concurrency == 1 else 10 * n
    search = our_search()
    words: dict[str, Any] = {"steps": n, "concurrency": concurrency, "checkpoint_path": copy, "quiet": True}
    in_loop(search.run(objective, sampler=moves_alone(), **words), uvloop)  # storage is what is looked at
    return (marks[-1] - marks[0]) / (n - concurrency) * 1e6


def bare(folder: Path, n: int, size: int) -> float:
    """The floor, microseconds a result: one append and one sync, by a program that does nothing else."""
    data = b"x" * (size - 1) + b"\n"
    fd = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        began = time.perf_counter()
        for _ in range(n):
            os.write(fd, data)
            os.fdatasync(fd)
        return (time.perf_counter() - began) / n * 1e6
    finally:
        os.close(fd)


def flat(folder: Path, rounds: int, grown: int) -> Row:
    """Processor time a durable result, at 100 results against many."""
    early, late = [], []
    for i in range(rounds):
        cpu: list[float] = []

        async def objective(params: dict[str, Any], cpu: list[float] = cpu) -> float:
            cpu.append(time.process_time())
            return value(params)

        in_loop(ours(grown, 8, objective, checkpoint_path=folder / f"flat{i}.ckpt"))
        early.append((cpu[600] - cpu[100]) / 500 * 1e6)
        late.append((cpu[-9] - cpu[-509]) / 500 * 1e6)
    what = f"processor time a durable result, 8 in flight, at {grown:,} results"
    return row(what, late, "at 100 results", early, "us", at_most=1.1)


# -- peers that hold as many results


def _pyhopper(folder: Path, grown: int, few: int) -> Callable[[], float]:
    """Microseconds a step of PyHopper, which writes its whole history each time, and does not sync it."""
    path = folder / "pyhopper.ckpt"
    pyhopper_run(grown).save(str(path))
    search = pyhopper_search()
    search.load(str(path))

    def work() -> float:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            search.run(value, "max", steps=few, quiet=True, checkpoint_path=str(path))
        return (time.perf_counter() - began) / few * 1e6

    return work


def _optuna(folder: Path, grown: int, few: int) -> Callable[[], float]:
    """Microseconds a trial of Optuna's random sampler on its journal, which syncs each of a trial's seven entries."""
    study = optuna_journal(folder / "journal.log", grown)

    def work() -> float:
        began = time.perf_counter()
        study.optimize(optuna_value, n_trials=few)
        return (time.perf_counter() - began) / few * 1e6

    return work


# -- bytes


def written(folder: Path, start: Path, grown: int, peers: Mapping[str, tuple[Callable[[], object], int]]) -> list[Row]:
    """Bytes that a file has grown by, and bytes that the kernel was given, a result, one result at a time."""
    n = _STEPS
    small = folder / "small.ckpt"
    in_loop(ours(100, 1, checkpoint_path=small))
    rows, count = [], 0
    for at, path in ((100, small), (grown, start)):
        copy = folder / "bytes.ckpt"
        shutil.copy(path, copy)
        size, before = copy.stat().st_size, len(copy.read_bytes().splitlines())
        count = _written(
            lambda copy=copy: in_loop(
                our_search().run(trivial, steps=n, sampler=moves_alone(), checkpoint_path=copy, quiet=True)
            )
        )
        records = [records_alone(line) for line in copy.read_bytes().splitlines()[before:]]
        grew, itself, against = [(copy.stat().st_size - size) / n], [sum(records) / n], "its records themselves"
        what = f"a result, one at a time, at {at:,} results"
        rows.append(row(f"bytes that the file grows by, {what}", grew, against, itself, "B", at_most=1.3))
        rows.append(row(f"bytes handed to the kernel, {what}", [count / n], against, itself, "B", at_most=1.3))
    what = f"bytes handed to the kernel, a result, at {grown:,} results"
    return rows + [row(what, [count / n], name, [_written(work) / few], "B") for name, (work, few) in peers.items()]


def records_alone(line: bytes) -> int:
    """Bytes of a line without what numbers and protects it."""
    return len(unframed(line))


def _written(work: Callable[[], object]) -> int:
    """How many bytes this process hands to `write` and its kind meanwhile."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

    before = so_far()
    work()
    return so_far() - before
