"""SIGTERM and SIGINT: told to every search that runs, then handed to whoever had them before.

One handler a signal serves all searches of the process. It is installed with the first, put back with the last, and what
was there before is called when the last search has flushed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

Listener: TypeAlias = Callable[[int], None]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Station:
    """One signal: who listens, who had it before, whether it came."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.listeners: list[tuple[asyncio.AbstractEventLoop, Listener]] = []
        self.before: Any = None
        self.received = False

    def handle(self, number: int, frame: Any) -> None:
        """What the interpreter calls, between any two instructions of the main thread."""
        self.received = True
        if not self.listeners:  # somebody installed a handler over ours, chained to it, and outlived us
            if callable(self.before):
                self.before(number, frame)
            return
        for loop, listener in self.listeners:
            loop.call_soon_threadsafe(listener, number)

    def enter(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        if not self.listeners:
            current = signal.getsignal(self.number)
            if current is None or (self.number == signal.SIGINT and current is signal.SIG_IGN):
                return  # not Python's to change, or ignored on purpose (nohup, a shell's background job)
            if current != self.handle:
                self.before = current
                signal.signal(self.number, self.handle)
            self.received = False
        self.listeners.append((loop, listener))

    def leave(self, listener: Listener) -> bool:
        """Whether the last one left with the signal received: it is now the turn of whoever had it before."""
        kept = [entry for entry in self.listeners if entry[1] != listener]
        if len(kept) == len(self.listeners):
            return False
        self.listeners = kept
        if kept:
            return False
        if signal.getsignal(self.number) == self.handle:
            signal.signal(self.number, self.before)
        return self.received

    def hand_over(self) -> None:
        """Does what the signal would have done without us."""
        self.received = False
        if self.number == signal.SIGINT and _stops_only_us(self.before):
            return  # the person wanted the search to stop, and it has
        if self.before is signal.SIG_DFL:
            os.kill(os.getpid(), self.number)
        elif callable(self.before):
            self.before(self.number, None)


_stations = {number: _Station(number) for number in SIGNALS}


class Signals:
    """Listens for a search, from `enter` to `leave`. Does nothing outside of the main thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._entered = False

    def enter(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for station in _stations.values():
                station.enter(loop, self._listener)
            self._entered = True

    def leave(self) -> list[Callable[[], None]]:
        """Puts back what was there; gives what remains to be done once everything is flushed and closed."""
        if not self._entered:
            return []
        self._entered = False
        return [s.hand_over for s in _stations.values() if s.leave(self._listener)]


def _stops_only_us(before: Any) -> bool:
    """Whether the handler is Python's or asyncio's own: then the first SIGINT is for the search alone."""
    if before in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
        return True
    fn = before.func if isinstance(before, functools.partial) else before
    return isinstance(getattr(fn, "__self__", None), asyncio.Runner)
