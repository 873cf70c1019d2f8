"""A layer between a backend and the operating system: it records, counts, or breaks the calls on files below a directory.

It replaces functions of the module `os` while it is entered, so it sees a backend that calls `os.pwrite(...)`, `os.rename(...)`
and the like (also through pathlib), in any thread; what goes through `open(...)` and its file objects passes unseen.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

WRITES = frozenset({"write", "pwrite"})
SYNCS = frozenset({"fsync", "fdatasync"})
NAMING = frozenset({"rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir"})
READS = frozenset({"pread", "read", "stat", "lstat", "fstat", "listdir"})
CALLS = WRITES | SYNCS | NAMING | READS | {"open", "close", "ftruncate", "truncate"}


class Layer:
    """Passes every call on. Derive from it, and override `call`."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self.paths: dict[int, str] = {}
        """The path that each open descriptor below the root was opened by."""
        self._real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        for name in CALLS:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._standing_in(name, self._real[name]))
        return self

    def __exit__(self, *exc: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        """A call on the file or directory `target`."""
        return real(*args, **kwargs)

    def _standing_in(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def stands_in(*args: Any, **kwargs: Any) -> Any:
            target = self._target(args)
            if target is None:
                return real(*args, **kwargs)
            result = self.call(name, real, target, *args, **kwargs)
            if name == "open":
                self.paths[result] = target
            elif name == "close":
                self.paths.pop(args[0], None)
            return result

        return stands_in

    def _target(self, args: tuple[Any, ...]) -> str | None:
        first = args[0] if args else None
        if isinstance(first, int):
            return self.paths.get(first)
        if not isinstance(first, (str, os.PathLike)):
            return None
        path = os.path.abspath(os.fspath(first))
        return path if path == self.root or path.startswith(self.root + os.sep) else None


class Counting(Layer):
    """Counts calls by name."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        self.calls[name] += 1
        return result

    @property
    def syncs(self) -> int:
        """Syncs of files and directories."""
        return sum(self.calls[name] for name in SYNCS)


class WithoutSync(Layer):
    """Skips every sync: for tests that build thousands of logs and lose none to a power cut."""

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        return None if name in SYNCS else real(*args, **kwargs)


class Fault(Layer):
    """Breaks call number `at` (from 0) out of the calls named, and with `lasting` all after it.

    `error` is an errno that is raised in place of the call; without one, a write is cut short, and goes through otherwise.
    """

    def __init__(
        self, root: Path, at: int, error: int | None, *, of: Collection[str] = CALLS - {"close"}, lasting: bool = False
    ) -> None:
        super().__init__(root)
        self.at, self.error, self.of, self.lasting = at, error, frozenset(of), lasting
        self.seen = 0
        self.broke: str | None = None
        """The call that was broken first, and its target; `None` when there were too few."""
        self._lock = threading.Lock()

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        if name not in self.of:
            return real(*args, **kwargs)
        with self._lock:
            number, self.seen = self.seen, self.seen + 1
        if not (number == self.at or (self.lasting and number > self.at)):
            return real(*args, **kwargs)
        self.broke = self.broke or f"{name} {os.path.relpath(target, self.root)}"
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), target)
        if name in WRITES and len(args[1]) > 1:
            return real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:], **kwargs)
        return real(*args, **kwargs)


class Room(Layer):
    """A disk with `room` bytes left: a write that needs more than there are is cut short, and the next one fails."""

    def __init__(self, root: Path, room: int) -> None:
        super().__init__(root)
        self.room = room

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        if name not in WRITES:
            return real(*args, **kwargs)
        data = bytes(args[1])
        at = args[2] if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR)
        size = self._real["fstat"](args[0]).st_size
        grows = max(0, at + len(data) - size)
        if grows > self.room:
            data = data[: len(data) - grows + self.room]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        written: int = real(args[0], data, *args[2:], **kwargs)
        self.room -= max(0, at + written - size)
        return written
