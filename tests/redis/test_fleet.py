"""Many workers finish one budget, exactly, whatever happens to them."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from tests.redis.fleet import Fleet, check, count_told, log_of, told_of, wait_until
from tests.servers import Server


def test_eight_workers_finish_the_budget_exactly(each_server: Server, name: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, each_server.url(name), steps=200, pause=0.005) as fleet:
        fleet.start(8)
        fleet.wait()
        assert all(w.process.returncode == 0 for w in fleet.workers)
        assert {line[1] for line in fleet.lines("over")} == {"steps"}
        check(fleet, each_server, name, 200)
        assert fleet.lines("begin").__len__() == 200


def test_kills_pauses_and_goodbyes_cost_no_result_and_count_none_twice(
    each_server: Server, name: str, tmp_path: Path
) -> None:
    rng, steps, lease = random.Random(3), 240, 1.0
    with Fleet(tmp_path, each_server.url(name, lease=lease), steps=steps, pause=0.02, concurrency=3) as fleet:
        fleet.start(8)
        wait_until(lambda: count_told(each_server, name) >= 8)
        paused = []
        for i in range(15):
            wait_until(lambda i=i: count_told(each_server, name) >= min(8 + 13 * i, steps))
            running = [w for w in fleet.alive if w not in paused and w.lines("begin")]
            if not running or count_told(each_server, name) >= steps - 20:
                break
            worker = rng.choice(running)
            fleet.disturb(worker, (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)[i % 3])
            if i % 3 == 2:
                paused.append(worker)
            else:
                fleet.start(1)
            if len(paused) == 2:
                first = paused.pop(0)
                _until_its_lease_is_over(each_server, name, first.pid)
                first.signal(signal.SIGCONT)
        for worker in paused:
            _until_its_lease_is_over(each_server, name, worker.pid)
            worker.signal(signal.SIGCONT)
        fleet.wait()
        check(fleet, each_server, name, steps)
        assert any(r["attempt"] > 1 for r in told_of(log_of(each_server, name)))


def _until_its_lease_is_over(server: Server, name: str, pid: int) -> None:
    def over() -> bool:
        with server.client() as client:
            labels = client.zrange(f"asynchopper:{{{name}}}:alive", 0, -1)
        return not any(f'"pid":{pid},'.encode() in label for label in labels)

    wait_until(over, what="its lease does not end")


def test_nobody_waits_for_the_dead(server: Server, name: str, tmp_path: Path) -> None:
    lease = 2.0
    with Fleet(tmp_path, server.url(name, lease=lease), steps=6, concurrency=1) as fleet:
        (slow,) = fleet.start(1, pause=600)
        slow.wait_line("begin", 0)
        (other,) = fleet.start(1, pause=0.001)
        wait_until(lambda: count_told(server, name) == 5)
        fleet.disturb(slow, signal.SIGKILL)
        killed = time.time()
        assert other.wait() == 0
        (again,) = other.lines("begin", 0)
        assert again[2] == 2
        assert again[5] - killed < lease + 1.0
        check(fleet, server, name, 6)


def test_a_worker_that_is_told_to_go_hands_its_trials_back_at_once(server: Server, name: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, server.url(name, lease=60), steps=6, concurrency=1) as fleet:
        (slow,) = fleet.start(1, pause=600)
        slow.wait_line("begin", 0)
        (other,) = fleet.start(1, pause=0.001)
        wait_until(lambda: count_told(server, name) == 5)
        fleet.disturb(slow, signal.SIGTERM)
        gone = time.time()
        assert slow.wait() == -signal.SIGTERM
        assert other.wait() == 0
        (again,) = other.lines("begin", 0)
        assert again[5] - gone < 5.0
        check(fleet, server, name, 6)


def test_a_worker_whose_loop_stands_still_keeps_its_trials(server: Server, name: str, tmp_path: Path) -> None:
    lease = 0.5
    with Fleet(tmp_path, server.url(name, lease=lease), steps=40, concurrency=2, block=3 * lease, pause=0.001) as fleet:
        fleet.start(3)
        fleet.wait()
        check(fleet, server, name, 40)
        assert all(r["attempt"] == 1 for r in told_of(log_of(server, name)))


def test_what_finishes_in_its_grace_counts_and_is_not_begun_elsewhere(
    server: Server, name: str, tmp_path: Path
) -> None:
    lease = 0.5
    with Fleet(tmp_path, server.url(name, lease=lease), steps=4, concurrency=1) as fleet:
        (slow,) = fleet.start(1, pause=4 * lease, grace=30)
        slow.wait_line("begin", 0)
        (other,) = fleet.start(1, pause=0.001)
        wait_until(lambda: count_told(server, name) == 3)
        slow.signal(signal.SIGTERM)
        assert slow.wait() == -signal.SIGTERM
        assert other.wait() == 0
        assert len(fleet.lines("begin")) == 4
        check(fleet, server, name, 4)


async def test_a_run_ends_with_its_last_results(server: Server, name: str) -> None:
    """They come in one turn with an ask that could only have been granted a trial that is given up."""
    search, last = ah.Search({"n": ah.int(0, 2)}, seed=3), asyncio.Event()
    begun = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal begun
        begun += 1
        if begun > 1:
            await last.wait()
        return float(params["n"])

    words: dict[str, Any] = {"steps": 9, "concurrency": 4, "checkpoint_path": server.url(name), "quiet": True}
    async with asyncio.timeout(5.0):  # a worker that waits for others looks after them every 10 s
        await search.run(objective, callbacks=lambda trial: last.set(), **words)
    assert len(search.history) == 3


@pytest.mark.parametrize("workers", [None, 1])
async def test_a_storage_that_is_in_use_is_refused_and_goes_on(workers: int | None, server: Server, name: str) -> None:
    storage = RedisStorage(server.url(name) if workers is None else server.url(name, workers=workers))
    begun, refused = asyncio.Event(), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        begun.set()
        await refused.wait()
        return params["x"]

    words: dict[str, Any] = {"steps": 3, "storage": storage, "quiet": True}
    search = ah.Search(x=ah.float(0, 1))
    running = asyncio.create_task(search.run(objective, **words))
    both = asyncio.create_task(ah.Search(x=ah.float(0, 1)).run(objective, **words))  # while it is being opened
    async with asyncio.timeout(10.0):
        with pytest.raises(ah.CheckpointLocked, match="is open already"):
            await both
        await begun.wait()
        with pytest.raises(ah.CheckpointLocked, match="is open already"):
            await ah.Search(x=ah.float(0, 1)).run(objective, **words)
        refused.set()
        await running
    assert len(search.history) == 3
