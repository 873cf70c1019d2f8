"""A connection that redis-py has made, with the bytes in our own hands: no task, and no future where a callback will do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import hiredis
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

Made: TypeAlias = "Connection | UnixDomainSocketConnection"

Heard: TypeAlias = "Callable[[list[Any] | Exception], None]"

_MORE = object()


class Answer(ResponseError):
    """An error that the server answers, as it says it."""

    @property
    def unknown_script(self) -> bool:
        return str(self).startswith("NOSCRIPT")


class Wire(asyncio.Protocol):
    """For one question at a time. After any error, also a cancellation, it is of no more use: a reply may be on its way."""

    def __init__(self, made: Made) -> None:
        writer = made._writer
        assert writer is not None, "redis-py has connected it"
        self._made, self._loop = made, asyncio.get_running_loop()
        self._transport: asyncio.Transport = writer.transport  # type: ignore[assignment]  # a stream's can read as well
        self._reader = hiredis.Reader(replyError=Answer, notEnoughData=_MORE)
        self._replies: list[Any] = []
        self._wanted = 0
        self._heard: Heard | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    async def ask(self, packed: bytes, count: int, within_s: float) -> list[Any]:
        """That many replies; raises the first error among them, `OSError`, or `TimeoutError`."""
        waiting: asyncio.Future[list[Any]] = self._loop.create_future()

        def heard(said: list[Any] | Exception) -> None:
            if waiting.done():
                return
            if isinstance(said, Exception):
                waiting.set_exception(said)
            else:
                waiting.set_result(said)

        self.say(packed, count, within_s, heard)
        return await waiting

    def say(self, packed: bytes, count: int, within_s: float, heard: Heard) -> None:
        """As `ask`: `heard` gets what that returns or raises, from the loop. It must not raise."""
        self._heard, self._wanted = heard, count
        if self._transport.is_closing():
            self._loop.call_soon(self._fail, ConnectionResetError("the server has closed the connection"))
            return
        self._watch(self._loop.time() + within_s)
        self._transport.write(packed)

    def hurry(self, due: float) -> None:
        """What is waited for is not waited for after then, on the loop's clock."""
        if self._heard is not None and due < self._due:
            self._watch(due)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        await self._made.disconnect(nowait=True)

    # -- time: a timer that is set anew when it goes off costs nothing while all is well

    def _watch(self, due: float) -> None:
        self._due = due
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._heard is None:
            return
        if self._loop.time() < self._due:
            self._watch(self._due)
        else:
            self._fail(TimeoutError())

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        replies = self._replies
        try:
            while (reply := self._reader.gets()) is not _MORE:
                replies.append(reply)
        except hiredis.ProtocolError as e:
            self._fail(ConnectionError(f"this is not the protocol of Redis: {e}"))
            return
        heard = self._heard
        if heard is not None and len(replies) >= self._wanted:
            self._heard, self._replies = None, []
            for reply in replies:
                if type(reply) is Answer:
                    heard(reply)
                    return
            heard(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the server has closed the connection"))

    def _fail(self, error: Exception) -> None:
        heard, self._heard = self._heard, None
        if heard is not None:
            heard(error)
