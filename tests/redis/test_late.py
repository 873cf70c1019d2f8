"""What comes twice or late: batches said again, turns that the network kept, a clock that goes back, a loop that is gone."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from asynchopper_backends.redis import RedisStorage

from asynchopper.errors import CheckpointLocked
from asynchopper.testing.logs import header
from asynchopper.testing.turns import ask
from tests.redis.fleet import Counts
from tests.redis.proxy import Proxy
from tests.redis.test_storage import joined, key
from tests.redis.test_topologies import until
from tests.servers import Server


async def test_a_batch_that_is_said_again_waits_for_the_replica_as_it_did_at_first(home: Path, name: str) -> None:
    with Server(home / "primary", repl_diskless_sync_delay=0) as primary, primary.client() as client:
        async with Proxy(primary.port) as ours, Proxy(primary.port) as the_replicas:
            to = ["127.0.0.1", str(the_replicas.port)]
            with (
                Server(home / "replica", replicaof=to, repl_diskless_sync_delay=0) as replica,
                replica.client() as other,
            ):
                await until(lambda: other.info("replication")["master_link_status"] == "up", what="it does not follow")
                storage = RedisStorage(
                    f"redis://127.0.0.1:{ours.port}/0?search={name}&durability=replicated&workers=1&patience=30"
                )
                await storage.open()
                assert not [record async for record in storage.read()]
                await storage.append([header()])

                def said() -> int:
                    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

                the_replicas.fault = "black hole"
                task = asyncio.create_task(storage.append([b'{"n":1}']))
                await until(lambda: Counts(client, name)["seq"] == 2, what="it is not written")
                before = said()
                ours.fault = "cut"
                ours.fault = "none"
                await until(lambda: said() > before, what="it is not said again")
                await asyncio.wait([task], timeout=1.0)
                assert not task.done(), "it is taken for replicated, and no replica has it"
                the_replicas.fault = "cut"
                the_replicas.fault = "none"
                await asyncio.wait_for(task, 60)
                assert Counts(other, name)["seq"] == 2
                await storage.close()


async def test_a_turn_that_the_network_kept_is_not_carried_out_again(server: Server, name: str) -> None:
    worker = await joined(server, name)
    words = worker._worded([], [ask(0)])
    kept = (*words[0], worker._last, *words[1])
    assert (await worker._turn(words)).grants == [(0, 1)]
    await worker.turn([], [])
    assert (await worker._connected().call(*kept))[0] == [b"stale"]
    with server.client() as client:
        assert Counts(client, name)["out"] == 1  # and not one that nobody knows of
    await worker.close()


def an_hour_ahead(client: Any, name: str) -> Counts:
    """As it would be, had the server's clock been ahead until now."""
    hour = 3_600_000.0
    for worker, ends in client.zrange(key(name, "alive"), 0, -1, withscores=True):
        client.zadd(key(name, "alive"), {worker: ends + hour})
    counts = Counts(client, name)
    for due in ("tick", "first", "live"):
        counts[due] += hour
    counts.write()
    return counts


async def test_a_clock_that_is_set_back_makes_no_lease_longer(server: Server, name: str) -> None:
    a, b = await joined(server, name), await joined(server, name)
    await a.turn([], [ask(0)])
    with server.client() as client:
        before = an_hour_ahead(client, name)
        await b.turn([], [])
        seconds, micros = client.time()
        latest = 1000.0 * seconds + micros / 1000.0 + 30_000
        assert all(ends <= latest for _, ends in client.zrange(key(name, "alive"), 0, -1, withscores=True))
        after = Counts(client, name)
        assert max(after["first"], after["live"]) <= latest
        assert 0.0 <= after["clock"] - before["clock"] < 60_000
    await a.close()
    await b.close()


async def test_after_a_clock_was_set_back_who_is_lost_keeps_nobody_out(server: Server, name: str) -> None:
    lost = await joined(server, name, lease=0.6)
    await lost._stop_beat()
    with server.client() as client:
        an_hour_ahead(client, name)
    owner = RedisStorage(server.url(name, lease=0.6, workers=1))
    async with asyncio.timeout(20):
        while True:
            try:
                await owner.open()
                break
            except CheckpointLocked:
                await asyncio.sleep(0.05)
    await owner.close()
    await lost.close()


def test_the_heartbeat_ends_with_the_loop_of_its_worker(server: Server, name: str) -> None:
    others, loop = {*threading.enumerate()}, asyncio.new_event_loop()
    worker = loop.run_until_complete(joined(server, name, lease=0.6))
    (beat,) = [thread for thread in {*threading.enumerate()} - others if thread.name == "asynchopper-heartbeat"]
    loop.run_until_complete(worker._connected().drop())
    loop.close()  # as after an interrupt, where nobody has said goodbye
    beat.join(10.0)
    assert not beat.is_alive()
