"""A connection that redis-py has made, with the bytes in our own hands: one future and no task for all that is asked at once."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import hiredis
from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import ResponseError

Made: TypeAlias = "Connection | UnixDomainSocketConnection"

_MORE = object()


class Answer(ResponseError):
    """An error that the server answers, as it says it."""


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
        self._waiting: asyncio.Future[list[Any]] | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    async def ask(self, packed: bytes, count: int, within_s: float) -> list[Any]:
        """That many replies; raises the first error among them, `OSError`, or `TimeoutError`."""
        if self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        waiting = self._waiting = self._loop.create_future()
        self._wanted = count
        self._watch(self._loop.time() + within_s)
        self._transport.write(packed)
        try:
            replies: list[Any] = await waiting
        finally:
            self._waiting = None
        for reply in replies:
            if type(reply) is Answer:
                raise reply
        return replies

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
        if self._waiting is None:
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
        if len(replies) >= self._wanted and self._waiting is not None and not self._waiting.done():
            self._replies = []
            self._waiting.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the server has closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
