"""Evaluations in processes of their own, which are killed when an evaluation is taken away.

A thread drives each process and speaks with it over a pipe: the child says (`prune`, `save`, `cost`, `more`), the parent answers.
A worker leads a process group, so what an objective starts ends with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from asynchopper.errors import ObjectiveError, UsageError
from asynchopper.executors.thread import ThreadExecutor
from asynchopper.executors.worker import serve
from asynchopper.objective import Evaluation, Event, RunningTrial, printed
from asynchopper.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.context import SpawnContext, SpawnProcess

_REAP_S = (
    0.4  # what the system gets to take killed processes down; who takes longer is reaped by multiprocessing, later
)


def _check_sendable(what: str, value: Any) -> None:
    try:
        ForkingPickler.dumps(value)
    except Exception as e:
        raise UsageError(f"executor='process': {what} cannot be sent to another process ({e})") from e


class ProcessExecutor:
    """As many processes as are busy at once; idle ones are used again."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._threads = ThreadExecutor()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._places: dict[int, _Worker] = {}
        """The worker that waits for a trial, by the trial's id."""

    def check(self, evaluation: Evaluation) -> None:
        """Raises `UsageError` when the objective, or an option, cannot be sent to another process."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UsageError(
                "a worker process imported this script, and the script began a search of its own; "
                "start the search under `if __name__ == '__main__':`"
            )
        try:
            ForkingPickler.dumps((evaluation.objective, evaluation.kwargs))
        except Exception as e:
            raise UsageError(
                f"executor='process' needs an objective that another process can import: a function at the top level of a "
                f"module, and kwargs that can be sent ({e})"
            ) from e
        for leaf in self._space.leaves:
            if isinstance(leaf.param, Choice) and not leaf.param.nested:
                for option in leaf.param.options:
                    _check_sendable(f"the options of {leaf.path}", option)
        for path, constant in self._space.constants():
            _check_sendable(path, constant)

    async def open(self, evaluation: Evaluation) -> None:
        """Starts the first worker. Raises `UsageError` when it cannot find the objective."""
        atexit.register(self._kill_all)  # before multiprocessing waits for its children
        self._idle.append(await self._started(evaluation))

    async def ready(self, evaluation: Evaluation, trial: RunningTrial) -> None:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                self._places[trial.id] = worker
                return
            self._all.discard(worker)
            worker.close()
        self._places[trial.id] = await self._started(evaluation)

    async def run(self, evaluation: Evaluation, trial: RunningTrial) -> Any:
        worker = self._places.pop(trial.id)
        trial._interrupted = _Passed(worker, trial)
        try:
            return await self._threads.call(lambda: worker.evaluate(trial))
        except asyncio.CancelledError:
            _take_down([worker])
            raise
        finally:
            if worker.alive():
                self._idle.append(worker)
            else:
                self._all.discard(worker)

    async def close(self) -> None:
        self._kill_all()
        atexit.unregister(self._kill_all)
        await self._threads.close()

    def _kill_all(self) -> None:
        _take_down(self._all)
        for worker in self._idle:
            worker.close()
        self._all.clear()
        self._idle.clear()

    async def _started(self, evaluation: Evaluation) -> _Worker:
        worker = _Worker(self._context, evaluation)
        self._all.add(worker)
        try:
            await self._threads.call(worker.start)  # takes as long as importing the objective's module does
        except BaseException:
            _take_down([worker])
            self._all.discard(worker)
            raise
        return worker


def _take_down(workers: Iterable[_Worker]) -> None:
    """Ends processes and all that they started, now, and reaps them."""
    killed = [process for worker in workers if (process := worker.kill()) is not None]
    deadline = time.monotonic() + _REAP_S
    for process in killed:
        process.join(max(deadline - time.monotonic(), 0.0))


class _Passed(Event):
    """The interruption of a trial, passed on to the process that evaluates it."""

    def __init__(self, worker: _Worker, trial: RunningTrial) -> None:
        super().__init__()
        self._worker, self._id = worker, trial.id
        if trial._interrupted is not None and trial._interrupted.is_set():
            super().set()  # goes with the trial

    def set(self) -> None:
        if not self.is_set():
            super().set()
            self._worker.interrupt(self._id)


class _Worker:
    """One process. Started, and then driven, by one thread at a time."""

    def __init__(self, context: SpawnContext, evaluation: Evaluation) -> None:
        self.context, self.evaluation = context, evaluation
        self.process: SpawnProcess | None = None
        self._ready = False
        self._killed = False
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        state = "killed" if self._killed else "ready" if self._ready else "new"
        return f"_Worker(pid {self.process.pid if self.process else None}, {state})"

    # -- in the driving thread

    def start(self) -> None:
        """Starts the process and hands it the objective. Raises `UsageError` when it cannot take it."""
        with self._starting:
            if self._killed:
                raise asyncio.CancelledError
            context = self.context
            self._pipe, pipe = context.Pipe()
            control, self._control = context.Pipe(duplex=False)
            life, self._life = context.Pipe(duplex=False)  # nothing is written; it closes when this process is gone
            process = context.Process(target=serve, args=(pipe, control, life), name="asynchopper-worker")
            process.start()
            self.process = process
            for theirs in (pipe, control, life):
                theirs.close()
        assert process.pid is not None
        self._death: int = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else os.dup(process.sentinel)
        try:
            self._pipe.send((self.evaluation.objective, self.evaluation.kwargs))
            word, value = self._hear()
        except (EOFError, OSError) as e:
            raise self._ended(
                "before it was ready; what it printed says why. A script that uses executor='process' must start its "
                "search under `if __name__ == '__main__':`, since workers import the script"
            ) from e
        if word != "ready":
            self._finish()
            raise UsageError(
                f"a worker process cannot take the objective: {value}; put the function into a module (a .py file), import it "
                "from there, and start the search under `if __name__ == '__main__':`"
            )
        self._ready = True

    def evaluate(self, trial: RunningTrial) -> Any:
        """Drives one evaluation to its end."""
        try:
            given = ForkingPickler.dumps(
                (trial.id, trial.attempt, trial.params, trial.restored, trial.interrupted.is_set())
            )
        except Exception as e:
            raise ObjectiveError(f"the parameters of trial {trial.id} cannot be sent to a worker process: {e}") from e
        try:
            self._pipe.send_bytes(given)
            while True:
                word, value = self._hear()
                if word in ("done", "error"):
                    break
                self._reply(*self._answer(trial, word, value))
        except (EOFError, OSError) as e:
            raise self._ended(f"while it evaluated trial {trial.id}") from e
        except BaseException:
            self._finish()  # what it says next would be taken for another trial's
            raise
        if word == "error":
            raise value
        return value

    def _hear(self) -> tuple[str, Any]:
        """The next message. Raises `EOFError` when the process has ended, whoever else holds its end of the pipe."""
        ready: list[Any] = connection.wait([self._pipe, self._death])
        if self._pipe not in ready:
            raise EOFError
        message: tuple[str, Any] = self._pipe.recv()
        return message

    @staticmethod
    def _answer(trial: RunningTrial, word: str, value: Any) -> tuple[str, Any]:
        try:
            if word == "prune":
                return "ok", trial.should_prune(value)
            if word == "save":
                trial.save(value)
                return "ok", None
            trial.cost = value if word == "cost" else trial.cost + value
        except Exception as e:
            return "error", e
        return "ok", trial.cost

    def _reply(self, word: str, value: Any) -> None:
        try:
            answer = ForkingPickler.dumps((word, value))
        except Exception:  # an error that cannot travel
            answer = ForkingPickler.dumps((word, ObjectiveError(f"the search answered {printed(value)}")))
        self._pipe.send_bytes(answer)

    def _finish(self) -> SpawnProcess:
        """Makes sure that the process has ended, and lets go of it."""
        process = self.process
        assert process is not None and process.pid is not None
        self._end(process.pid)
        process.join()
        self.close()
        return process

    def _ended(self, when: str) -> BaseException:
        """What to raise when the process has ended, which it is made sure of."""
        process = self._finish()
        if self._killed:
            return asyncio.CancelledError()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended by itself (exit code {code})"
        return (ObjectiveError if self._ready else UsageError)(f"the worker process {how} {when}")

    def close(self) -> None:
        """Lets go of a process that has ended, or was killed; by whoever drives it, and where nobody does."""
        for pipe in (self._pipe, self._control, self._life):
            pipe.close()
        if self._death >= 0:
            os.close(self._death)
            self._death = -1

    # -- in the event loop

    def alive(self) -> bool:
        """Whether it can take the next trial."""
        return self._ready and not self._killed and self.process is not None and self.process.is_alive()

    def interrupt(self, id: int) -> None:
        """Sets `trial.interrupted` over there."""
        if self._ready and not self._killed:
            with contextlib.suppress(OSError):  # it has just ended
                self._control.send(id)

    def kill(self) -> SpawnProcess | None:
        """Gives the process to be reaped, if there is one. Its driving thread notices by itself."""
        self._killed = True
        with self._starting:
            process = self.process
        if process is None or process.pid is None or not process.is_alive():
            return None
        self._end(process.pid)
        return process

    @staticmethod
    def _end(pid: int) -> None:
        """Kills a process that was not reaped yet, and its group."""
        for send in (os.killpg, os.kill):  # it leads no group until it is up
            with contextlib.suppress(ProcessLookupError):
                send(pid, signal.SIGKILL)
