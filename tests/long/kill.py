"""`python -m tests.long.kill 5000 [SEED]`: kills searches that many times, at random moments, and checks each log."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import Chaos, acknowledged

ROUND = 50  # kills of one search, before the next one begins


def main(kills: int, seed: int) -> None:
    began, draw = time.monotonic(), random.Random(seed)
    killed = running = in_flight = durable = 0
    while killed < kills:
        now = min(ROUND, kills - killed)
        concurrency, mean_s = draw.choice([1, 2, 4, 8, 16]), draw.choice([0.005, 0.01, 0.05])
        with tempfile.TemporaryDirectory() as home:
            chaos = Chaos(
                Path(home),
                seed=draw.randrange(10**6),
                steps=now * max(150, round(0.15 * concurrency / mean_s)),  # more than are done before a kill
                concurrency=concurrency,
                directory=draw.random() < 0.3,
                mean_s=mean_s,
            )
            try:
                chaos.run(now)
            except AssertionError:
                print(f"failed: {chaos!r}", flush=True)
                raise
        killed += chaos.killed
        running += chaos.killed_running
        in_flight += sum(chaos.resumed_with)
        durable += acknowledged(chaos.wire.lines)
        print(
            f"{killed} kills ({running} while evaluating), {in_flight} candidates came back, "
            f"{durable} acknowledged results all there, {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
