"""One result at a time into a file: a round has no task of its own, and whatever happens meanwhile finds it whole."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from asynchopper.storage import Done
from asynchopper.thread import OwnThread
from tests.processes import told


class Held(FileStorage):
    """Says of one write that it is over only when `let_go` is called; may say that it failed."""

    def __init__(self, path: Path, write: int) -> None:
        super().__init__(path)
        self.left = write
        self.held = asyncio.Event()
        self.over: Done | None = None

    def append_soon(self, records: Sequence[bytes], done: Done) -> None:
        self.left -= 1
        super().append_soon(records, partial(self._hold, done) if self.left == 0 else done)

    def _hold(self, done: Done, error: BaseException | None) -> None:
        assert error is None
        self.over = done
        self.held.set()

    def let_go(self, error: BaseException | None = None) -> None:
        assert self.over is not None
        self.over(error)


def a_search() -> ah.Search:
    return ah.Search({"x": ah.float(0, 1)}, seed=1)


class Objective:
    def __init__(self) -> None:
        self.started: list[int] = []

    async def __call__(self, params: dict[str, float], trial: ah.RunningTrial) -> float:
        self.started.append(trial.id)
        return params["x"]


async def turns(n: int = 20) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def begun(tmp_path: Path, write: int = 6) -> tuple[Held, Objective, ah.Search, asyncio.Task[object]]:
    """A run whose sixth write is held: its fourth result, say, and the fifth candidate."""
    storage, objective, search = Held(tmp_path / "a.ckpt", write), Objective(), a_search()
    task = asyncio.ensure_future(
        search.run(objective, steps=500, storage=storage, sampler=ah.RandomSampler(), quiet=True)
    )
    await asyncio.wait_for(storage.held.wait(), 10)
    return storage, objective, search, task


async def resumed(tmp_path: Path, before: list[int]) -> None:
    """What was being written was durable: its result counts, and its candidate, which never began, is the first to run."""
    assert told(tmp_path / "a.ckpt", "interrupted").keys() == {before[-1] + 1}
    search, objective = a_search(), Objective()
    await search.run(objective, steps=500, checkpoint_path=tmp_path / "a.ckpt", sampler=ah.RandomSampler(), quiet=True)
    assert objective.started[0] == before[-1] + 1
    assert sorted(t.id for t in search.history) == list(range(500))


async def test_nothing_starts_and_nothing_shows_before_it_is_durable(tmp_path: Path) -> None:
    storage, objective, search, task = await begun(tmp_path)
    await turns()
    assert len(search.history) == len(objective.started) - 1
    storage.let_go()
    await task
    assert len(search.history) == 500
    assert objective.started == list(range(500))


async def test_a_stop_while_a_result_is_written_waits_for_it(tmp_path: Path) -> None:
    storage, objective, search, task = await begun(tmp_path)
    before = list(objective.started)
    search.stop()
    await turns()
    assert not task.done()
    storage.let_go()
    await asyncio.wait_for(task, 10)
    assert search.outcome is not None and search.outcome.reason == "stopped"
    assert objective.started == before
    assert [t.id for t in search.history] == before
    await resumed(tmp_path, before)


@pytest.mark.parametrize("whom", ["the run", "every task of the loop"])  # as a host does that shuts down
async def test_what_is_cancelled_while_a_result_is_written_keeps_it(tmp_path: Path, whom: str) -> None:
    storage, objective, search, task = await begun(tmp_path)
    before = list(objective.started)
    for other in [task] if whom == "the run" else asyncio.all_tasks() - {asyncio.current_task()}:
        other.cancel()
    await turns()
    storage.let_go()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert [t.id for t in search.history] == before
    await resumed(tmp_path, before)


async def test_a_write_that_fails_ends_the_run_with_what_was_durable(tmp_path: Path) -> None:
    storage, objective, search, task = await begun(tmp_path)
    before = list(objective.started)
    storage.let_go(ah.StorageError("the disk is gone"))
    with pytest.raises(ah.StorageError, match="the disk is gone"):
        await asyncio.wait_for(task, 10)
    assert objective.started == before
    assert [t.id for t in search.history] == before[:-1]


async def test_a_result_that_is_told_again_while_it_is_written_is_durable_when_that_returns(tmp_path: Path) -> None:
    storage, search = Held(tmp_path / "a.ckpt", 0), a_search()
    async with search.session(steps=5, storage=storage) as session:
        trial = await session.ask()
        assert trial is not None
        storage.left = 1
        first = asyncio.ensure_future(session.tell(trial, 1.0))
        await asyncio.wait_for(storage.held.wait(), 10)
        first.cancel()
        again = asyncio.ensure_future(session.tell(trial, 1.0))
        await turns()
        assert not again.done() and len(search.history) == 0
        storage.let_go()
        await asyncio.wait_for(again, 10)
        assert search.history.values.tolist() == [1.0]


async def test_a_callback_that_fails_after_such_a_write_does_not_stop_the_search(tmp_path: Path) -> None:
    class Fails(ah.Callback):
        def on_trial(self, trial: ah.Trial) -> None:
            raise RuntimeError("no")

    search, objective = a_search(), Objective()
    path = tmp_path / "a.ckpt"
    await search.run(objective, steps=30, checkpoint_path=path, callbacks=[Fails()], quiet=True)
    assert len(search.history) == 30


async def test_a_value_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    async def objective(params: dict[str, float], trial: ah.RunningTrial) -> float:
        if trial.id == 20:
            trial.estimates.append(complex(1))  # type: ignore[arg-type]
        return params["x"]

    search = a_search()
    with pytest.raises((ah.AsynchopperError, TypeError)):
        await search.run(
            objective, steps=500, checkpoint_path=tmp_path / "a.ckpt", sampler=ah.RandomSampler(), quiet=True
        )
    assert [t.id for t in search.history] == list(range(20))


async def test_a_closed_log_refuses_at_once(tmp_path: Path) -> None:
    with pytest.raises(ah.StorageError, match="not open"):
        FileStorage(tmp_path / "a.ckpt").append_soon([b"{}"], lambda error: None)


# -- its thread


def test_the_thread_ends_with_its_owner() -> None:
    owner = OwnThread("asynchopper-test")
    assert owner.submit(lambda: threading.current_thread().name).result(10) == "asynchopper-test"
    thread = owner._thread
    del owner
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_what_it_was_given_is_done_before_it_ends() -> None:
    done: list[int] = []
    owner = OwnThread("asynchopper-test")
    for i in range(100):
        owner.do(partial(done.append, i))
    owner.shutdown()
    assert done == list(range(100))
    with pytest.raises(RuntimeError):
        owner.submit(print)


def test_an_interpreter_that_ends_lets_it_finish_and_does_not_wait_for_more(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from asynchopper.thread import OwnThread\n"
        "go = threading.Event()\n"
        "def work():\n"
        "    go.wait(10)\n"
        "    open(sys.argv[1], 'w').write('whole')\n"
        "keep = OwnThread('t')\n"
        "keep.do(work)\n"
        "go.set()\n"
    )
    path = tmp_path / "out"
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=30)
    assert path.read_text() == "whole"
