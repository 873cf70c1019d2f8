"""The storage port: what a search needs from the place where its log lives.

A log is a gap-free sequence of records, numbered from 0; a record is a JSON object as bytes. A backend gives four calls.
Its promises are checked by `asynchopper.testing.StorageContract`.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self, TypeAlias

from asynchopper.errors import CheckpointCorrupted, CheckpointLocked, StorageError, UsageError

Resume: TypeAlias = Literal["auto", "never", "must"]
Location: TypeAlias = "str | PathLike[str]"


class Entry(NamedTuple):
    """A record in a log. `data` is the JSON object that was appended; the backend may have added the
    members `seq`, `left` and `crc` (see `asynchopper.records.bare`)."""

    seq: int
    data: bytes


class Lost(NamedTuple):
    """A part of a log that is not a whole record."""

    where: str
    size: int
    """Bytes, where that is known; otherwise 0."""
    why: str
    damage: bool
    """`False` for what a crash left of a batch that was never acknowledged."""


class Storage(ABC):
    """One log. Not for sharing between tasks: the search makes one call at a time.

    The order of calls is `open`, `read` to its end, `append` any number of times, `close`; then it may be opened again. Any
    other order raises `StorageError`, but for `close`, which is always allowed.
    """

    location: str
    """Where the log is, as a person would write it; without passwords. Final once `open` has returned."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Self:
        """A backend for a location. Touches nothing; raises `UsageError` for a URL that it cannot mean."""

    @abstractmethod
    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        """Takes the log for this process, or opens it beside its owner for reading.

        - `resume="auto"` takes the log that is there, or prepares an empty one; `"must"` raises `StorageError` when there
          is none; `"never"` raises it when there is one, unless `overwrite`.
        - `overwrite`: what is there is replaced as a whole by the first `append`, and stays untouched until then.
        - `readonly` implies `"must"`, takes no lock, changes nothing, and allows no `append`.

        Raises `CheckpointLocked` at once when another owner lives; `StorageError` for anything else. When it raises or is
        cancelled, nothing is held and nothing was changed.
        """

    @abstractmethod
    def read(self) -> AsyncIterator[Sequence[Entry]]:
        """All records, in order, in portions. An empty log gives none.

        What a crash left of a batch that was never acknowledged is taken away first (unless `readonly`), which is
        logged. Raises `CheckpointCorrupted` when a record that had been acknowledged is damaged or gone; the
        log is left as it is.
        """

    @abstractmethod
    async def append(self, records: Sequence[bytes]) -> None:
        """Adds records, all or none. When it returns they are durable and will be read back in this order.

        When it raises `StorageError`, it is unknown whether they are durable, and every later `append` raises too.
        When cancelled, the batch is either wholly there or not at all; callers shield it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Lets go of the log. Idempotent; never raises for a log that broke before."""

    async def salvage(self) -> AsyncIterator[Sequence[Entry | Lost]]:
        """As `read`, of a log opened `readonly`, but goes on behind damage: everything that can be proven whole, where it
        stands, and a word on all that lies between. Sequence numbers may be missing, doubled or out of order.

        A backend that cannot look behind damage keeps this one, which ends there.
        """
        try:
            async for portion in self.read():
                yield portion
        except CheckpointCorrupted as e:
            yield [Lost("the rest", 0, str(e), True)]

    def describe(self) -> str:
        """One line for people: where the log is and what it survives."""
        return self.location


class MemoryStorage(Storage):
    """A log in this process, under a name. For tests: it survives the search, not the process."""

    _logs: ClassVar[dict[str, list[bytes]]] = {}
    _held: ClassVar[set[str]] = set()

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.location = f"memory://{name}"
        self._state: Literal["closed", "owner", "reader"] = "closed"
        self._replace = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(url.removeprefix("memory://"))

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        if self._state != "closed":
            raise StorageError(f"{self.location} is open already")
        log = self._logs.get(self.name)
        check_presence(bool(log), self.location, resume, overwrite, readonly)
        if readonly:
            self._state = "reader"
            return
        if self.name in self._held:
            raise CheckpointLocked(f"{self.location} is in use by another search of this process; wait for it to end")
        self._held.add(self.name)
        self._state, self._replace = "owner", overwrite

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        if self._state == "closed":
            raise StorageError(f"{self.location} is not open")
        log = [] if self._replace else self._logs.get(self.name, [])
        if log:
            yield [Entry(i, data) for i, data in enumerate(log)]

    async def append(self, records: Sequence[bytes]) -> None:
        if self._state != "owner":
            raise StorageError(f"{self.location} is not open for writing")
        if self._replace:
            self._logs[self.name], self._replace = [], False
        self._logs.setdefault(self.name, []).extend(records)

    async def close(self) -> None:
        if self._state == "owner":
            self._held.discard(self.name)
        self._state = "closed"

    def describe(self) -> str:
        return f"{self.location} (kept in this process only)"


def check_presence(exists: bool, location: str, resume: Resume, overwrite: bool, readonly: bool) -> None:
    """Raises `StorageError` when a log is there that should not be, or the other way round."""
    if (readonly or resume == "must") and not exists:
        raise StorageError(f"there is no checkpoint at {location}; check the path, or start one with resume='auto'")
    if resume == "never" and exists and not overwrite:
        raise StorageError(
            f"there is a checkpoint at {location} already; continue it with resume='auto', "
            "or replace it with overwrite_checkpoint=True"
        )


def open_storage(location: Location | Storage) -> Storage:
    """The backend for a path or a URL. Nothing is opened yet.

    A path that ends with a separator or is a directory goes to the `dir` backend, any other to `file`; `scheme://…` to the
    entry point of that name in the group `asynchopper.backends`. Raises `UsageError` when there is no such backend.
    """
    if isinstance(location, Storage):
        return location
    text = fspath(location)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"checkpoint_path={location!r}: must be a path or a URL")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if match:
        return _backend(match[1].lower()).from_url(text)
    try:
        directory = text.endswith(("/", "\\")) or Path(text).expanduser().is_dir()
    except OSError:  # too long a name, a directory that may not be entered: the backend says so when it opens it
        directory = False
    return _backend("dir" if directory else "file").from_url(text)


@functools.cache  # looking through all that is installed takes milliseconds; what is not found is looked for again
def _backend(scheme: str) -> type[Storage]:
    from importlib.metadata import entry_points

    found = entry_points(group="asynchopper.backends")
    for point in found:
        if point.name == scheme:
            try:
                backend = point.load()
            except ImportError as e:
                raise UsageError(
                    f"the {scheme} backend needs a package that is not installed ({e}); "
                    f"try: pip install 'asynchopper[{scheme}]'"
                ) from e
            if not (isinstance(backend, type) and issubclass(backend, Storage)):
                raise UsageError(f"the entry point {point.value} for {scheme}:// is not a Storage")
            return backend
    known = ", ".join(sorted({p.name for p in found}))
    raise UsageError(f"there is no backend for {scheme}://; installed are: {known}")
