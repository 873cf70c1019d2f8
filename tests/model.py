"""A log against its twin in memory: what a hypothesis machine does to both, in this process or in one that it kills."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asynchopper.errors import CheckpointLocked, StorageError
from asynchopper.storage import Storage, open_storage
from asynchopper.testing.logs import contents, header, opened, record

BOUND_S = 60
SIZES = st.lists(st.sampled_from([0, 10, 300, 4000, 9000, 70_000]), min_size=1, max_size=5)


async def cancelled(storage: Storage, records: list[bytes], steps: int) -> bool:
    """Begins to append and is cancelled after a few steps of the loop; whether it was done by then."""
    append = asyncio.create_task(storage.append(records))
    for _ in range(steps):
        await asyncio.sleep(0)
    append.cancel()
    try:
        await append
    except asyncio.CancelledError:
        return False
    return True


class Here:
    """An owner in this process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.storage: Storage | None = None

    def open(self, location: str, words: dict[str, Any]) -> tuple[list[bytes], str]:
        storage = open_storage(location)
        found = self.loop.run_until_complete(opened(storage, **words))
        self.storage = storage
        return found, storage.location

    def append(self, records: list[bytes]) -> None:
        assert self.storage is not None
        self.loop.run_until_complete(self.storage.append(records))

    def cancelled(self, records: list[bytes], steps: int) -> bool:
        assert self.storage is not None
        return self.loop.run_until_complete(cancelled(self.storage, records, steps))

    def close(self) -> None:
        if self.storage is not None:
            self.loop.run_until_complete(self.storage.close())
        self.storage = None

    def end(self) -> None:
        self.close()
        self.loop.close()


def _serve(pipe: Connection) -> None:
    """An owner in a process of its own, until that is killed."""
    here = Here()
    with contextlib.suppress(EOFError):
        while True:
            name, *args = pipe.recv()
            try:
                pipe.send((True, getattr(here, name)(*args)))
            except StorageError as e:
                pipe.send((False, e))


class Elsewhere:
    """An owner in another process, which can be killed."""

    server: ClassVar[Any] = multiprocessing.get_context("forkserver")

    def __init__(self) -> None:
        self.server.set_forkserver_preload([__name__])
        self.pipe, theirs = self.server.Pipe()
        self.process = self.server.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def _call(self, *words: Any) -> Any:
        self.pipe.send(words)
        assert self.pipe.poll(BOUND_S), "the owner says nothing"
        fine, answer = self.pipe.recv()
        if not fine:
            raise answer
        return answer

    def open(self, location: str, words: dict[str, Any]) -> tuple[list[bytes], str]:
        found: tuple[list[bytes], str] = self._call("open", location, words)
        return found

    def append(self, records: list[bytes]) -> None:
        self._call("append", records)

    def cancelled(self, records: list[bytes], steps: int) -> bool:
        return bool(self._call("cancelled", records, steps))

    def close(self) -> None:
        self._call("close")

    def kill(self, records: list[bytes] | None) -> bool:
        """Kills the owner, perhaps while it appends; whether it had said by then that this is durable."""
        if records is not None:
            self.pipe.send(("append", records))
            os.sched_yield()
        self.process.kill()
        self.process.join(BOUND_S)
        try:
            return records is not None and self.pipe.poll(0) and bool(self.pipe.recv()[0])
        except (EOFError, OSError):
            return False

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join(BOUND_S)


class LogMachine(RuleBasedStateMachine):
    """Everything that one owner and its readers may do to a log, in any order."""

    owner_type: ClassVar[type[Here] | type[Elsewhere]] = Here

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.location = self.first_location(Path(self.place.name))
        self.owner = self.owner_type()
        self.loop = asyncio.new_event_loop()
        self.open = False
        self.twin: list[tuple[list[bytes], bool]] = []  # batches, and whether they are certainly there
        self.replaced: list[tuple[list[bytes], bool]] | None = None  # what an overwriting owner has not replaced yet
        self.number = 0

    def first_location(self, place: Path) -> str:
        raise AssertionError("a machine has to say where its log is")

    def teardown(self) -> None:
        self.owner.end()
        self.loop.close()
        self.place.cleanup()

    # -- the twin

    def _batch(self, sizes: list[int]) -> list[bytes]:
        """New records; a log begins with its header."""
        records = [] if self.twin else [header()]
        for size in sizes:
            self.number += 1
            records.append(record(self.number, size))
        return records

    @property
    def _certain(self) -> bool:
        return any(certain for _, certain in self.twin)

    def _agrees(self, found: list[bytes], twin: list[tuple[list[bytes], bool]]) -> list[tuple[list[bytes], bool]]:
        """Takes found records for batches; gives those that are there. Raises when a certain one is not, or one too many is."""
        at, there = 0, []
        for records, certain in twin:
            if found[at : at + len(records)] == records:
                at += len(records)
                there.append((records, True))
            else:
                assert not certain, f"a batch of {len(records)} records that was promised is not at {at}"
        assert at == len(found), f"{len(found) - at} records are there that nobody wrote"
        return there

    # -- what may happen

    @initialize(sizes=SIZES)
    def begins(self, sizes: list[int]) -> None:
        _, self.location = self.owner.open(self.location, {})
        self.open = True
        self.appends(sizes)

    @precondition(lambda self: self.open)
    @rule(sizes=SIZES)
    def appends(self, sizes: list[int]) -> None:
        records = self._batch(sizes)
        self.owner.append(records)
        self.replaced = None
        self.twin.append((records, True))

    @precondition(lambda self: self.open and self.twin and self.replaced is None)
    @rule(sizes=SIZES, steps=st.integers(0, 6))
    def is_cancelled_while_it_appends(self, sizes: list[int], steps: int) -> None:
        records = self._batch(sizes)
        self.twin.append((records, self.owner.cancelled(records, steps)))

    @precondition(lambda self: self.open)
    @rule()
    def closes(self) -> None:
        self.owner.close()
        self._given_up()

    def _given_up(self) -> None:
        self.open = False
        if self.replaced is not None:
            self.twin, self.replaced = self.replaced, None

    @precondition(lambda self: not self.open)
    @rule(resume=st.sampled_from(["auto", "must", "never"]))
    def opens(self, resume: str) -> None:
        try:
            found, _ = self.owner.open(self.location, {"resume": resume})
        except StorageError:
            assert resume == "never", "an existing log was not opened"
            return
        assert resume != "never", "an existing log was taken for a new one"
        self.twin = self._agrees(found, self.twin)
        self.open = True

    @precondition(lambda self: not self.open)
    @rule()
    def opens_to_overwrite(self) -> None:
        found, _ = self.owner.open(self.location, {"overwrite": True})
        assert found == []
        self.twin, self.replaced = [], self.twin
        self.open = True

    @precondition(lambda self: self.open)
    @rule(overwrite=st.booleans())
    def another_owner_is_refused(self, overwrite: bool) -> None:
        try:
            self.loop.run_until_complete(open_storage(self.location).open(overwrite=overwrite))
        except CheckpointLocked:
            return
        raise AssertionError("two owners have one log")

    @invariant()
    def a_reader_sees_the_truth(self) -> None:
        twin = self.replaced if self.replaced is not None else self.twin
        if any(certain for _, certain in twin):
            self._agrees(self.loop.run_until_complete(contents(open_storage(self.location))), twin)


class KilledLogMachine(LogMachine):
    """The same, and the owner may be killed at any time."""

    owner_type = Elsewhere

    @precondition(lambda self: self.open)
    @rule()
    def is_killed(self) -> None:
        self._killed(None)

    @precondition(lambda self: self.open)
    @rule(sizes=SIZES)
    def is_killed_while_it_appends(self, sizes: list[int]) -> None:
        self._killed(self._batch(sizes))

    def _killed(self, records: list[bytes] | None) -> None:
        assert isinstance(self.owner, Elsewhere)
        done = self.owner.kill(records)
        self.owner.end()
        self.owner = self.owner_type()
        if records is not None and self.replaced is not None:
            self._killed_while_replacing(records, done)
        elif records is not None:
            self.twin.append((records, done))
            self.open = False
        else:
            self._given_up()

    def _killed_while_replacing(self, records: list[bytes], done: bool) -> None:
        """Either the old log is there, as a whole, or the new one."""
        self.open = False
        found = self.loop.run_until_complete(contents(open_storage(self.location)))
        if found == records:
            self.twin = [(records, True)]
        else:
            assert not done, "a log that was promised to be replaced is still the old one"
            assert self.replaced is not None
            self.twin = self._agrees(found, self.replaced)
        self.replaced = None
