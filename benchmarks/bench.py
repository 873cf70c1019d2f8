"""What every benchmark here is made of: rounds that take turns, and a table of ratios."""

from __future__ import annotations

import gc
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
Measure = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` holds ours over theirs, a round each."""

    what: str
    against: str
    ours: str
    theirs: str
    ratios: tuple[float, ...]
    aim: str
    held: bool | None

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    def cells(self) -> list[str]:
        spread = f"{shown(self.median)} ({shown(min(self.ratios))} to {shown(max(self.ratios))})"
        held = "" if self.held is None else "yes" if self.held else "**no**"
        return [self.what, self.against, self.ours, self.theirs, spread, self.aim, held]


def take_turns(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Each measure once a round, in turn, so that a slow minute of the machine hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            gc.collect()
            taken[name].append(measure())
    return taken


def row(
    what: str,
    ours: list[float],
    against: str,
    theirs: list[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A line that compares two lists of figures, round by round."""
    ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
    middle = statistics.median(ratios)
    aim, held = "", None
    if at_least is not None:
        aim, held = f">= {at_least:g}x", middle >= at_least
    elif at_most is not None:
        aim, held = f"<= {at_most:g}x", middle <= at_most
    return Row(what, against, with_unit(ours, unit), with_unit(theirs, unit), ratios, aim, held)


def with_unit(figures: list[float], unit: str) -> str:
    return f"{shown(statistics.median(figures))} {unit}".strip()


def shown(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def table(rows: list[Row]) -> str:
    head = ["what", "against", "ours", "theirs", "ratio: median (spread)", "aim", "held"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(r.cells()) + " |" for r in rows)])


def put_into_page(part: str, text: str) -> None:
    """Replaces what stands between the marks of one part of the page."""
    begin, end = f"<!-- {part} begin -->", f"<!-- {part} end -->"
    before, rest = PAGE.read_text("utf-8").split(begin)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", "utf-8")


def machine() -> str:
    """The machine and the versions that figures belong to."""
    import os

    names = ("asynchopper", "numpy", "orjson", "uvloop", "redis", "pyhopper", "optuna")
    return (
        f"{os.cpu_count()} x {_processor()}, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
        + ", ".join(f"{n} {v}" for n in names if (v := installed(n)))
    )


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
