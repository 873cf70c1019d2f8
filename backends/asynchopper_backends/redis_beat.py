"""The heartbeat of a worker: a thread with a loop and a connection of its own, so that nothing an objective does holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from asynchopper.errors import StorageError
from asynchopper_backends.redis_link import Link

_log = logging.getLogger("asynchopper")

_STOP_S = 2.0


class Beat:
    """Says `words` to the server three times a lease, until it is stopped."""

    def __init__(
        self, link: Link, words: Callable[[], tuple[Any, ...]], lease_s: float, gone: Callable[[bytes], None]
    ) -> None:
        """`gone` is called in the loop of whoever makes this, with the server's word, when it does not know us any more."""
        self._link, self._words, self._every_s, self._gone = link, words, lease_s / 3, gone
        self._caller = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._caller.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asynchopper-heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._cancel)
        await asyncio.wait([self._ended], timeout=_STOP_S)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                asyncio.run(self._main())
            except asyncio.CancelledError:
                break
            except OSError as e:  # too many files are open, for instance
                _log.warning("%s: no heartbeat: %s; it is tried again", self._link.location, e)
                self._stopped.wait(self._every_s)
        with contextlib.suppress(RuntimeError):  # the caller's loop has closed
            self._caller.call_soon_threadsafe(self._ended.cancel)

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            while not self._stopped.is_set():
                await asyncio.sleep(self._every_s)
                if self._caller.is_closed():  # nobody is there to say goodbye
                    self._stopped.set()
                    return
                try:
                    said = (await self._link.call(*self._words()))[0]
                except StorageError as e:  # the run itself will hear of it when it next says something
                    _log.debug("%s: no heartbeat: %s", self._link.location, e)
                    continue
                if said[0] != b"ok":
                    with contextlib.suppress(RuntimeError):  # the caller's loop has ended
                        self._caller.call_soon_threadsafe(self._gone, said[0])
        finally:
            await self._link.drop()
