"""A directory of numbered logs: `run_00000.ckpt`, `run_00001.ckpt`, …"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from asynchopper.errors import CheckpointLocked, StorageError, UsageError
from asynchopper.state import FINISHED
from asynchopper.storage import Entry, Resume, Storage, check_presence
from asynchopper_backends.file import FileStorage, last_reason

_NAME = re.compile(r"run_(\d{5,})\.ckpt")


class DirectoryStorage(Storage):
    """The newest log of a directory that has not ended and that nobody uses, or else the next number.

    Numbers are reserved by creating the file, so two processes never share one. Only a run that spent its budget has
    ended; one that was interrupted has not.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self.location = self._said = str(directory)
        self._file: FileStorage | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        if not url.lower().startswith("dir://"):
            return cls(url)
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or not parts.path:
            raise UsageError(f"{url!r}: a directory URL is dir:///absolute/path")
        return cls(unquote(parts.path))

    def describe(self) -> str:
        return self._file.describe() if self._file is not None else self.location

    def __repr__(self) -> str:
        return f"DirectoryStorage({self.location!r}, {self._file!r})"

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        if self._file is not None:
            raise StorageError(f"{self.location} is open already")
        if self.directory.exists() and not self.directory.is_dir():
            raise StorageError(f"{self.location} is not a directory")
        if readonly:
            runs = [p for p in self._runs() if p.stat().st_size]
            check_presence(bool(runs), f"{self.location} (in any run_*.ckpt)", resume, overwrite, readonly)
            self._use(await _opened(runs[-1], readonly=True))
            return
        if resume != "never" and not overwrite:
            for path in reversed(self._runs()):
                if last_reason(path) in FINISHED:
                    continue
                try:
                    self._use(await _opened(path, resume="auto"))
                    return
                except CheckpointLocked:
                    continue
            check_presence(False, f"{self.location} (one that can be continued)", resume, overwrite, readonly)
        self._use(await self._next())

    async def _next(self) -> FileStorage:
        self.directory.mkdir(parents=True, exist_ok=True)
        number = max([_number(p) for p in self._runs()], default=-1) + 1
        while True:
            path = self.directory / f"run_{number:05d}.ckpt"
            number += 1
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                continue
            except OSError as e:
                raise StorageError(f"{path}: {e.strerror}") from e
            try:
                return await _opened(path, resume="never", overwrite=True)
            except CheckpointLocked:  # somebody resumed the empty file before we could lock it
                continue

    def _use(self, file: FileStorage) -> None:
        self._file = file
        self.location = f"{self._said.rstrip('/')}/{file.path.name}"

    def _runs(self) -> list[Path]:
        """The logs, in order of their numbers."""
        if not self.directory.is_dir():
            return []
        return sorted((p for p in self.directory.iterdir() if _NAME.fullmatch(p.name)), key=_number)

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        async for portion in self._file.read():
            yield portion

    async def append(self, records: Sequence[bytes]) -> None:
        if self._file is None:
            raise StorageError(f"{self.location} is not open")
        await self._file.append(records)

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await file.close()


async def _opened(path: Path, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> FileStorage:
    file = FileStorage(path)
    await file.open(resume=resume, overwrite=overwrite, readonly=readonly)
    return file


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
