"""One search, many worker processes, on a real server: `python -m benchmarks.redis [--rounds 3] [--quick]`.

The objective does nothing, so what is measured is what the search itself costs. Everything takes turns in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from benchmarks.bench import Row, machine, row, table, take_turns
from tests.servers import Server

SPACE: dict[str, Any] = {"x": ah.float(0, 1), "y": ah.float(0, 1), "n": ah.int(1, 64)}


def rate(server: Server, kind: str, workers: int, total: int, concurrency: int = 1) -> float:
    """Results a second, from the start signal to the last worker's end."""
    with server.client() as client:
        client.flushall()
    share = total // workers
    words = [kind, str(server.port), "bench", str(total), str(share), str(concurrency)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.redis_worker", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(workers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        began = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline(), "a worker failed"
        return total / (time.perf_counter() - began)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def measure(rounds: int, quick: bool) -> list[Row]:
    """Results a second beside Optuna's Redis storage, and beside the round trips alone."""
    scale = 10 if quick else 1
    rows = []
    with tempfile.TemporaryDirectory() as home, Server(Path(home)) as server:
        for workers in (1, 2, 4, 8):
            taken = take_turns(
                {
                    "ours": lambda w=workers: rate(server, "ours", w, 4000 // scale),
                    "ours64": lambda w=workers: rate(server, "ours", w, 16000 // scale, 64),
                    "bare": lambda w=workers: rate(server, "bare", w, 4000 // scale),
                    "pair": lambda w=workers: rate(server, "pair", w, 4000 // scale),
                    "optuna": lambda w=workers: rate(server, "optuna", w, 480 // (scale // 2 or 1)),
                },
                rounds,
            )
            who = f"{workers} worker{'s' * (workers > 1)} on Redis"
            peer = "Optuna JournalRedisBackend", taken["optuna"]
            rows += [
                row(f"{who}, 1 slot each", taken["ours"], *peer, "results/s", at_least=10),
                row(f"{who}, 64 slots each", taken["ours64"], *peer, "results/s", at_least=10),
                row(f"{who}, 1 slot each", taken["ours"], "its round trips alone", taken["bare"], "results/s", at_least=0.5),
                row(f"{who}, 1 slot each", taken["ours"], "two XADDs in one round trip", taken["pair"], "results/s"),
            ]  # fmt: skip
    return rows


# -- figures that are no ratios


async def _run(url: str, steps: int, concurrency: int) -> RedisStorage:
    storage = RedisStorage(url)
    search = ah.Search(SPACE, seed=1)

    async def objective(params: dict[str, Any]) -> float:
        return float(params["x"])

    await search.run(objective, steps=steps, storage=storage, concurrency=concurrency, quiet=True)
    return storage


def round_trips(server: Server, concurrency: int, steps: int) -> float:
    """Scripts that the server ran for each result, joining included."""
    with server.client() as client:
        client.flushall()
        client.config_resetstat()
        asyncio.run(_run(server.url("trips"), steps, concurrency))
        return float(client.info("commandstats")["cmdstat_evalsha"]["calls"]) / steps


def fill(server: Server, name: str, results: int) -> float:
    """A search of so many results; gives the bytes that each takes on the server."""
    with server.client() as client:
        client.flushall()
        before = client.info("memory")["used_memory"]
        asyncio.run(_run(server.url(name), results, 64))
        after = client.info("memory")["used_memory"]
        return float(after - before) / results


def join(server: Server, name: str) -> float:
    """Seconds until a worker who joins has its first trial."""

    async def work() -> float:
        search = ah.Search(SPACE, seed=1)
        began = time.perf_counter()
        async with search.session("maximize", steps=10**9, checkpoint_path=server.url(name)) as session:
            assert await session.ask() is not None
            return time.perf_counter() - began

    return asyncio.run(work())


def durability(home: Path, quick: bool) -> list[tuple[str, float, float]]:
    """Results a second at each level, with 1 and with 64 slots; the levels take turns."""
    aof = {"appendonly": "yes"}
    with contextlib.ExitStack() as stack:
        servers = {
            "memory": stack.enter_context(Server(home / "memory")),
            "everysec": stack.enter_context(Server(home / "everysec", **aof)),
            "always": stack.enter_context(Server(home / "always", **aof, appendfsync="always")),
            "replicated": stack.enter_context(Server(home / "primary", repl_diskless_sync_delay=0)),
        }
        primary = servers["replicated"]
        stack.enter_context(
            Server(home / "replica", replicaof=["127.0.0.1", str(primary.port)], repl_diskless_sync_delay=0)
        )
        with primary.client() as client:
            while client.info("replication").get("connected_slaves") != 1:
                time.sleep(0.01)
            client.set("x", 1)
            client.wait(1, 20_000)
        measures = {
            f"{level} {concurrency}": lambda level=level, c=concurrency: _rate(servers[level], level, c, quick)
            for level in servers
            for concurrency in (1, 64)
        }
        taken = {name: statistics.median(rates) for name, rates in take_turns(measures, 3).items()}
    return [(level, taken[f"{level} 1"], taken[f"{level} 64"]) for level in servers]


_names = (f"run-{n}" for n in itertools.count())


def _rate(server: Server, level: str, concurrency: int, quick: bool) -> float:
    steps = (1000 if concurrency == 1 else 8000) // (10 if quick else 1)
    began = time.perf_counter()
    asyncio.run(_run(server.url(next(_names), durability=level), steps, concurrency))
    return steps / (time.perf_counter() - began)


def figures(quick: bool) -> dict[str, Any]:
    """What the guide says in numbers."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        with Server(Path(home) / "one") as server:
            found["round trips a result, 1 slot"] = round_trips(server, 1, 1000)
            found["round trips a result, 64 slots"] = round_trips(server, 64, 6400)
            for results in (1_000, 10_000) if quick else (10_000, 100_000):
                found[f"bytes a result, {results:,} results"] = fill(server, "full", results)
                found[f"seconds to join, {results:,} results"] = statistics.median(
                    join(server, "full") for _ in range(3)
                )
        for level, one, many in durability(Path(home), quick):
            found[f"results/s, durability={level}"] = f"{one:,.0f} with 1 slot, {many:,.0f} with 64"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    words = parser.parse_args()
    for name, value in figures(words.quick).items():
        print(f"{name}: {value if isinstance(value, str) else f'{value:,.3f}'}", flush=True)
    print(table(measure(words.rounds, words.quick)))
    print(machine())


if __name__ == "__main__":
    main()
