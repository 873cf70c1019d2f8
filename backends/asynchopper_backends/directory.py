"""A directory of numbered logs: `run_00000.ckpt`, `run_00001.ckpt`, …"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

import aiofiles.os

from asynchopper.errors import CheckpointLocked, StorageError, UsageError
from asynchopper.state import FINISHED
from asynchopper.storage import Done, Entry, Lost, PromptStorage, Resume, check_presence, expanded, open_already
from asynchopper_backends.disk import make_directories
from asynchopper_backends.file import FileStorage, last_reason

T = TypeVar("T")

_log = logging.getLogger("asynchopper")
_NAME = re.compile(r"run_([0-9]{5,})\.ckpt")


class _Run(NamedTuple):
    number: int
    path: Path
    size: int


class DirectoryStorage(PromptStorage):
    """The newest log of a directory that has not ended and that nobody uses, or else the next number.

    Numbers are reserved by creating the file, so two processes never share one. Only a run that spent its budget has
    ended; one that was interrupted has not.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = expanded(directory).absolute()
        self.location = self._said = str(directory)
        self._file: FileStorage | None = None
        self._opening = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        if not url.lower().startswith("dir://"):
            return cls(url)
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path:
            raise UsageError(f"{url!r}: a directory URL is dir:///absolute/path")
        return cls(unquote(parts.path))

    def describe(self) -> str:
        return self._file.describe() if self._file is not None else self.location

    def __repr__(self) -> str:
        return f"DirectoryStorage({self.location!r}, {self._file!r})"

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        if self._file is not None or self._opening:
            raise open_already(self.location)
        self._opening = True
        try:
            await self._open(resume, overwrite, readonly)
        except OSError as e:
            raise StorageError(f"{self._said}: {e.strerror or e}") from e
        finally:
            self._opening = False

    async def _open(self, resume: Resume, overwrite: bool, readonly: bool) -> None:
        runs = await _off_loop(self._runs)
        if readonly:
            runs = [run for run in runs if run.size]
            check_presence(bool(runs), f"{self._said} (in any run_*.ckpt)", resume, overwrite, readonly)
            self._use(await _opened(runs[-1].path, readonly=True))
            return
        if resume != "never" and not overwrite:
            for run in reversed(runs):
                if not run.size:
                    _log.warning("%s is empty and is passed over: there is nothing in it to continue", run.path)
                    continue
                if await _off_loop(last_reason, run.path) in FINISHED:
                    continue
                with contextlib.suppress(CheckpointLocked):
                    if (file := await _unfinished(run.path)) is not None:
                        self._use(file)
                        return
            check_presence(False, f"{self._said} (one that can be continued)", resume, overwrite, readonly)
        self._use(await self._next(runs[-1].number + 1 if runs else 0))

    async def _next(self, number: int) -> FileStorage:
        while True:
            path = self.directory / f"run_{number:05d}.ckpt"
            number += 1
            try:
                await _off_loop(_reserve, path)
            except FileExistsError:
                continue
            try:
                file = await _opened(path, resume="never", overwrite=True)
            except CheckpointLocked:  # somebody else opened the empty file before we could lock it
                continue
            file.made_name = True
            return file

    def _use(self, file: FileStorage) -> None:
        self._file = file
        self.location = f"{self._said.rstrip('/')}/{file.path.name}"

    def _runs(self) -> list[_Run]:
        """The logs, in order of their numbers. What has such a name and is not a plain file counts as an empty one."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        runs = []
        for name in names:
            if match := _NAME.fullmatch(name):
                path = self.directory / name
                with contextlib.suppress(FileNotFoundError):
                    info = os.lstat(path)
                    runs.append(_Run(int(match[1]), path, info.st_size if stat.S_ISREG(info.st_mode) else 0))
        return sorted(runs)

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        async for portion in self._file.read():
            yield portion

    async def scan(self, take: Callable[[Sequence[Entry]], None]) -> None:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        await self._file.scan(take)

    async def salvage(self) -> AsyncIterator[Sequence[Entry | Lost]]:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        async for portion in self._file.salvage():
            yield portion

    def append_soon(self, records: Sequence[bytes], done: Done) -> None:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        self._file.append_soon(records, done)

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await file.close()


async def _opened(path: Path, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> FileStorage:
    file = FileStorage(path)
    await file.open(resume=resume, overwrite=overwrite, readonly=readonly)
    return file


async def _unfinished(path: Path) -> FileStorage | None:
    """A log to go on with; `None` where whoever had it has ended it before it could be locked."""
    file = await _opened(path, resume="must")
    try:
        if await _off_loop(last_reason, path) not in FINISHED:
            return file
    except BaseException:
        await file.close()
        raise
    await file.close()
    return None


async def _off_loop(fn: Callable[..., T], *args: Any) -> T:
    wrapped: Any = aiofiles.os.wrap(fn)
    return await wrapped(*args)  # type: ignore[no-any-return]  # aiofiles.os.wrap is untyped


def _reserve(path: Path) -> None:
    make_directories(path.parent)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
