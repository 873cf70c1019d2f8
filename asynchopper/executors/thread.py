"""Plain functions in daemon threads: a thread that does not come back can hold up neither the search nor the exit."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from asynchopper.objective import Evaluation, RunningTrial

_Job: TypeAlias = "tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop] | None"
_numbers = itertools.count(1)


class ThreadExecutor:
    """As many threads as are busy at once; idle ones are used again."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._closed = False

    async def run(self, evaluation: Evaluation, trial: RunningTrial) -> Any:
        from asynchopper.objective import finish

        result = await self.call(lambda: evaluation.in_thread(trial))
        return await finish(result, trial)  # a lambda around a coroutine function gives one to await

    async def call(self, fn: Callable[[], Any]) -> Any:
        """`fn()` in a worker thread. When cancelled, the thread is left to itself and its result is dropped."""
        loop = asyncio.get_running_loop()
        worker = self._idle.pop() if self._idle else _Worker(self)
        context = contextvars.copy_context()
        answer: asyncio.Future[Any] = loop.create_future()
        worker.jobs.put((lambda: context.run(fn), answer, loop))
        return await answer

    def check(self, evaluation: Evaluation) -> None:
        """Anything that can be called can be called in a thread."""

    async def open(self, evaluation: Evaluation) -> None:
        """Threads start when they are needed."""

    async def ready(self, evaluation: Evaluation, trial: RunningTrial) -> None:
        """There always is."""

    async def close(self) -> None:
        self._closed = True
        for worker in self._idle:
            worker.jobs.put(None)
        self._idle.clear()

    def _back(self, worker: _Worker) -> None:
        if self._closed:
            worker.jobs.put(None)
        else:
            self._idle.append(worker)


class _Worker:
    def __init__(self, pool: ThreadExecutor) -> None:
        self.pool = pool
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=f"asynchopper-{next(_numbers)}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            fn, answer, loop = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = fn()
            except BaseException as e:
                error = e
            try:
                loop.call_soon_threadsafe(self._deliver, answer, result, error)
            except RuntimeError:  # the loop has closed; nobody waits any more
                return
            if self.pool._closed:
                return
            del job, fn, answer, result, error

    def _deliver(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self.pool._back(self)
        if answer.done():
            return
        if isinstance(error, StopIteration):  # a future refuses it
            error = RuntimeError(f"the objective raised {error!r}")
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)
