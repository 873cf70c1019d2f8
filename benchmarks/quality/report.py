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
    mine = load(split, suite, ours)
    rows = []
    others = against or sorted(p.stem for p in path(split, suite, ours).parent.glob("*.jsonl"))
    for slots, steps in suites(split)[suite].settings:
        for other in others:
            if other == ours:
                continue
            theirs = load(split, suite, other)
            keys = [k for k in mine if k[1:3] == (slots, steps) and k in theirs]
            if keys:
                a, b = np.array([mine[k] for k in keys]), np.array([theirs[k] for k in keys])
                rows.append((suite, slots, steps, other, *win_rate(a, b, [k[0] for k in keys]), len(keys)))
    return rows


def ranks(split: str, suite: str) -> dict[str, float]:
    """The mean rank of everything that ran in all the cells."""
    folder = path(split, suite, "x").parent
    all_ = {p.stem: load(split, suite, p.stem) for p in sorted(folder.glob("*.jsonl")) if "@" not in p.stem}
    keys = sorted(set.intersection(*[set(v) for v in all_.values()])) if all_ else []
    if not keys:
        return {}
    values = np.array([[v[k] for k in keys] for v in all_.values()])
    order = np.array(
        [
            [np.mean(col < x) * len(col) + (np.sum(np.isclose(col, x, rtol=_SAME)) + 1) / 2 for x in col]
            for col in values.T
        ]
    )
    return dict(zip(all_, order.mean(0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test")
    parser.add_argument("--suite", default="all")
    parser.add_argument("--ours", default="asynchopper")
    parser.add_argument("--against", default="")
    args = parser.parse_args()
    names = list(suites(args.split)) if args.suite == "all" else args.suite.split(",")
    for suite in names:
        print(
            f"\n{suite}: mean ranks",
            {k: round(v, 2) for k, v in sorted(ranks(args.split, suite).items(), key=lambda x: x[1])},
        )
        table: dict[tuple[int, int], list[str]] = {}
        for _, slots, steps, other, rate, low, high, n in compare(
            args.split, suite, args.ours, args.against.split(",") if args.against else None
        ):
            table.setdefault((slots, steps), []).append(f"{other} {rate:.2f} [{low:.2f}, {high:.2f}] n={n}")
        for (slots, steps), texts in table.items():
            print(f"  {slots:3} slots, {steps:4} evaluations: " + "; ".join(texts))


if __name__ == "__main__":
    main()
