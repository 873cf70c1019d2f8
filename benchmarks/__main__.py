"""`python -m benchmarks [SUITE ...] [--rounds 5] [--quick] [--write]`: measures, and prints tables of ratios.

Without names it runs all that there is, the layers first. With `--write` each part goes into the documentation's page as soon
as it is there.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import time
import traceback
from pathlib import Path

from benchmarks.bench import PAGE, Row, machine, put_into_page, table

SUITES = ("throughput", "sleepers", "durable", "size", "growing", "million", "redis")
PARTS = ("layers", *SUITES)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, to see that everything works")
    parser.add_argument("--write", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    parser.add_argument("--page", type=Path, default=PAGE, help=argparse.SUPPRESS)
    words = parser.parse_args(argv)
    unknown = set(words.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    measured_on = f"Measured on: {machine()}."
    if words.write and words.parts and measured_on not in words.page.read_text("utf-8"):
        parser.error("the page's figures are of another machine, or of other versions; write all of them")
    if words.write and not words.parts:
        put_into_page("machine", measured_on, words.page)
    failed = []
    for name in words.parts or PARTS:
        began = time.perf_counter()
        try:
            text = measured(name, words.rounds, words.quick)
        except Exception:  # the others are worth having
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"\n{name}\n{text}\n({time.perf_counter() - began:.0f} s)", flush=True)
        if words.write:
            put_into_page(name, text, words.page)
    print(f"\n{machine()}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def measured(name: str, rounds: int, quick: bool) -> str:
    """One part of the page."""
    small = " Smaller sizes than usual: figures of `--quick` only show that everything works." if quick else ""
    today = datetime.date.today().isoformat()
    missing = _server_missing() if name == "redis" else None
    if missing:
        return missing
    module = importlib.import_module(f"benchmarks.{name}")
    if name == "layers":
        return f"{today}.{small}\n\n{module.measured(quick)}"
    rows: list[Row] = module.measure(rounds, quick)
    parts = [f"{today}, {rounds} rounds.{small}", table(rows)]
    if hasattr(module, "figures"):
        found = module.figures(quick)
        lines = [f"| {k} | {v if isinstance(v, str) else f'{v:,.3g}'} |" for k, v in found.items()]
        parts.append("\n".join(["| figure | |", "| --- | --- |", *lines]))
    return "\n\n".join(parts)


def _server_missing() -> str | None:
    """The tests know where servers are; without one there is nothing to measure."""
    try:
        from tests.servers import binaries
    except ImportError as e:
        return f"Not measured: {e}."
    return None if binaries() else "Not measured: there is no redis-server or valkey-server on this machine."


if __name__ == "__main__":
    sys.exit(main())
