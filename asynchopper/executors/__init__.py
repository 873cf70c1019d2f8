"""Where a plain function runs: in a thread of this process, or in a process of its own."""

from __future__ import annotations

from asynchopper.errors import UsageError
from asynchopper.executors.base import Executor
from asynchopper.executors.thread import ThreadExecutor
from asynchopper.objective import Objective, kind_of
from asynchopper.space import Space

__all__ = ["Executor", "ThreadExecutor", "executor_for"]


def executor_for(objective: Objective, word: str | None, space: Space) -> Executor | None:
    """What an objective runs in: `None` for a coroutine function or an async generator, which stay on the loop."""
    if word not in (None, "thread", "process"):
        raise UsageError(f"executor={word!r}: must be 'thread' or 'process'")
    if word == "process":
        from asynchopper.executors.process import ProcessExecutor

        return ProcessExecutor(space)
    if word == "thread" or (callable(objective) and kind_of(objective) in ("function", "generator")):
        return ThreadExecutor()
    return None
