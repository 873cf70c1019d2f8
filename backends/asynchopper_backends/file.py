"""A log in one file: a JSON object a line, appended, and synced once a batch.

The path holds an empty, locked file until the first batch is durable under a temporary name and takes its place. So a file
with something in it begins with a whole first line, and what does not is never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import logging
import math
import os
import re
import secrets
import socket
import stat
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import aiofiles.os

from asynchopper.errors import CheckpointCorrupted, CheckpointLocked, StorageError, UsageError
from asynchopper.records import frame
from asynchopper.storage import Done, Entry, Lost, PromptStorage, Resume, check_presence, expanded, open_already
from asynchopper.thread import OwnThread
from asynchopper_backends.disk import make_directories, sync, sync_directory, write
from asynchopper_backends.lines import (
    FIELD,
    HEADER,
    MAX_LINE,
    End,
    Watermark,
    batches,
    field,
    first_line,
    holder_field,
    holder_said,
    salvage,
)

T = TypeVar("T")

_log = logging.getLogger("asynchopper")

_TAIL = 2**16  # bytes
_LOOK_S = 0.02  # how often the file's name is looked at; that it has lost its last name is seen at once

_open_logs: weakref.WeakSet[FileStorage] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child must not keep the lock alive after its parent has died."""
    for storage in list(_open_logs):
        storage._close_fds()


os.register_at_fork(after_in_child=_let_go_in_child)


class FileStorage(PromptStorage):
    """A log in one file, locked for the owner's lifetime. Survives the process and, once synced, a power cut."""

    _fd = _replaced_fd = -1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = expanded(path).absolute()
        self.location = str(path)
        self.made_name = False
        """Whether the name is ours to remove when nothing was written under it."""
        self._temporary: Path | None = None
        self._readonly = False
        self._end = -1  # where the next record goes; -1 until the log was read
        self._next_seq = 0
        self._mark: Watermark | None = None
        self._broken: str | None = None
        self._looked = -math.inf  # when the file's name was last looked at
        self._thread: OwnThread | None = None
        self._opening = False

    def __del__(self) -> None:
        self._close_fds()  # whoever drops a log without closing it must not keep others out of it

    @classmethod
    def from_url(cls, url: str) -> Self:
        if not url.lower().startswith("file://"):
            return cls(url)
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.strip("/"):
            raise UsageError(f"{url!r}: a file URL is file:///absolute/path")
        return cls(unquote(parts.path))

    def describe(self) -> str:
        return f"{self.location} (each result synced to disk before it counts)"

    def __repr__(self) -> str:
        state = "broken" if self._broken else "closed" if self._fd < 0 else f"{self._next_seq} records"
        return f"FileStorage({self.location!r}, {state})"

    # -- the port

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        if self._fd >= 0 or self._opening:
            raise open_already(self.location)
        self._opening = True
        if self._thread is None:
            self._thread = OwnThread("asynchopper-file")
        try:
            await self._run(self._open, resume, overwrite, readonly)
        except BaseException:
            await self.close()
            raise
        finally:
            self._opening = False

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        portions = self._scan()
        while portion := await self._run(lambda: next(portions, None)):
            yield portion

    async def scan(self, take: Callable[[Sequence[Entry]], None]) -> None:
        left = False

        def read() -> None:
            for portion in self._scan():
                if left:
                    return
                take(portion)

        try:
            await self._run(read)
        finally:
            left = True  # whoever was cancelled does not wait for the rest of a long log

    async def salvage(self) -> AsyncIterator[Sequence[Entry | Lost]]:
        portions = salvage(self._fd)
        while portion := await self._run(lambda: next(portions, None)):
            yield portion

    def append_soon(self, records: Sequence[bytes], done: Done) -> None:
        if self._broken:
            raise StorageError(self._broken)
        if self._fd < 0 or self._readonly or self._thread is None:
            raise StorageError(f"{self.location} is not open for writing")
        if self._end < 0:
            raise StorageError(f"{self.location} must be read to its end before anything is appended")
        self._thread.do(functools.partial(self._append_and_say, records, asyncio.get_running_loop(), done))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        wrapped: Any = aiofiles.os.wrap(self._close)
        closing = asyncio.ensure_future(wrapped(executor=thread))
        try:
            await asyncio.shield(closing)
        finally:
            thread.shutdown(wait=False)

    async def _run(self, fn: Callable[..., T], *args: Any) -> T:
        """`fn` in this log's own thread, its errors made ours. One hop, whatever it does there."""
        if self._thread is None:
            raise StorageError(f"{self.location} is not open")
        wrapped: Any = aiofiles.os.wrap(functools.partial(self._translated, fn, *args))
        return await wrapped(executor=self._thread)  # type: ignore[no-any-return]  # aiofiles.os.wrap is untyped

    def _translated(self, fn: Callable[..., T], *args: Any) -> T:
        try:
            return fn(*args)
        except OSError as e:
            raise StorageError(f"{self.location}: {_said(e)}") from e

    # -- in the thread: opening

    def _open(self, resume: Resume, overwrite: bool, readonly: bool) -> None:
        self._readonly, self._broken, self._next_seq, self._end, self._mark = readonly, None, 0, -1, None
        path = self.path
        check_presence(_is_checkpoint(path, self.location), self.location, resume, overwrite, readonly)
        if readonly:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            return
        make_directories(path.parent)
        self.made_name = not path.exists()
        self._fd = self._locked(path)
        _open_logs.add(self)
        exists = os.fstat(self._fd).st_size > 0
        check_presence(exists, self.location, resume, overwrite, readonly)  # again: somebody may have been faster
        if not exists and not overwrite and not self.made_name:
            _log.warning("%s is empty: there is nothing to continue, and a new search begins in it", self.location)
        self._remove_leftovers()
        if overwrite or not exists:
            self._replaced_fd, self._fd = self._fd, -1
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(temporary, flags, 0o600)
            self._temporary = temporary
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = 0

    def _locked(self, path: Path) -> int:
        """An open descriptor of the file that `path` names now, locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            fd = os.open(path, flags, 0o600)
            try:
                self._lock(fd)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(path)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was replaced while we waited for the lock

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = holder_said(fd) or _holder_known(fd)
            raise CheckpointLocked(
                f"{self.location} is in use by {holder}; wait for it, stop it, or give this search another path"
            ) from None

    def _remove_leftovers(self) -> None:
        """Temporary files of writers that were killed. A living writer would hold the lock that we have."""
        ours = re.compile(rf"\.{re.escape(self.path.name)}\.[0-9a-f]{{12}}\.tmp")
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path.parent):
                if ours.fullmatch(name):
                    os.unlink(self.path.parent / name)

    # -- in the thread: reading

    def _scan(self) -> Generator[Sequence[Entry], None, None]:
        """Portions of whole, checked records; at the end, cuts what a crash left behind them."""
        if self._temporary is None:
            self._finish((yield from batches(self._fd)))

    def _finish(self, end: End) -> None:
        """What stands behind the whole records was never acknowledged, or is damage."""
        size = os.fstat(self._fd).st_size
        if end.mark is None:
            raise CheckpointCorrupted(f"{self.location}: {end.problem or 'it is empty'}. It was left as it is")
        if end.seq < end.durable or (end.problem is not None and not end.torn):
            what = f"{end.problem}; it" if end.problem else "the file was shortened: it"
            raise CheckpointCorrupted(
                f"{self.location}: {what} had at least {end.durable} durable records, and {end.seq} can be read. It was "
                "left as it is; restore it from a copy, or salvage what is intact with: asynchopper repair"
            )
        if end.problem is not None and self._readonly:  # its owner may be writing them just now
            _log.info("%s: the last %d bytes are no whole records, and left out", self.location, size - end.offset)
        elif end.problem is not None:
            _log.warning(
                "%s: the last %d bytes are what a crash left of records that were never acknowledged, behind record %d; "
                "they were cut off (%s)",
                self.location,
                size - end.offset,
                end.seq - 1,
                end.problem,
            )
        if not self._readonly:
            if size > end.offset:
                os.ftruncate(self._fd, end.offset)
            os.pwrite(self._fd, holder_field(), end.mark.holder_at)
            sync(self._fd)  # what a killed process left in the page cache counts from here on
        self._mark, self._end, self._next_seq = end.mark, end.offset, end.seq
        if not self._readonly:
            self._note_durable()

    # -- in the thread: writing

    def _append_and_say(self, records: Sequence[bytes], loop: asyncio.AbstractEventLoop, done: Done) -> None:
        error: BaseException | None = None
        try:
            if records:
                self._translated(self._append, records)
        except BaseException as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop has closed, and nobody waits
            loop.call_soon_threadsafe(done, error)

    def _append(self, records: Sequence[bytes]) -> None:
        new = self._temporary is not None
        if new:
            if not records[0].startswith(HEADER):
                raise StorageError(f"{self.location}: the first record of a log is its header")
            first, self._mark = first_line(records[0], len(records))
            lines = [first, *(frame(r, i) for i, r in enumerate(records[1:], 1))]
        else:
            seq, last = self._next_seq, len(records) - 1
            lines = [frame(r, seq + i, last - i) for i, r in enumerate(records)]
        data, begun = b"".join(lines), False
        try:
            if len(data) > MAX_LINE and max(map(len, lines)) > MAX_LINE:
                raise StorageError(f"{self.location}: a record has more than {MAX_LINE} bytes")
            if (size := os.fstat(self._fd).st_size) != self._end:
                raise self._meddled(f"{'shortened' if size < self._end else 'written to'} by somebody else")
            begun = True
            write(self._fd, data, self._end)
            if new:
                self._put_in_place()
            else:
                sync(self._fd)
            self._check_in_place()
        except (OSError, StorageError) as e:
            self._break(e, begun)
            raise
        self._end += len(data)
        self._next_seq += len(records)
        if not new:
            self._note_durable()

    def _note_durable(self) -> None:
        """Says in the file how much of it is durable. The next sync carries it to the disk; a kill does not lose it."""
        mark = self._mark
        assert mark is not None
        with contextlib.suppress(OSError):  # the records are durable without it, and the other field stands
            write(self._fd, field(self._next_seq), mark.at + FIELD * mark.slot)
            self._mark = Watermark(mark.at, 1 - mark.slot, self._next_seq)

    def _put_in_place(self) -> None:
        assert self._temporary is not None
        sync(self._fd)
        os.rename(self._temporary, self.path)
        self._temporary, self.made_name = None, False
        sync_directory(self.path.parent)
        with contextlib.suppress(OSError):  # a process that was killed may have made the directory and not synced it
            sync_directory(self.path.parent.parent)
        os.close(self._replaced_fd)
        self._replaced_fd = -1

    def _check_in_place(self) -> None:
        """Raises `StorageError` where the file has no name any more, or, within `_LOOK_S`, has another one."""
        now, info = time.monotonic(), os.fstat(self._fd)
        if info.st_nlink and now - self._looked < _LOOK_S:
            return
        self._looked = now
        try:
            same = os.path.samestat(info, os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            same = False
        if not same:
            raise self._meddled("removed or replaced")

    def _meddled(self, how: str) -> StorageError:
        return StorageError(
            f"{self.location} was {how} while the search was writing to it; "
            "the search in memory is whole: save it elsewhere"
        )

    def _break(self, e: Exception, begun: bool) -> None:
        """After a failed write nothing is retried, and where it had begun, the file ends where it was last known to be good."""
        reason = e.strerror if isinstance(e, OSError) else str(e)
        self._broken = f"{self.location} cannot be written since an earlier write failed ({reason})"
        if begun and self._end > 0:
            with contextlib.suppress(OSError):
                if os.fstat(self._fd).st_size > self._end:  # what somebody else has shortened is not filled with zeros
                    os.ftruncate(self._fd, self._end)

    # -- in the thread: closing

    def _close(self) -> None:
        try:
            if self._fd >= 0 and not (self._readonly or self._broken or self._temporary) and self._end > 0:
                with contextlib.suppress(OSError):  # the records are durable without it
                    sync(self._fd)
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)
                self._temporary = None
            self._drop_empty(self._replaced_fd if self._replaced_fd >= 0 else self._fd)
            self._close_fds()

    def _drop_empty(self, fd: int) -> None:
        """A name that we made and never wrote to goes again."""
        with contextlib.suppress(OSError):
            if self.made_name and os.fstat(fd).st_size == 0 and os.path.samestat(os.fstat(fd), os.stat(self.path)):
                os.unlink(self.path)

    def _close_fds(self) -> None:
        for fd in (self._fd, self._replaced_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._replaced_fd = self._end = -1
        _open_logs.discard(self)


def last_reason(path: Path) -> str | None:
    """Why the last run in this file ended, by its last lines alone; `None` when it has not."""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - _TAIL))
        text = f.read()
        whole = text[: text.rfind(b"\n") + 1]
        ends = re.findall(rb'^\{"kind":"(?:ended","reason":"([a-z]+)"|run"|asked")', whole, re.MULTILINE)
        return ends[-1].decode() or None if ends else None  # results that came late may stand behind it
    return None


def _is_checkpoint(path: Path, location: str) -> bool:
    """Whether there is a regular file with something in it. Raises `StorageError` for what is not a plain file."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(info.st_mode):
        raise StorageError(f"{location} is a symbolic link; give the path that it points to")
    if not stat.S_ISREG(info.st_mode):
        raise StorageError(f"{location} is not a regular file; a checkpoint is one, or a directory ending with '/'")
    return info.st_size > 0


def _said(e: OSError) -> str:
    return f"{e.strerror or e} ({errno.errorcode.get(e.errno or 0, e.errno)})"


def _holder_known(fd: int) -> str:
    """Who holds the lock, by the kernel's word."""
    with contextlib.suppress(OSError, ValueError), open("/proc/locks") as locks:
        inode = f":{os.fstat(fd).st_ino}"
        for line in locks:
            words = line.split()
            if len(words) > 5 and words[5].endswith(inode):
                return f"pid {words[4]} on {socket.gethostname()}"
    return "another process"
