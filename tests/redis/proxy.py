"""A TCP proxy that misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Literal

Fault = Literal["none", "cut", "black hole", "requests lost", "replies lost"]


class Proxy:
    """Stands before a server, with `tls` as one that speaks TLS. `fault` says what it does with what it carries, `lag_s` how
    long each direction takes."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._to, self._tls = port, tls
        self.port = 0
        self.lag_s = 0.0
        self.lost = 0
        self._fault: Fault = "none"
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._close_all()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault == "cut":
            self._close_all()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        if self._fault == "cut":
            writer.transport.abort()
            return
        with contextlib.suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(up_writer)
            try:
                pumps = [
                    asyncio.create_task(self._pump(reader, up_writer, "requests lost")),
                    asyncio.create_task(self._pump(up_reader, writer, "replies lost")),
                ]
                try:
                    await asyncio.wait(pumps, return_when="FIRST_COMPLETED")
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.wait(pumps)
            finally:
                up_writer.transport.abort()
                self._writers.discard(up_writer)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Fault) -> None:
        line: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        delivery = asyncio.create_task(self._deliver(line, writer))
        try:
            while data := await reader.read(2**16):
                if self._fault == loses:
                    self.lost += 1
                    return  # the connection goes with what it carried
                if self._fault == "black hole":
                    self.lost += 1
                elif self.lag_s:
                    loop.call_later(self.lag_s, line.put_nowait, data)
                else:
                    line.put_nowait(data)
        finally:
            delivery.cancel()
            await asyncio.wait([delivery])

    async def _deliver(self, line: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await line.get())
            await writer.drain()
