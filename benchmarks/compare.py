"""`python -m benchmarks.compare BASE [HEAD] [--tolerance 0.03]`: do two commits execute as many instructions?

Wall time on a shared machine says little about a change of a few percent; the number of instructions hardly varies (two runs of
one commit differ by less than 1%). They are counted by valgrind, for the same workloads on a checkout of each commit, less
those of an import and a short run. Exits with 1 when a workload takes more than the tolerance above the base. A workload that
the base does not know yet is told, and not judged. Redis is not among them: how often a worker waits for its server, and so
what it executes, changes from run to run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PRELUDE = """
import asyncio, os, sys, warnings, asynchopper as ah
from asynchopper import samplers
from asynchopper.samplers.tuning import Tuning
def moves():  # how often a model is asked goes by the clock
    return samplers.PortfolioSampler(Tuning(model=False))
def search(**space):
    return ah.Search(space or {"lr": ah.float(1e-5, 1e-1, log=True), "units": ah.int(16, 512), "layers": ah.int(1, 8),
                               "opt": ah.choice("a", "b", "c"), "drop": ah.float(0, 0.5)}, seed=1)
async def objective(p): return p["lr"] * p["units"] - p["drop"]
async def units(p): return float(p["a"])
async def first(p): return float(p["w"][0])
def run(n, c, made=None, objective=objective, sampler=None, **words):
    words |= dict(steps=n, concurrency=c, sampler=sampler or moves(), quiet=True, handle_signals=False)
    asyncio.run((made or search()).run(objective, **words))
async def told(n):
    async with search().session(steps=n, sampler=moves()) as session:
        while (trial := await session.ask()) is not None:
            await session.tell(trial, 0.5)
run(5, 2, sampler=samplers.RandomSampler())
"""
_N = 500
WORKLOADS = {
    "default's moves, one at a time": (_N, f"run({_N}, 1)"),
    "default's moves, 100 at a time": (_N, f"run({_N}, 100)"),
    "default, few steps, modelled": (60, "run(60, 1, sampler=samplers.PortfolioSampler())"),
    "two-stage, 100 at a time": (_N, f"run({_N}, 100, sampler=samplers.TwoStageSampler())"),
    "random, duplicates allowed": (_N, f"run({_N}, 100, sampler=samplers.RandomSampler(), duplicates='allow')"),
    "duplicates reused": (_N, f"run({_N}, 100, search(a=ah.int(1, 9)), units, duplicates='reuse')"),
    "callbacks": (_N, f"run({_N}, 100, callbacks=[lambda trial: None])"),
    "array of 1,000": (200, "run(200, 10, search(w=ah.float(-1, 1, shape=1000)), first)"),
    "ask and tell": (_N, f"asyncio.run(told({_N}))"),
    "into a file, one at a time": (_N, f"run({_N}, 1, checkpoint_path='one.ckpt', sampler=samplers.RandomSampler())"),
    "into a file, 100 at a time": (
        _N,
        f"run({_N}, 100, checkpoint_path='many.ckpt', sampler=samplers.RandomSampler())",
    ),
    "from a file": (_N, "asyncio.run(search().load('many.ckpt'))"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--tolerance", type=float, default=0.03, help="how much more is too much, as a fraction")
    parser.add_argument("--only", default="", help="only the workloads with this in their name")
    words = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    names = [name for name in WORKLOADS if words.only in name]
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(2) as pool:  # one a commit, side by side
        folder = Path(made)
        base, head = pool.map(
            lambda at: counted(at[1], folder / at[0], names), (("base", words.base), ("head", words.head))
        )
    return judged(base, head, words.tolerance)


def counted(commit: str, folder: Path, names: list[str]) -> dict[str, float | None]:
    """Instructions a trial, by workload, of a commit in a folder of its own."""
    git = ["git", "-C", str(Path(__file__).parents[1]), "worktree"]
    folder.mkdir()
    subprocess.run([*git, "add", "-q", "--detach", folder / "tree", commit], check=True)
    counts: dict[str, float | None] = {}
    try:
        compiled = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            *(folder / "tree" / name for name in ("asynchopper", "backends")),
        ]
        subprocess.run(compiled, check=True)  # or whatever is imported late would be counted by the length of its text
        nothing = _instructions(folder, "")
        assert nothing is not None, "valgrind, or the import, failed"
        for name in names:
            trials, code = WORKLOADS[name]
            whole = _instructions(folder, code)
            counts[name] = None if whole is None else (whole - nothing) / trials
    finally:
        subprocess.run([*git, "remove", "--force", folder / "tree"], check=True)
    return counts


def _instructions(folder: Path, code: str) -> int | None:
    """`None` when the program fails."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    tree = folder / "tree"
    path = os.pathsep.join([str(tree), str(tree / "backends")])
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [*command, sys.executable, "-c", _PRELUDE + code],
        cwd=folder,
        env={**os.environ, **single, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        print(f"{code}: {done.stderr[-500:]}", file=sys.stderr)
        return None
    return int(found[1].replace(",", ""))


def judged(base: dict[str, float | None], head: dict[str, float | None], tolerance: float) -> int:
    worse = 0
    for name, now in head.items():
        before = base.get(name)
        if now is None:
            worse += 1
            print(f"{name:30} FAILED")
        elif before is None:
            print(f"{name:30} {'':12}    {now:12,.0f} instructions a trial           new")
        else:
            change = now / before - 1
            worse += change > tolerance
            verdict = "WORSE" if change > tolerance else "ok"
            print(f"{name:30} {before:12,.0f} -> {now:12,.0f} instructions a trial  {change:+7.1%}  {verdict}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
