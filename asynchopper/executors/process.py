"""Evaluations in processes of their own, which are killed when an evaluation is taken away.

A thread drives each process and speaks with it over a pipe: the child asks (`report`, `save`), the parent answers.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from asynchopper.errors import ObjectiveError, UsageError
from asynchopper.executors.thread import ThreadExecutor
from asynchopper.objective import Evaluation, Event, Host, RunningTrial, _current, exhaust, finish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import SpawnContext, SpawnProcess


class ProcessExecutor:
    """As many processes as are busy at once; idle ones are used again."""

    def __init__(self) -> None:
        self._context: SpawnContext = multiprocessing.get_context("spawn")
        self._threads = ThreadExecutor()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def check(self, evaluation: Evaluation) -> None:
        """Raises `UsageError` when the objective cannot be sent to another process."""
        from multiprocessing.reduction import ForkingPickler

        try:
            ForkingPickler.dumps((evaluation.objective, evaluation.kwargs))
        except Exception as e:
            raise UsageError(
                f"executor='process' needs an objective that another process can import: a function at the top level of a "
                f"module, and kwargs that can be sent ({e})"
            ) from e

    async def run(self, evaluation: Evaluation, trial: RunningTrial) -> Any:
        worker = self._idle.pop() if self._idle else _Worker(self._context, evaluation)
        self._all.add(worker)
        trial._interrupted = Event(worker.interrupted)
        try:
            result = await self._threads.call(worker.evaluate, trial)
        except asyncio.CancelledError:
            worker.kill()
            self._all.discard(worker)
            raise
        except BaseException:
            self._release(worker)
            raise
        self._release(worker)
        return result

    def _release(self, worker: _Worker) -> None:
        if worker.process is not None and worker.process.is_alive():
            self._idle.append(worker)
        else:
            worker.kill()
            self._all.discard(worker)

    async def close(self) -> None:
        for worker in self._all:
            worker.kill()
        self._all.clear()
        self._idle.clear()
        await self._threads.close()


class _Worker:
    """One process. Started by the thread that first uses it, since starting takes a while."""

    def __init__(self, context: SpawnContext, evaluation: Evaluation) -> None:
        self.context, self.evaluation = context, evaluation
        self.interrupted = context.Event()
        self.process: SpawnProcess | None = None
        self.pipe: Connection[Any, Any] | None = None
        self._killed = False
        self._starting = threading.Lock()

    def evaluate(self, trial: RunningTrial) -> Any:
        """Drives one evaluation to its end, in a thread."""
        with self._starting:
            if self._killed:
                raise asyncio.CancelledError
            if self.process is None:
                self._start()
        pipe = self.pipe
        assert pipe is not None
        self.interrupted.clear()
        try:
            pipe.send((trial.id, trial.attempt, trial.params, trial.restored))
            while True:
                word, value = pipe.recv()
                if word == "done":
                    return value
                if word == "error":
                    raise value
                pipe.send(self._answer(trial, word, value))
        except (EOFError, OSError) as e:
            if self._killed:
                raise asyncio.CancelledError from None
            assert self.process is not None
            self.process.join(1)
            raise ObjectiveError(
                f"the worker process of trial {trial.id} ended by itself (exit code {self.process.exitcode}); a script "
                "that uses executor='process' must start its search under `if __name__ == '__main__':`"
            ) from e

    def _answer(self, trial: RunningTrial, word: str, value: Any) -> Any:
        try:
            if word == "prune":
                return "ok", trial.should_prune(value)
            if word == "save":
                trial.save(value)
                return "ok", None
            trial.add_cost(value)
            return "ok", None
        except Exception as e:
            return "error", e

    def _start(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        e = self.evaluation
        self.process = self.context.Process(
            target=_serve,
            args=(theirs, self.interrupted, e.objective, e.kwargs),
            name="asynchopper-worker",
            daemon=True,
        )
        self.process.start()
        theirs.close()

    def kill(self) -> None:
        """Ends the process now, and reaps it."""
        self._killed = True
        with self._starting:
            if self.process is not None:
                self.process.kill()
                self.process.join(5)
            if self.pipe is not None:
                self.pipe.close()


class _RemoteHost(Host):
    """The child's side of the words that a trial says to its search."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe

    def ask(self, word: str, value: Any) -> Any:
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
    """A trial in the child process."""

    __slots__ = ()

    def save(self, state: Any) -> Any:
        host = self._host
        assert isinstance(host, _RemoteHost)
        host.ask("save", state)
        return _Nothing()

    def add_cost(self, x: float) -> None:
        host = self._host
        assert isinstance(host, _RemoteHost)
        host.ask("cost", float(x))


class _Nothing:
    def __await__(self) -> Iterator[None]:
        return iter(())


def _serve(pipe: Connection[Any, Any], interrupted: Any, objective: Any, kwargs: dict[str, Any]) -> None:
    """The child: evaluates what it is sent until the pipe closes or the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when we end
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    evaluation = Evaluation(objective, kwargs, None)
    while True:
        try:
            id, attempt, params, restored = pipe.recv()
        except (EOFError, OSError):
            return
        trial = _RemoteTrial(id, attempt, params, restored, _RemoteHost(pipe))
        trial._interrupted = Event(interrupted)
        answer: tuple[str, Any]
        try:
            answer = "done", _value(evaluation, trial)
        except BaseException as e:
            answer = "error", e
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:  # what cannot be sent is said instead
            what = "returned" if answer[0] == "done" else "raised"
            pipe.send(
                ("error", ObjectiveError(f"the objective {what} {answer[1]!r:.500}, which cannot leave its process"))
            )


def _value(evaluation: Evaluation, trial: RunningTrial) -> Any:
    _current.set(trial)
    result = evaluation.call(trial)
    if hasattr(result, "__next__"):
        return exhaust(result, trial)
    if hasattr(result, "__await__") or hasattr(result, "__anext__"):
        return asyncio.run(_finished(result, trial))
    return result


async def _finished(result: Any, trial: RunningTrial) -> Any:
    _current.set(trial)
    return await finish(result, trial)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
