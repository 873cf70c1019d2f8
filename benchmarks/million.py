"""A run of a million trials: the most memory that its process ever had."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.bench import Row, row

_PROGRAM = """
import pathlib, re, resource, sys, time
from benchmarks.tuners import in_loop, ours
trials = int(sys.argv[1])
began = time.perf_counter()
search = in_loop(ours(trials, 100))
assert len(search.history) == trials
took = time.perf_counter() - began
status = pathlib.Path("/proc/self/status")
if status.exists():  # what getrusage says there is never less than what the parent had
    most = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024
else:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(most / 2**20, took)
"""


def measure(rounds: int, quick: bool = False) -> list[Row]:
    """Once: memory hardly varies."""
    n = 50_000 if quick else 1_000_000
    mib, seconds = _run(n)
    first_s = _run(n // 10)[1]
    return [
        row(f"most memory of a process that runs {n:,} trials", [mib], "500 MB", [500e6 / 2**20], "MiB", at_most=1),
        row(f"time of {n:,} trials", [seconds], f"ten times that of {n // 10:,}", [10 * first_s], "s", at_most=1.1),
    ]


def _run(n: int) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(n)], check=True, capture_output=True, text=True)
    mib, seconds = map(float, done.stdout.split())
    return mib, seconds
