"""Pictures of the report: win rates with their intervals, and where the candidates of a search fall. Needs matplotlib.

python benchmarks/quality/plots.py docs/img [asynchopper,asynchopper@2]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib as mpl
import numpy as np

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "asynchopper"
import matplotlib.pyplot as plt
from functions import continuous
from ours import Ours
from report import compare
from suites import suites
from task import Task

from asynchopper.samplers import PortfolioSampler


def win_rates(to: Path, ours: str) -> None:
    rows = []
    for suite in suites("test"):
        for _, slots, steps, other, rate, low, high, n in compare("test", suite, ours):
            if other in ("pyhopper", "optuna-tpe", "ng-NGOpt", "ng-CMA", "optuna-cma", "ng-OnePlusOne") and n >= 8:
                rows.append((f"{suite}, {slots} slots, {steps}: {other}", rate, low, high))
    fig, ax = plt.subplots(figsize=(7.5, 0.19 * len(rows) + 0.8))
    for y, (_, rate, low, high) in enumerate(reversed(rows)):
        colour = "#1b7837" if low > 0.5 else "#b2182b" if high < 0.5 else "#666666"
        ax.plot([low, high], [y, y], color=colour, lw=1.4)
        ax.plot([rate], [y], "o", color=colour, ms=3.5)
    ax.set_yticks(range(len(rows)), [r[0] for r in reversed(rows)], fontsize=6.5)
    ax.axvline(0.5, color="black", lw=0.6)
    ax.set(xlim=(0, 1), ylim=(-1, len(rows)), xlabel="how often asynchopper ends better, with 95% intervals")
    fig.tight_layout()
    fig.savefig(to / "win-rates.svg", metadata={"Date": None})


def path(to: Path) -> None:
    task = continuous("rosenbrock", 2)
    grid = np.linspace(-5, 5, 90)
    z = np.array([[task.value({"x0": a, "x1": b}) for a in grid] for b in grid])
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharey=True)
    search = Ours(Task(task.name, task.params, task.value), 90, 8, 1, PortfolioSampler())
    told, out = [], []
    while len(told) < 90:
        token, given = search.ask() or (None, {})
        out.append((token, given))
        if len(out) >= 8:
            token, given = out.pop(0)
            search.tell(token, task.value(given))
            told.append((given["x0"], given["x1"]))
    xy = np.array(told)
    for ax, (start, end) in zip(axes, ((0, 12), (12, 40), (40, 90)), strict=True):
        ax.contour(grid, grid, np.log10(z + 1), levels=14, linewidths=0.4, cmap="Greys")
        ax.plot(*xy[:start].T, ".", color="#bbbbbb", ms=3)
        ax.plot(*xy[start:end].T, ".", color="#b2182b", ms=5)
        ax.set(title=f"trials {start} to {end - 1}", xticks=[], yticks=[], xlim=(-5, 5), ylim=(-5, 5))
    fig.tight_layout()
    fig.savefig(to / "search-path.svg", metadata={"Date": None})


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    win_rates(folder, sys.argv[2] if len(sys.argv) > 2 else "asynchopper")
    path(folder)
