"""The contracts catch backends and samplers that are broken on purpose, each by the test that names its fault."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from asynchopper.errors import AsynchopperError, StorageError
from asynchopper.samplers.base import View
from asynchopper.space import Generator, Space
from asynchopper.storage import Entry, MemoryStorage, check_presence
from asynchopper.testing import ExclusiveStorageContract, SamplerContract, samplers, storages
from asynchopper.trial import Proposal


class Forgets(MemoryStorage):
    """Keeps the latest batch to itself until the next one."""

    _kept: ClassVar[dict[str, list[bytes]]] = {}

    async def append(self, records: Sequence[bytes]) -> None:
        await super().append(self._kept.pop(self.name, []))
        self._kept[self.name] = list(records)


class Reorders(MemoryStorage):
    async def append(self, records: Sequence[bytes]) -> None:
        await super().append(sorted(records))


class Rewrites(MemoryStorage):
    async def append(self, records: Sequence[bytes]) -> None:
        await super().append([record.replace(b"-0.0", b"0.0") for record in records])


class Misnumbers(MemoryStorage):
    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        async for portion in super().read():
            yield [Entry(seq + 1, data) for seq, data in portion]


class Splits(MemoryStorage):
    """Readers see a part of a batch."""

    async def append(self, records: Sequence[bytes]) -> None:
        import asyncio

        await super().append(records[:1])
        await asyncio.sleep(0)
        await super().append(records[1:])


class TruncatesAtOpen(MemoryStorage):
    async def open(self, *, overwrite: bool = False, **words: Any) -> None:
        await super().open(overwrite=overwrite, **words)
        if overwrite:
            self._logs.pop(self.name, None)


class MakesLogs(MemoryStorage):
    """Opening leaves something that counts as a log."""

    async def open(self, **words: Any) -> None:
        await super().open(**words)
        self._logs.setdefault(self.name, [b"{}"]).clear()
        self._logs[self.name].append(b'{"kind":"made"}')


class IgnoresNever(MemoryStorage):
    async def open(self, *, resume: Any = "auto", **words: Any) -> None:
        await super().open(resume="auto" if resume == "never" else resume, **words)


class IgnoresMust(MemoryStorage):
    async def open(self, *, resume: Any = "auto", **words: Any) -> None:
        await super().open(resume="auto", **words)


class WritesWhenReading(MemoryStorage):
    async def append(self, records: Sequence[bytes]) -> None:
        self._state = "owner" if self._state == "reader" else self._state
        await super().append(records)


class LocksNobodyOut(MemoryStorage):
    async def open(self, **words: Any) -> None:
        self._held.discard(self.name)
        await super().open(**words)


class KeepsTheLock(MemoryStorage):
    async def close(self) -> None:
        self._state = "closed"


class LocksReadersOut(MemoryStorage):
    async def open(self, *, readonly: bool = False, **words: Any) -> None:
        if readonly and self.name in self._held:
            raise StorageError("in use")
        await super().open(readonly=readonly, **words)


class HoldsAfterARefusal(MemoryStorage):
    async def open(self, *, readonly: bool = False, **words: Any) -> None:
        await super().open(readonly=readonly, **words)
        await self.close()
        if not readonly:
            self._held.add(self.name)
            self._state = "owner"
            check_presence(bool(self._logs.get(self.name)), self.location, words.get("resume", "auto"), False, False)


class TalksALot(MemoryStorage):
    def describe(self) -> str:
        return f"{self.location}\nkept in memory"


class SalvagesNothing(MemoryStorage):
    async def salvage(self) -> AsyncIterator[Sequence[Any]]:
        return
        yield


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgets, "a_record_is_durable_when_append_returns"),
        (Reorders, "large_records_and_large_batches"),
        (Rewrites, "records_come_back_byte_for_byte"),
        (Misnumbers, "a_new_log_is_empty_and_takes_records"),
        (Splits, "readers_see_whole_batches_and_change_nothing"),
        (Splits, "a_cancelled_append_is_there_wholly_or_not_at_all"),
        (TruncatesAtOpen, "overwriting_replaces_with_the_first_append_and_not_before"),
        (MakesLogs, "naming_a_log_makes_none"),
        (IgnoresNever, "resume_never_refuses_a_log_and_leaves_it"),
        (IgnoresMust, "resume_must_and_readonly_want_a_log"),
        (WritesWhenReading, "a_reader_cannot_append"),
        (LocksNobodyOut, "a_second_owner_is_refused_at_once_and_by_name"),
        (KeepsTheLock, "a_log_goes_on_in_another_loop_and_another_instance"),
        (LocksReadersOut, "readers_hold_nobody_up"),
        (HoldsAfterARefusal, "a_log_goes_on_in_another_loop_and_another_instance"),
        (TalksALot, "it_says_where_it_is_in_one_line"),
        (SalvagesNothing, "salvage_gives_all_of_a_whole_log"),
    ],
)
def test_a_broken_backend_is_caught(monkeypatch: pytest.MonkeyPatch, broken: type[MemoryStorage], test: str) -> None:
    monkeypatch.setattr(MemoryStorage, "_logs", {})
    monkeypatch.setattr(MemoryStorage, "_held", set())
    location = f"memory://{uuid.uuid4().hex}"
    getattr(ExclusiveStorageContract(), f"test_{test}")(location)
    monkeypatch.setattr(storages, "open_storage", broken.from_url)
    with pytest.raises((AssertionError, AsynchopperError, pytest.fail.Exception)):
        getattr(ExclusiveStorageContract(), f"test_{test}")(f"{location}-broken")


class Sound:
    def propose(self, view: View, rng: Generator) -> Proposal:
        return Proposal(view.space.sample(rng), "seeding")


class Remembers(Sound):
    def __init__(self) -> None:
        self.count = 0

    def propose(self, view: View, rng: Generator) -> Proposal:
        self.count += 1
        rng.random(self.count)
        return super().propose(view, rng)


class DrawsElsewhere(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        random.random()
        return super().propose(view, rng)


class DrawsFromNumpy(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        np.random.random()
        return super().propose(view, rng)


class ChangesTheState(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        view.state.next_id += 1
        return super().propose(view, rng)


class LeavesTheSpace(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        return Proposal(tuple(7.5 if isinstance(v, float) else v for v in view.space.sample(rng)), "seeding")


class NeedsTrials(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        return Proposal(view.state.table.row(0), "local")


class AlwaysTheSame(Sound):
    def propose(self, view: View, rng: Generator) -> Proposal:
        return super().propose(view, np.random.Generator(np.random.Philox(1)))


class CountsAcrossProcesses(Sound):
    """Keyed by what no restart brings back: the identity of an object."""

    def propose(self, view: View, rng: Generator) -> Proposal:
        return super().propose(view, np.random.Generator(np.random.Philox(id(view.state))))


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Remembers, "proposing_is_pure"),
        (DrawsElsewhere, "proposing_is_pure"),
        (DrawsFromNumpy, "proposing_is_pure"),
        (ChangesTheState, "proposing_is_pure"),
        (LeavesTheSpace, "proposals_are_legal"),
        (NeedsTrials, "proposals_are_legal"),
        (AlwaysTheSame, "different_draws_differ"),
        (CountsAcrossProcesses, "a_restart_changes_no_proposal"),
    ],
)
def test_a_broken_sampler_is_caught(broken: type[Sound], test: str) -> None:
    space = Space(samplers._SPACES["scalars"])
    getattr(SamplerContract(), f"test_{test}")(Sound(), space)
    with pytest.raises((AssertionError, AsynchopperError, LookupError)):
        getattr(SamplerContract(), f"test_{test}")(broken(), space)
