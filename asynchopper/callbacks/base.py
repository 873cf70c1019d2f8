"""The callback interface, and the loudspeaker that the engine tells."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from asynchopper.errors import UsageError
from asynchopper.trial import Trial

if TYPE_CHECKING:
    from asynchopper.search import Search

_log = logging.getLogger("asynchopper")

_LAST_S = 0.1  # what an async callback gets at least, when the process is being ended


class Callback:
    """Override what you want to hear; each method may be `async`. A result that is told is durable."""

    def on_start(self, search: Search) -> Awaitable[None] | None:
        """The run has begun; what an earlier run left is in the history."""

    def on_trial(self, trial: Trial) -> Awaitable[None] | None:
        """A trial has finished."""

    def on_best(self, trial: Trial) -> Awaitable[None] | None:
        """A trial is better than all before it."""

    def on_end(self, search: Search) -> Awaitable[None] | None:
        """The run has ended, whatever the reason; `search.outcome` says which."""


Watcher: TypeAlias = Callback | Callable[[Trial], Any]


class Watchers:
    """Calls plain callbacks at once and awaits the others in order, beside the run. What they raise is logged."""

    def __init__(self, callbacks: Watcher | Iterable[Watcher | None] | None) -> None:
        if isinstance(callbacks, Callback) or callable(callbacks) or not isinstance(callbacks, Iterable):
            callbacks = (callbacks,)
        self._callbacks = [_as_callback(c) for c in callbacks if c is not None]
        self._sign = 1.0
        self._best: float | None = None
        self._waiting: deque[Awaitable[Any]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._hurried: asyncio.Future[None] | None = None
        self._deadline: float | None = None

    @property
    def wanted(self) -> bool:
        return bool(self._callbacks)

    def follow(self, sign: float, best: float | None) -> None:
        """What the run to come starts from: `sign` is 1 to maximize and -1 to minimize."""
        self._sign, self._best = sign, best

    def started(self, search: Search) -> None:
        for c in self._callbacks:
            self._call(c.on_start, search)

    def told(self, trial: Trial) -> None:
        better = trial.state == "completed" and trial.value is not None
        better = better and (self._best is None or self._sign * trial.value > self._sign * self._best)  # type: ignore[operator]  # a completed trial has a value
        if better:
            self._best = trial.value
        for c in self._callbacks:
            self._call(c.on_trial, trial)
            if better:
                self._call(c.on_best, trial)

    def ended(self, search: Search) -> None:
        for c in self._callbacks:
            self._call(c.on_end, search)

    async def settle(self) -> None:
        """Returns when every async callback has been awaited, or given up. Cancelled, it gives them up."""
        loop = asyncio.get_running_loop()
        try:
            while (pump := self._pump) is not None and not pump.done():
                self._hurried = loop.create_future()
                left_s = None if self._deadline is None else max(self._deadline - loop.time(), _LAST_S)
                if not (await asyncio.wait([pump, self._hurried], timeout=left_s, return_when="FIRST_COMPLETED"))[0]:
                    _log.warning(
                        "a callback takes too long; it is cancelled, %d more are not awaited", len(self._waiting)
                    )
                    pump.cancel()
                    await asyncio.wait([pump], timeout=_LAST_S)
                    return
        except asyncio.CancelledError:
            if self._pump is not None:
                self._pump.cancel()
            raise

    def give_up(self, after_s: float) -> None:
        """Has `settle` wait so many seconds more, and no longer."""
        self._deadline = asyncio.get_running_loop().time() + after_s
        if self._hurried is not None and not self._hurried.done():
            self._hurried.set_result(None)

    def _call(self, method: Callable[[Any], Any], arg: Any) -> None:
        try:
            result = method(arg)
        except (Exception, asyncio.CancelledError):  # of something that it looked at: nobody cancels what does not wait
            _log.exception("a callback raised; the search goes on")
            return
        if inspect.isawaitable(result):
            self._waiting.append(result)
            if self._pump is None or self._pump.done():
                self._pump = asyncio.get_running_loop().create_task(self._drain(), name="asynchopper-callbacks")

    async def _drain(self) -> None:
        task = asyncio.current_task()
        try:
            while self._waiting:
                try:
                    await self._waiting.popleft()
                except asyncio.CancelledError:
                    if task is None or task.cancelling():
                        raise
                    _log.exception("a callback was cancelled from inside; the search goes on")
                except Exception:
                    _log.exception("a callback raised; the search goes on")
        finally:
            for awaitable in self._waiting:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
            self._waiting.clear()


class _OnTrial(Callback):
    def __init__(self, fn: Callable[[Trial], Any]) -> None:
        self.on_trial = fn  # type: ignore[method-assign,assignment]  # a function is a callback that hears of trials only


def _as_callback(c: Watcher) -> Callback:
    if isinstance(c, Callback):
        return c
    if callable(c) and not inspect.isclass(c):
        return _OnTrial(c)
    raise UsageError(f"callbacks: a function of a trial or a Callback is expected, got {c!r:.80}")
