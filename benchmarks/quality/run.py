"""Runs optimizers on suites, and remembers every cell on disk.

    python benchmarks/quality/run.py --split test --suite continuous --optimizers asynchopper,pyhopper --jobs 2
    python benchmarks/quality/report.py --split test

A cell is (optimizer, task, slots, steps, seed); each has a random stream of its own. `--fresh` runs ours again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

from learning import CACHE
from ours import OURS
from peers import PEERS
from suites import cells, suites
from task import simulate

TPE = {"optuna-tpe", "hyperopt-tpe"}
NUMBERS = {"continuous", "continuous-1", "continuous-64", "noisy", "wide", "many", "long", "longer"}
"""Suites whose spaces are numbers alone."""
ARRAYS = {"wide", "many"}
LONG = {"long", "longer", "long-mixed"}
LEARNING = {"learning", "more-learning"}


def wanted(optimizer: str, suite: str) -> bool:
    """Whether an optimizer plays in a suite. TPE needs minutes for 1,000 evaluations or hundreds of numbers, and so does
    Optuna for the latter; Hyperopt's TPE plays where it is at home. A CMA-ES is for numbers: of mixed spaces, it plays
    in those of integers."""
    name = optimizer.split("@")[0]
    if name == "quick":  # elsewhere it is the same as ours
        return suite in LONG
    if name == "hyperopt-tpe":
        return suite in ("options", "bowls", *LEARNING)
    if name == "optuna-tpe":
        return suite not in {*ARRAYS, *LONG, "continuous-64"}
    if name == "ng-CMA":
        return suite in NUMBERS
    return name != "optuna-cma" or suite in NUMBERS - ARRAYS - {"longer"} or suite == "mixed-integer"


def plays(optimizer: str, suite: str, number: int) -> bool:
    """Whether it plays in a task of a suite that it plays in. The slow ones play in every other: TPE anywhere, and
    Nevergrad in mixed spaces. Two that play in half of the tasks play in the same half."""
    name = optimizer.split("@")[0]
    slow = name in TPE or (name.startswith("ng-") and suite not in NUMBERS)
    return not slow or suite in LEARNING or (number + number // 2) % 2 == 0


def path(split: str, suite: str, optimizer: str) -> Path:
    return CACHE / "cells" / split / suite / f"{optimizer}.jsonl"


def load(split: str, suite: str, optimizer: str) -> dict[tuple[str, int, int, int], float]:
    p = path(split, suite, optimizer)
    if not p.exists():
        return {}
    rows = [json.loads(line) for line in p.read_text().splitlines()]
    return {(task, slots, steps, seed): v for task, slots, steps, seed, v, _ in rows}


def seed_of(optimizer: str, task: str, slots: int, steps: int, seed: int) -> int:
    return zlib.crc32(f"{optimizer}|{task}|{slots}|{steps}|{seed}".encode())


def run(
    split: str, suite: str, optimizer: str, part: int = 0, parts: int = 1
) -> list[tuple[str, int, int, int, float, float]]:
    """The cells of a suite that are not known yet, or a part of them."""
    done = load(split, suite, optimizer)
    make = {**OURS, **PEERS}[optimizer.split("@")[0]]
    out = []
    for i, (number, task_of, slots, steps, seed) in enumerate(cells(split, suite)):
        if i % parts != part or not plays(optimizer, suite, number):
            continue
        task = task_of()
        if (task.name, slots, steps, seed) in done:
            continue
        began = time.perf_counter()
        value = simulate(make, task, steps, slots, seed_of(optimizer, task.name, slots, steps, seed))[-1]
        row = (task.name, slots, steps, seed, value, round(time.perf_counter() - began, 3))
        out.append(row)
        p = path(split, suite, optimizer)
        p.parent.mkdir(parents=True, exist_ok=True)
        with p.open("a") as f:
            f.write(json.dumps(row) + "\n")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--suite", default="all")
    parser.add_argument(
        "--optimizers", default="all", help="names, by commas; name@label for a second stream or a variant"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget what is known of ours")
    args = parser.parse_args()
    names = [*OURS, *PEERS, "asynchopper@again"] if args.optimizers == "all" else args.optimizers.split(",")
    chosen = list(suites(args.split)) if args.suite == "all" else args.suite.split(",")
    work = [(s, n) for s in chosen for n in names if wanted(n, s)]
    if args.fresh:
        for s, n in work:
            if n.split("@")[0] in OURS:
                path(args.split, s, n).unlink(missing_ok=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [
            (s, n, pool.submit(run, args.split, s, n, part, 4 * args.jobs))
            for s, n in work
            for part in range(4 * args.jobs)
        ]
        began = time.perf_counter()
        for s, n, job in jobs:
            rows = job.result()
            if rows:
                print(
                    f"{time.perf_counter() - began:7.1f} s  {s:14} {n:20} {len(rows)} cells, {sum(r[-1] for r in rows):.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
