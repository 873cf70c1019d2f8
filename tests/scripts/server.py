"""An ASGI app, served by uvicorn, whose lifespan runs a search in the background. Takes the same words as tuning.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import tuning
import uvicorn
from tuning import WORDS, say


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    search = tuning.space()
    task = asyncio.ensure_future(tuning.tune(search))
    yield
    say("shutdown", task.done())
    if WORDS.get("waits", True):
        if not task.done():
            search.stop()
        await task
        say("run returned")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        async with lifespan():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"tuning"})


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        say("host", sig)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        say("serving", self.servers[0].sockets[0].getsockname()[1])


if __name__ == "__main__":
    Server(uvicorn.Config(app, port=0, log_level="warning", loop=WORDS.get("loop", "asyncio"))).run()
    say("after")
