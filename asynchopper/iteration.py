"""The trials of a run, one by one: `async for trial in search.iterate(...)`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Self

from asynchopper.closing import uninterrupted
from asynchopper.trial import Trial


class Trials(AsyncIterator[Trial]):
    """A run that begins with the first step, and is cancelled when nobody iterates any more.

    An object, and not an async generator: a generator that is left by `break` is only closed some rounds of the loop later,
    when the next run may have begun.
    """

    def __init__(
        self,
        begin: Callable[[Callable[[Trial], None]], Coroutine[Any, Any, object]],
        left: Callable[[asyncio.Task[object]], None],
    ) -> None:
        self._begin, self._left = begin, left
        self._arrived: asyncio.Queue[Trial | None] = asyncio.Queue()
        self._run: asyncio.Task[object] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Trial:
        if self._over:
            raise StopAsyncIteration
        try:
            if self._run is None:
                put = self._arrived.put_nowait
                self._run = asyncio.ensure_future(self._begin(put))
                self._run.add_done_callback(lambda _: put(None))
            trial = await self._arrived.get()
            if trial is not None:
                return trial
            self._arrived.put_nowait(None)  # for whoever else waits
            if not self._over:
                self._over = True
                await self._run
        except StopAsyncIteration as e:  # it would end the loop as if all were well
            raise RuntimeError(f"the run raised {e!r}") from e
        except BaseException:
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the run. Returns when nothing of it goes on."""
        self._over = True
        if self._run is not None and not self._run.done():
            self._run.cancel()
            if await uninterrupted(self._run):
                raise asyncio.CancelledError

    def __del__(self) -> None:
        run = self._run
        if run is not None and not run.done():
            self._left(run)
            with contextlib.suppress(RuntimeError):  # the loop has closed
                run.get_loop().call_soon_threadsafe(run.cancel)
