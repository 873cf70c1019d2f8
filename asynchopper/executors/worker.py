"""The other side of a process executor: evaluates what it is sent, until its parent hangs up or is gone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from asynchopper.errors import ObjectiveError
from asynchopper.objective import (
    Evaluation,
    Event,
    Host,
    Interrupted,
    RunningTrial,
    _current,
    exhaust,
    finish,
    printed,
    to_cost,
    to_number,
)


def serve(pipe: Connection[Any, Any], control: Connection[Any, Any], life: Connection[Any, Any]) -> None:
    """The whole life of a worker process."""
    os.setpgid(0, 0)  # what the objective starts can be ended with us; a terminal's Ctrl-C is for our parent
    for number in (signal.SIGINT, signal.SIGTERM):  # our parent decides when we end
        signal.signal(number, _nothing)  # not SIG_IGN, which the objective's own children would inherit
    _die_with(life)
    news = _Control(control)
    threading.Thread(target=news.listen, name="asynchopper-control", daemon=True).start()
    try:
        objective, kwargs = pipe.recv()
        evaluation = Evaluation(objective, kwargs, None)
    except (EOFError, OSError):
        return
    except Exception as e:
        pipe.send(("refused", f"{type(e).__name__}: {e}"))
        return
    pipe.send(("ready", None))
    while True:
        try:
            id, attempt, params, restored, interrupted = pipe.recv()
            host = _RemoteHost(pipe)
            trial = _RemoteTrial(id, attempt, params, restored, host)
            trial._interrupted = news.follow(id, interrupted)
            outcome = _outcome(evaluation, trial)
            with host.talking:
                host.over = True
            pipe.send(outcome)
        except (EOFError, OSError):
            return


def _nothing(*_: Any) -> None:
    pass


def _die_with(life: Connection[Any, Any]) -> None:
    """Has the kernel kill our group when the parent is gone, also while C code holds the interpreter."""
    if hasattr(fcntl, "F_SETSIG"):
        fd = life.fileno()
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


class _Control:
    """Hears from the parent beside the evaluation: that a trial is being interrupted, or nothing ever again."""

    def __init__(self, control: Connection[Any, Any]) -> None:
        self._control = control
        self._interrupted: int | None = None
        self._current: tuple[int, Event] | None = None

    def listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._interrupted = self._control.recv()
                current = self._current
                if current is not None and current[0] == self._interrupted:
                    current[1].set()
        os.killpg(0, signal.SIGKILL)

    def follow(self, id: int, interrupted: bool) -> Event:
        """The interruption of the trial that is evaluated from now on."""
        event = Event()
        self._current = id, event
        if interrupted or self._interrupted == id:  # the word may have come before the trial
            event.set()
        return event


class _RemoteHost(Host):
    """The words that a trial says to its search, sent there."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe
        self.talking = threading.Lock()
        """Held by the thread that waits for its answer; any may ask."""
        self.over = False

    def elsewhere(self) -> None:
        return None

    def ask(self, word: str, value: Any) -> Any:
        with self.talking:
            if self.over:
                raise Interrupted
            self.pipe.send((word, value))
            kind, answer = self.pipe.recv()
        if kind == "error":
            raise answer
        return answer

    def prunes(self, trial: RunningTrial, value: float) -> bool:
        trial.estimates.append(value)
        return bool(self.ask("prune", value))

    async def save(self, trial: RunningTrial, state: Any) -> None:
        self.ask("save", state)


class _RemoteTrial(RunningTrial):
    __slots__ = ()

    def save(self, state: Any) -> Any:
        self._ask("save", state)
        return _Nothing()

    def add_cost(self, x: float) -> None:
        # added up over there, since several threads may say it at once
        self._cost = self._ask("more", to_cost(x, "add_cost"))

    def _count(self, cost: float) -> None:
        self._cost = self._ask("cost", cost)

    def _ask(self, word: str, value: Any) -> Any:
        host = self._host
        assert isinstance(host, _RemoteHost)
        return host.ask(word, value)


class _Nothing:
    def __await__(self) -> Iterator[None]:
        return iter(())


def _outcome(evaluation: Evaluation, trial: RunningTrial) -> tuple[str, Any]:
    """`("done", a number)`, or `("error", an exception that arrives as it was raised)`."""
    try:
        return "done", _value(evaluation, trial)
    except BaseException as e:
        return "error", _portable(e)


def _value(evaluation: Evaluation, trial: RunningTrial) -> float:
    _current.set(trial)
    result = evaluation.call(trial)
    if hasattr(result, "__next__"):
        result = exhaust(result, trial)
    if hasattr(result, "__await__") or hasattr(result, "__anext__"):
        result = asyncio.run(_finished(result, trial))
    return to_number(result)


async def _finished(result: Any, trial: RunningTrial) -> Any:
    _current.set(trial)
    return await finish(result, trial)


def _portable(error: BaseException) -> BaseException:
    """The exception with a note of where it was raised, or what it says, when it cannot travel."""
    where = "".join(traceback.format_exception(error)).rstrip()
    try:
        sent = ForkingPickler.dumps(error)
        arrives = ForkingPickler.loads(sent)  # pyright: ignore[reportAttributeAccessIssue]  # the stubs bind it wrongly
        if type(arrives) is type(error) and str(arrives) == str(error):
            error.add_note(f"raised in a worker process:\n{where}")
            return error
    except Exception:  # as a class with an __init__ of its own often does
        pass
    return ObjectiveError(f"the objective raised {printed(error)}, in a worker process:\n{where}")
