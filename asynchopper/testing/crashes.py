"""Every state in which a crash may leave a directory: what was recorded at the boundary of the operating system, rebuilt.

A *kill* leaves all that was handed to the system, and a part of the write under way. A *power cut* leaves what was synced, and
of the rest any part, in any order: pages of 4 KiB of a write, cuts, and changes of names each on their own, files grown over
data that never arrived. A file's sync says nothing of its name; only the sync of its directory does (POSIX promises no more).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from asynchopper.testing.system import WRITES, Layer

PAGE = 4096
SECTOR = 512


class Wrote(NamedTuple):
    file: int
    offset: int
    data: bytes


class Cut(NamedTuple):
    file: int
    size: int


class Named(NamedTuple):
    """A name appears, for a file or (`file` of -1) a directory; with `old`, it moves there."""

    name: str
    file: int
    old: str | None = None


class Unnamed(NamedTuple):
    name: str


class Synced(NamedTuple):
    file: int


class SyncedDirectory(NamedTuple):
    name: str


class Promised(NamedTuple):
    """What the outside was promised by now."""

    what: Any


Event: TypeAlias = Wrote | Cut | Named | Unnamed | Synced | SyncedDirectory | Promised


@dataclass
class CrashState:
    """What a crash left: `files` and `directories` by their path from the root, and what had been promised by then."""

    kind: Literal["kill", "power"]
    at: int
    """How many events had happened."""
    files: dict[str, bytes]
    directories: set[str]
    promised: Any
    lost: str = ""
    torn: Wrote | None = field(default=None, repr=False)
    recording: Recording | None = field(default=None, repr=False)

    @property
    def unsynced(self) -> bool:
        """Whether the last thing that happened was a whole write of some size."""
        last = self.recording.events[self.at - 1] if self.recording is not None and self.at else None
        return self.torn is None and isinstance(last, Wrote) and len(last.data) > SECTOR // 8

    def __str__(self) -> str:
        return f"{self.kind} after event {self.at}{f' ({self.lost})' if self.lost else ''}, {self.promised} promised"

    def build(self, root: Path) -> None:
        """Makes `root` look like this; what was there goes."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name in sorted(self.directories):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (root / name).write_bytes(data)


@dataclass
class _Disk:
    """Names and contents at a moment."""

    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> _Disk:
        return _Disk(dict(self.names), dict(self.data))

    def take(self, event: Event) -> None:
        """What does not apply, because what it needs was lost, changes nothing."""
        match event:
            case Wrote(file, offset, data):
                old = self.data.get(file, b"")
                self.data[file] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
            case Cut(file, size):
                self.data[file] = self.data.get(file, b"")[:size].ljust(size, b"\0")
            case Named(name, file, old_name):
                if old_name is not None:
                    if self.names.get(old_name) != file:
                        return
                    del self.names[old_name]
                self.names[name] = file
                if file >= 0:
                    self.data.setdefault(file, b"")
            case Unnamed(name):
                self.names.pop(name, None)
            case _:
                pass

    def seen(self) -> tuple[dict[str, bytes], set[str]]:
        """The files and directories that can be reached from the root."""
        directories = {name for name, file in self.names.items() if file < 0}
        files = {}
        for name, file in self.names.items():
            above = _above(name)
            if all(up in directories for up in above):
                if file >= 0:
                    files[name] = self.data.get(file, b"")
            else:
                directories.discard(name)
        return files, directories


class Recording(Layer):
    """Records what happens below `root`, from what is there now on.

    All that is there now counts as synced. `after` a kill it does not: then `root` holds the state that the kill left, and
    what was written before it and never synced can still be lost in a power cut.
    """

    def __init__(self, root: Path, after: CrashState | None = None) -> None:
        super().__init__(root)
        self.events: list[Event] = []
        self._files: dict[int, int] = {}  # descriptor to file
        self._lock = threading.RLock()
        if after is not None and after.recording is not None:
            self._start: _Disk = after.recording._start
            self.events += after.recording.events[: after.at] + ([after.torn] if after.torn else [])
        else:
            self._start = _Disk()
            for path in sorted(Path(root).rglob("*")):
                number = -1 if path.is_dir() else len(self._start.data)
                self._start.names[str(path.relative_to(root))] = number
                if number >= 0:
                    self._start.data[number] = path.read_bytes()
        self._since = len(self.events)
        self._now = self._start.copy()
        for event in self.events:
            self._now.take(event)
        self._count = max(self._now.data, default=-1) + 1

    def promise(self, what: Any) -> None:
        """Notes that something has been promised to the outside; the last one counts."""
        with self._lock:
            self._add(Promised(what))

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._now.take(event)

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            here = os.path.relpath(target, self.root)
            existed = here in self._now.names or here == "."
            result = real(*args, **kwargs)
            if name == "open":
                self._opened(result, here, existed, args[1] if len(args) > 1 else kwargs.get("flags", 0))
            elif name in WRITES:
                after = args[2] + result if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR)
                self._add(Wrote(self._files[args[0]], after - result, bytes(args[1])[:result]))
            elif name in ("ftruncate", "truncate"):
                file = self._files[args[0]] if name == "ftruncate" else self._now.names[here]
                self._add(Cut(file, args[1]))
            elif name in ("fsync", "fdatasync"):
                file = self._files[args[0]]
                self._add(Synced(file) if file >= 0 else SyncedDirectory(here))
            elif name in ("rename", "replace"):
                to = os.path.relpath(os.path.abspath(os.fspath(args[1])), self.root)
                self._add(Named(to, self._now.names[here], here))
            elif name == "link":
                to = os.path.relpath(os.path.abspath(os.fspath(args[1])), self.root)
                self._add(Named(to, self._now.names[here]))
            elif name in ("unlink", "remove", "rmdir"):
                self._add(Unnamed(here))
            elif name == "mkdir":
                self._add(Named(here, -1))
            return result

    def _opened(self, fd: int, here: str, existed: bool, flags: int) -> None:
        if here == "." or (existed and self._now.names[here] < 0):
            self._files[fd] = -1
            return
        if not existed:
            self._add(Named(here, self._count))
            self._count += 1
        self._files[fd] = self._now.names[here]
        if existed and flags & os.O_TRUNC:
            self._add(Cut(self._files[fd], 0))

    # -- the states

    def kills(self) -> Iterator[CrashState]:
        """What a kill may leave: after every event, and with every write torn at several places. No state twice."""
        disk, promised, seen = self._start.copy(), None, set[bytes]()
        for at, event in enumerate([*self.events, None]):
            if at >= self._since:
                yield from _new(seen, CrashState("kill", at, *disk.seen(), promised, "", None, self))
            if isinstance(event, Wrote) and at >= self._since:
                for size in _tears(event.data):
                    torn, part = disk.copy(), Wrote(event.file, event.offset, event.data[:size])
                    torn.take(part)
                    lost = f"the next write torn after {size} of {len(event.data)} bytes"
                    yield from _new(seen, CrashState("kill", at, *torn.seen(), promised, lost, part, self))
            if event is not None:
                disk.take(event)
                promised = event.what if isinstance(event, Promised) else promised

    def power_cuts(self, seed: int = 0, draws: int = 6) -> Iterator[CrashState]:
        """What a power cut may leave: after every event, parts of what had not been synced. No state twice."""
        rng, seen = random.Random(seed), set[bytes]()
        durable, pending = self._start.copy(), list[Event]()
        promised = None
        for at, event in enumerate([*self.events, None]):
            pages = [piece for e in pending for piece in _pieces(e, PAGE)]
            sectors = [piece for e in pending for piece in _pieces(e, SECTOR)]
            chosen = [(pages, *choice) for choice in _choices(len(pages))]
            chosen += [(sectors, *choice) for choice in _draws(len(sectors), rng, draws)]
            for pieces, kept, lost in chosen if at >= self._since else ():
                for grown in (False, True):
                    disk = durable.copy()
                    for i, piece in enumerate(pieces):
                        if i in kept:
                            disk.take(piece)
                        elif grown and isinstance(piece, Wrote):
                            _grow(disk, piece)
                    said = f"{lost}{', zeros in its place' if grown else ''}"
                    yield from _new(seen, CrashState("power", at, *disk.seen(), promised, said))
            match event:
                case Synced(file):
                    _settle(durable, pending, lambda e, file=file: isinstance(e, (Wrote, Cut)) and e.file == file)  # type: ignore[misc]  # a default argument binds the name
                case SyncedDirectory(name):
                    _settle(durable, pending, lambda e, name=name: _directory_of(e) == name)  # type: ignore[misc]  # as above
                case Promised(promised):
                    pass
                case None:
                    pass
                case _:
                    pending.append(event)


def _settle(durable: _Disk, pending: list[Event], settles: Callable[[Event], bool]) -> None:
    for event in [e for e in pending if settles(e)]:
        durable.take(event)
    pending[:] = [e for e in pending if not settles(e)]


def _directory_of(event: Event) -> str | None:
    return (os.path.dirname(event.name) or ".") if isinstance(event, (Named, Unnamed)) else None


def _above(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _grow(disk: _Disk, piece: Wrote) -> None:
    """The file's size arrived, the data did not."""
    old = disk.data.get(piece.file, b"")
    disk.data[piece.file] = old.ljust(piece.offset + len(piece.data), b"\0")


def _pieces(event: Event, unit: int) -> Iterator[Event]:
    """What of an event arrives on its own: pages or sectors of a write, by their place in the file."""
    if not isinstance(event, Wrote):
        yield event
        return
    at, end = event.offset, event.offset + len(event.data)
    while at < end:
        upto = min(end, (at // unit + 1) * unit)
        yield Wrote(event.file, at, event.data[at - event.offset : upto - event.offset])
        at = upto


def _choices(n: int) -> Iterator[tuple[frozenset[int], str]]:
    """Which of `n` unsynced pages arrived, and how that is called."""
    every = frozenset(range(n))
    yield frozenset(), "nothing unsynced arrived"
    yield every, "all arrived"
    for i in range(n):
        yield every - {i}, f"unsynced piece {i} of {n} lost"
        yield frozenset({i}), f"only unsynced piece {i} of {n} arrived"
        yield frozenset(range(i)), f"the first {i} of {n} unsynced pieces arrived"
        yield frozenset(range(i, n)), f"the last {n - i} of {n} unsynced pieces arrived"


def _draws(n: int, rng: random.Random, draws: int) -> Iterator[tuple[frozenset[int], str]]:
    """As `_choices`, at random."""
    for _ in range(draws if n > 1 else 0):
        kept = frozenset(i for i in range(n) if rng.random() < 0.5)
        yield kept, f"unsynced sectors {sorted(kept)} of {n} arrived"


def _tears(data: bytes) -> list[int]:
    """Places where a write may be torn: at the ends, in the middle, around line ends, at pages and sectors."""
    places = {1, len(data) // 2, len(data) - 1}
    ends = [i + 1 for i in range(len(data)) if data[i : i + 1] == b"\n"] if len(data) < 2**16 else []
    for end in ends[:8] + ends[-8:]:
        places |= {end - 1, end, end + 1}
    places |= set(range(SECTOR, min(len(data), 64 * SECTOR), SECTOR))
    return sorted(p for p in places if 0 < p < len(data))


def _new(seen: set[bytes], state: CrashState) -> Iterator[CrashState]:
    """The state, unless one like it has been there."""
    digest = hashlib.blake2b(repr((sorted(state.files.items()), sorted(state.directories), state.promised)).encode())
    if digest.digest() not in seen:
        seen.add(digest.digest())
        yield state
