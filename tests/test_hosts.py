"""A search inside of somebody else's program: signal handlers of the host, its event loop, its cancellation."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from tests.processes import Child, asked, records, told, wait_told
from tests.test_signals import LOOPS, SLACK_S, check_resume


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("host", ["loop", "signal"])
def test_the_hosts_own_handler_is_called_and_put_back(tmp_path: Path, host: str, number: int, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    with Child(
        "tuning.py", tmp_path, path=str(path), host=host, loop=loop, quick=3, drains=[3, 4], concurrency=2
    ) as child:
        child.wait_line("start", count=5)
        sent = child.signal(number)
        assert wait_told(path, {0, 1, 2, 3, 4}, 5) - sent < SLACK_S
        assert child.status() == 0
        told_host = [line[0] for line in child.wire.said() if line[0] in ("host", "returned", "same")]
        assert told_host == ["host", "returned", "same", "host"], "before the run returns"
        reason = "sigterm" if number == signal.SIGTERM else "sigint"
        assert child.wire.said("returned") == [["returned", reason, True]]
        assert child.wire.said("same") == [["same", True]]
        assert len(child.wire.said("host")) == 2, "once for our signal, once for the one after the run"
        assert child.wire.said("after")
        if host == "signal":
            assert child.wire.said("host")[0] == ["host", number, True]
    check_resume(tmp_path, path, {}, 12, concurrency=2)


def test_a_host_hears_of_every_sigint_and_no_keyboard_interrupt_falls_into_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), host="signal", quick=3, drains=[3], concurrency=2) as child:
        child.wait_line("start", count=5)
        child.signal(signal.SIGINT)
        child.wait_line("durable", 3)
        child.signal(signal.SIGINT)
        assert child.status() == 0
        assert child.wire.said("host", signal.SIGINT) == [["host", signal.SIGINT, True]] * 2
        assert child.wire.said("returned", "sigint")


def test_a_handler_that_exits_does_so_after_the_flush(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with Child(
        "tuning.py", tmp_path, path=str(path), host="exit", quick=3, drains=[3], concurrency=2, grace=0.2
    ) as child:
        starts = child.wait_line("start", count=5)
        child.signal(signal.SIGTERM)
        assert child.status() == 7
        assert sorted(told(path)) == [0, 1, 2, 3]
        assert records(path)[-1]["kind"] == "ended"
        in_flight = {line[1]: line[3] for line in starts if line[1] == 4}
    check_resume(tmp_path, path, in_flight, 9, concurrency=2)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_host_that_cancels_the_run_on_a_signal(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), host="cancels", loop=loop, quick=3, concurrency=2) as child:
        starts = child.wait_line("start", count=5)
        sent = child.signal(signal.SIGTERM)
        assert child.status() == 0
        assert time.monotonic() - sent < SLACK_S
        assert child.wire.said("cancelled run")
        in_flight = {line[1]: line[3] for line in starts if line[1] > 2}
        assert told(path, "interrupted").keys() == in_flight.keys()
    check_resume(tmp_path, path, in_flight, 9, concurrency=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_searches_in_one_loop_both_hear(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), host="two", quick=3, grace=0.2) as child:
        child.wait_line("start", count=8)
        sent = child.signal(number)
        assert child.status() == (-number if number == signal.SIGTERM else 0)
        assert time.monotonic() - sent < 0.2 + SLACK_S
        for log in (path, tmp_path / "a.ckpt2"):
            assert sorted(told(log)) == [0, 1, 2]
            assert told(log, "interrupted").keys() == {3}
            assert records(log)[-1]["reason"] == ("sigterm" if number == signal.SIGTERM else "sigint")
        assert bool(child.wire.said("after")) == (number == signal.SIGINT)


def test_a_search_that_begins_after_sigterm_hears_of_it(tmp_path: Path) -> None:
    """While another still drains: otherwise it would keep the process from ever ending."""
    path = tmp_path / "a.ckpt"
    with Child(
        "tuning.py", tmp_path, path=str(path), host="late", quick=3, drains=[3], grace=0.3, concurrency=2
    ) as child:
        child.wait_line("start", count=5)
        sent = child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert time.monotonic() - sent < 0.6 + SLACK_S
        assert records(tmp_path / "a.ckpt2")[-1]["reason"] == "sigterm"


def test_off_the_main_thread_the_hosts_handler_stops_the_search(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with Child(
        "tuning.py", tmp_path, path=str(path), host="thread", quick=3, drains=[3], concurrency=2, grace=0.3
    ) as child:
        starts = child.wait_line("start", count=5)
        sent = child.signal(signal.SIGTERM)
        assert child.status() == 0
        assert time.monotonic() - sent < 0.3 + SLACK_S
        assert child.wire.said("host") == [["host", signal.SIGTERM]]
        assert child.wire.said("same") == [["same", True]], "no handler was touched"
        assert child.wire.said("returned") == [["returned", "stopped", True]]
        in_flight = {line[1]: line[3] for line in starts if line[1] == 4}
        assert told(path, "interrupted").keys() == in_flight.keys()
    check_resume(tmp_path, path, in_flight, 9, concurrency=2)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_the_end_of_asyncio_run_cancels_keeps_everything(tmp_path: Path, loop: str) -> None:
    """asyncio.run cancels every task there is, those that evaluate and those that write among them."""
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "concurrency": 8, "loop": loop}
    with Child("tuning.py", tmp_path, host="background", until=20, steps=200, **words) as child:
        assert child.status() == 0, child.stderr()
        assert child.stderr() == ""
        assert child.wire.said("leaving") == [["leaving", False]]
        durable = {line[1] for line in child.wire.said("durable")}
        assert durable <= told(path).keys()
        assert told(path, "failed") == {}
        assert records(path)[-1]["reason"] == "stopped"
        open_trials = asked(path).keys() - told(path).keys()
        in_flight = {i: asked(path)[i]["params"] for i in open_trials}
    check_resume(tmp_path, path, in_flight, 200, concurrency=8)


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_every_task_there_is_at_any_moment(tmp_path: Path, loop: str) -> None:
    """What asyncio.run does at its end; the moments are in a proposal, a write, an evaluation."""
    heard: list[int] = []

    async def objective(params: dict[str, float]) -> float:
        await asyncio.sleep(0.0005)
        return params["x"]

    def tune(search: ah.Search) -> Any:
        heard.clear()
        return search.run(
            objective,
            steps=60,
            concurrency=8,
            checkpoint_path=path,
            callbacks=lambda trial: heard.append(trial.id),
            quiet=True,
        )

    async def leave(search: ah.Search, turns: int) -> asyncio.Future[Any]:
        run = asyncio.ensure_future(tune(search))
        while len(heard) < 10:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        return run

    def in_a_loop(what: Any) -> Any:
        with asyncio.Runner(loop_factory=None if loop == "asyncio" else uvloop.new_event_loop) as runner:
            return runner.run(what)

    for turns in range(12):
        path = tmp_path / f"{turns}.ckpt"
        search = a_search()
        assert in_a_loop(leave(search, turns)).cancelled()
        assert search.outcome is not None
        assert search.outcome.reason == "stopped"
        assert records(path)[-1]["kind"] == "ended"
        assert set(heard) <= told(path).keys()
        assert told(path, "failed") == {}
        in_flight = asked(path).keys() - told(path).keys()
        in_a_loop(tune(a_search()))
        assert sorted(told(path)) == list(range(60))
        assert {i for i, r in asked(path).items() if r["attempt"] == 2} == in_flight


# -- a web server


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_under_uvicorn_the_run_returns_and_the_server_ends(tmp_path: Path, number: int, loop: str) -> None:
    path, grace = tmp_path / "a.ckpt", 0.4
    words = {"path": str(path), "quick": 3, "drains": [3], "concurrency": 2, "grace": grace, "loop": loop}
    with Child("server.py", tmp_path, **words) as child:
        port = child.wait_line("serving")[0][1]
        starts = child.wait_line("start", count=5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as answer:
            assert answer.read() == b"tuning", "the search does not keep the server from serving"
        sent = child.signal(number)
        assert wait_told(path, {0, 1, 2, 3}, SLACK_S) - sent < SLACK_S
        child.wait_line("host", number)
        assert child.status() == -number, "uvicorn raises what it caught again, once it is done"
        assert time.monotonic() - sent < grace + SLACK_S
        order = [line[0] for line in child.wire.said() if line[0] in ("host", "returned", "shutdown", "run returned")]
        assert order.count("host") == 1
        assert order[-2:] == ["shutdown", "run returned"]
        assert child.wire.said("returned") == [["returned", "sigterm" if number == signal.SIGTERM else "sigint", True]]
        in_flight = {line[1]: line[3] for line in starts if line[1] == 4}
        assert told(path, "interrupted").keys() == in_flight.keys()
    check_resume(tmp_path, path, in_flight, 9, concurrency=2)


# -- cancellation


class Slots:
    """An objective whose first trials end at once, and whose others wait until they are cancelled."""

    def __init__(self, quick: int) -> None:
        self.quick = quick
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.waiting = asyncio.Event()

    async def __call__(self, params: dict[str, float], trial: ah.RunningTrial) -> float:
        self.started.append(trial.id)
        if trial.id >= self.quick:
            if len(self.started) == self.quick + 2:
                self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(trial.id)
                raise
        return params["x"]


def a_search() -> ah.Search:
    return ah.Search(x=ah.float(0, 1), seed=3)


async def check_cancelled(search: ah.Search, slots: Slots, path: Path) -> None:
    assert slots.cancelled == [3, 4]
    assert search.outcome is not None
    assert search.outcome.reason == "stopped"
    assert sorted(told(path)) == [0, 1, 2]
    assert told(path, "interrupted").keys() == {3, 4}
    mine = {asyncio.current_task()}
    assert asyncio.all_tasks() == mine, "nothing is left running"
    slots.quick = 100
    await search.run(slots, steps=8, concurrency=2, checkpoint_path=path, quiet=True)
    assert sorted(told(path)) == list(range(8))
    assert [asked(path)[i]["attempt"] for i in range(8)] == [1, 1, 1, 2, 2, 1, 1, 1]


@pytest.mark.every_loop
async def test_cancelling_the_task_that_runs(tmp_path: Path) -> None:
    search, slots, path = a_search(), Slots(3), tmp_path / "a.ckpt"
    run = asyncio.ensure_future(search.run(slots, steps=8, concurrency=2, checkpoint_path=path, quiet=True))
    await asyncio.wait_for(slots.waiting.wait(), 10)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await check_cancelled(search, slots, path)


@pytest.mark.every_loop
async def test_a_timeout_around_the_run(tmp_path: Path) -> None:
    search, slots, path = a_search(), Slots(3), tmp_path / "a.ckpt"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await search.run(slots, steps=8, concurrency=2, checkpoint_path=path, quiet=True)
    await check_cancelled(search, slots, path)


@pytest.mark.every_loop
async def test_an_anyio_scope_around_the_run(tmp_path: Path) -> None:
    """anyio cancels again and again until the scope is left."""
    search, slots, path = a_search(), Slots(3), tmp_path / "a.ckpt"
    ended: list[str] = []

    class Watch(ah.Callback):
        def on_end(self, search: ah.Search) -> None:
            assert search.outcome is not None
            ended.append(search.outcome.reason)

    with anyio.move_on_after(0.3) as scope:
        await search.run(slots, steps=8, concurrency=2, checkpoint_path=path, quiet=True, callbacks=Watch())
    assert scope.cancelled_caught
    assert ended == ["stopped"]
    await check_cancelled(search, slots, path)


@pytest.mark.every_loop
async def test_cancelling_waits_for_what_evaluations_clean_up() -> None:
    """Within the grace: a remote job may need a moment to be called off."""
    cleaned: list[int] = []
    waiting = asyncio.Event()

    async def objective(params: dict[str, float], trial: ah.RunningTrial) -> float:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(70):
                await asyncio.sleep(0.01)
            cleaned.append(trial.id)
        return 0.0

    run = asyncio.ensure_future(a_search().run(objective, steps=8, concurrency=2, quiet=True))
    await asyncio.wait_for(waiting.wait(), 10)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert sorted(cleaned) == [0, 1]


@pytest.mark.every_loop
async def test_an_anyio_scope_does_not_spin_while_evaluations_clean_up() -> None:
    async def objective(params: dict[str, float]) -> float:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.6))])
        return 0.0

    with anyio.move_on_after(0.05):
        await a_search().run(objective, steps=8, quiet=True)
    used = time.process_time()
    began = time.monotonic()
    with anyio.move_on_after(0.05):
        await a_search().run(objective, steps=8, quiet=True)
    assert time.monotonic() - began > 0.6
    assert time.process_time() - used < 0.3


@pytest.mark.every_loop
async def test_cancelling_before_anything_has_started(tmp_path: Path) -> None:
    search, path = a_search(), tmp_path / "a.ckpt"
    for turns in range(12):
        run = asyncio.ensure_future(search.run(Slots(3), steps=8, concurrency=2, checkpoint_path=path, quiet=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert asyncio.all_tasks() == {asyncio.current_task()}
    await search.run(Slots(100), steps=8, concurrency=2, checkpoint_path=path, quiet=True)
    assert sorted(told(path)) == list(range(8))


@pytest.mark.every_loop
@pytest.mark.parametrize("host", ["anyio", "timeout", "cancelled again"])
async def test_a_session_that_is_cancelled_lets_go_of_its_search(tmp_path: Path, host: str) -> None:
    search, path = a_search(), tmp_path / "a.ckpt"
    out = asyncio.Event()

    async def ask() -> None:
        async with search.session(steps=8, checkpoint_path=path) as session:
            for _ in range(3):
                trial = await session.ask()
                assert trial is not None
                await session.tell(trial, 1.0)
            await session.ask()
            out.set()
            await asyncio.Event().wait()

    if host == "anyio":
        with anyio.move_on_after(0.3) as scope:
            await ask()
        assert scope.cancelled_caught
    elif host == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask()
    else:
        task = asyncio.ensure_future(ask())
        await out.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
    assert out.is_set()
    assert search.outcome is not None and search.outcome.reason == "stopped"
    assert told(path, "interrupted").keys() == {3}
    assert records(path)[-1]["kind"] == "ended"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await search.run(Slots(100), steps=8, checkpoint_path=path, quiet=True)
    assert sorted(told(path)) == list(range(8))


@pytest.mark.every_loop
@pytest.mark.parametrize("kind", ["session", "run"])
async def test_a_cancellation_while_the_log_is_being_closed_is_not_lost(tmp_path: Path, kind: str) -> None:
    search, path = a_search(), tmp_path / "a.ckpt"
    ended: list[int] = []

    class Storage(FileStorage):
        async def close(self) -> None:
            task.cancel()
            await super().close()

    async def tune() -> None:
        if kind == "run":
            watch = ah.Callback()
            watch.on_end = lambda search: ended.append(len(search.history))  # type: ignore[method-assign,return-value,func-returns-value]  # for short
            await search.run(Slots(100), steps=1, storage=Storage(path), callbacks=watch, quiet=True)
        else:
            async with search.session(steps=8, storage=Storage(path)) as session:
                await session.ask()
        raise AssertionError("the task was cancelled, and went on")

    task = asyncio.ensure_future(tune())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ([1] if kind == "run" else [])
    assert records(path)[-1]["kind"] == "ended"
    await search.run(Slots(100), steps=8, checkpoint_path=path, quiet=True)


@pytest.mark.every_loop
@pytest.mark.parametrize("host", ["anyio", "cancelled again"])
async def test_an_iteration_that_is_cancelled_is_over_when_it_says_so(tmp_path: Path, host: str) -> None:
    search, slots, path = a_search(), Slots(3), tmp_path / "a.ckpt"

    async def iterate() -> None:
        async for _ in search.iterate(slots, steps=8, concurrency=2, checkpoint_path=path, quiet=True):
            pass

    if host == "anyio":
        with anyio.move_on_after(0.3) as scope:
            await iterate()
        assert scope.cancelled_caught
    else:
        task = asyncio.ensure_future(iterate())
        await slots.waiting.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
    await check_cancelled(search, slots, path)


@pytest.mark.every_loop
@pytest.mark.parametrize("iterated", [False, True], ids=["run", "iterate"])
async def test_a_scope_that_is_cancelled_waits_for_callbacks_no_longer_than_the_grace(iterated: bool) -> None:
    class Hangs(ah.Callback):
        async def on_end(self, search: ah.Search) -> None:
            await asyncio.Event().wait()

    search = a_search()
    words: dict[str, Any] = {"steps": 8, "callbacks": Hangs(), "grace": 0.1, "quiet": True}

    async def tune() -> None:
        with anyio.move_on_after(0.1):
            if iterated:
                async for _ in search.iterate(Slots(0), **words):
                    pass
            else:
                await search.run(Slots(0), **words)

    await asyncio.wait_for(tune(), 10)
    await search.run(Slots(100), steps=8, quiet=True)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_run_in_a_thread_outlives_the_main_thread(where: str, tmp_path: Path) -> None:
    script = f"""
import asyncio, threading
import asynchopper as ah

begun = threading.Event()

async def objective(params):
    begun.set()
    await asyncio.sleep(0.002)
    return params["x"]

def work():
    search = ah.Search(x=ah.float(0, 1), y=ah.float(0, 1), seed=1)
    path = {str(tmp_path / "a.ckpt")!r} if {where!r} == "file" else None
    asyncio.run(search.run(objective, steps=60, quiet=True, checkpoint_path=path))
    print(search.outcome.reason, len(search.history))

threading.Thread(target=work).start()
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "steps 60\n", "")


async def test_an_iteration_does_not_take_an_objectives_end_of_a_loop_for_its_own() -> None:
    async def objective(params: dict[str, Any]) -> float:
        raise StopAsyncIteration

    search = ah.Search(x=ah.float(0, 1))
    with pytest.raises(RuntimeError, match="the run raised StopAsyncIteration") as caught:
        async for _ in search.iterate(objective, steps=5, quiet=True):
            pass
    assert any("in trial 0" in note for note in caught.value.__cause__.__notes__)
    assert await search.run(lambda p: 1.0, steps=2, quiet=True) is not None


async def test_a_callback_that_ends_a_program_leaves_the_search_in_order() -> None:
    class Last(ah.Callback):
        def on_end(self, search: ah.Search) -> None:
            raise SystemExit(3)

    search = ah.Search(x=ah.float(0, 1))
    with pytest.raises(SystemExit):
        await search.run(lambda p: 1.0, steps=2, callbacks=Last(), quiet=True)
    assert not search._engines and not search._busy
