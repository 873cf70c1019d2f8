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
import warnings
from pathlib import Path
from typing import Any

from asynchopper_backends.redis import RedisStorage
from redis.asyncio import Redis

import asynchopper as ah
from benchmarks.bench import Row, machine, row, table, take_turns
from benchmarks.parts import moves_alone
from tests.servers import Server

SPACE: dict[str, Any] = {"x": ah.float(0, 1), "y": ah.float(0, 1), "n": ah.int(1, 64)}


def rate(server: Server, kind: str, workers: int, total: int, concurrency: int = 1) -> float:
    """Results a second, from the start signal to the last worker's end."""
    return total / _worked(server, kind, workers, total, concurrency)[0]


def processor(server: Server, workers: int, total: int) -> tuple[float, float]:
    """Microseconds of processor time a result, of all workers together and of the server, with a slot each."""
    with server.client() as client:
        before = _used(client)
        _, seconds = _worked(server, "ours", workers, total, 1)
        return seconds / total * 1e6, (_used(client) - before) / total * 1e6


def _used(client: Any) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def _worked(server: Server, kind: str, workers: int, total: int, concurrency: int) -> tuple[float, float]:
    """Seconds from the start signal to the last worker's end, and seconds of their processor time."""
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
        used = 0.0
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "a worker failed"
            used += float(line)
        return time.perf_counter() - began, used
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def measure(rounds: int, quick: bool) -> list[Row]:
    """Results a second beside Optuna's Redis storage, and beside the round trips alone."""
    scale = 10 if quick else 1
    rows: list[Row] = []
    alone: dict[str, list[float]] = {}
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
            alone = alone or taken
            if workers == 2:
                rows += [
                    row(f"{who}, 1 slot each", taken["ours"], "1 worker", alone["ours"], "results/s", at_least=1.3),
                    row("the round trips alone of 2 workers", taken["bare"], "those of 1", alone["bare"], "results/s"),
                ]
    return rows + durable(rounds, quick)


def durable(rounds: int, quick: bool) -> list[Row]:
    """A result that is on the server's disk, beside one bare record that is, and beside Optuna; all hold as many results."""
    grown = 1_000 if quick else 10_000
    n = 500
    with (  # where the code is: a temporary folder may be in memory
        tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as home,
        Server(Path(home), appendonly="yes", appendfsync="no") as server,
        server.client() as client,
    ):
        asyncio.run(_run(server.url("grown"), grown, 64))
        study = _optuna(server, grown)
        client.config_set("appendfsync", "always")
        taken = take_turns(
            {
                "bare": lambda: asyncio.run(_bare(server, n)),
                "1": lambda: _continued(server, n, 1),
                "100": lambda: _continued(server, 6 * n, 100),
                "optuna": lambda: _asked_and_told(study, 30),
            },
            rounds,
        )
    what, floor = "time a durable result, Redis, {} in flight, at {:,} results", "a bare XADD, one by one"
    peer = f"Optuna JournalRedisBackend, at {grown:,} results"
    return [
        row(what.format(1, grown), taken["1"], floor, taken["bare"], "us", at_most=1.3),
        row(what.format(100, grown), taken["100"], floor, taken["bare"], "us", at_most=0.3),
        row(
            what.format(1, grown), taken["1"], peer, taken["optuna"], "us"
        ),  # even the floor is far from 40 times faster
        row(what.format(100, grown), taken["100"], peer, taken["optuna"], "us", at_most=1 / 40),
    ]


async def _bare(server: Server, n: int) -> float:
    """Microseconds a record, synced before the reply."""
    async with Redis(port=server.port, protocol=2) as client:
        await client.ping()
        began = time.perf_counter()
        for _ in range(n):
            await client.xadd("bare", {"r": b"x" * 130})
        return (time.perf_counter() - began) / n * 1e6


_steps = itertools.count(1)  # the same budget again would be one that is spent


def _continued(server: Server, n: int, concurrency: int) -> float:
    """Microseconds a result of a worker that joined, from its first evaluation to its last."""
    marks: list[float] = []

    async def objective(params: dict[str, Any]) -> float:
        marks.append(time.perf_counter())
        return float(params["x"])

    n += next(_steps)
    url = server.url("grown", durability="always")
    search = ah.Search(SPACE)
    words: dict[str, Any] = {"checkpoint_path": url, "concurrency": concurrency, "sampler": moves_alone()}
    asyncio.run(search.run(objective, steps=n, quiet=True, **words))  # storage is what is looked at
    assert len(marks) == n
    return (marks[-1] - marks[0]) / (n - concurrency) * 1e6


def _optuna(server: Server, results: int) -> Any:
    """A study that holds so many trials on the server, by Optuna's own hand; they were made in memory."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalRedisBackend

    warnings.simplefilter("ignore")  # that it is experimental
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    made.optimize(_value, n_trials=results)
    storage = JournalStorage(JournalRedisBackend(server.url().partition("?")[0], prefix="optuna"))
    study = optuna.create_study(study_name="it", storage=storage, sampler=optuna.samplers.RandomSampler())
    study.add_trials(made.trials)
    return study


def _value(trial: Any) -> float:
    trial.suggest_float("y", 0, 1)
    trial.suggest_int("n", 1, 64)
    return float(trial.suggest_float("x", 0, 1))


def _asked_and_told(study: Any, n: int) -> float:
    """Microseconds a trial."""
    began = time.perf_counter()
    study.optimize(_value, n_trials=n)
    return (time.perf_counter() - began) / n * 1e6


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
            for workers in (1, 2, 4):
                mine, its = processor(server, workers, 400 if quick else 4000)
                found[f"processor time a result, {workers} x 1 slot"] = f"workers {mine:,.0f} us, server {its:,.0f} us"
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
