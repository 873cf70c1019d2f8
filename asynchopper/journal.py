"""A state and the log it is the fold of. What is staged counts once it is durable; until then nobody outside sees it.

Whoever commits while no write is under way writes all that is staged, by whomever; the others wait for that write or the
next. So writes are grouped by nature, and there is no background task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from asynchopper.errors import AsynchopperError, CheckpointCorrupted, SpaceError, StorageError
from asynchopper.packed import can_pack, rows_each
from asynchopper.records import decode, encode, lean
from asynchopper.space import Space
from asynchopper.state import Asked, Fact, Header, Mark, PrunerSaw, State
from asynchopper.storage import Entry, Lines, PromptStorage, Storage, aside

if TYPE_CHECKING:
    from asynchopper.objective import RunningTrial

T = TypeVar("T")

_LARGE = 2000  # numbers a candidate; from here on records are encoded off the loop
_MANY = 2000  # records; the same
_APPEND = PromptStorage.append


class Head(NamedTuple):
    """How far the state is durable."""

    rows: int
    best_row: int


class _Batch:
    __slots__ = ("error", "facts", "written")

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.written = False
        self.error: AsynchopperError | None = None


class Journal:
    """The state of a search, and its storage if it has one."""

    def __init__(self, state: State, storage: Storage | None) -> None:
        self.state, self.storage = state, storage
        self._head = Head(state.told, state.best_row)
        self.still = asyncio.Lock()
        """Held while another thread reads the state."""
        self.commits = 0
        self._batch = _Batch()
        self._writing: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._prompt_storage = storage if isinstance(storage, PromptStorage) else None
        self._prompt_write = False
        """Whether a write is under way that has no task."""
        self._then: Callable[[], object] | None = None
        self._broken: AsynchopperError | None = None
        state.keep_undo(storage is not None)
        self._durable = state.mark()

    @property
    def head(self) -> Head:
        """What counts. Where nothing is written, that is all there is, but for a row that is being added in another thread."""
        return self._head if self.storage is not None else Head(len(self.state.table.elapsed), self.state.best_row)

    @property
    def broken(self) -> bool:
        """Whether a write has failed."""
        return self._broken is not None

    @property
    def prompt(self) -> bool:
        """Whether `commit_soon` may be called now."""
        return self._prompt() is not None and not self.writing and self._broken is None

    def _prompt(self) -> PromptStorage | None:
        """The storage, where it may be written without a task: candidates are small, and `append` is what it was made to be."""
        storage = self._prompt_storage
        if storage is None or getattr(storage.append, "__func__", None) is not _APPEND:
            return None
        return storage if self.state.space.size < _LARGE else None

    def check(self) -> None:
        """Raises what has broken the journal, if anything has."""
        if self._broken is not None:
            raise self._broken

    def stage(self, fact: Fact, trial: RunningTrial | None = None) -> None:
        """Folds a fact, and puts it into the next write. `trial` is the one that it is about, if any.

        Where the journal is broken it is dropped, since it can never count; the commit that follows says so.
        """
        if self._broken is not None:
            return
        self.state.fold(fact)
        if self.storage is not None:
            self._batch.facts.append(fact)

    def stage_log(self, facts: Sequence[Fact]) -> None:
        """Puts facts into the next write that the state holds already."""
        self._batch.facts.extend(facts)

    async def records(self, saw: PrunerSaw | None, seen: int, elapsed: float | None) -> list[bytes]:
        """All that is known, as the records of a log of its own, with what `State.facts` takes; made off the loop.

        Raises `TypeError` or `ValueError` for what JSON cannot hold.
        """
        state, table = self.state, self.state.table
        async with self.still:
            while True:
                rewound = len(table.rewound)
                facts = state.facts(saw, seen, rows_each(state.space) if can_pack(table) else 0, elapsed)
                try:
                    records = await aside(_lean, facts, state.space)
                except Exception:
                    if rewound == len(table.rewound):
                        raise
                    continue  # a write has failed, and rows were taken back while they were read
                if rewound == len(table.rewound):
                    return records

    async def commit(self) -> None:
        """Returns when everything staged before is durable and shows in `head`.

        When the write fails, the state goes back to what is durable, and this and every later commit raise. When cancelled,
        the write goes on by itself.
        """
        if self.storage is None:
            return
        batch = self._batch
        if not batch.facts:
            if self.writing:
                await self._next_end()
            self.check()
            return
        while not batch.written:
            self.check()
            if not self.writing:
                self._begin()
            else:
                await self._next_end()
        if batch.error is not None:
            raise batch.error

    def commit_soon(self, then: Callable[[], object]) -> None:
        """As `commit`, without a task that waits, where the journal is `prompt`: `then` is called when everything staged is
        durable, or the journal broken."""
        self._then = then
        self._begin()

    async def settle(self) -> None:
        """Waits for a write that is under way."""
        while self.writing:
            await self._next_end()

    @property
    def writing(self) -> bool:
        return self._prompt_write or (self._writing is not None and not self._writing.done())

    def _next_end(self) -> asyncio.Future[None]:
        """Is done when the write that is under way has ended. A shield would take the loop one turn more."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return waiter

    def _begin(self) -> None:
        """Begins to write all that is staged."""
        prompt = self._prompt()
        if prompt is None or len(self._batch.facts) > _MANY:
            self._writing = _beyond_reach(self._write())
            return
        batch, self._batch = self._batch, _Batch()
        upto = self.state.mark()
        try:
            records = encoded(batch.facts, self.state.space)
            prompt.append_soon(records, partial(self._ended, batch, upto))
            self._prompt_write = True
        except Exception as e:
            self._ended(batch, upto, e)

    async def _write(self) -> None:
        batch, self._batch = self._batch, _Batch()
        upto = self.state.mark()
        assert self.storage is not None
        try:
            if self.state.space.size >= _LARGE or len(batch.facts) > _MANY:
                records = await aside(encoded, batch.facts, self.state.space)
            else:
                records = encoded(batch.facts, self.state.space)
            await self.storage.append(records)
        except BaseException as e:
            self._ended(batch, upto, e)
            if not isinstance(e, Exception):  # the loop is being torn down; whether the batch is durable is unknown
                raise
        else:
            self._ended(batch, upto, None)

    def _ended(self, batch: _Batch, upto: Mark, error: BaseException | None) -> None:
        """What comes after a write."""
        if error is not None:
            self._break(batch, error)
        else:
            self.state.forget_undo(upto.undo)
            self._durable = upto._replace(undo=0)
            self._head = Head(upto.rows, upto.best_row)
            self.commits += 1
        self._over(batch)

    def _break(self, batch: _Batch, error: BaseException) -> None:
        """Nothing is written any more, and the state is what is known to be durable."""
        assert self.storage is not None
        ours = error if isinstance(error, AsynchopperError) else StorageError(f"{self.storage.location}: {error!r}")
        ours.__cause__ = ours.__cause__ or (None if ours is error else error)
        batch.error = self._broken = ours
        self.state.rollback(self._durable)

    def _over(self, batch: _Batch) -> None:
        batch.written, self._writing, self._prompt_write = True, None, False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                with contextlib.suppress(RuntimeError):  # the loop has closed
                    waiter.set_result(None)
        then, self._then = self._then, None
        if then is not None:
            then()


def _lean(facts: Iterable[Fact], space: Space) -> list[bytes]:
    return [lean(encode(fact, space)) for fact in facts]


def encoded(facts: Sequence[Fact], space: Space) -> list[bytes]:
    """Facts as records. Raises `SpaceError` for what JSON cannot hold."""
    try:
        if len(facts) > _MANY:
            return _lean(facts, space)
        return [encode(f, space) for f in facts]
    except (TypeError, ValueError) as e:
        raise SpaceError(f"a value cannot be written to a checkpoint: {e}") from e


def _beyond_reach(write: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that whoever cancels all tasks, as `asyncio.run` does at its end, does not find: a write is carried through.

    Those who wait for it do so for a future of their own, or shield it, so nobody else cancels it either.
    """
    task = asyncio.get_running_loop().create_task(write, name="asynchopper-commit")
    asyncio.tasks._unregister_task(task)
    return task


async def replay(storage: Storage, state: State) -> None:
    """Folds a log that was opened into a fresh state, off the loop.

    Raises `CheckpointCorrupted` for a record that no version writes, `CheckpointVersionError` for a newer format.
    """
    log = Replay(state, storage.location)
    await storage.scan(log.fold)
    log.end()


class Replay:
    """Folds a log: in bulk wherever that is possible, else record by record. The state is whole after `end`.

    Notes by which record the trials that are out were last asked, where `asked_by` is wanted; those that are told may be in it,
    too.
    """

    def __init__(self, state: State, location: str, asked_by: dict[int, int] | None = None) -> None:
        from asynchopper.bulk import Bulk  # takes a tenth of the time that importing all of the rest takes

        self._state, self._location, self._asked_by = state, location, asked_by
        self._bulk = Bulk(state, asked_by)

    def fold(self, portion: Sequence[Entry]) -> None:
        """Raises as `replay` does."""
        self._bulk.fold(
            0,
            len(portion),
            lambda start, end: self._in_bulk(portion[start:end]),
            lambda start, end: fold_portion(portion[start:end], self._state, self._location, self._asked_by),
        )

    def end(self) -> None:
        self._bulk.settle()

    def _in_bulk(self, portion: Sequence[Entry]) -> bool:
        if not portion:
            return True
        first, n = portion[0].seq, len(portion)
        if isinstance(portion, Lines):
            return self._bulk.take(portion.text, first, portion.ends)
        if [e.seq for e in portion] != list(range(first, first + n)):
            return False
        ends = np.cumsum([len(e.data) + 1 for e in portion]) - 1
        return self._bulk.take(b"".join([e.data + b"\n" for e in portion]), first, ends)


def fold_portion(portion: Sequence[Entry], state: State, location: str, asked_by: dict[int, int] | None = None) -> None:
    """Folds records as they come from a log, and notes by which each trial was last asked. Raises as `replay` does."""
    for seq, data in portion:
        try:
            fact = decode(data, state.space)
        except ValueError as e:
            raise CheckpointCorrupted(f"{location}: record {seq}: {e}") from e
        if isinstance(fact, Header) != (seq == 0):
            raise CheckpointCorrupted(f"{location}: record {seq} is {'' if seq else 'not '}a header")
        if fact is not None:
            try:
                state.fold(fact)
            except OverflowError as e:  # more of something than any column can count
                raise CheckpointCorrupted(f"{location}: record {seq}: {e}") from e
            if asked_by is not None and isinstance(fact, Asked):
                asked_by[fact.id] = seq
