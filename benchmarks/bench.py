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

Measure = Callable[[], float]

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` holds ours over theirs, a round each; `uvloop` is ours on the other event loop."""

    what: str
    against: str
    ours: str
    theirs: str
    ratios: tuple[float, ...]
    aim: str
    held: bool | None
    uvloop: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    def cells(self) -> list[str]:
        spread = shown(self.median)
        if len(self.ratios) > 1:
            spread += f" ({shown(min(self.ratios))} to {shown(max(self.ratios))})"
        held = "" if self.held is None else "yes" if self.held else "**no**"
        return [self.what, self.against, self.ours, self.uvloop, self.theirs, spread, self.aim, held]


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
    uvloop: list[float] | None = None,
) -> Row:
    """A line that compares two lists of figures, round by round; a shorter list is what few rounds were enough for."""
    ratios = tuple(a / b for a, b in zip(ours, theirs, strict=False))
    middle = statistics.median(ratios)
    aim, held = "", None
    if at_least is not None:
        aim, held = f">= {at_least:.3g}x", middle >= at_least
    elif at_most is not None:
        aim, held = f"<= {at_most:.3g}x", middle <= at_most
    other = with_unit(uvloop, unit) if uvloop else ""
    return Row(what, against, with_unit(ours, unit), with_unit(theirs, unit), ratios, aim, held, other)


def with_unit(figures: list[float], unit: str) -> str:
    return f"{shown(statistics.median(figures))} {unit}".strip()


def shown(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def table(rows: list[Row]) -> str:
    head = ["what", "against", "ours", "on uvloop", "theirs", "ratio: median (spread)", "aim", "held"]
    cells = [row.cells() for row in rows]
    filled = [i for i, _ in enumerate(head) if any(line[i] for line in cells)]
    lines = ["| " + " | ".join(line[i] for i in filled) + " |" for line in (head, *cells)]
    lines.insert(1, "|" + " --- |" * len(filled))
    return "\n".join(lines)


def put_into_page(part: str, text: str, page: Path = PAGE) -> None:
    """Replaces what stands between the marks of one part of the page."""
    begin, end = f"<!-- {part} begin -->", f"<!-- {part} end -->"
    before, rest = page.read_text("utf-8").split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", "utf-8")


def machine() -> str:
    """The machine and the versions that figures belong to."""
    import os

    names = (
        "asynchopper",
        "numpy",
        "orjson",
        "msgspec",
        "uvloop",
        "redis",
        "pyhopper",
        "optuna",
        "nevergrad",
        "hyperopt",
    )
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
