"""Mean ranks, pairwise win rates with 95% intervals, and gaps, from the cells that `run.py` has made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from run import load, path
from suites import suites

_SAME = 1e-9  # values closer than this, relatively, are a tie


def win_rate(a: np.ndarray, b: np.ndarray, groups: list[str]) -> tuple[float, float, float]:
    """How often `a` is below `b`, ties counting half; the interval is a bootstrap over tasks, whose cells go together."""
    tie = np.abs(a - b) <= _SAME * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
    won = np.where(tie, 0.5, a < b)
    names = sorted(set(groups))
    members = [won[[g == n for g in groups]] for n in names]
    rng = np.random.default_rng(0)
    sums, counts = np.array([m.sum() for m in members]), np.array([len(m) for m in members])
    picks = rng.integers(len(names), size=(2000, len(names)))
    rates = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(won.mean()), float(low), float(high)


def compare(
    split: str, suite: str, ours: str, against: list[str] | None = None
) -> list[tuple[str, int, int, str, float, float, float, int]]:
    """Win rates of ours, all streams of it together where `ours` names several by commas, as are all that another has."""
    streams = ours.split(",")
    mine = [load(split, suite, name) for name in streams]
    rows = []
    there = sorted(p.stem for p in path(split, suite, streams[0]).parent.glob("*.jsonl"))
    again, own = f"{streams[0]}@again", streams[0].split("@")[0]
    others = against or sorted({name.split("@")[0] for name in there} - {own} | {again} & set(there))
    for slots, steps in suites(split)[suite].settings:
        for other in others:
            theirs = [load(split, suite, name) for name in there if name == other or name.startswith(f"{other}@")]
            pairs = [
                (k, known[k], his[k])
                for known in mine
                for his in theirs
                for k in known
                if k[1:3] == (slots, steps) and k in his
            ]
            if pairs:
                keys, a, b = zip(*pairs, strict=True)
                rates = win_rate(np.array(a), np.array(b), [k[0] for k in keys])
                rows.append((suite, slots, steps, other, *rates, len(keys)))
    return rows


Cell = tuple[str, int, int, int]


def played(split: str, suite: str, ours: str = "asynchopper") -> dict[str, dict[Cell, float]]:
    """What every optimizer reached; second streams and variants are left out, apart from `ours`."""
    folder = path(split, suite, "x").parent
    names = [p.stem for p in sorted(folder.glob("*.jsonl"))]
    return {n: load(split, suite, n) for n in names if "@" not in n or n == ours}


def ranks(split: str, suite: str, ours: str = "asynchopper") -> tuple[dict[str, float], int]:
    """The mean rank of everything in the cells that all have played, and how many these are."""
    all_ = played(split, suite, ours)
    keys = sorted(set.intersection(*[set(v) for v in all_.values()])) if all_ else []
    if not keys:
        return {}, 0
    values = np.array([[v[k] for k in keys] for v in all_.values()])
    order = np.array(
        [
            [np.mean(col < x) * len(col) + (np.sum(np.isclose(col, x, rtol=_SAME)) + 1) / 2 for x in col]
            for col in values.T
        ]
    )
    return dict(zip(all_, order.mean(0).tolist(), strict=True)), len(keys)


def gaps(split: str, suite: str, ours: str = "asynchopper") -> dict[str, float]:
    """How far from the best known value each one ends, as a part of what the middle one of a cell is from it: a
    geometric mean over its cells. The best known value is the function's own, or the best that anyone has found."""
    all_ = played(split, suite, ours)
    best = {}
    for task_of in suites(split)[suite].tasks:
        task = task_of()
        found = [v for known in all_.values() for k, v in known.items() if k[0] == task.name]
        if found:
            best[task.name] = min(found) if task.floor is None else min(task.floor, *found)
    cells = sorted({k for known in all_.values() for k in known})
    middle = {k: float(np.median([v[k] for v in all_.values() if k in v])) - best[k[0]] for k in cells}
    out = {}
    for name, known in all_.items():
        logs = [
            np.log(max(v - best[k[0]], 1e-4 * middle[k]) / middle[k]) for k, v in known.items() if middle[k] > 1e-300
        ]
        out[name] = float(np.exp(np.mean(logs))) if logs else float("nan")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test")
    parser.add_argument("--suite", default="all")
    parser.add_argument("--ours", default="asynchopper", help="a name, or several streams of it by commas")
    parser.add_argument("--against", default="", help="names, by commas; all of them when it is left out")
    args = parser.parse_args()
    names = list(suites(args.split)) if args.suite == "all" else args.suite.split(",")
    against = args.against.split(",") if args.against else None
    print("| suite | slots; evaluations | against | win rate | 95% interval | cells |\n|---|---|---|---|---|---|")
    for suite in names:
        for _, slots, steps, other, rate, low, high, n in compare(args.split, suite, args.ours, against):
            print(f"| {suite} | {slots}; {steps} | {other} | {rate:.2f} | {low:.2f} to {high:.2f} | {n} |")
    print("\n| suite | optimizer | mean rank | gap |\n|---|---|---|---|")
    ours = args.ours.split(",")[0]
    for suite in names:
        (mean, n), gap = ranks(args.split, suite, ours), gaps(args.split, suite, ours)
        for name in sorted(gap, key=lambda name: mean.get(name, 99.0)):
            rank = f"{mean[name]:.2f} (of {len(mean)}, {n} cells)" if name in mean else ""
            print(f"| {suite} | {name} | {rank} | {gap[name]:.3g} |")


if __name__ == "__main__":
    main()
