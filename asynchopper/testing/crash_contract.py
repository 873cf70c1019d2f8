"""What a backend that keeps its logs in files has to keep through every crash, as tests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from asynchopper.errors import AsynchopperError
from asynchopper.storage import Storage, open_storage
from asynchopper.testing.crashes import CrashState, Recording
from asynchopper.testing.logs import batch, header, opened, record
from asynchopper.testing.system import WithoutSync

Batches = list[list[bytes]]


def _plan() -> Batches:
    """Batches of one and of several records, some over page ends, one over several pages."""
    plan = [[header()], batch(0), [record(3)], batch(1, of=5), [record(11, 6000), record(12), record(13, 3000)]]
    return [*plan, [record(14)], batch(5), [record(18, 20_000)], [record(19)]]


class Unsafe(AssertionError):
    """A crash state that breaks a promise."""


class CrashContract:
    """Derive from it, and give `location`. The backend has to write through the functions of `os` (see `testing.system`).

    Each test records a history, rebuilds every state that a kill and a power cut may leave of it, and opens each: no record
    that was promised is lost, none is invented, no batch is there in part, and the log goes on from there.
    """

    power_cuts: ClassVar[bool] = True
    """Whether the backend promises to survive them."""

    draws: int = 6
    """How many random choices of what arrived are tried at each moment, beside the systematic ones."""

    def location(self, root: Path) -> str:
        """The path or URL of a log below `root`; always the same one."""
        raise AssertionError(f"{type(self).__name__} has to give `location`")

    def test_a_new_log(self, tmp_path: Path) -> None:
        check_all(self, self.record_new(tmp_path / "run"), tmp_path / "state")

    def test_a_log_that_is_continued_after_a_kill(self, tmp_path: Path) -> None:
        for i, recording in enumerate(self.record_continued(tmp_path)):
            check_all(self, recording, tmp_path / f"state{i}")

    def test_a_log_that_is_replaced(self, tmp_path: Path) -> None:
        check_all(self, self.record_replaced(tmp_path / "run"), tmp_path / "state", [_plan()[:4], _new_plan()])

    # -- the histories

    def record_new(self, root: Path) -> Recording:
        root.mkdir()
        with Recording(root) as recording:
            asyncio.run(_write(open_storage(self.location(root)), recording, _plan()))
        return recording

    def record_continued(self, tmp_path: Path) -> Iterator[Recording]:
        """Over what kills have left (torn writes, whole ones that were not synced): opened again, and written on."""
        before = self.record_new(tmp_path / "before")
        promised = [state for state in before.kills() if state.promised is not None]
        torn = [state for state in promised if state.torn]
        whole = [state for state in promised if state.unsynced]
        for i, state in enumerate([torn[0], torn[len(torn) // 2], torn[-1], whole[len(whole) // 2], whole[-1]]):
            root = tmp_path / f"continued{i}"
            state.build(root)
            with Recording(root, after=state) as recording:
                asyncio.run(_write(open_storage(self.location(root)), recording, _plan(), state.promised))
            yield recording

    def record_replaced(self, root: Path) -> Recording:
        root.mkdir()
        asyncio.run(_write(open_storage(self.location(root)), None, _plan()[:4]))
        with Recording(root) as recording:
            recording.promise((0, 4))
            asyncio.run(_write(open_storage(self.location(root)), recording, _new_plan(), (1, 0), overwrite=True))
        return recording


def _new_plan() -> Batches:
    return [[header(), *batch(7), record(99, 9000)], batch(8), batch(9)]


async def _write(
    storage: Storage,
    recording: Recording | None,
    plan: Batches,
    done: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Appends what of a plan is not there yet, promising after each batch which plan, and how many of its batches."""
    found = await opened(storage, overwrite=overwrite)
    which = done[0] if done else 0
    at = _batches(found, plan)
    assert at is not None
    if recording is not None and not overwrite and at:
        recording.promise((which, at))  # what was read is durable from here on
    for i, records in enumerate(plan[at:], at + 1):
        await storage.append(records)
        if recording is not None:
            recording.promise((which, i))
    await storage.close()


def _batches(found: list[bytes], plan: Batches) -> int | None:
    """How many whole batches of a plan these records are; `None` when they are something else."""
    size = 0
    for i in range(len(plan) + 1):
        if size == len(found):
            return i if found == [r for records in plan[:i] for r in records] else None
        size += len(plan[i]) if i < len(plan) else 0
    return None


def check_all(
    contract: CrashContract, recording: Recording, root: Path, plans: list[Batches] | None = None
) -> dict[str, int]:
    """Opens every crash state of a recording, below `root`; gives how many there were. Raises for the first unsafe one."""
    counts = {"kill": 0, "power": 0}
    root.mkdir()

    async def check() -> None:
        states = [*recording.kills(), *(recording.power_cuts(draws=contract.draws) if contract.power_cuts else ())]
        for state in states:
            place = root / "now"
            state.build(place)
            counts[state.kind] += 1
            try:
                await _check(contract.location(place), state, plans or [_plan()])
            except (AssertionError, AsynchopperError) as e:
                raise Unsafe(f"{state}: {type(e).__name__}: {e}") from e

    log = logging.getLogger("asynchopper")  # each cut is said, and there are thousands
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with WithoutSync(root):
            asyncio.run(check())
    finally:
        log.setLevel(level)
    return counts


async def _check(location: str, state: CrashState, plans: list[Batches]) -> None:
    which, promised = state.promised or (0, 0)
    storage = open_storage(location)
    if promised:
        reader = open_storage(location)
        _judge(await opened(reader, readonly=True), which, promised, plans)
        await reader.close()
    found = await opened(storage)
    plan, there = _judge(found, which, promised, plans)
    rest = [r for records in plan[there:] for r in records] or [record(1000)]
    await storage.append(rest)
    await storage.append([record(1001)])
    await storage.close()
    again = open_storage(location)
    gone_on = await opened(again)
    await again.close()
    assert gone_on == [*found, *rest, record(1001)], "the log does not go on from what was there"


def _judge(found: list[bytes], which: int, promised: int, plans: list[Batches]) -> tuple[Batches, int]:
    """Which plan this is, and how far it goes."""
    for later in range(which, len(plans)):
        there = _batches(found, plans[later])
        if there is not None and there >= (promised if later == which else 1):
            return plans[later], there
    there = _batches(found, plans[which])
    assert there is not None, "records are there that nobody wrote in this order, or a part of a batch"
    raise AssertionError(f"of {promised} batches that were promised, {there} are there")
