"""A search in a process of its own, that says on a named pipe what happens to it. One JSON argument says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import asynchopper as ah

WORDS: dict[str, Any] = json.loads(sys.argv[1])
QUICK = WORDS.get("quick", 10**9)  # trials below this number end at once, on their first attempt
DRAINS = set(WORDS.get("drains", ()))  # of the others, these end when they hear that they are being interrupted
LONG_S = 600.0

_wire = os.open(WORDS["wire"], os.O_WRONLY)


def say(*words: Any) -> None:
    os.write(_wire, json.dumps(words).encode() + b"\n")


def value_of(params: dict[str, Any]) -> float:
    return -((params["x"] - 0.3) ** 2) - 0.01 * params["n"] + (0.5 if params["kind"] == "b" else 0.0)


def ends_at_once(trial: ah.RunningTrial) -> bool:
    if trial.id == WORDS.get("exits"):
        sys.exit(5)
    return trial.id < QUICK


async def coroutine(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    _seen.append(trial)
    say("start", trial.id, trial.attempt, params)
    try:
        if trial.id in DRAINS:
            await trial.interrupted.wait()
        elif not ends_at_once(trial):
            await asyncio.sleep(LONG_S)
    except asyncio.CancelledError:
        say("cancelled", trial.id)
        raise
    say("value", trial.id, time.monotonic())
    return value_of(params)


async def stubborn(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Never ends, and does not want to hear of it."""
    say("start", trial.id, trial.attempt, params)
    while not ends_at_once(trial):
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            say("cancelled", trial.id)
    return value_of(params)


def blocking(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    say("start", trial.id, trial.attempt, params, os.getpid())
    if trial.id in DRAINS:
        while not trial.interrupted.is_set():
            time.sleep(0.005)
    elif not ends_at_once(trial):
        threading.Event().wait(LONG_S)
    say("value", trial.id, time.monotonic())
    return value_of(params)


async def spinning(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Keeps the loop for itself."""
    say("start", trial.id, trial.attempt, params)
    while not ends_at_once(trial):
        pass
    return value_of(params)


def spawning(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Runs a program of its own, as a training script would."""
    import subprocess

    program = subprocess.Popen(["sleep", str(LONG_S)])
    say("start", trial.id, trial.attempt, params, program.pid)
    program.wait()
    return value_of(params)


def forking(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Has a child as `multiprocessing` makes them by default on Linux, and ends it as a pool does."""
    pid = os.fork()
    if pid == 0:
        say("child", os.getpid())
        time.sleep(LONG_S)
        os._exit(0)
    _go_on.wait(LONG_S)
    os.kill(pid, signal.SIGTERM)
    say("reaped", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return value_of(params)


_go_on = threading.Event()


def holding(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Busy in C code that never lets go of the interpreter."""
    say("start", trial.id, trial.attempt, params)
    return float(sum(range(10**12)))


OBJECTIVES = {
    "spinning": spinning,
    "holding": holding,
    "forking": forking,
    "coroutine": coroutine,
    "stubborn": stubborn,
    "blocking": blocking,
    "process": blocking,
    "spawning": spawning,
}


def space() -> ah.Search:
    return ah.Search(
        {"x": ah.float(0, 1), "n": ah.int(1, 1000, log=True), "kind": ah.choice("a", "b", "c")},
        seed=WORDS.get("seed", 5),
    )


async def hangs(trial: ah.Trial) -> None:
    if trial.id == WORDS["steps"] - 1:
        say("hanging", trial.id)
        await asyncio.sleep(LONG_S)


async def ticks() -> None:
    """Left to itself, Python does not wake a loop that was about to sleep when a signal came."""
    while True:
        await asyncio.sleep(0.02)


async def tune(search: ah.Search, **words: Any) -> None:
    name = WORDS.get("objective", "coroutine")
    own = WORDS.get("handle_signals", True)
    ticker = None if own else asyncio.ensure_future(ticks())
    watchers: list[Any] = [lambda trial: say("durable", trial.id, trial.attempt, trial.value)]
    if WORDS.get("hangs"):
        watchers.append(hangs)
    best = await search.run(
        OBJECTIVES[name],
        steps=WORDS.get("steps", 100),
        concurrency=WORDS.get("concurrency", 1),
        checkpoint_path=WORDS["path"],
        executor="process" if name in ("process", "spawning", "holding") else None,
        grace=WORDS.get("grace", 20.0),
        handle_signals=own,
        timeout=WORDS.get("timeout"),
        callbacks=watchers,
        quiet=True,
        **words,
    )
    if ticker is not None:
        ticker.cancel()
    assert search.outcome is not None
    say("returned", search.outcome.reason, best is not None)


# -- who else is in the process


async def alone() -> None:
    await tune(space())
    say("after")


async def cancelled_by_host() -> None:
    """The host has a handler in its loop that cancels the task, as a web server's might."""
    task = asyncio.ensure_future(tune(space()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled run")


async def with_loop_handler() -> None:
    loop, again = asyncio.get_running_loop(), asyncio.Event()

    def host() -> None:
        say("host")
        again.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, host)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await tune(space())
    say("same", before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])
    again.clear()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(again.wait(), 10)
    say("after")


async def with_signal_handler() -> None:
    def host(number: int, frame: Any) -> None:
        say("host", number, frame is not None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, host)
    await tune(space())
    say("same", all(signal.getsignal(number) is host for number in (signal.SIGTERM, signal.SIGINT)))
    os.kill(os.getpid(), signal.SIGTERM)
    say("after")


async def with_exit_handler() -> None:
    """As many a service has it: SIGTERM raises SystemExit."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    await tune(space())


async def with_a_forked_child() -> None:
    """The objective's child is up before it is sent its signal."""
    asyncio.get_running_loop().call_later(0.05, _go_on.set)
    await tune(space())


async def with_signals_going_to_another_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in this thread only
    await tune(space())


def abandon() -> None:
    """A loop is stopped with a search in it, and never run again; signals are the process's own again."""
    first = asyncio.new_event_loop()
    left = first.create_task(tune(space()))
    first.run_until_complete(first.create_task(_begun(2)))
    say("abandoned", left.done())
    if WORDS.get("again"):
        WORDS["path"] += "2"
        asyncio.run(alone())
    else:
        time.sleep(LONG_S)


async def _begun(count: int) -> None:
    while len(_seen) < count:
        await asyncio.sleep(0.005)


async def two_searches() -> None:
    async def one(search: ah.Search, path: str, kind: str) -> None:
        await search.run(
            OBJECTIVES["coroutine"], steps=100, checkpoint_path=path, quiet=True, grace=WORDS.get("grace", 20.0)
        )
        assert search.outcome is not None
        say("returned", search.outcome.reason, kind)

    await asyncio.gather(one(space(), WORDS["path"], "first"), one(space(), WORDS["path"] + "2", "second"))
    say("after")


async def one_after_another() -> None:
    """The second search begins when the first has heard of the signal, and still drains."""
    first, second = space(), space()
    run = asyncio.ensure_future(tune(first))
    while not (asked_to_end := any(trial.interrupted.is_set() for trial in _seen)):
        await asyncio.sleep(0.005)
    await second.run(coroutine, steps=100, checkpoint_path=WORDS["path"] + "2", quiet=True, grace=WORDS["grace"])
    await run
    say("after", asked_to_end)


_seen: list[ah.RunningTrial] = []


async def left_in_background() -> None:
    """The main coroutine ends with the search under way: asyncio.run cancels every task there is."""
    search = space()
    task = asyncio.ensure_future(tune(search))
    while len(search.history) < WORDS["until"]:
        await asyncio.sleep(0)
    say("leaving", task.done())


def off_the_main_thread() -> None:
    search = space()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def host(number: int, frame: Any) -> None:
        say("host", number)
        search.stop()

    signal.signal(signal.SIGTERM, host)
    thread = threading.Thread(target=lambda: asyncio.run(tune(search)))
    thread.start()
    while thread.is_alive():
        thread.join(0.05)  # the interpreter runs signal handlers in the main thread only, between two instructions
    say("same", signal.getsignal(signal.SIGTERM) is host and signal.getsignal(signal.SIGINT) == before[1])


async def chaos() -> None:
    """Evaluations of random length, until somebody kills us."""

    async def evaluate(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        say("start", trial.id, trial.attempt, params)
        await asyncio.sleep(WORDS["mean_s"] * (0.5 + params["x"]))
        return value_of(params)

    OBJECTIVES["coroutine"] = evaluate
    await tune(space())


HOSTS = {
    "alone": alone,
    "cancels": cancelled_by_host,
    "loop": with_loop_handler,
    "signal": with_signal_handler,
    "exit": with_exit_handler,
    "forks": with_a_forked_child,
    "elsewhere": with_signals_going_to_another_thread,
    "two": two_searches,
    "late": one_after_another,
    "background": left_in_background,
    "chaos": chaos,
}


def main() -> None:
    host = WORDS.get("host", "alone")
    if os.getpid() == 1:
        say("pid", 1)
    if host == "thread":
        off_the_main_thread()
    elif host == "abandons":
        abandon()
    elif WORDS.get("loop") == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(HOSTS[host]())
    elif WORDS.get("loop") == "bare":  # no asyncio.Runner, and so no SIGINT handler but Python's
        loop = asyncio.new_event_loop()
        loop.run_until_complete(HOSTS[host]())
        loop.close()
    else:
        asyncio.run(HOSTS[host]())


if __name__ == "__main__":
    main()
