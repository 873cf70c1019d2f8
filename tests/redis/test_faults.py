"""What a network and a server can do to a worker, on real ones. A blip costs nothing; a loss is said aloud.

With `ASYNCHOPPER_LONG=1` in the environment each blip lasts 30 seconds, and lease and patience are the usual ones.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from tests.redis.fleet import log_of, told_of
from tests.redis.proxy import Fault, Proxy
from tests.servers import Server

LONG = bool(os.environ.get("ASYNCHOPPER_LONG"))
BLIP_S = 30.0 if LONG else 1.0
WORDS: dict[str, Any] = {} if LONG else {"patience": 6, "lease": 3}


class Run:
    """A search whose objective calls `at[n]` when it has been called n times."""

    def __init__(self, url: str, steps: int = 60, concurrency: int = 4) -> None:
        self.url, self.steps, self.concurrency = url, steps, concurrency
        self.search = ah.Search({"x": ah.float(0, 1)}, seed=4)
        self.calls = 0
        self.at: dict[int, Callable[[], Any]] = {}

    async def objective(self, params: dict[str, Any]) -> float:
        self.calls += 1
        if self.calls in self.at:
            self.at[self.calls]()
        await asyncio.sleep(0.002)
        return float(params["x"])

    async def __call__(self, **words: Any) -> dict[str, Any]:
        words = {"steps": self.steps, "concurrency": self.concurrency, "checkpoint_path": self.url, **words}
        async with asyncio.timeout(100):
            found = await self.search.run(self.objective, quiet=True, handle_signals=False, **words)
        assert found is not None
        return found


def exactly(server: Server, name: str, steps: int) -> None:
    ids = [r["id"] for r in told_of(log_of(server, name))]
    assert sorted(ids) == list(range(steps))


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as running:
        yield running


def through(proxy: Proxy, name: str, **words: Any) -> str:
    said = "".join(f"&{k}={v}" for k, v in {**WORDS, **words}.items())
    return f"redis://127.0.0.1:{proxy.port}/0?search={name}{said}"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("fault", ["cut", "black hole", "requests lost", "replies lost"])
async def test_a_blip_kills_no_worker_and_counts_nothing_twice(
    fault: Fault, proxy: Proxy, server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(through(proxy, name))
    loop = asyncio.get_running_loop()

    def begin() -> None:
        proxy.fault = fault
        loop.call_later(BLIP_S, setattr, proxy, "fault", "none")

    run.at = {20: begin}
    began = time.monotonic()
    await run()
    assert time.monotonic() - began > BLIP_S
    assert proxy.lost or fault == "cut"
    exactly(server, name, run.steps)
    assert run.calls == run.steps, "something was evaluated again though the worker lived"
    assert "tried again" in caplog.text
    assert "answers again" in caplog.text


async def test_every_kind_of_loss_again_and_again(proxy: Proxy, server: Server, name: str) -> None:
    run = Run(through(proxy, name), steps=120)
    loop = asyncio.get_running_loop()
    faults: list[Fault] = ["replies lost", "requests lost", "cut"]

    def lose(n: int) -> None:
        proxy.fault = faults[n % 3]
        loop.call_later(0.05, setattr, proxy, "fault", "none")

    run.at = {n: lambda n=n: lose(n) for n in range(5, 115, 7)}  # type: ignore[misc]  # mypy does not infer a default
    await run()
    exactly(server, name, 120)
    assert run.calls == 120
    assert proxy.lost > 3


async def test_a_slow_line_costs_time_only(proxy: Proxy, server: Server, name: str) -> None:
    proxy.lag_s = 0.1  # each way
    run = Run(through(proxy, name), steps=40, concurrency=20)
    await run()
    exactly(server, name, 40)
    assert run.calls == 40


async def test_a_server_that_restarts_with_its_log_is_waited_for(home: Path, name: str) -> None:
    with Server(home, appendonly="yes", appendfsync="always") as server:
        run = Run(server.url(name, **WORDS))

        def restart() -> None:
            server.kill()
            asyncio.get_running_loop().call_later(BLIP_S, server.start, False)

        run.at = {20: restart}
        await run()
        exactly(server, name, run.steps)
        assert run.calls == run.steps


async def test_a_restart_without_the_log_is_said_aloud(home: Path, name: str, tmp_path: Path) -> None:
    with Server(home) as server:
        run = Run(server.url(name, **WORDS))

        def restart() -> None:
            server.kill()
            server.start(wait=False)

        run.at = {20: restart}
        with pytest.raises(ah.StorageError, match="the search is gone from the server"):
            await run()
        assert 10 <= len(run.search.history) < 60
        await run.search.save(tmp_path / "saved.ckpt")  # what was confirmed is whole in memory
        again = ah.Search({"x": ah.float(0, 1)})
        await again.load(tmp_path / "saved.ckpt")
        assert list(again.history.values) == list(run.search.history.values)


async def test_scripts_may_be_flushed(server: Server, name: str) -> None:
    run = Run(server.url(name))
    with server.client() as client:
        run.at = dict.fromkeys((10, 20, 30), client.script_flush)
        await run()
    exactly(server, name, 60)


@pytest.mark.parametrize("busy", [True, False])
async def test_a_flush_is_noticed(busy: bool, home: Path, name: str) -> None:
    with Server(home) as server, server.client() as client:
        run = Run(server.url(name, lease=0.6))
        if busy:
            run.at = {20: client.flushall}
        else:  # every slot is taken by an evaluation that never ends: the heartbeat notices

            async def forever(params: dict[str, Any]) -> float:
                asyncio.get_running_loop().call_later(0.3, client.flushall)
                await asyncio.Event().wait()
                return 0.0

            run.objective = forever  # type: ignore[method-assign]  # another objective
        with pytest.raises(ah.StorageError, match="gone from the server"):
            await run(grace=0.1)


@pytest.mark.parametrize("part", ["meta", "log", "out"])
async def test_a_deleted_key_is_noticed(part: str, server: Server, name: str) -> None:
    run = Run(server.url(name))
    with server.client() as client:
        run.at = {20: lambda: client.delete(f"asynchopper:{{{name}}}:{part}")}
        with pytest.raises(ah.StorageError, match=r"lost results|gone from the server") as raised:
            await run()
        assert "saved to a file" in str(raised.value)
        with pytest.raises(ah.StorageError):  # and by whoever comes next
            await Run(server.url(name))()


@pytest.mark.parametrize("part", ["alive", "ops"])
async def test_a_deleted_key_that_can_be_made_again_is(part: str, server: Server, name: str) -> None:
    run = Run(server.url(name))
    with server.client() as client:
        run.at = {20: lambda: client.delete(f"asynchopper:{{{name}}}:{part}")}
        await run()
    exactly(server, name, 60)


async def test_a_full_server_is_waited_for_and_then_named(home: Path, name: str) -> None:
    with Server(home) as server, server.client() as client:
        run = Run(server.url(name, **WORDS))
        loop = asyncio.get_running_loop()

        def fill() -> None:
            client.config_set("maxmemory", 1)  # less than any server uses, so it is full at once
            loop.call_later(BLIP_S, client.config_set, "maxmemory", "0")

        run.at = {20: fill}
        await run()
        exactly(server, name, 60)
        run = Run(server.url(name + "-2", patience=0.5))
        run.at = {60: lambda: client.config_set("maxmemory", 1)}  # nothing is asked for any more
        with pytest.raises(ah.StorageError, match="maxmemory"):
            await run()


async def test_a_server_that_stays_away_ends_the_run_with_a_word_on_what_is_at_risk(home: Path, name: str) -> None:
    with Server(home, appendonly="yes", appendfsync="always") as server:
        run = Run(server.url(name, patience=1))
        run.at = {20: server.kill}
        began = time.monotonic()
        with pytest.raises(ah.StorageError, match=r"could not be used for .* unknown") as raised:
            await run()
        assert time.monotonic() - began < 20
        assert "run again" in str(raised.value)
        server.start()
        await Run(server.url(name))()  # the same search goes on, and nothing was counted twice
        exactly(server, name, 60)


async def test_cancelled_at_any_moment_it_goes_on_exactly(server: Server, name: str) -> None:
    steps = 150
    for i in range(40):
        run = Run(server.url(name), steps=steps)
        task = asyncio.create_task(run(grace=0))
        for _ in range(7 * i):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
    run = Run(server.url(name), steps=steps)
    await run()
    exactly(server, name, steps)


async def test_a_busy_server_that_takes_no_writes_is_waited_for(home: Path, name: str) -> None:
    with Server(home) as server, server.client() as client:
        run = Run(server.url(name, **WORDS))
        loop = asyncio.get_running_loop()

        def hold() -> None:
            client.config_set("min-replicas-to-write", 1)
            loop.call_later(0.5, client.config_set, "min-replicas-to-write", 0)

        run.at = {20: hold}
        await run()
        exactly(server, name, 60)
