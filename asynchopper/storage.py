"""The storage port: what a search needs from the place where its log lives.

A log is a gap-free sequence of records, numbered from 0; a record is a JSON object as bytes. A backend gives four calls.
Its promises are checked by `asynchopper.testing.StorageContract`.
"""

from __future__ import annotations

import asyncio
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import count
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, TypeVar, overload

from asynchopper.columns import Column
from asynchopper.errors import CheckpointCorrupted, CheckpointLocked, StorageError, UsageError
from asynchopper.thread import OwnThread

Resume: TypeAlias = Literal["auto", "never", "must"]
Location: TypeAlias = "str | PathLike[str]"
T = TypeVar("T")


class Entry(NamedTuple):
    """A record in a log. `data` is the JSON object that was appended; the backend may have added the
    members `seq`, `left` and `crc` (see `asynchopper.records.bare`)."""

    seq: int
    data: bytes


class Lines(Sequence[Entry]):
    """Records in a row, as the lines of a text, at a fraction of what as many entries take. `ends` has the place of each
    line's end."""

    def __init__(self, text: bytes, seq: int, ends: Column) -> None:
        self.text, self.seq, self.ends = text, seq, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, key: int) -> Entry: ...
    @overload
    def __getitem__(self, key: slice) -> Lines: ...
    def __getitem__(self, key: int | slice) -> Entry | Lines:
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            if step != 1:
                raise ValueError("lines stay in a row")
            start, end = self._start(first), self._start(max(first, last))
            return Lines(self.text[start:end], self.seq + first, self.ends[first:last] - start)
        i = key + len(self) if key < 0 else key
        if not 0 <= i < len(self):
            raise IndexError(f"line {key} of {len(self)}")
        return Entry(self.seq + i, self.text[self._start(i) : self.ends[i]])

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry, count(self.seq), self.text.split(b"\n")[:-1])

    def _start(self, i: int) -> int:
        return int(self.ends[i - 1]) + 1 if i else 0


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

        Raises `CheckpointLocked`, which names the owner's process id, at once when another owner lives; `StorageError` for
        anything else. When it raises or is cancelled, nothing is held and nothing was changed.
        """

    @abstractmethod
    def read(self) -> AsyncIterator[Sequence[Entry]]:
        """All records, in order, in portions. An empty log gives none.

        What a crash left of a batch that was never acknowledged is taken away first (unless `readonly`), which is
        logged. Raises `CheckpointCorrupted` when a record that had been acknowledged is damaged or gone; the
        log is left as it is.
        """

    async def scan(self, take: Callable[[Sequence[Entry]], None]) -> None:
        """Hands each portion that `read` gives to `take`, off the event loop. Raises what either raises.

        A backend that reads in a thread of its own can call `take` there, which saves a change of threads a portion.
        """
        async for portion in self.read():
            await aside(take, portion)

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

    def hurry(self, within: float) -> None:  # noqa: B027 - most have nothing that they wait for
        """Says, in the event loop, that the run is being stopped: what a backend tries again and again, as with a server
        that does not answer, it gives up after so many seconds, with a `StorageError`."""

    def describe(self) -> str:
        """One line for people: where the log is and what it survives."""
        return self.location


Done: TypeAlias = "Callable[[BaseException | None], object]"
"""What is called in the event loop when something is over, with the error if there was one."""


class PromptStorage(Storage):
    """A log that can be appended to without a task: a search then waits a few turns of the event loop less for a result.
    One that has an `append` of its own is appended to by that."""

    @abstractmethod
    def append_soon(self, records: Sequence[bytes], done: Done) -> None:
        """As `append`, but returns at once; `done` is called in the running loop, once, unless the loop is closed by then.
        Nothing cancels it. Raises `StorageError` where nothing can be appended at all."""

    async def append(self, records: Sequence[bytes]) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if over.done():  # whoever waited was cancelled
                return
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)

        self.append_soon(records, done)
        await over


class Tell(NamedTuple):
    """What a worker says of a trial that it has out: its end (`told`), that it gives the trial back (`back`, with the record
    of the interruption), or what its objective saved (`saved`)."""

    kind: Literal["told", "back", "saved"]
    id: int
    attempt: int
    data: bytes


class Ask(NamedTuple):
    """A candidate that a worker wants to evaluate."""

    key: str
    """The same for the same candidate, from any worker; `""` where candidates may be evaluated twice."""
    data: bytes
    """The `asked` record from its `"params"` on, since the backend numbers the trials; `b""` asks for an old trial only."""


class Grant(NamedTuple):
    """A trial that is the worker's now. When it is not the first attempt, the candidate is the trial's, not the asked one."""

    id: int
    attempt: int


Refusal: TypeAlias = Literal["full", "known", "none"]
"""Why nothing was granted: the budget is told or out; another worker has the candidate; nothing old is to be run. Of
several that were given back, the lowest id is granted first; where the budget is out, `full` comes before `none`."""


class Reply(NamedTuple):
    """What a turn came to. Times are in seconds, on the backend's clock."""

    news: Sequence[Entry]
    """The records since the last reply; this turn's own are not among them, unless `whole`."""
    whole: bool
    """Otherwise this turn's own records follow the news: the tells that were kept, and then the grants, in their order."""
    kept: Sequence[int]
    """A number a tell: 0 where it was dropped, 1 where it was kept, 2 where it was kept though its lease had ended."""
    grants: Sequence[Grant | Refusal]
    elapsed: float
    """For how long anybody has worked on this search."""
    told: int
    out: int
    runs: int
    """How many runs have begun or ended."""
    workers: int
    """How many are at work; only `begin` says it."""
    lease_ends: float
    """When the next of the other workers' leases ends, from now; infinity where there is none, or nothing was refused."""


class Joined(NamedTuple):
    """A worker among others."""

    number: int
    """Which worker it is of all that ever joined this search, from 0."""
    others: int
    """How many others are there; and `begun`, how many of these have begun a run, where that is known."""
    seq: int
    """How many records there are; 0 for a search that is yet to be made with `create`."""
    counted: bool
    """Whether the backend knows which trials are out; if not, `index` tells it."""
    runs: int
    elapsed: float
    begun: int | None = None


class SharedStorage(Storage):
    """A log that many workers write at once, and that hands out the trials.

    A worker's calls are `join`, `read` to its end, `create` or (`index` where it is not counted, and) `begin`, then `turn` any
    number of times, and `leave`; or those of a `Storage`, for one owner at a time. A worker holds a lease, on the backend's own
    clock, that the backend renews by itself, also while the event loop is blocked. When it ends, the trials that the worker
    has out go to whoever asks next, before anything new.

    Every call is safe to be said twice: what was done before and not heard of counts once. Each raises `StorageError` where
    the log is not the one that the worker knows, or has lost something that this worker was told is in it.
    """

    shared: bool
    """Whether a search joins it. If not, it is used as any `Storage`."""

    @abstractmethod
    async def join(self, *, resume: Resume = "auto", overwrite: bool = False) -> Joined:
        """Becomes a worker. The words are those of `open`; `overwrite` raises `CheckpointLocked` while others are at work."""

    @abstractmethod
    async def create(self, records: Sequence[bytes], limit: int | None) -> bool:
        """Begins a new search with a header and a run, or with all of another log's records, and a run; `limit` as in
        `begin`. `False` when another worker was faster: join again."""

    @abstractmethod
    async def index(self, told: int, next_id: int, out: Sequence[tuple[int, int, int]], elapsed: float) -> None:
        """Counts a log that was written by one owner: how many trials are told, the next trial's number, and those that are
        out (trial, attempt, the record by which it was asked); the clock goes on from `elapsed` seconds. Changes nothing
        where somebody has counted already."""

    @abstractmethod
    async def begin(self, run: bytes, limit: int | None, runs: int) -> Reply:
        """Begins a run, with a budget that ends when `limit` trials are told. When `runs` is not the number of runs
        any more, nothing is written: the reply has what has happened, in `kept` a 0, and the caller thinks again."""

    @abstractmethod
    async def turn(self, tells: Sequence[Tell], asks: Sequence[Ask]) -> Reply:
        """All that a worker has to say and to ask, as one transition; durable when it returns, as far as demanded.

        A trial is told once: the first to tell it is heard, also when its lease has ended; what is told later is dropped.
        Never more trials are told and out than the limit allows. When cancelled, it is either wholly done or not at all.
        """

    def say(self, tells: Sequence[Tell], asks: Sequence[Ask], heard: Callable[[Reply | StorageError], None]) -> bool:
        """Begins a `turn`, and returns at once: `heard` is called from the loop, once, with what that returns or raises.

        `False`, and nothing is begun, where that is not possible now; a backend need not have it. It spares a task.
        """
        return False

    @abstractmethod
    async def wait(self, timeout: float) -> None:
        """Returns when there is a record that this worker has not seen, when something is wrong, or after so many seconds.
        May be called beside a `turn`, and cancelled."""

    @abstractmethod
    async def leave(self, ended: bytes, final: bool) -> None:
        """Gives back all that is out, and lets go, as `close` does. The record is written when `final`, or when no other
        worker is there, unless somebody has written one since the run began."""


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
            raise open_already(self.location)
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


async def aside(fn: Callable[..., T], *args: Any) -> T:
    """`fn(*args)` off the loop, in a thread of its own: the loop's pool may be full of an objective's own blocking calls.

    Not one of anyio's: they wait for their loop to stop them, and keep the interpreter from ending when it never runs again.
    """
    thread = OwnThread("asynchopper-aside", patience_s=1.0)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, fn, *args)
    finally:
        thread.shutdown(wait=False)


def check_presence(exists: bool, location: str, resume: Resume, overwrite: bool, readonly: bool) -> None:
    """Raises `StorageError` when a log is there that should not be, or the other way round."""
    if (readonly or resume == "must") and not exists:
        instead = "" if readonly else ", or start one with resume='auto'"
        raise StorageError(f"there is no checkpoint at {location}; check the path{instead}")
    if resume == "never" and exists and not overwrite:
        raise StorageError(
            f"there is a checkpoint at {location} already; continue it with resume='auto', replace it with "
            "overwrite_checkpoint=True (a command's --overwrite), or choose another place"
        )


def open_already(location: str) -> CheckpointLocked:
    """What `Storage.open` raises where this very object is open, or being opened."""
    return CheckpointLocked(f"{location} is open already; another search needs a storage of its own")


def expanded(path: str | PathLike[str]) -> Path:
    """A path whose `~` stands for a home directory; where there is no such user, it is a name like any other."""
    if "\0" in str(path):
        raise UsageError(f"{path!r:.200}: no path holds a zero")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def open_storage(location: Location | Storage) -> Storage:
    """The backend for a path or a URL. Nothing is opened yet.

    A path that ends with a separator or is a directory goes to the `dir` backend, any other to `file`; `scheme://…` to the
    entry point of that name in the group `asynchopper.backends`. Raises `UsageError` when there is no such backend.
    """
    if isinstance(location, Storage):
        return location
    text = fspath(location) if isinstance(location, (str, PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"checkpoint_path={location!r}: must be a path or a URL")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)", text)
    if match and match[2]:
        return _backend(match[1].lower()).from_url(text)
    if match and match[1].lower() in _backends():
        raise UsageError(f"{text}: a URL begins with {match[1]}://; a Path loses a slash, so give a str")
    try:
        directory = text.endswith(("/", "\\")) or expanded(text).is_dir()
    except OSError:  # too long a name, a directory that may not be entered: the backend says so when it opens it
        directory = False
    return _backend("dir" if directory else "file").from_url(text)


@functools.cache  # looking through all that is installed takes milliseconds; what is not found is looked for again
def _backend(scheme: str) -> type[Storage]:
    point = _backends().get(scheme)
    if point is None:
        raise UsageError(f"there is no backend for {scheme}://; installed are: {', '.join(sorted(_backends()))}")
    try:
        backend = point.load()
    except ImportError as e:
        own = re.match(r"asynchopper_backends\.([a-z]+)", point.value)
        advice = f"try: pip install 'asynchopper[{own[1]}]'" if own else "install what it needs"
        raise UsageError(f"the {scheme} backend needs a package that is not installed ({e}); {advice}") from e
    if not (isinstance(backend, type) and issubclass(backend, Storage)):
        raise UsageError(f"the entry point {point.value} for {scheme}:// is not a Storage")
    return backend


def _backends() -> dict[str, Any]:
    """The entry points of all that is installed, by scheme; of two for the same one the first."""
    from importlib.metadata import entry_points

    return {point.name: point for point in reversed(tuple(entry_points(group="asynchopper.backends")))}
