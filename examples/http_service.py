"""Tunes a live HTTP service from inside the event loop that serves it.

The service compresses a text; what a reader waits for is the work and the transfer. Some settings take too long: their
evaluation is cancelled, the cancellation closes the request, and the service sees that and stops working.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import os
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import uvicorn

import asynchopper as ah

TEXT = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))  # Python's own library
CHUNK = 2**16
LINK = 1_000_000  # bytes a second, of the reader that we tune for
COMPRESSORS: dict[str, Callable[[int], Any]] = {
    "zlib": lambda level: zlib.compressobj(level),
    "bz2": lambda level: bz2.BZ2Compressor(level),
    "lzma": lambda level: lzma.LZMACompressor(preset=level),
}


class Service:
    """An ASGI application: `GET /?codec=zlib&level=6` answers with the compressed text."""

    def __init__(self) -> None:
        self.abandoned = 0

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
        compressor = COMPRESSORS[query["codec"]](int(query["level"]))
        await receive()  # the request itself; whatever comes next is the client hanging up
        hung_up = asyncio.ensure_future(receive())
        pieces = [partial(compressor.compress, TEXT[i : i + CHUNK]) for i in range(0, len(TEXT), CHUNK)]
        body = b""
        for compress in (*pieces, compressor.flush):
            body += await asyncio.to_thread(compress)
            if hung_up.done():
                self.abandoned += 1
                return
        hung_up.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


async def main() -> None:
    service = Service()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve([listener]))
    port = listener.getsockname()[1]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:

        async def seconds_until_read(params: dict[str, Any]) -> float:
            began = time.perf_counter()
            response = await client.get("/", params=params)
            return time.perf_counter() - began + len(response.content) / LINK

        search = ah.Search(codec=ah.choice("zlib", "bz2", "lzma"), level=ah.int(1, 9), seed=1)
        best = await search.run(seconds_until_read, "minimize", steps=20, concurrency=2, timeout=1.5)

    server.should_exit = True
    await serving
    if best is not None:
        print(f"best: {search.best_value:.3f} s with {best}")
    gave_up = int(search.history.failed.sum())
    print(f"{gave_up} evaluations took too long; the service saw {service.abandoned} of its readers hang up")


if __name__ == "__main__":
    asyncio.run(main())
