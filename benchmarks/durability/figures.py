"""`python -m benchmarks.durability.figures`: what durability costs, and how soon after SIGTERM all is on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

import asynchopper as ah
from asynchopper.storage import open_storage
from asynchopper.testing.system import SYNCS, Layer

RESULTS = 10_000
APPENDS = 2_000
SIGNALS = 30


def result(id: int) -> list[bytes]:
    """What is written for one result: it, and the candidate that follows it."""
    told = {"kind": "told", "id": id, "attempt": 1, "state": "completed", "value": 0.123456789, "seconds": 0.05}
    asked = {"kind": "asked", "id": id + 1, "attempt": 1, "params": {"lr": 0.0012, "layers": 4}, "origin": "local"}
    return [orjson.dumps(told | {"elapsed": id * 0.05}), orjson.dumps(asked)]


async def appends(place: Path) -> None:
    """One durable append, beside a bare write and fdatasync, at 10,000 results."""
    search = ah.Search(lr=ah.float(0, 1))
    await search.save(place / "run.ckpt")
    storage = open_storage(place / "run.ckpt")
    await storage.open()
    async for _ in storage.read():
        pass
    await storage.append([record for id in range(RESULTS) for record in result(id)])
    took = []
    for id in range(RESULTS, RESULTS + APPENDS):
        records = result(id)
        began = time.perf_counter()
        await storage.append(records)
        took.append(time.perf_counter() - began)
    await storage.close()
    say("a durable append", took)
    bare, fd = [], os.open(place / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x" * (place / "run.ckpt").stat().st_size)
    for id in range(APPENDS):
        data = b"\n".join(result(id))
        began = time.perf_counter()
        os.write(fd, data)
        os.fdatasync(fd)
        bare.append(time.perf_counter() - began)
    os.close(fd)
    say("a bare write and fdatasync", bare)


def say(what: str, took: list[float]) -> None:
    cuts = statistics.quantiles(took, n=100)
    print(
        f"{what}: p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms, most {max(took) * 1e3:.1f} ms", flush=True
    )


class Clock(Layer):
    """When syncs of the log began and ended."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.syncs: list[tuple[float, float]] = []

    def call(self, name: str, real: Any, target: str, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        answer = real(*args, **kwargs)
        if name in SYNCS:
            self.syncs.append((began, time.monotonic()))
        return answer


def victim(place: Path) -> None:
    """A search that is told to go; says when what was synced."""
    began: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        if not began:
            began.append(time.monotonic())
            os.write(1, b"running\n")
        await asyncio.sleep(0.01)
        return float(params["lr"])

    async def main() -> None:
        search = ah.Search(lr=ah.float(0, 1))
        await search.run(objective, endless=True, concurrency=64, checkpoint_path=place / "run.ckpt", quiet=True)

    signal.signal(signal.SIGTERM, lambda *_: None)  # the last word is ours
    with Clock(place) as clock:
        asyncio.run(main())
    print(json.dumps([clock.syncs, time.monotonic()]))


def signals() -> None:
    """From the signal to the end of the first sync that began after it: that one carries all that was known."""
    durable, out = [], []
    for i in range(SIGNALS):
        with tempfile.TemporaryDirectory() as home:
            words = [sys.executable, "-m", "benchmarks.durability.figures", home]
            with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(0.2 + random.Random(i).random() * 0.2)
                sent = time.monotonic()
                process.send_signal(signal.SIGTERM)
                syncs, ended = json.loads(process.stdout.read())
        durable.append(next(end for begin, end in syncs if begin >= sent) - sent)
        out.append(ended - sent)
    print(
        f"from SIGTERM to durable, 64 evaluations of 10 ms: median {statistics.median(durable) * 1e3:.1f} ms,", end=" "
    )
    print(
        f"most {max(durable) * 1e3:.1f} ms of {SIGNALS}; to the end of the run: median {statistics.median(out) * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        victim(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as home:
            asyncio.run(appends(Path(home)))
        signals()
