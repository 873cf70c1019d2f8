"""`python -m tests.long.damage 10000 [SEED]`: damages checkpoints that many times, and counts what becomes of them."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from asynchopper.testing.system import WithoutSync
from tests.damage import campaign


def main(count: int, seed: int) -> None:
    logging.getLogger("asynchopper").addHandler(logging.NullHandler())
    logging.getLogger("asynchopper").propagate = False
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home, WithoutSync(Path(home)):
        counts = asyncio.run(campaign(Path(home), count, seed))
    total: dict[str, int] = {}
    for name, of in counts.items():
        print(f"{name:18} {of}")
        for word, n in of.items():
            total[word] = total.get(word, 0) + n
    print(f"{sum(total.values())} damages of seed {seed} in {time.monotonic() - began:.0f} s: {total}, none silent")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
