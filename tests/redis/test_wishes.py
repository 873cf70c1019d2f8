"""What a worker asks for is a wish: it is granted once among all, and what becomes of the ones that are not."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import orjson
import pytest
from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from asynchopper.errors import CheckpointLocked, SpaceError
from asynchopper.shared import SharedJournal
from tests.redis.fleet import log_of
from tests.redis.proxy import Proxy
from tests.redis.test_storage import key
from tests.servers import Server

BOUND_S = 60
QUIET: dict[str, Any] = {"quiet": True, "handle_signals": False}


def a_search() -> ah.Search:
    return ah.Search(x=ah.float(0, 1))


def evaluated(server: Server, name: str) -> list[bytes]:
    """The candidates that were asked for the first time."""
    return [orjson.dumps(r["params"]) for r in log_of(server, name) if r["kind"] == "asked" and r["attempt"] == 1]


async def work(session: ah.Session) -> None:
    """Tells all that can be asked."""
    while (trial := await session.ask()) is not None:
        await session.tell(trial, 1.0)


async def asked_in_vain(session: ah.Session) -> None:
    """Begins to ask, and gives up before the answer is there."""
    asking = asyncio.ensure_future(session.ask())
    for _ in range(2):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])


async def test_no_candidate_is_evaluated_twice_where_objectives_save_their_state(server: Server, name: str) -> None:
    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await trial.save(1)
        return float(-abs(params["x"] - 17))

    words: dict[str, Any] = {"endless": True, "concurrency": 16, "checkpoint_path": server.url(name), **QUIET}
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*[ah.Search(x=ah.int(1, 300)).run(objective, **words) for _ in range(3)])
    found = evaluated(server, name)
    assert len(found) == len(set(found)) == 300


async def test_no_candidate_is_evaluated_twice_where_many_ask_at_once(server: Server, name: str) -> None:
    words: dict[str, Any] = {"endless": True, "checkpoint_path": server.url(name)}
    searches = [ah.Search(x=ah.int(1, 200)) for _ in range(2)]
    async with searches[0].session(**words) as one, searches[1].session(**words) as other, asyncio.timeout(BOUND_S):
        await asyncio.gather(*[work(session) for session in (one, other) for _ in range(8)])
    found = evaluated(server, name)
    assert len(found) == len(set(found)) == 200


async def test_no_candidate_is_evaluated_twice_where_there_is_much_news(server: Server, name: str) -> None:
    words: dict[str, Any] = {"endless": True, "checkpoint_path": server.url(name)}
    busy, late = ah.Search(x=ah.int(1, 2060)), ah.Search(x=ah.int(1, 2060))
    late.enqueue({"x": 2060})
    async with busy.session(**words) as ahead, late.session(**words) as behind, asyncio.timeout(BOUND_S):
        for _ in range(20):
            trials = [t for t in await asyncio.gather(*[ahead.ask() for _ in range(100)]) if t is not None]
            await asyncio.gather(*[ahead.tell(t, 1.0) for t in trials])
        known = {t.params["x"] for t in busy.history}
        found = [t.params["x"] for t in await asyncio.gather(*[behind.ask() for _ in range(5)]) if t is not None]
        assert len(found) == 5 and not known & set(found)
        assert (2060 in found) != (2060 in known), "a guess is not forgotten"


async def test_a_turn_that_was_behind_may_lose_its_reply(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said again without what it had asked, it is answered as it was the first time."""
    async with Proxy(server.port) as proxy, asyncio.timeout(BOUND_S):
        url, far = server.url(name), server.url(name).replace(str(server.port), str(proxy.port))
        busy, late = ah.Search(x=ah.int(1, 100_000)), ah.Search(x=ah.int(1, 100_000))
        async with (
            busy.session(endless=True, checkpoint_path=url) as ahead,
            late.session(endless=True, checkpoint_path=far) as behind,
        ):
            held = [t for _ in range(3) if (t := await behind.ask()) is not None]
            for _ in range(11):
                trials = [t for t in await asyncio.gather(*[ahead.ask() for _ in range(100)]) if t is not None]
                await asyncio.gather(*[ahead.tell(t, 1.0) for t in trials])
            before = RedisStorage._behind

            def lost(self: RedisStorage, reply: Any, news: Any) -> None:
                before(self, reply, news)
                monkeypatch.undo()
                proxy.fault = "replies lost"
                asyncio.get_running_loop().call_later(0.2, setattr, proxy, "fault", "none")

            monkeypatch.setattr(RedisStorage, "_behind", lost)
            found, *_ = await asyncio.gather(
                asyncio.gather(*[behind.ask() for _ in range(4)]), *[behind.tell(t, 2.0) for t in held]
            )
            assert proxy.lost and len({t.params["x"] for t in found if t is not None}) == 4
    told = [r["id"] for r in log_of(server, name) if r["kind"] == "told"]
    assert len(told) == len(set(told)) and {t.id for t in held} <= set(told)


async def test_answers_from_the_history_are_granted_whatever_others_say_meanwhile(server: Server, name: str) -> None:
    words: dict[str, Any] = {"steps": 600, "checkpoint_path": server.url(name), "duplicates": "reuse"}
    searches = [ah.Search(x=ah.int(1, 100)) for _ in range(2)]
    turns = 0
    async with searches[0].session(**words) as one, searches[1].session(**words) as other, asyncio.timeout(BOUND_S):
        await asyncio.gather(*[work(session) for session in (one, other) for _ in range(8)])
        for session in (one, other):
            assert session._ledger is not None and isinstance(session._ledger.journal, SharedJournal)
            turns += session._ledger.journal.turns
            assert not session._ledger.journal.answered and not session._ledger.journal.refused
    told = [r["id"] for r in log_of(server, name) if r["kind"] == "told"]
    assert len(told) == len(set(told)) == 600 and turns < 1200


async def test_a_guess_is_tried_though_whoever_asked_gave_up(server: Server, name: str) -> None:
    words: dict[str, Any] = {"steps": 20, "checkpoint_path": server.url(name)}
    async with a_search().session(**words) as killed:
        await killed.ask()
        await killed.ask()
    search = a_search()
    search.enqueue({"x": 0.123})
    async with search.session(**words) as session:
        await asked_in_vain(session)
        found = []
        while (trial := await session.ask()) is not None:
            found.append(trial.params["x"])
            await session.tell(trial, 1.0)
    assert found.count(0.123) == 1 and len(found) == 20


async def test_all_may_come_with_another_budget_where_nobody_is_at_work(server: Server, name: str) -> None:
    url = server.url(name)
    first = a_search()
    await first.run(
        lambda p: p["x"], steps=50, checkpoint_path=url, callbacks=lambda t: t.id < 10 or first.stop(), **QUIET
    )
    assert first.outcome is not None and first.outcome.reason == "stopped"
    fleet = [a_search() for _ in range(4)]
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*[s.run(lambda p: p["x"], steps=70, checkpoint_path=url, **QUIET) for s in fleet])
    assert [len(s.history) for s in fleet] == [70] * 4


async def test_who_has_only_joined_is_not_at_work_on_any_budget(server: Server, name: str) -> None:
    """As after all were killed: the log says of no end."""
    url = server.url(name)
    storage, gone = RedisStorage(url), a_search().session(steps=5, checkpoint_path=url)
    await gone.__aenter__()
    joined = await storage.join()
    assert (joined.others, joined.begun) == (1, 1)
    with server.client() as client:  # its lease has ended
        worker = client.zrange(key(name, "alive"), 0, 0)[0]
        client.zrem(key(name, "alive"), worker)
    another = RedisStorage(url)
    assert ((joined := await another.join()).others, joined.begun) == (1, 0)
    await another.close()
    async with a_search().session(steps=9, checkpoint_path=url) as session:
        assert await session.ask() is not None
    await storage.close()
    await gone.__aexit__(None, None, None)


async def test_who_may_not_replace_a_search_is_no_worker_in_it(server: Server, name: str) -> None:
    url = server.url(name)
    async with a_search().session(steps=5, checkpoint_path=url):
        with pytest.raises(CheckpointLocked, match=r"is in use by process \d+ on "):
            async with a_search().session(steps=5, checkpoint_path=url, overwrite_checkpoint=True):
                pass
        with server.client() as client:
            assert client.zcard(key(name, "alive")) == 1
    async with a_search().session(steps=5, checkpoint_path=url, overwrite_checkpoint=True):
        pass


async def test_an_ask_that_was_given_up_costs_the_session_nothing(server: Server, name: str) -> None:
    words: dict[str, Any] = {"steps": 10, "checkpoint_path": server.url(name)}
    async with a_search().session(**words) as staying:
        async with a_search().session(**words) as leaving:
            trials = [await leaving.ask() for _ in range(10)]
            for trial in trials[:4]:
                assert trial is not None
                await leaving.tell(trial, 1.0)
            assert await staying.ask() is None
            await asked_in_vain(staying)
        found = [trial.id for _ in range(7) if (trial := await staying.ask()) is not None]
    assert sorted(found) == [4, 5, 6, 7, 8, 9]


async def test_a_guess_that_waited_is_not_evaluated_where_another_worker_has_had_it(server: Server, name: str) -> None:
    words: dict[str, Any] = {"steps": 20, "checkpoint_path": server.url(name)}
    async with a_search().session(**words) as killed:
        await killed.ask()
        await killed.ask()
    one, other = a_search(), a_search()
    for search in (one, other):
        search.enqueue({"x": 0.123})
    async with one.session(**words) as here, other.session(**words) as there:
        old = await here.ask()  # one of the two that were given up, in place of the guess
        await there.ask()
        guess = await there.ask()
        assert old is not None and guess is not None and guess.params == {"x": 0.123}
        await there.tell(guess, 1.0)
        await here.tell(old, 0.0)
        new = await here.ask()
        assert new is not None and new.params != {"x": 0.123}


async def test_who_leaves_a_session_does_not_wait_for_a_server_that_is_away(home: Any, name: str) -> None:
    with Server(home) as server:
        entered = asyncio.Event()

        async def waiting() -> None:
            async with a_search().session(steps=5, checkpoint_path=server.url(name, patience=60)) as session:
                await session.ask()
                entered.set()
                await asyncio.Event().wait()

        working = asyncio.ensure_future(waiting())
        await asyncio.wait_for(entered.wait(), BOUND_S)
        server.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            working.cancel()
            await asyncio.wait([working], timeout=BOUND_S)
            assert working.done() and time.monotonic() - began < 20
        finally:
            server.process.send_signal(signal.SIGCONT)


async def test_a_name_that_no_log_can_hold_is_refused(server: Server, name: str) -> None:
    with pytest.raises(SpaceError, match="cannot be written to a checkpoint"):
        await ah.Search({"x\udc80": ah.float(0, 1)}).run(
            lambda p: 1.0, steps=2, checkpoint_path=server.url(name), **QUIET
        )
