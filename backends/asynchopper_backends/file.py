"""A log in one file: a JSON object a line, appended, and synced once a batch.

The first line ends with a watermark: two fields of fixed width, written in turn with every batch, each holding the number of
records that were durable before that batch and a checksum of its own. So a file that was shortened is noticed, at no extra
sync, and a torn field costs nothing, since the other one stands.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import secrets
import socket
import stat
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import aiofiles.os

from asynchopper.errors import (
    CheckpointCorrupted,
    CheckpointLocked,
    StorageError,
    UsageError,
)
from asynchopper.records import check, frame
from asynchopper.storage import Entry, Resume, Storage, check_presence

T = TypeVar("T")

_log = logging.getLogger("asynchopper")

MAX_LINE = 256 * 2**20  # bytes; an array of 24 million floats still fits
_PORTION = 2**20
_HEADER = b'{"kind":"header"'
_MARK = re.compile(rb',"durable":"(\d{12}-[0-9a-f]{8}) (\d{12}-[0-9a-f]{8})","holder":"([^"]{64})"\}$')
_MARK_DAMAGED = re.compile(rb',"durable":"(.{21}) (.{21})","holder":"(.{64})"\}$', re.DOTALL)

_open_fds: weakref.WeakSet[FileStorage] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child must not keep the lock alive after its parent has died."""
    for storage in list(_open_fds):
        storage._close_fds()


os.register_at_fork(after_in_child=_let_go_in_child)


class FileStorage(Storage):
    """A log in one file, locked for the owner's lifetime. Survives the process and, once synced, a power cut."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self.location = str(path)
        self._fd = -1
        self._replaced_fd = -1
        self._temporary: Path | None = None
        self._readonly = False
        self._fresh_name = False
        self._end = 0  # where the next record goes; -1 until the log was read
        self._next_seq = 0
        self._mark_at = 0  # offset of the first watermark field
        self._mark_slot = 0
        self._broken: str | None = None
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        if not url.lower().startswith("file://"):
            return cls(url)
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or not parts.path.strip("/"):
            raise UsageError(f"{url!r}: a file URL is file:///absolute/path")
        return cls(unquote(parts.path))

    def describe(self) -> str:
        return f"{self.location} (each result synced to disk before it counts)"

    def __repr__(self) -> str:
        state = "broken" if self._broken else "closed" if self._fd < 0 else f"{self._next_seq} records"
        return f"FileStorage({self.location!r}, {state})"

    # -- the port

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        if self._fd >= 0:
            raise StorageError(f"{self.location} is open already")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="asynchopper-file")
        try:
            await self._run(self._open, resume, overwrite, readonly)
        except BaseException:
            await self.close()
            raise

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        portions = self._scan()
        while portion := await self._run(lambda: next(portions, None)):
            yield portion

    async def append(self, records: Sequence[bytes]) -> None:
        if self._broken:
            raise StorageError(self._broken)
        if self._fd < 0 or self._readonly:
            raise StorageError(f"{self.location} is not open for writing")
        if self._end < 0:
            raise StorageError(f"{self.location} must be read to its end before anything is appended")
        if records:
            await self._run(self._append, records)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        wrapped: Any = aiofiles.os.wrap(self._close)
        try:
            await wrapped(executor=thread)
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
            raise StorageError(
                f"{self.location}: {e.strerror or e} ({errno.errorcode.get(e.errno or 0, e.errno)})"
            ) from e

    # -- in the thread: opening

    def _open(self, resume: Resume, overwrite: bool, readonly: bool) -> None:
        self._readonly, self._broken, self._next_seq, self._end = readonly, None, 0, -1
        path = self.path
        exists = _is_checkpoint(path, self.location)
        check_presence(exists, self.location, resume, overwrite, readonly)
        if readonly:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            return
        _make_parents(path.parent)
        self._fresh_name = not path.exists()
        self._fd = self._locked(path)
        _open_fds.add(self)
        if overwrite:
            self._replaced_fd = self._fd
            self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._temporary, flags, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = 0
        elif self._fresh_name:
            _sync_directory(path.parent)

    def _locked(self, path: Path) -> int:
        """An open descriptor of the file that `path` names now, locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            fd = os.open(path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                holder = _holder(fd)
                os.close(fd)
                if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise CheckpointLocked(
                    f"{self.location} is in use by {holder}; wait for it, stop it, or give this search another path"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            os.close(fd)  # it was replaced while we waited for the lock

    # -- in the thread: reading

    def _scan(self) -> Iterator[list[Entry]]:
        """Portions of whole, checked records; at the end, cuts what a crash left behind them."""
        if self._temporary is not None:
            return
        fd, offset, seq, durable = self._fd, 0, 0, 0
        rest = b""
        while chunk := os.pread(fd, _PORTION, offset + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE:
                raise CheckpointCorrupted(f"{self.location}: line {seq + 1} is longer than any record")
            portion: list[Entry] = []
            for line in lines:
                try:
                    if seq == 0:
                        durable = self._read_mark(line)
                    check(line, seq)
                except CheckpointCorrupted as e:
                    if portion:
                        yield portion
                    self._finish(offset, seq, durable, f"line {seq + 1}: {e}", line)
                    return
                portion.append(Entry(seq, line))
                offset += len(line) + 1
                seq += 1
            if portion:
                yield portion
        self._finish(offset, seq, durable, "the last line is incomplete" if rest else None, rest)

    def _read_mark(self, line: bytes) -> int:
        """The number of records that the first line knows to be durable."""
        if not line.startswith(_HEADER):
            raise CheckpointCorrupted("this is not the first line of a checkpoint")
        found = _MARK.search(line) or _MARK_DAMAGED.search(line)
        if found is None:
            raise CheckpointCorrupted("the first line has lost its watermark")
        self._mark_at = found.start(1)
        counts = [_parse_mark(field) for field in found.groups()[:2]]
        known = [c for c in counts if c is not None]
        if not known:
            raise CheckpointCorrupted("both watermarks in the first line are damaged")
        self._mark_slot = 0 if counts[0] is None or (counts[1] is not None and counts[0] < counts[1]) else 1
        return max(known)

    def _finish(self, offset: int, seq: int, durable: int, problem: str | None, at: bytes) -> None:
        """The end of the whole records is at `offset`. What stands behind it was never acknowledged, or was damaged."""
        size = os.fstat(self._fd).st_size
        if seq == 0 and problem is not None and not _torn_header(at, size):
            raise CheckpointCorrupted(f"{self.location}: {problem}. It was left as it is")
        if seq < durable:
            what = f"{problem}; it" if problem else "the file was shortened: it"
            raise CheckpointCorrupted(
                f"{self.location}: {what} had {durable} durable records, and {seq} can be read. It was left as it is; "
                "restore it from a copy, or salvage what is intact into a new file"
            )
        if problem is not None:
            said = "is ignored" if self._readonly else "was cut off"
            _log.warning(
                "%s: a crash left %d bytes of records that were never acknowledged behind record %d; that part %s (%s)",
                self.location,
                size - offset,
                seq - 1,
                said,
                problem,
            )
        if not self._readonly:
            if size > offset:
                os.ftruncate(self._fd, offset)
            if seq:
                os.pwrite(self._fd, _holder_field(), self._mark_at + 43 + len('","holder":"'))
                os.fdatasync(self._fd)  # what a killed process left in the page cache counts from here on
        self._end, self._next_seq = offset, seq

    # -- in the thread: writing

    def _append(self, records: Sequence[bytes]) -> None:
        seq = self._next_seq
        lines = [frame(r, seq + i) for i, r in enumerate(records)]
        if seq == 0:
            if not records[0].startswith(_HEADER):
                raise StorageError(f"{self.location}: the first record of a log is its header")
            head = lines[0][:-2] + b',"durable":"'
            self._mark_at = len(head)
            lines[0] = b'%b%b %b","holder":"%b"}\n' % (head, _mark_field(0), _mark_field(0), _holder_field())
        data = b"".join(lines)
        try:
            _write(self._fd, data, self._end)
            if seq:
                _write(self._fd, _mark_field(seq), self._mark_at + 22 * self._mark_slot)
            os.fdatasync(self._fd)
            if self._temporary is not None:
                self._put_in_place()
            self._check_in_place()
        except (OSError, StorageError) as e:
            self._break(e)
            raise
        self._mark_slot = 1 - self._mark_slot
        self._end += len(data)
        self._next_seq = seq + len(records)

    def _put_in_place(self) -> None:
        assert self._temporary is not None
        os.fsync(self._fd)
        os.rename(self._temporary, self.path)
        self._temporary = None
        _sync_directory(self.path.parent)
        os.close(self._replaced_fd)
        self._replaced_fd = -1

    def _check_in_place(self) -> None:
        try:
            same = os.path.samestat(os.fstat(self._fd), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            same = False
        if not same:
            raise StorageError(
                f"{self.location} was removed or replaced while the search was writing to it; "
                "the search in memory is whole: save it elsewhere"
            )

    def _break(self, e: Exception) -> None:
        """After a failed write nothing is retried, and the file ends where it was last known to be good."""
        reason = e.strerror if isinstance(e, OSError) else str(e)
        self._broken = f"{self.location} cannot be written since an earlier write failed ({reason})"
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._end)

    def _close(self) -> None:
        try:
            if self._fd >= 0 and not (self._readonly or self._broken or self._temporary) and self._end > 0:
                with contextlib.suppress(OSError):  # the records are durable without it
                    os.pwrite(self._fd, _mark_field(self._next_seq), self._mark_at + 22 * self._mark_slot)
                    os.fdatasync(self._fd)
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)
                self._temporary = None
                self._drop_empty(self._replaced_fd)
            elif self._fd >= 0 and not self._readonly:
                self._drop_empty(self._fd)
            self._close_fds()

    def _drop_empty(self, fd: int) -> None:
        """A name that we made and never wrote to goes again."""
        with contextlib.suppress(OSError):
            if self._fresh_name and os.fstat(fd).st_size == 0 and os.path.samestat(os.fstat(fd), os.stat(self.path)):
                os.unlink(self.path)

    def _close_fds(self) -> None:
        for fd in (self._fd, self._replaced_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._replaced_fd = -1
        self._end = -1
        _open_fds.discard(self)


def last_reason(path: Path) -> str | None:
    """Why the last run in this file ended, by its last line alone; `None` when it has not."""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
        lines = f.read().split(b"\n")
        found = re.match(rb'\{"kind":"ended","reason":"([a-z]+)"', lines[-2] if len(lines) > 1 else b"")
        return found[1].decode() if found else None
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


def _make_parents(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync_directory(new.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        if n == 0:
            raise OSError(errno.EIO, "nothing could be written")
        view, offset = view[n:], offset + n


def _mark_field(count: int) -> bytes:
    digits = b"%012d" % count
    return b"%b-%08x" % (digits, zlib.crc32(digits))


def _parse_mark(field: bytes) -> int | None:
    digits = field[:12]
    return int(digits) if digits.isdigit() and field == _mark_field(int(digits)) else None


def _holder_field() -> bytes:
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    return f"pid {os.getpid()} on {name}".ljust(64).encode()


def _holder(fd: int) -> str:
    """Who holds the lock: the file's own word, else the kernel's."""
    found = _MARK.search(os.pread(fd, 2**20, 0).split(b"\n", 1)[0])
    if found and found[3].strip():
        return found[3].decode().strip()
    with contextlib.suppress(OSError, ValueError), open("/proc/locks") as locks:
        inode = f":{os.fstat(fd).st_ino}"
        for line in locks:
            words = line.split()
            if len(words) > 5 and words[5].endswith(inode):
                return f"pid {words[4]} on {socket.gethostname()}"
    return "another process"


def _torn_header(at: bytes, size: int) -> bool:
    """Whether what stands in the place of the first line is what a crash leaves of one: its beginning, or zeros."""
    start = at[: len(_HEADER)]
    incomplete = size <= max(len(at), 1) + 1 and b"\n" not in at
    return (bool(at) and _HEADER.startswith(start) and incomplete and not at.endswith(b"}")) or not at.strip(b"\0")
