"""SIGTERM and SIGINT, sent to real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, asked, records, told, wait_told

SLACK_S = 1.0  # what ending may take beyond the grace
LOOPS = ["asyncio", "uvloop"]


def resumed(home: Path, wait_s: float = 30.0, **words: Any) -> Child:
    """The same search again, with nothing in its way; it has ended."""
    child = Child("tuning.py", home, **words)
    assert child.status(wait_s) == 0, child.stderr()
    child.close()
    return child


def check_resume(home: Path, path: Path, in_flight: dict[int, Any], steps: int, **words: Any) -> None:
    """Re-runs exactly what was in flight, first, with the same parameters; meets the budget exactly."""
    child = resumed(home, path=str(path), steps=steps, **words)
    starts = child.wire.said("start")
    again = {line[1]: line for line in starts if line[2] > 1}
    assert {i: line[3] for i, line in again.items()} == in_flight
    assert {line[2] for line in again.values()} <= {2}
    log = records(path)
    began = max(i for i, r in enumerate(log) if r["kind"] == "run")
    first = [r["id"] for r in log[began:] if r["kind"] == "asked"][: len(in_flight)]
    assert set(first) == in_flight.keys(), "what was in flight comes first"
    assert sorted(told(path)) == list(range(steps))
    assert records(path)[-1]["kind"] == "ended"
    assert records(path)[-1]["reason"] == "steps"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("objective", ["coroutine", "blocking", "process"])
def test_sigterm_flushes_drains_interrupts_and_ends_with_143(tmp_path: Path, objective: str, loop: str) -> None:
    path, concurrency, quick, grace = tmp_path / "a.ckpt", 4, 10, 0.5
    words = {"objective": objective, "concurrency": concurrency, "loop": loop}
    drains = [quick, quick + 1]
    child = Child("tuning.py", tmp_path, path=str(path), steps=30, quick=quick, drains=drains, grace=grace, **words)
    with child:
        starts = child.wait_line("start", count=quick + concurrency)
        sent = child.signal(signal.SIGTERM)
        assert wait_told(path, set(range(quick)), SLACK_S) - sent < 0.2, "known before the signal"
        drained = wait_told(path, set(drains), SLACK_S)
        finished = max(line[2] for line in child.wait_line("value", count=quick + 2) if line[1] in drains)
        assert drained - finished < 0.2, "durable as soon as it exists, while others still drain"
        assert child.status() == -signal.SIGTERM
        assert grace * 0.8 < time.monotonic() - sent < grace + SLACK_S
        assert child.orphans() == []
        assert not child.wire.said("after"), "the signal did what it does to a process without a handler"
        in_flight = {line[1]: line[3] for line in starts if line[1] >= quick + 2}
        assert len(in_flight) == concurrency - 2
        assert told(path, "interrupted").keys() == in_flight.keys()
        assert records(path)[-1] | {"reason": "sigterm"} == records(path)[-1]
        if objective == "coroutine":
            assert {line[1] for line in child.wire.said("cancelled")} == in_flight.keys()
    check_resume(tmp_path, path, in_flight, 30, **words)


@pytest.mark.parametrize("objective", ["coroutine", "stubborn", "blocking", "process"])
def test_no_objective_holds_up_the_end(tmp_path: Path, objective: str) -> None:
    path = tmp_path / "a.ckpt"
    child = Child("tuning.py", tmp_path, path=str(path), objective=objective, quick=3, concurrency=2, grace=0)
    with child:
        starts = child.wait_line("start", count=5)
        sent = child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert time.monotonic() - sent < SLACK_S
        assert child.orphans() == []
        assert sorted(told(path)) == [0, 1, 2]
        assert told(path, "interrupted").keys() == {3, 4} == {line[1] for line in starts if line[1] > 2}


@pytest.mark.parametrize("objective", ["coroutine", "blocking", "process"])
def test_the_second_sigterm_does_not_wait_for_the_grace(tmp_path: Path, objective: str) -> None:
    path = tmp_path / "a.ckpt"
    child = Child("tuning.py", tmp_path, path=str(path), objective=objective, quick=2, concurrency=3, drains=[2])
    with child:
        starts = child.wait_line("start", count=5)
        child.signal(signal.SIGTERM)
        wait_told(path, {0, 1, 2}, 5)
        assert child.process.poll() is None, "it waits for the others"
        sent = child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert time.monotonic() - sent < SLACK_S
        assert child.orphans() == []
        in_flight = {line[1]: line[3] for line in starts if line[1] > 2}
    check_resume(tmp_path, path, in_flight, 8, objective=objective, concurrency=3)


def test_what_a_program_of_the_objective_started_ends_too(tmp_path: Path) -> None:
    """A worker process that runs a training script takes it along when it is taken away."""
    child = Child("tuning.py", tmp_path, path=str(tmp_path / "a.ckpt"), objective="spawning", concurrency=2, grace=0.2)
    with child:
        child.wait_line("start", count=2)
        child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert child.orphans() == []


@pytest.mark.parametrize("loop", [*LOOPS, "bare"])
def test_sigint_lets_evaluations_finish_and_returns_the_best(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "concurrency": 3, "loop": loop}
    with Child("tuning.py", tmp_path, quick=5, drains=[5, 6, 7], steps=20, **words) as child:
        child.wait_line("start", count=8)
        child.signal(signal.SIGINT)
        assert child.status() == 0
        assert child.wire.said("returned") == [["returned", "sigint", True]]
        assert child.wire.said("after"), "the program goes on"
        assert sorted(told(path)) == list(range(8))
        assert not child.wire.said("cancelled")
        assert len(child.wire.said("start")) == 8, "nothing new was proposed"
    check_resume(tmp_path, path, {}, 20, concurrency=3, loop=loop)


def test_sigint_gives_up_after_the_grace(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), quick=2, concurrency=2, grace=0.3) as child:
        child.wait_line("start", count=4)
        sent = child.signal(signal.SIGINT)
        assert child.status() == 0
        assert time.monotonic() - sent < 0.3 + SLACK_S
        assert child.wire.said("returned", "sigint")
        assert told(path, "interrupted").keys() == {2, 3}


@pytest.mark.parametrize("loop", [*LOOPS, "bare"])
@pytest.mark.parametrize("objective", ["coroutine", "blocking"])
def test_the_second_sigint_is_a_keyboard_interrupt_after_the_flush(tmp_path: Path, objective: str, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "objective": objective, "concurrency": 2, "loop": loop}
    with Child("tuning.py", tmp_path, quick=3, drains=[3], **words) as child:
        child.wait_line("start", count=5)
        child.signal(signal.SIGINT)
        wait_told(path, {0, 1, 2, 3}, 5)
        sent = child.signal(signal.SIGINT)
        assert child.status() == -signal.SIGINT
        assert time.monotonic() - sent < SLACK_S
        assert "KeyboardInterrupt" in child.stderr()
        assert not child.wire.said("returned")
        assert not child.wire.said("after")
        assert records(path)[-1]["kind"] == "ended"
        in_flight = {4: asked(path)[4]["params"]}
    check_resume(tmp_path, path, in_flight, 9, objective=objective, concurrency=2, loop=loop)


def test_sigterm_after_sigint_ends_with_143_within_the_first_grace(tmp_path: Path) -> None:
    with Child(
        "tuning.py", tmp_path, path=str(tmp_path / "a.ckpt"), quick=2, drains=[2], grace=1.0, concurrency=2
    ) as child:
        child.wait_line("start", count=4)
        sent = child.signal(signal.SIGINT)
        child.wait_line("durable", 2)
        child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert time.monotonic() - sent < 1.0 + SLACK_S
        assert records(tmp_path / "a.ckpt")[-1]["reason"] == "sigterm"


def test_without_handlers_sigterm_kills_and_nothing_known_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), quick=4, concurrency=2, handle_signals=False) as child:
        starts = child.wait_line("start", count=6)
        sent = child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert time.monotonic() - sent < SLACK_S
        assert sorted(told(path)) == [0, 1, 2, 3]
        assert not child.wire.said("cancelled")
        in_flight = {line[1]: line[3] for line in starts[4:]}
    check_resume(tmp_path, path, in_flight, 12, concurrency=2)


@pytest.mark.parametrize("loop", LOOPS)
def test_without_handlers_sigint_cancels_the_run_as_it_would_any_task(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "concurrency": 2, "loop": loop}
    with Child("tuning.py", tmp_path, quick=4, handle_signals=False, **words) as child:
        starts = child.wait_line("start", count=6)
        child.signal(signal.SIGINT)
        assert child.status() == -signal.SIGINT
        assert {line[1] for line in child.wire.said("cancelled")} == {4, 5}
        assert told(path, "failed") == {}
        assert told(path, "interrupted").keys() == {4, 5}
        in_flight = {line[1]: line[3] for line in starts[4:]}
    check_resume(tmp_path, path, in_flight, 12, concurrency=2)


def test_signals_ignored_on_purpose_stay_ignored(tmp_path: Path) -> None:
    """As under nohup, or in a shell's background job."""
    path = tmp_path / "a.ckpt"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = Child("tuning.py", tmp_path, path=str(path), quick=2, drains=[2], concurrency=2, grace=0.2)
    finally:
        signal.signal(signal.SIGINT, before)
    with child:
        child.wait_line("start", count=4)
        child.signal(signal.SIGINT)
        child.signal(signal.SIGTERM)
        assert child.status() == -signal.SIGTERM
        assert records(path)[-1]["reason"] == "sigterm"


def test_a_signal_that_interrupts_another_thread_is_heard_at_once(tmp_path: Path) -> None:
    """The loop sleeps in the main thread meanwhile, and must be woken."""
    path = tmp_path / "a.ckpt"
    with Child(
        "tuning.py", tmp_path, path=str(path), host="elsewhere", quick=3, drains=[3], concurrency=2, grace=0.2
    ) as child:
        child.wait_line("start", count=5)
        sent = child.signal(signal.SIGTERM)
        assert wait_told(path, {3}, 5) - sent < SLACK_S
        assert child.status() == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("again", [False, True])
def test_a_loop_that_was_abandoned_with_its_search_holds_no_signal(tmp_path: Path, again: bool, number: int) -> None:
    """Its process can be ended as any other, also while a search in another loop runs."""
    path = tmp_path / "a.ckpt"
    words = {"path": str(path), "again": again, "quick": 1, "concurrency": 2, "grace": 0.2}
    with Child("tuning.py", tmp_path, host="abandons", **words) as child:
        child.wait_line("abandoned", False)
        if again:
            child.wait_line("start", 1, count=2)
        child.signal(number)
        assert child.status() == (0 if again and number == signal.SIGINT else -number)
        if again:
            assert records(tmp_path / "a.ckpt2")[-1]["kind"] == "ended"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_of_an_objective_does_not_inherit_our_handlers(tmp_path: Path, loop: str) -> None:
    """`pool.terminate()` in an objective would wait for ever."""
    words = {"path": str(tmp_path / "a.ckpt"), "objective": "forking", "host": "forks", "steps": 2, "loop": loop}
    with Child("tuning.py", tmp_path, **words) as child:
        assert child.status(20) == 0
        assert child.wire.said("reaped") == [["reaped", -signal.SIGTERM]] * 2
        assert child.wire.said("returned", "steps")
