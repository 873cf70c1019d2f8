"""`python -m benchmarks.compare BASE [HEAD] [--tolerance 0.03]`: do two commits execute as many instructions?

Wall time on a shared machine says little about a change of a few percent; the number of instructions hardly varies. They are
counted by valgrind, for the same workloads on a checkout of each commit, less those of an import alone. Exits with 1 when a
workload takes more than the tolerance above the base.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_PRELUDE = """
import asyncio, asynchopper as ah
def search():
    return ah.Search({"lr": ah.float(1e-5, 1e-1, log=True), "units": ah.int(16, 512), "layers": ah.int(1, 8),
                      "opt": ah.choice("a", "b", "c"), "drop": ah.float(0, 0.5)}, seed=1)
async def objective(p): return p["lr"] * p["units"] - p["drop"]
def run(n, c, **words): asyncio.run(search().run(objective, steps=n, concurrency=c, quiet=True, **words))
run(5, 2)
"""
_TRIALS = 500
WORKLOADS = {
    "one at a time": f"run({_TRIALS}, 1)",
    "a hundred at once": f"run({_TRIALS}, 100)",
    "into a file": f"run({_TRIALS}, 20, checkpoint_path='a.ckpt')",
    "from a file": "asyncio.run(search().load('a.ckpt'))",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--tolerance", type=float, default=0.03, help="how much more is too much, as a fraction")
    words = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        counts = {}
        for commit in (words.base, words.head):
            tree = folder / f"tree{len(counts)}"
            subprocess.run(["git", "-C", root, "worktree", "add", "-q", "--detach", tree, commit], check=True)
            try:
                counts[commit] = _counted(tree, folder / f"work{len(counts)}")
            finally:
                subprocess.run(["git", "-C", root, "worktree", "remove", "--force", tree], check=True)
    return _judged(counts[words.base], counts[words.head], words.tolerance)


def _counted(tree: Path, work: Path) -> dict[str, float]:
    """Instructions a trial, by workload."""
    work.mkdir()
    nothing = _instructions(tree, work, "")
    return {name: (_instructions(tree, work, code) - nothing) / _TRIALS for name, code in WORKLOADS.items()}


def _instructions(tree: Path, work: Path, code: str) -> int:
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    path = os.pathsep.join([str(tree), str(tree / "backends")])
    done = subprocess.run(
        [*command, sys.executable, "-c", _PRELUDE + code],
        cwd=work,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind counted nothing:\n{done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def _judged(base: dict[str, float], head: dict[str, float], tolerance: float) -> int:
    worse = 0
    for name, before in base.items():
        change = head[name] / before - 1
        verdict = "WORSE" if change > tolerance else "ok"
        worse += change > tolerance
        print(f"{name:20} {before:12,.0f} -> {head[name]:12,.0f} instructions a trial  {change:+7.1%}  {verdict}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
