"""SIGTERM and SIGINT: told to every search that runs, then handed to whoever had them before.

One station a signal serves all searches of the process. Its handler is installed with the first, put back with the last,
and what was there before is called when the last search has flushed. A handler that a host gave to its event loop
(`loop.add_signal_handler`) is called by the loop itself, at once, whatever we do; so it is left to do so.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

Listener: TypeAlias = Callable[[int], None]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Station:
    """One signal: who listens, who had it before, how often it came."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.listeners: list[tuple[asyncio.AbstractEventLoop, Listener]] = []
        self.before: Any = None
        self.received = 0

    def __repr__(self) -> str:
        return f"_Station({self.number.name}, {len(self.listeners)} listening, received {self.received})"

    def handle(self, number: int, frame: Any) -> None:
        """What the interpreter calls, between any two instructions of the main thread."""
        heard = False
        for loop, listener in self.listeners:
            if loop.is_running():  # a loop that was abandoned with its search in it hears nothing
                loop.call_soon_threadsafe(listener, number)
                heard = True
        if heard:
            self.received += 1
        else:  # or somebody installed a handler over ours, chained to it, and outlived us
            self._as_before(frame)

    def enter(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        self.listeners = [entry for entry in self.listeners if entry[0].is_running()]
        if self.listeners:
            if self.received and self.number == signal.SIGTERM:
                loop.call_soon(listener, self.number)  # the machine is going for the newcomer, too
        else:
            current = signal.getsignal(self.number)
            if current is None or current is signal.SIG_IGN:
                return  # not Python's to change, or ignored on purpose (nohup, a shell's background job)
            if current != self.handle:
                self.before = current
                signal.signal(self.number, self.handle)
            self.received = 0
        self.listeners.append((loop, listener))

    def leave(self, listener: Listener) -> bool:
        """Whether the last one left with the signal received: it is now the turn of whoever had it before."""
        if all(entry[1] != listener for entry in self.listeners):
            return False
        self.listeners = [(there, one) for there, one in self.listeners if one != listener and there.is_running()]
        if self.listeners:
            return False
        if signal.getsignal(self.number) == self.handle:
            signal.signal(self.number, self.before)
            if _is_a_loops(self.before):
                signal.siginterrupt(self.number, False)  # as the loop had it
        return self.received > 0

    def hand_over(self) -> None:
        """Does what the signal would have done without us, as often as it came.

        Save for one SIGINT to a process that has no handler of its own: the person wanted the search to stop, and it has.
        """
        times, self.received = self.received, 0
        if self.number == signal.SIGINT and _is_plain(self.before):
            if times > 1:
                raise KeyboardInterrupt
            return
        for _ in range(times):
            self._as_before(inspect.currentframe())

    def _as_before(self, frame: Any) -> None:
        if callable(self.before):
            if not _is_a_loops(self.before):  # the loop called the host's handler when the signal came
                self.before(self.number, frame)
        elif self.before is signal.SIG_DFL:
            signal.signal(self.number, signal.SIG_DFL)
            os.kill(os.getpid(), self.number)
            os._exit(128 + self.number)  # the kernel spares the first process of a container


class _Wake:
    """Wakes a loop when a signal comes.

    Python runs handlers in the main thread, which may be about to sleep in `select`, or the kernel may have interrupted
    another thread; then nothing would happen until the loop has something else to do.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        theirs = signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False)
        if theirs >= 0:  # the loop's own, or the host's: it does the same
            signal.set_wakeup_fd(theirs)
            if came := self._drain():
                os.write(theirs, came)
        loop.add_reader(self._here, self._drain)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self._here)
        self.close_fds()

    def close_fds(self) -> None:
        current = signal.set_wakeup_fd(-1)
        if current not in (-1, self._there.fileno()):
            signal.set_wakeup_fd(current)
        self._here.close()
        self._there.close()

    def _drain(self) -> bytes:
        try:
            return self._here.recv(4096)
        except BlockingIOError:
            return b""


_stations = {number: _Station(number) for number in SIGNALS}


class _Fork(threading.local):
    """A forked child would have our handlers and no loop to hear them: an objective's own pool could not be terminated.

    Signals that come while it is being made wait until it has let go of the handlers.
    """

    mask: set[int] | None = None

    def before(self) -> None:
        if any(station.listeners for station in _stations.values()):
            self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def after_in_parent(self) -> None:
        if self.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            self.mask = None

    def after_in_child(self) -> None:
        _let_go()
        self.after_in_parent()


def _let_go() -> None:
    """Puts back what was there, and forgets everyone. Leaves the loop alone, which is the parent's."""
    for station in _stations.values():
        if station.listeners and signal.getsignal(station.number) == station.handle:
            signal.signal(station.number, station.before)
        station.listeners, station.received = [], 0
    if Signals._wake is not None:
        Signals._wake.close_fds()
        Signals._wake = None


_fork = _Fork()
os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)


class Signals:
    """Listens for a search, from `enter` to `leave`. Does nothing outside of the main thread."""

    _wake: ClassVar[_Wake | None] = None

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._entered = False

    def enter(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            if Signals._wake is not None and not Signals._wake.loop.is_running():
                Signals._wake.close()
                Signals._wake = None
            if Signals._wake is None:
                Signals._wake = _Wake(loop)
            for station in _stations.values():
                station.enter(loop, self._listener)
            self._entered = True

    def leave(self) -> list[Callable[[], None]]:
        """Puts back what was there; gives what remains to be done once everything is flushed and closed."""
        if not self._entered:
            return []
        self._entered = False
        to_do = [s.hand_over for s in _stations.values() if s.leave(self._listener)]
        if Signals._wake is not None and not any(s.listeners for s in _stations.values()):
            Signals._wake.close()
            Signals._wake = None
        return to_do


def _is_a_loops(before: Any) -> bool:
    """Whether this is what `loop.add_signal_handler` installs; what the host gave it is not called through it."""
    of_uvloop = isinstance(getattr(before, "__self__", None), asyncio.AbstractEventLoop)
    return of_uvloop or getattr(before, "__module__", None) == "asyncio.unix_events"


def _is_plain(before: Any) -> bool:
    """Whether a SIGINT handler is Python's or asyncio's own."""
    if before in (signal.SIG_DFL, signal.default_int_handler):
        return True
    fn = before.func if isinstance(before, functools.partial) else before
    return isinstance(getattr(fn, "__self__", None), asyncio.Runner)
