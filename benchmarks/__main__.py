"""`python -m benchmarks [throughput sleepers durable size] [--rounds 5] [--quick] [--write]`: measures, prints a table."""

from __future__ import annotations

import argparse
import datetime
import importlib
from pathlib import Path

from benchmarks.bench import Row, machine, table

SUITES = ("throughput", "sleepers", "durable", "size")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures begin -->", "<!-- figures end -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="which to run; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, to see that everything works")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    words = parser.parse_args()
    rows: list[Row] = []
    for name in words.suites or SUITES:
        got = importlib.import_module(f"benchmarks.{name}").measure(words.rounds, words.quick)
        print(f"\n{name}\n{table(got)}", flush=True)
        rows += got
    said = f"Measured on {datetime.date.today().isoformat()}: {machine()}; median of {words.rounds} rounds.\n\n{table(rows)}"
    print(f"\n{machine()}")
    if words.write:
        before, rest = PAGE.read_text().split(_BEGIN)
        PAGE.write_text(f"{before}{_BEGIN}\n{said}\n{_END}{rest.split(_END)[1]}")


if __name__ == "__main__":
    main()
