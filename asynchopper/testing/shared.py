"""What a backend that many workers share has to keep, as tests. See `asynchopper.storage.SharedStorage`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import orjson
import pytest

from asynchopper.errors import CheckpointLocked, StorageError
from asynchopper.storage import Ask, Grant, Reply, SharedStorage, Tell, open_storage
from asynchopper.testing.logs import header, written
from asynchopper.testing.storages import run
from asynchopper.testing.turns import OLD, RUN, ask, back, saved, tell


class SharedStorageContract:
    """Derive from it beside one of the contracts for logs, and give the fixture `location`."""

    @pytest.fixture
    def location(self) -> str:
        """Where a log can be made that is shared."""
        pytest.fail(f"{type(self).__name__} has to give the fixture `location`")

    def worker(self, location: str) -> SharedStorage:
        storage = open_storage(location)
        assert isinstance(storage, SharedStorage)
        assert storage.shared
        return storage

    @contextlib.asynccontextmanager
    async def fleet(self, location: str, size: int, limit: int | None = None) -> AsyncIterator[list[SharedStorage]]:
        """Workers who have joined and read."""
        workers = [self.worker(location) for _ in range(size)]
        try:
            for worker in workers:
                joined = await worker.join()
                if not joined.seq:
                    assert await worker.create([header(), RUN], limit)
                else:
                    await _records(worker)
            yield workers
        finally:
            for worker in workers:
                await worker.close()

    def test_the_first_makes_the_search_and_the_others_find_it(self, location: str) -> None:
        async def work() -> None:
            a, b, c = (self.worker(location) for _ in range(3))
            assert (await a.join()).seq == 0
            assert (await b.join()).seq == 0
            assert await b.create([header(), RUN], 5)
            assert not await a.create([header(), RUN], 7)
            seen = [await a.join(), await c.join()]
            assert [j.seq for j in seen] == [2, 2]
            assert len({0, *(j.number for j in seen)}) == 3, "two workers have one number"
            assert [j.others for j in seen] == [1, 2]
            assert await _records(a) == await _records(c) == [orjson.loads(header()), orjson.loads(RUN)]
            for worker in (a, b, c):
                await worker.close()

        run(work())

    def test_trials_are_numbered_and_written_as_they_were_asked(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2) as (a, b):
                first = await a.turn([], [ask(0), ask(1)])
                second = await b.turn([], [ask(2)])
                assert [*first.grants, *second.grants] == [Grant(0, 1), Grant(1, 1), Grant(2, 1)]
                await a.turn([tell(Grant(1, 1), 4.0)], [ask(3)])
                expected = [
                    ("asked", 0, 0.5),
                    ("asked", 1, 1.5),
                    ("asked", 2, 2.5),
                    ("told", 1, 4.0),
                    ("asked", 3, 3.5),
                ]
                assert [_short(r) for r in (await self._log(location))[2:]] == expected

        run(work())

    def test_news_are_all_that_others_wrote_in_order(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 3) as workers:
                seen: list[list[Any]] = [[], [], []]
                for i in range(30):
                    n = i * 7 % 3
                    before = await workers[n].turn([], [ask(i)])
                    seen[n] += _followed(before, i)
                for n, worker in enumerate(workers):
                    seen[n] += _followed(await worker.turn([], []), None)
                log = [_short(r) for r in (await self._log(location))[2:]]
                assert seen == [log, log, log]

        run(work())

    def test_a_turn_that_is_said_is_a_turn(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2, limit=4) as (a, b):
                first = await _said(a, [], [ask(0), ask(1)])
                assert first.grants == [Grant(0, 1), Grant(1, 1)]
                second = await _said(b, [], [ask(2, "k")])
                assert [_short(orjson.loads(e.data)) for e in second.news] == [("asked", 0, 0.5), ("asked", 1, 1.5)]
                third = await _said(a, [tell(Grant(1, 1), 4.0), tell(Grant(9, 1))], [ask(3, "k"), ask(4), ask(5)])
                assert (list(third.kept), third.grants) == ([1, 0], ["known", Grant(3, 1), "full"])
                assert (await b.turn([], [])).told == third.told == 1
                assert [_short(r) for r in (await self._log(location))[-2:]] == [("told", 1, 4.0), ("asked", 3, 4.5)]
            assert not a.say([], [], lambda reply: None), "it is closed"

        run(work())

    def test_the_limit_is_kept_whoever_asks(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 5, limit=40) as workers:
                told = await asyncio.gather(*(_evaluate_all(worker, n) for n, worker in enumerate(workers)))
                ids = [id for mine in told for id in mine]
                assert sorted(ids) == list(range(40))
                assert (await workers[0].turn([], [ask(99)])).grants == ["full"]
                log = [r["id"] for r in await self._log(location) if r["kind"] == "told"]
                assert sorted(log) == list(range(40))

        run(work())

    def test_a_trial_is_told_once(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2, limit=3) as (a, b):
                (grant,) = (await a.turn([], [ask(0)])).grants
                assert isinstance(grant, Grant)
                assert (await a.turn([tell(grant)], [])).kept == [1]
                for worker in (a, b):
                    assert list((await worker.turn([tell(grant, 9.0), back(grant), saved(grant)], [])).kept) == [
                        0,
                        0,
                        0,
                    ]
                assert (await b.turn([tell(Grant(77, 1))], [])).kept == [0]
                assert [r["value"] for r in await self._log(location) if r["kind"] == "told"] == [1.0]

        run(work())

    def test_what_is_given_back_comes_before_anything_new(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2, limit=2) as (a, b):
                grants = (await a.turn([], [ask(0), ask(1), ask(2)])).grants
                assert grants == [Grant(0, 1), Grant(1, 1), "full"]
                assert (await b.turn([], [OLD])).grants == ["full"]
                assert (await a.turn([saved(Grant(0, 1)), back(Grant(0, 1))], [])).kept == [1, 1]
                again = await b.turn([], [ask(7), OLD])
                assert again.grants == [Grant(0, 2), "full"]
                assert _short((await self._log(location))[-1]) == ("asked", 0, 0.5), (
                    "another candidate under this number"
                )
                assert (await a.turn([back(Grant(0, 1)), saved(Grant(0, 1))], [])).kept == [0, 0]
                late = await a.turn([tell(Grant(0, 1), 3.0)], [])  # it had the result after all
                assert late.kept == [2]
                assert (await b.turn([tell(Grant(0, 2), 4.0)], [])).kept == [0]
                assert [r["value"] for r in await self._log(location) if "value" in r] == [3.0]

        run(work())

    def test_without_a_limit_an_old_trial_is_given_or_nothing(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2) as (a, b):
                assert (await a.turn([], [OLD])).grants == ["none"]
                await a.turn([], [ask(0)])
                await a.turn([back(Grant(0, 1))], [])
                assert (await b.turn([], [OLD, OLD])).grants == [Grant(0, 2), "none"]

        run(work())

    def test_a_candidate_that_another_worker_has_just_asked_is_refused(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2) as (a, b):
                assert (await a.turn([], [ask(0, "k"), ask(1, "l"), ask(0, "k")])).grants == [
                    Grant(0, 1), Grant(1, 1), "known",
                ]  # fmt: skip
                refused = await b.turn([], [ask(0, "k"), ask(2, "m")])
                assert refused.grants == ["known", Grant(2, 1)]
                assert len(refused.news) == 2, "why it was refused is not among the news"

        run(work())

    def test_who_leaves_gives_back_and_the_last_one_says_so(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 3, limit=9) as (a, b, c):
                await a.turn([], [ask(0), ask(1)])
                await a.leave(_ended("sigterm"), False)
                assert (await b.turn([], [OLD])).grants == [Grant(0, 2)]
                await b.close()  # leaving without a word does the same
                assert list((await c.turn([], [OLD, OLD])).grants) == [Grant(0, 3), Grant(1, 2)]
                await c.leave(_ended("stopped"), False)
                ended = [r["reason"] for r in await self._log(location) if r["kind"] == "ended"]
                assert ended == ["stopped"]

        run(work())

    def test_the_end_is_said_once(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 3, limit=1) as (a, b, c):
                await a.turn([], [ask(0)])
                await a.turn([tell(Grant(0, 1))], [])
                await a.leave(_ended("steps"), True)
                await b.leave(_ended("steps"), True)
                await c.leave(_ended("steps"), True)
                assert [r["kind"] for r in await self._log(location)][2:] == ["asked", "told", "ended"]

        run(work())

    def test_a_run_begins_on_what_is_known_or_not_at_all(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2, limit=1) as (a, b):
                runs = (await b.turn([], [])).runs
                begun = await a.begin(RUN, 2, runs)
                assert begun.kept == [1]
                stale = await b.begin(RUN, 5, runs)
                assert stale.kept == [0]
                assert [_short(orjson.loads(e.data)) for e in stale.news] == [("run", None, None)]
                assert (await a.turn([], [ask(0), ask(1), ask(2)])).grants == [Grant(0, 1), Grant(1, 1), "full"]
                assert (await b.begin(RUN, 3, stale.runs)).kept == [1]
                assert (await a.turn([], [ask(2)])).grants == [Grant(2, 1)]

        run(work())

    def test_one_owner_or_many_workers(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2):
                with pytest.raises(CheckpointLocked):
                    await open_storage(location).open()
                with pytest.raises(CheckpointLocked):
                    await self.worker(location).join(overwrite=True)
                assert len(await self._log(location)) == 2
            owner = open_storage(location)
            await owner.open()
            with pytest.raises(CheckpointLocked):
                await self.worker(location).join()
            await owner.close()
            with pytest.raises(StorageError, match="already"):
                await self.worker(location).join(resume="never")
            with pytest.raises(StorageError, match="no checkpoint"):
                await self.worker(location + "-elsewhere").join(resume="must")

        run(work())

    def test_a_log_of_one_owner_is_counted_and_goes_on(self, location: str) -> None:
        async def work() -> None:
            asked = [b'{"kind":"asked","id":%d,"attempt":1,' % i + ask(i).data for i in range(4)]
            told = [tell(Grant(2, 1)).data, tell(Grant(0, 1)).data]
            await written(open_storage(location), [header(), RUN, *asked, *told])
            a, b = self.worker(location), self.worker(location)
            for worker in (a, b):
                joined = await worker.join()
                assert (joined.seq, joined.counted) == (8, False)
                assert len(await _records(worker)) == 8
            for worker in (a, b):
                await worker.index(2, 4, [(1, 1, 3), (3, 1, 5)], 12.5)
            begun = await a.begin(RUN, 5, joined.runs)
            assert begun.told == 2
            assert begun.elapsed >= 12.5
            assert (await b.turn([], [ask(9)] * 4)).grants == [Grant(1, 2), Grant(3, 2), Grant(4, 1), "full"]
            for worker in (a, b):
                await worker.close()
            plain = open_storage(location)  # and back again
            await plain.open()
            async for _ in plain.read():
                pass
            await plain.append([tell(Grant(1, 2)).data])
            await plain.close()
            assert not (await a.join()).counted
            await a.close()

        run(work())

    def test_waiting_ends_with_the_news_or_with_the_time(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 2) as (a, b):
                waiting = asyncio.create_task(a.wait(50.0))
                await b.wait(0.05)
                assert not waiting.done()
                await b.turn([], [ask(0)])
                async with asyncio.timeout(10.0):
                    await waiting
                assert len((await a.turn([], [])).news) == 1
                waiting = asyncio.create_task(a.wait(50.0))
                await b.wait(0.01)
                waiting.cancel()
                await asyncio.wait([waiting])
                assert waiting.cancelled()

        run(work())

    def test_a_cancelled_turn_is_done_wholly_or_not_at_all(self, location: str) -> None:
        async def work() -> None:
            async with self.fleet(location, 1) as (a,):
                for i in range(24):
                    turn = asyncio.create_task(a.turn([], [ask(3 * i), ask(3 * i + 1), ask(3 * i + 2)]))
                    for _ in range(i % 8):
                        await asyncio.sleep(0)
                    turn.cancel()
                    await asyncio.wait([turn])
                await a.turn([], [])
                asked = [r["params"]["x"] for r in (await self._log(location))[2:]]
                assert all(asked[i] + 1 == asked[i + 1] for i in range(len(asked)) if i % 3 != 2)
                assert len(asked) % 3 == 0

        run(work())

    async def _log(self, location: str) -> list[dict[str, Any]]:
        reader = open_storage(location)
        await reader.open(readonly=True)
        try:
            return await _records(reader)
        finally:
            await reader.close()


async def _records(storage: Any) -> list[dict[str, Any]]:
    return [orjson.loads(entry.data) async for portion in storage.read() for entry in portion]


def _short(r: dict[str, Any]) -> tuple[Any, ...]:
    return r["kind"], r.get("id"), r.get("value", r.get("params", {}).get("x"))


def _followed(reply: Reply, own: int | None) -> Sequence[tuple[Any, ...]]:
    """What a worker knows after a reply: the news, and then what it asked itself."""
    news = [_short(orjson.loads(entry.data)) for entry in reply.news]
    if own is None or reply.whole:
        return news
    return [*news, ("asked", cast("Grant", reply.grants[0]).id, own + 0.5)]


async def _said(worker: SharedStorage, tells: Sequence[Tell], asks: Sequence[Ask]) -> Reply:
    """A turn without a task, where there is such a thing."""
    heard: asyncio.Future[Reply | StorageError] = asyncio.get_running_loop().create_future()
    if not worker.say(tells, asks, heard.set_result):  # a second call would raise
        return await worker.turn(tells, asks)
    assert not heard.done(), "it is heard from the loop"
    reply = await heard
    assert isinstance(reply, Reply)
    return reply


def _ended(reason: str) -> bytes:
    return orjson.dumps({"kind": "ended", "reason": reason, "elapsed": 0.0})


async def _evaluate_all(worker: SharedStorage, seed: int) -> list[int]:
    """Takes what it gets until nothing is left."""
    mine: list[Tell] = []
    ids: list[int] = []
    for i in range(200):
        reply = await worker.turn(mine, [ask(1000 * seed + 2 * i + k) for k in range(2)])
        assert all(kept == 1 for kept in reply.kept)
        ids += [t.id for t in mine]
        mine = [tell(g) for g in reply.grants if isinstance(g, Grant)]
        if not mine:
            break
    return ids


__all__ = ["SharedStorageContract"]
