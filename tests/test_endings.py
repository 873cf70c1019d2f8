"""How a run ends when somebody or something ends it: stops, interrupts, exits, callbacks that hang, stubborn evaluations."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from asynchopper.storage import MemoryStorage
from tests.processes import Child, records, told
from tests.test_signals import SLACK_S, check_resume, resumed


def a_search() -> ah.Search:
    return ah.Search(x=ah.float(0, 1), seed=3)


async def quick(params: dict[str, Any]) -> float:
    return params["x"]


# -- stop()


@pytest.mark.every_loop
async def test_stop_before_the_first_trial_is_not_forgotten(tmp_path: Path) -> None:
    """The log is still being opened; from another thread, as a host's might."""
    search, started = a_search(), []

    async def objective(params: dict[str, Any]) -> float:
        started.append(params)
        return 1.0

    run = asyncio.ensure_future(search.run(objective, steps=10_000, checkpoint_path=tmp_path / "a.ckpt", quiet=True))
    await asyncio.sleep(0)
    await asyncio.to_thread(search.stop)
    assert await asyncio.wait_for(run, 10) is None
    assert not started
    assert search.outcome is not None
    assert search.outcome.reason == "stopped"


class Holds(ah.Callback):
    """Says when its run has ended, and holds it up until it may go."""

    def __init__(self) -> None:
        self.ended, self.may_go = asyncio.Event(), asyncio.Event()

    async def on_end(self, search: ah.Search) -> None:  # type: ignore[override]  # either will do
        self.ended.set()
        await self.may_go.wait()


@pytest.mark.every_loop
@pytest.mark.parametrize("how", ["stop", "sigint"])
@pytest.mark.parametrize("over", [False, True], ids=["beside the first", "after the first"])
async def test_a_run_that_began_while_another_waited_for_its_callbacks_is_stopped_too(over: bool, how: str) -> None:
    search, holds = a_search(), Holds()
    started, finish = asyncio.Event(), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        started.set()
        await finish.wait()
        return 1.0

    first = asyncio.ensure_future(search.run(quick, steps=3, callbacks=holds, grace=0.1, quiet=True))
    await asyncio.wait_for(holds.ended.wait(), 10)
    second = asyncio.ensure_future(search.run(objective, endless=True, quiet=True))
    await asyncio.wait_for(started.wait(), 10)
    if over:
        holds.may_go.set()
        await asyncio.wait_for(first, 10)
    if how == "stop":
        search.stop()
    else:
        signal.raise_signal(signal.SIGINT)
    await asyncio.wait_for(first, 10)
    await asyncio.sleep(0)
    assert not second.done()
    finish.set()
    await asyncio.wait_for(second, 10)
    assert search.outcome is not None and search.outcome.reason == ("stopped" if how == "stop" else "sigint")
    assert [t.state for t in search.history] == ["completed"] * 4, "what ran had its grace"


@pytest.mark.every_loop
async def test_a_stop_while_one_run_waits_for_callbacks_and_the_next_is_being_opened(tmp_path: Path) -> None:
    search, holds, started = a_search(), Holds(), []

    async def objective(params: dict[str, Any]) -> float:
        started.append(params)
        return 1.0

    words: dict[str, Any] = {"checkpoint_path": tmp_path / "a.ckpt", "quiet": True}
    first = asyncio.ensure_future(search.run(quick, steps=3, callbacks=holds, grace=0.1, **words))
    await asyncio.wait_for(holds.ended.wait(), 10)
    second = asyncio.ensure_future(search.run(objective, endless=True, **words))
    await asyncio.sleep(0)
    search.stop()
    await asyncio.wait_for(asyncio.gather(first, second), 10)
    assert not started


@pytest.mark.parametrize("stored", [False, True])
async def test_after_a_stop_that_an_evaluation_asked_for_no_other_one_begins(stored: bool, tmp_path: Path) -> None:
    search, begun = a_search(), 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal begun
        begun += 1
        search.stop()
        return 1.0

    words = {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    await search.run(objective, steps=10, quiet=True, **words)
    assert begun == 1 and search.outcome is not None and search.outcome.trials == 1


async def test_stop_when_nothing_runs_changes_nothing() -> None:
    search = a_search()
    search.stop()
    await search.run(quick, steps=3, quiet=True)
    search.stop()
    await asyncio.sleep(0)
    await search.run(quick, steps=3, quiet=True)
    assert len(search.history) == 6


@pytest.mark.every_loop
async def test_stop_again_ends_the_grace() -> None:
    search, begun = a_search(), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        begun.set()
        await asyncio.Event().wait()
        return 1.0

    run = asyncio.ensure_future(search.run(objective, steps=3, grace=60, quiet=True))
    await asyncio.wait_for(begun.wait(), 10)
    search.stop()
    await asyncio.sleep(0.02)
    assert not run.done()
    search.stop()
    await asyncio.wait_for(run, 10)


@pytest.mark.every_loop
async def test_nothing_begins_once_the_stop_has_come(tmp_path: Path) -> None:
    """A candidate that was being made durable meanwhile is left for the next run."""
    started: list[int] = []

    class SlowOnce(FileStorage):
        async def append(self, records: Sequence[bytes]) -> None:
            if any(b'"id":20,' in record and b'"asked"' in record for record in records):
                search.stop()
                for _ in range(5):
                    await asyncio.sleep(0)
            await super().append(records)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        started.append(trial.id)
        await asyncio.sleep(0)
        return params["x"]

    search, path = a_search(), tmp_path / "a.ckpt"
    await search.run(objective, steps=100, concurrency=1, storage=SlowOnce(path), quiet=True)
    assert started == list(range(20))
    assert told(path, "interrupted").keys() == {20}
    await search.run(objective, steps=100, concurrency=1, checkpoint_path=path, quiet=True)
    assert started == list(range(100))


# -- evaluations that do not want to end


@pytest.mark.every_loop
async def test_a_stubborn_coroutine_is_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    release, begun, returned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        returned.set()
        return 1.0

    search = a_search()
    run = asyncio.ensure_future(search.run(objective, steps=3, grace=0.05, quiet=True))
    await asyncio.wait_for(begun.wait(), 10)
    search.stop()
    asked_at = time.monotonic()
    with caplog.at_level(logging.WARNING, "asynchopper"):
        await asyncio.wait_for(run, 10)
    assert time.monotonic() - asked_at < 0.05 + SLACK_S
    assert "trial 0 ignores its cancellation" in caplog.text
    release.set()
    await asyncio.wait_for(returned.wait(), 10)
    assert len(search.history) == 0


@pytest.mark.every_loop
async def test_what_an_evaluation_raises_while_it_is_taken_away_is_not_its_failure(tmp_path: Path) -> None:
    """A connection that breaks because of the cancellation says nothing of the candidate."""
    search, path, begun = a_search(), tmp_path / "a.ckpt", asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionResetError("closed under my feet") from None
        return 1.0

    run = asyncio.ensure_future(search.run(objective, steps=3, grace=0, checkpoint_path=path, quiet=True))
    await asyncio.wait_for(begun.wait(), 10)
    search.stop()
    await asyncio.wait_for(run, 10)
    assert told(path) == {}
    assert told(path, "interrupted").keys() == {0}


@pytest.mark.every_loop
async def test_a_timeout_stays_a_timeout_whatever_the_cancellation_breaks() -> None:
    async def objective(params: dict[str, Any]) -> float:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionResetError("closed under my feet") from None
        return 1.0

    search = a_search()
    await search.run(objective, steps=2, timeout=0.02, quiet=True)
    assert [trial.state for trial in search.history] == ["failed", "failed"]


@pytest.mark.every_loop
async def test_a_value_that_comes_after_the_timeout_is_too_late() -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if trial.id == 1:
                raise ah.TrialPruned from None
        return 7.0

    search = a_search()
    await asyncio.wait_for(search.run(objective, steps=2, timeout=0.02, quiet=True), 10)
    assert [(t.state, t.value, t.error) for t in search.history] == [
        ("failed", None, "TrialTimeout: the evaluation took longer than 0.02 s")
    ] * 2


@pytest.mark.every_loop
@pytest.mark.parametrize("stored", [False, True])
async def test_a_coroutine_that_ignores_its_timeout_loses_its_slot(
    stored: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back while another one runs, and nobody listens."""
    release, returned = asyncio.Event(), asyncio.Event()
    said: list[BaseException] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id > 0:
            if trial.id == 4:
                release.set()
                await returned.wait()
            return float(trial.id)
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        try:
            trial.report(1.0)
        except BaseException as e:
            said.append(e)
        asyncio.get_running_loop().call_soon(returned.set)
        return 100.0

    words: dict[str, Any] = {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    search = a_search()
    with caplog.at_level(logging.WARNING, "asynchopper"):
        await asyncio.wait_for(search.run(objective, steps=8, timeout=0.2, quiet=True, **words), 10)
    assert caplog.text.count("trial 0 ignores its cancellation; it is left behind") == 1
    assert sorted((t.id, t.state, t.value) for t in search.history) == [
        (0, "failed", None),
        *((i, "completed", float(i)) for i in range(1, 8)),
    ]
    late = next(t for t in search.history if t.id == 0)
    assert late.error == "TrialTimeout: the evaluation took longer than 0.2 s" and late.estimates == ()
    assert len(said) == 1, "it may report no more"
    if stored:
        assert told(tmp_path / "a.ckpt", "failed").keys() == {0}


async def test_what_cleans_up_within_half_a_second_after_its_timeout_keeps_its_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cleaned_up, running = [], 0

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        nonlocal running
        running += 1
        assert running == 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned_up.append(trial.id)
            running -= 1
        return 1.0

    search = a_search()
    await asyncio.wait_for(search.run(objective, steps=3, timeout=0.02, quiet=True), 10)
    assert search.history.failed.all() and cleaned_up == [0, 1, 2] and not caplog.records


async def test_a_stop_does_not_wait_for_what_ignores_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    search, release = a_search(), asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                search.stop()
        return 1.0

    with caplog.at_level(logging.WARNING, "asynchopper"):
        began = time.monotonic()
        await asyncio.wait_for(search.run(objective, steps=3, timeout=0.02, quiet=True), 10)
    assert time.monotonic() - began < 0.02 + SLACK_S
    assert caplog.text.count("trial 0 ignores its cancellation") == 1
    release.set()


@pytest.mark.every_loop
async def test_an_evaluation_that_somebody_else_cancels_fails_by_name() -> None:
    tasks: dict[int, asyncio.Task[Any]] = {}

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        task = asyncio.current_task()
        assert task is not None
        tasks[trial.id] = task
        if trial.id == 1:
            await asyncio.Event().wait()
        elif 1 in tasks:
            tasks[1].cancel()
            await asyncio.sleep(0)
        return params["x"]

    search = a_search()
    await search.run(objective, steps=5, concurrency=2, on_error="record", quiet=True)
    assert {trial.id for trial in search.history if trial.state == "failed"} == {1}
    tasks.clear()
    with pytest.raises(ah.ObjectiveError, match="cancelled, and not by the search"):
        await a_search().run(objective, steps=5, concurrency=2, quiet=True)


# -- KeyboardInterrupt and SystemExit


@pytest.mark.parametrize("where", ["sleeping", "spinning"])
def test_a_keyboard_interrupt_that_falls_on_a_candidate_is_not_its_failure(tmp_path: Path, where: str) -> None:
    """Without our handlers and without asyncio's, Python raises it in whatever code is running."""
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "concurrency": 1}
    objective = "coroutine" if where == "sleeping" else "spinning"
    with Child(
        "tuning.py", tmp_path, objective=objective, quick=3, handle_signals=False, loop="bare", **words
    ) as child:
        child.wait_line("start", count=4)
        child.signal(signal.SIGINT)
        assert child.status() == -signal.SIGINT
        assert told(path, "failed") == {}
        assert sorted(told(path)) == [0, 1, 2]
        if where == "spinning":
            assert records(path)[-1]["reason"] == "error"
            assert "in trial 3" in child.stderr()
    resumed(tmp_path, steps=8, **words)
    assert sorted(told(path)) == list(range(8))


def test_workers_that_nobody_could_close_end_with_the_interpreter(tmp_path: Path) -> None:
    """A KeyboardInterrupt between two turns of a loop that never runs again."""
    words = {"objective": "process", "quick": 2, "concurrency": 2, "handle_signals": False, "loop": "bare"}
    with Child("tuning.py", tmp_path, path=str(tmp_path / "a.ckpt"), **words) as child:
        child.wait_line("start", count=4)
        sent = child.signal(signal.SIGINT)
        assert child.status(10) == -signal.SIGINT
        assert time.monotonic() - sent < 2 * SLACK_S
        assert child.orphans() == []


@pytest.mark.parametrize("loop", ["asyncio", "bare"])
@pytest.mark.parametrize("executor", ["coroutine", "blocking", "process"])
def test_an_objective_that_exits_ends_the_program_after_the_flush(tmp_path: Path, executor: str, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    words = {"objective": executor, "exits": 3, "steps": 10, "concurrency": 2, "loop": loop}
    with Child("tuning.py", tmp_path, path=str(path), **words) as child:
        assert child.status() == 5
        assert (
            len({0, 1, 2} & told(path, "completed").keys()) >= 2
        )  # before the third and the exit could be side by side
        assert told(path, "failed").keys() == {3}
        assert records(path)[-1]["reason"] == "error"
        assert child.orphans() == []


# -- callbacks


async def test_callbacks_that_hang_do_not_hold_up_a_stopped_run(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(ah.Callback):
        async def on_trial(self, trial: ah.Trial) -> None:
            await asyncio.Event().wait()

        async def on_end(self, search: ah.Search) -> None:
            raise AssertionError("not awaited any more")

    search = a_search()

    def stop(trial: ah.Trial) -> None:
        if trial.id == 5:
            search.stop()

    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "asynchopper"):
        await asyncio.wait_for(search.run(quick, steps=100, callbacks=[Hangs(), stop], grace=0.1, quiet=True), 10)
    assert time.monotonic() - began < 0.1 + SLACK_S
    assert "a callback takes too long" in caplog.text


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "from a thread"])
async def test_a_stop_ends_a_run_that_only_waits_for_its_callbacks(
    elsewhere: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    class Hangs(ah.Callback):
        async def on_trial(self, trial: ah.Trial) -> None:
            await asyncio.Event().wait()

        def on_end(self, search: ah.Search) -> None:
            ended.set()

    search = a_search()
    run = asyncio.ensure_future(search.run(quick, steps=5, callbacks=Hangs(), grace=0.1, quiet=True))
    await asyncio.wait_for(ended.wait(), 10)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "asynchopper"):
        if elsewhere:
            await asyncio.to_thread(search.stop)
        else:
            search.stop()
        await asyncio.wait_for(run, 10)
    assert time.monotonic() - began < 0.1 + SLACK_S
    assert "a callback takes too long" in caplog.text
    assert search.outcome is not None and search.outcome.reason == "steps" and len(search.history) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_callbacks_hang(tmp_path: Path, number: int) -> None:
    """Also when the run is over already, and only they are left."""
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), hangs=True, steps=5, grace=0.1) as child:
        child.wait_line("hanging", 4)
        child.wait_for(lambda _: records(path)[-1]["kind"] == "ended")
        sent = child.signal(number)
        assert child.status() == (-number if number == signal.SIGTERM else 0)
        assert time.monotonic() - sent < 0.1 + SLACK_S


async def test_a_callback_that_is_cancelled_from_inside_takes_nothing_along() -> None:
    heard: list[int] = []

    async def on_trial(trial: ah.Trial) -> None:
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if trial.id == 1:
            inner.cancel()
            await inner
        heard.append(trial.id)

    await a_search().run(quick, steps=4, callbacks=on_trial, quiet=True)
    assert heard == [0, 2, 3]


# -- odd places


async def test_the_loops_pool_may_be_full_of_blocking_calls(tmp_path: Path) -> None:
    """Of the objective's own; candidates so large that they are made and written off the loop come through."""
    loop, release = asyncio.get_running_loop(), threading.Event()
    pool = ThreadPoolExecutor(1)
    loop.set_default_executor(pool)
    blocked = loop.run_in_executor(None, release.wait, 60)
    search, path = ah.Search(w=ah.float(-1, 1, shape=(150, 150)), seed=1), tmp_path / "a.ckpt"

    async def objective(params: dict[str, Any]) -> float:
        return float(np.sum(params["w"]))

    try:
        for _ in range(2):
            await asyncio.wait_for(search.run(objective, steps=3, checkpoint_path=path, quiet=True), 20)
            search = ah.Search(w=ah.float(-1, 1, shape=(150, 150)), seed=1)
    finally:
        release.set()
        await blocked
    assert len(told(path)) == 6


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to make a process the first of its container")
def test_the_first_process_of_a_container_ends_too(tmp_path: Path) -> None:
    """The kernel spares it from signals that it has no handler for, also from its own."""
    tried = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, timeout=30)
    if tried.returncode:
        pytest.skip("may not make a container here")
    path = tmp_path / "a.ckpt"
    prefix = ["unshare", "--pid", "--fork", "--kill-child"]
    with Child(
        "tuning.py", tmp_path, prefix=prefix, path=str(path), quick=3, drains=[3], concurrency=2, grace=0.2
    ) as child:
        child.wait_line("start", count=5)
        assert child.wire.said("pid") == [["pid", 1]]
        (inner,) = [p for p in child.family() if sys.executable in Path(f"/proc/{p}/cmdline").read_text()]
        os.kill(inner, signal.SIGTERM)
        assert child.status() == 128 + signal.SIGTERM
        assert sorted(told(path)) == [0, 1, 2, 3]
        assert not child.wire.said("after")
        in_flight = {line[1]: line[3] for line in child.wire.said("start") if line[1] == 4}
    check_resume(tmp_path, path, in_flight, 9, concurrency=2)


@pytest.mark.parametrize(("then", "left"), [("sigterm", 24.0), ("stopped", 4.0)])
async def test_a_storage_is_hurried_for_as_long_as_evaluations_have(then: str, left: float) -> None:
    hurried: list[float] = []

    class Hurried(MemoryStorage):
        def hurry(self, within: float) -> None:
            hurried.append(within)

    async def objective(params: dict[str, Any]) -> float:
        search.stop()
        await asyncio.sleep(0)  # it has been stopped then
        search._engines[0].stop(then)  # by another one, or by the same again
        return 1.0

    search = ah.Search(x=ah.float(0, 1), seed=1)
    await search.run(objective, steps=5, storage=Hurried("hurried"), grace=20, quiet=True)
    assert hurried == [pytest.approx(24.0), pytest.approx(left, abs=1.0)]
