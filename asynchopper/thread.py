"""A thread of one's own: it does what it is given, in turn."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Queue: TypeAlias = "SimpleQueue[Callable[[], object] | None]"


class OwnThread(Executor):
    """An executor of one thread, which takes plain calls too: without a future on each side, a turn takes half the time.

    It keeps the interpreter from ending for as long as something is under way, but no longer than its patience. Those of the
    standard library end with the main thread, when others may still run a search, and wait for whatever is under way.
    """

    def __init__(self, name: str, patience_s: float = 60.0) -> None:
        self._queue: _Queue = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._queue,), name=name, daemon=True)
        self._over = False
        self._thread.start()
        self._at_exit = partial(_end, self._queue, self._thread, patience_s)
        atexit.register(self._at_exit)

    def do(self, work: Callable[[], object]) -> None:
        """Has it done, after all that was given before. It must not raise."""
        self._queue.put(work)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._over:
            raise RuntimeError("this thread was shut down")
        future: Future[T] = Future()
        self._queue.put(partial(_fulfil, future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """What was given is done before it ends."""
        if not self._over:
            self._over = True
            atexit.unregister(self._at_exit)
            self._queue.put(None)
        if wait:
            self._thread.join()

    def __del__(self) -> None:
        self.shutdown(wait=False)


def _work(queue: _Queue) -> None:
    """Knows the queue alone, so that whoever drops the executor ends it."""
    while (work := queue.get()) is not None:
        work()
        del work


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = work()
        except BaseException as e:
            future.set_exception(e)
        else:
            future.set_result(result)


def _end(queue: _Queue, thread: threading.Thread, patience_s: float) -> None:
    queue.put(None)
    thread.join(patience_s)
