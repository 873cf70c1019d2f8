"""Waiting that no cancellation cuts short: what was begun is ended, and then the waiting one is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from typing import Any


async def uninterrupted(task: asyncio.Future[Any]) -> bool:
    """Waits for a task to end, however often the waiting one is cancelled; gives whether it was, and raises nothing."""
    cancelled = False
    anyio = sys.modules.get("anyio")  # its scopes cancel again at every turn of the loop, unless they are shielded from
    with contextlib.nullcontext() if anyio is None else anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
    if not task.cancelled():
        task.exception()
    return cancelled


async def closed(step: Coroutine[Any, Any, object]) -> bool:
    """Carries a closing step through in the same way; gives whether the caller was cancelled, raises what it raised."""
    task = asyncio.ensure_future(step)
    cancelled = await uninterrupted(task)
    task.result()
    return cancelled
