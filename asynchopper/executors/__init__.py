"""Where a plain function runs: in a thread of this process, or in a process of its own."""

from __future__ import annotations

from asynchopper.executors.base import Executor
from asynchopper.executors.thread import ThreadExecutor

__all__ = ["Executor", "ThreadExecutor"]
