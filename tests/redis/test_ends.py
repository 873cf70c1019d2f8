"""Who ends what: budgets, clocks and trials when workers come and go one after the other."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from asynchopper.errors import StorageError, StudyMismatch
from asynchopper.transfer import copy
from asynchopper.verify import repair, verify
from tests.redis.fleet import Counts, log_of
from tests.redis.proxy import Proxy
from tests.redis.test_faults import Run
from tests.redis.test_storage import key
from tests.servers import Server

SPACE = {"x": ah.float(0, 1), "n": ah.int(1, 9)}


async def finished(session: ah.Session) -> None:
    """Tells all that can be asked."""
    while (trial := await session.ask()) is not None:
        await session.tell(trial, trial.params["x"])


async def test_a_worker_whose_time_is_up_does_not_end_the_budget_of_others(server: Server, name: str) -> None:
    url = server.url(name)
    async with ah.Search(SPACE, seed=1).session(runtime=0.5, checkpoint_path=url) as late:
        trial = await late.ask()
        async with ah.Search(SPACE, seed=1).session(runtime=0.5, checkpoint_path=url) as first:
            while await first.ask() is not None:
                await asyncio.sleep(0.01)
        with pytest.raises(StudyMismatch, match=r"1 other worker is at work on a budget of runtime=0\.5"):
            async with ah.Search(SPACE).session(steps=3, checkpoint_path=url):
                pass
        assert trial is not None
        await late.tell(trial, 1.0)
    async with (fresh := ah.Search(SPACE)).session(steps=3, checkpoint_path=url) as session:
        await finished(session)
    kinds = [
        (r["kind"], r.get("reason") or r.get("budget")) for r in log_of(server, name) if r["kind"] in ("run", "ended")
    ]
    assert kinds[-4:] == [("run", {"runtime": 0.5}), ("ended", "runtime"), ("run", {"steps": 3}), ("ended", "steps")]
    assert fresh.outcome is not None and (fresh.outcome.reason, len(fresh.history)) == ("steps", 4)


async def test_who_leaves_late_says_nothing_of_the_budget_that_came_after_its_own(server: Server, name: str) -> None:
    url = server.url(name)
    late = ah.Search(SPACE, seed=1).session(steps=4, checkpoint_path=url)
    await late.__aenter__()
    async with ah.Search(SPACE).session(steps=4, checkpoint_path=url) as first:
        await finished(first)
    assert await late.ask() is None  # it has heard of its budget's end
    async with ah.Search(SPACE).session(steps=5, checkpoint_path=url) as next_one:
        assert await next_one.ask() is not None
        await late.__aexit__(None, None, None)
        assert [r["kind"] for r in log_of(server, name)][-2:] == ["run", "asked"]
        await finished(next_one)
    assert [r.get("reason") for r in log_of(server, name) if r["kind"] == "ended"] == ["steps", "stopped"]


async def test_a_space_that_is_used_up_is_so_for_its_own_worker_only(server: Server, name: str) -> None:
    url = server.url(name)
    wide = {"o": ah.choice("a", "b", "c"), "x": ah.float(0, 1)}
    async with ah.Search(wide, seed=1).session(steps=20, checkpoint_path=url) as session:
        trial = await session.ask()
        assert trial is not None
        await session.tell(trial, 1.0)
        small = ah.Search({"o": ah.choice("a", "b")}, seed=1)
        await small.run(lambda p: 1.0, steps=20, checkpoint_path=url, quiet=True)
        assert small.outcome is not None and small.outcome.reason == "exhausted"
        third = ah.Search(wide)
        await third.run(lambda p: 1.0, steps=20, checkpoint_path=url, quiet=True)
        assert third.outcome is not None and third.outcome.trials > 10


async def test_a_wider_space_goes_on_where_a_small_one_was_used_up(server: Server, name: str) -> None:
    for options, told in ((("a", "b"), 2), (("a", "b", "c", "d"), 4)):
        search = ah.Search(o=ah.choice(*options))
        await search.run(lambda p: 1.0, steps=20, checkpoint_path=server.url(name), quiet=True)
        assert search.outcome is not None and (search.outcome.reason, len(search.history)) == ("exhausted", told)


async def test_the_clock_stands_still_when_nobody_is_at_work(server: Server, name: str) -> None:
    url = server.url(name)
    async with ah.Search(SPACE).session(runtime=30, checkpoint_path=url) as session:
        assert await session.ask() is not None
    with server.client() as client:
        counts = Counts(client, name)
        counts["tick"] -= 60_000  # a minute passes, which must not count
        counts.write()
    search = ah.Search(SPACE)
    async with search.session(runtime=30, checkpoint_path=url):
        pass
    assert search._journal.state.elapsed < 1.0


async def test_what_is_copied_has_the_time_left_that_it_had(server: Server, name: str, tmp_path: Path) -> None:
    path, url = tmp_path / "run.ckpt", server.url(name)
    async with ah.Search(SPACE).session(runtime=60, checkpoint_path=path) as session:
        assert await session.ask() is not None
        session._open()._began -= 59.8  # so long ago
    await copy(path, url)
    search = ah.Search(SPACE)
    began = time.monotonic()
    async with search.session(runtime=60, checkpoint_path=url) as session:
        while await session.ask() is not None:
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 0.8
    assert search.outcome is not None and search.outcome.reason == "runtime" and search.outcome.seconds < 0.8


async def test_one_worker_that_is_stopped_goes_on_as_if_it_was_not(server: Server, name: str) -> None:
    async def params(*stops: int, url: str | None) -> list[Any]:
        for steps in stops:
            search = ah.Search(SPACE, seed=7)
            async with search.session(steps=30, checkpoint_path=url) as session:
                for _ in range(steps):
                    trial = await session.ask()
                    assert trial is not None
                    await session.tell(trial, trial.params["x"] * trial.params["n"])
        return [t.params for t in search.history]

    whole = await params(30, url=None)
    assert await params(12, 18, url=server.url(name)) == whole


async def test_an_older_copy_of_the_server_s_data_is_noticed_at_the_latest_when_leaving(home: Path, name: str) -> None:
    with Server(home) as server, server.client() as client:
        search = ah.Search(SPACE)
        with pytest.raises(StorageError, match="the server has lost results that it had confirmed"):
            async with search.session(steps=10, checkpoint_path=server.url(name, lease=60)) as session:
                for i in range(10):
                    trial = await session.ask()
                    assert trial is not None
                    await session.tell(trial, 1.0)
                    if i == 4:
                        client.save()
                server.kill()
                server.start()
        assert len(search.history) == 10


async def test_an_older_copy_is_noticed_by_the_next_heartbeat(home: Path, name: str) -> None:
    with Server(home) as server, server.client() as client:
        search = ah.Search(SPACE)
        with pytest.raises(StorageError, match="has lost results that it had confirmed"):
            async with search.session(steps=10, checkpoint_path=server.url(name, lease=0.6)) as session:
                trial = await session.ask()
                client.save()
                assert trial is not None
                await session.tell(trial, 1.0)
                server.kill()
                server.start()
                alarm = search._ledger.journal.storage._alarm  # type: ignore[union-attr]  # it is there inside of a session
                async with asyncio.timeout(20):
                    await alarm.wait()
                await session.ask()


async def test_a_trial_that_this_space_cannot_have_is_not_evaluated_as_another_one(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, seen = server.url(name), []
    async with ah.Search(o=ah.choice("lion", "adam", "sgd"), seed=1).session(steps=3, checkpoint_path=url) as session:
        lion = await session.ask()
        assert lion is not None and lion.params == {"o": "lion"}
    search = ah.Search(o=ah.choice("sgd", "adam"), seed=1)
    await search.run(lambda p: seen.append(p["o"]) or 1.0, steps=3, checkpoint_path=url, quiet=True)  # type: ignore[func-returns-value]  # it gives None
    assert sorted(seen) == ["adam", "sgd"]
    assert {(t.params["o"], t.state) for t in search.history} == {
        ("lion", "pruned"),
        ("adam", "completed"),
        ("sgd", "completed"),
    }
    assert "trial 0, which another worker had begun, has values that this one's space does not have" in caplog.text


async def test_who_was_paused_for_longer_than_its_lease_may_save_and_tell(server: Server, name: str) -> None:
    url = server.url(name)
    async with ah.Search(SPACE, seed=1).session(steps=2, checkpoint_path=url) as paused:
        mine = await paused.ask()
        assert mine is not None
        await mine.save({"epoch": 1})
        with server.client() as client:  # as it would be after a pause
            client.zremrangebyrank(key(name, "alive"), 0, -1)
            client.zadd(key(name, "free"), {"0": 0})
            counts = Counts(client, name)
            counts["free"] += 1
            counts.write()
        async with ah.Search(SPACE).session(steps=2, checkpoint_path=url) as other:
            theirs = await other.ask()
            assert theirs is not None and (theirs.id, theirs.attempt) == (0, 2) and theirs.restored == {"epoch": 1}
            assert await paused.ask() is not None  # and hears that its trial has been begun elsewhere
            await mine.save({"epoch": 2})
            await paused.tell(mine, 0.25)  # the first result counts
            await theirs.save({"epoch": 2})
            await other.tell(theirs, 0.75)
        with pytest.raises(ah.errors.UsageError, match="is not running any more"):
            await mine.save({"epoch": 3})
    told = [r for r in log_of(server, name) if r["kind"] == "told" and r["id"] == 0]
    assert [(r["attempt"], r["value"]) for r in told] == [(1, 0.25)]


@pytest.mark.parametrize("patience", [2, 4])
async def test_patience_is_not_overrun(patience: int, home: Path, name: str) -> None:
    with Server(home) as server:
        run = Run(server.url(name, patience=patience))
        run.at = {20: lambda: server.signal(19)}  # it stands still
        began = time.monotonic()
        with pytest.raises(StorageError, match="could not be used for"):
            await run()
        assert time.monotonic() - began < 2 * patience + 4  # to write, and to leave


async def test_who_is_stopped_does_not_wait_for_a_server_that_is_away(home: Path, name: str) -> None:
    with Server(home) as server:
        run = Run(server.url(name, patience=60))
        loop = asyncio.get_running_loop()

        def hang() -> None:
            server.signal(19)
            loop.call_later(0.2, run.search.stop)

        run.at = {20: hang}
        began = time.monotonic()
        with pytest.raises(StorageError, match="could not be used for"):
            await run(grace=0.5)
        assert time.monotonic() - began < 15


@pytest.mark.parametrize("workers", ["", "&workers=1"])
async def test_a_server_that_is_slow_gets_the_last_results(workers: str, server: Server, name: str) -> None:
    async with Proxy(server.port) as proxy:
        run = Run(f"redis://127.0.0.1:{proxy.port}/0?search={name}{workers}", concurrency=2)

        def slow() -> None:
            proxy.lag_s = 0.8
            run.search.stop()

        run.at = {20: slow}
        await run(grace=0.2)
        assert run.search.outcome is not None and run.search.outcome.reason == "stopped"
        known = len(run.search.history)
    fresh = ah.Search({"x": ah.float(0, 1)})
    await fresh.load(server.url(name))
    assert len(fresh.history) == known >= 18


async def test_a_server_that_came_back_with_other_settings_is_looked_at_again(home: Path, name: str) -> None:
    with Server(home, appendonly="yes", appendfsync="always") as server:
        run = Run(server.url(name, durability="everysec", patience=5))

        def restart() -> None:
            server.kill()
            server.settings["appendfsync"] = "no"
            server.start()

        run.at = {20: restart}
        with pytest.raises(StorageError, match="durability='everysec' needs appendfsync everysec, or always; it is no"):
            await run()


async def test_what_is_left_of_a_log_can_be_seen_and_kept(server: Server, name: str, tmp_path: Path) -> None:
    run = Run(server.url(name), steps=20)
    await run()
    with server.client() as client:
        log = key(name, "log")
        entries = client.xrange(log)
        client.xdel(log, entries[11][0], entries[-1][0])
    with pytest.raises(StorageError, match="a new log of what is left is made with: asynchopper repair"):
        await ah.Search(SPACE).load(server.url(name))
    report = await verify(server.url(name))
    assert any("record 11 " in said for said in report.damage) and any("the end" in said for said in report.damage)
    await repair(server.url(name), tmp_path / "mended.ckpt")
    await (mended := ah.Search({"x": ah.float(0, 1)})).load(tmp_path / "mended.ckpt")
    assert 15 <= len(mended.history) <= 20


async def test_who_comes_back_to_a_search_that_one_took_for_itself_is_told_so(server: Server, name: str) -> None:
    async def late() -> None:
        async with ah.Search(SPACE, seed=1).session(steps=20, checkpoint_path=server.url(name)) as session:
            trial = await session.ask()
            assert trial is not None
            forgotten(server, name)
            alone = server.url(name, workers=1)
            await ah.Search(SPACE, seed=1).run(lambda p: p["x"], steps=5, checkpoint_path=alone, quiet=True)
            await session.tell(trial, 1.0)

    with pytest.raises(StorageError, match=r"somebody went on with this search alone \(workers=1\)"):
        await late()


@pytest.mark.parametrize("lost", ["meta", "the end"])
async def test_a_search_in_pieces_can_be_mended_and_replaced(
    lost: str, server: Server, name: str, tmp_path: Path
) -> None:
    async def broken() -> str:
        await Run(server.url(name, workers=1), steps=8)()
        with server.client() as client:
            if lost == "meta":
                client.delete(key(name, "meta"))
            else:
                client.xdel(key(name, "log"), client.xrevrange(key(name, "log"), count=1)[0][0])
        return server.url(name)

    url = await broken()
    with pytest.raises(StorageError, match="the server has lost results"):
        await ah.Search(SPACE).run(lambda p: 1.0, steps=3, checkpoint_path=url, quiet=True)
    for storage in (RedisStorage(server.url(name, workers=1)), RedisStorage(url)):
        await storage.open(overwrite=True)  # and then it comes to nothing
        await storage.close()
    report = await repair(url, tmp_path / "mended.ckpt")
    assert report.state.told == 8
    await (other := ah.Search(SPACE)).run(lambda p: 1.0, steps=3, quiet=True)
    await other.save(url)
    await (again := ah.Search(SPACE)).load(url)
    assert len(again.history) == 3
    for alone in ({}, {"workers": 1}):
        await broken()
        search = ah.Search(SPACE)
        url = server.url(name, **alone)
        await search.run(lambda p: 1.0, steps=4, checkpoint_path=url, overwrite_checkpoint=True, quiet=True)
        await (again := ah.Search(SPACE)).load(url)
        assert len(again.history) == 4
        with server.client() as client:
            client.delete(*client.keys(key(name, "*")))


async def test_a_heartbeat_that_cannot_begin_is_tried_again(
    server: Server, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real, again = [], asyncio.run, threading.Event()

    def run(main: Any, **words: Any) -> Any:
        made.append(1)
        if len(made) == 1:
            main.close()
            raise OSError(24, "Too many open files")
        again.set()
        return real(main, **words)

    monkeypatch.setattr("asynchopper_backends.redis_beat.asyncio.run", run)
    async with ah.Search(SPACE).session(steps=5, checkpoint_path=server.url(name, lease=0.6)) as session:
        assert await session.ask() is not None
        assert await asyncio.to_thread(again.wait, 20)
    assert "no heartbeat" in caplog.text


def forgotten(server: Server, name: str) -> None:
    """Everyone's lease is over, as after a long suspension."""
    with server.client() as client:
        client.delete(key(name, "alive"))
        counts = Counts(client, name)
        counts["first"] = counts["live"] = 0
        counts.write()


async def test_who_comes_back_to_another_budget_that_is_spent_ends_with_it(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.url(name)
    async with (search := ah.Search(SPACE, seed=1)).session(steps=20, checkpoint_path=url) as late:
        trial = await late.ask()
        assert trial is not None
        await late.tell(trial, 1.0)
        forgotten(server, name)
        await ah.Search(SPACE, seed=1).run(lambda p: p["x"], steps=5, checkpoint_path=url, quiet=True)
        async with asyncio.timeout(10):
            await finished(late)
    assert len(search.history) == 5 and "others began another budget (steps=5), which is spent" in caplog.text
    assert [r["reason"] for r in log_of(server, name) if r["kind"] == "ended"] == ["steps"]


async def test_who_comes_back_to_a_larger_budget_says_nothing_of_its_end(server: Server, name: str) -> None:
    url = server.url(name)
    late = ah.Search(SPACE, seed=1).session(steps=2, checkpoint_path=url)
    await late.__aenter__()
    trial = await late.ask()
    assert trial is not None
    await late.tell(trial, 1.0)
    forgotten(server, name)
    async with ah.Search(SPACE, seed=1).session(steps=6, checkpoint_path=url) as others:
        again = await others.ask()
        assert again is not None
        await others.tell(again, 1.0)
        await finished(late)  # its own budget is spent
        await late.__aexit__(None, None, None)
        assert "ended" not in [r["kind"] for r in log_of(server, name)]
        await finished(others)
    assert len([r for r in log_of(server, name) if r["kind"] == "told"]) == 6


async def test_who_comes_back_to_a_longer_time_does_not_end_it(server: Server, name: str) -> None:
    url = server.url(name)
    late = ah.Search(SPACE, seed=1).session(runtime=0.3, checkpoint_path=url)
    await late.__aenter__()
    assert await late.ask() is not None
    forgotten(server, name)
    async with ah.Search(SPACE, seed=1).session(runtime=100, checkpoint_path=url) as others:
        assert await others.ask() is not None
        assert await late.ask() is not None  # it is heard again
    while await late.ask() is not None:
        await asyncio.sleep(0.01)
    await late.__aexit__(None, None, None)
    assert "runtime" not in [r.get("reason") for r in log_of(server, name)]
    async with ah.Search(SPACE).session(runtime=100, checkpoint_path=url) as third:
        assert await third.ask() is not None


async def test_what_was_given_back_is_anyones_also_when_its_worker_comes_back(server: Server, name: str) -> None:
    url = server.url(name)
    async with ah.Search(SPACE, seed=1).session(steps=3, checkpoint_path=url) as late:
        trial, other = await late.ask(), await late.ask()
        assert trial is not None and other is not None
        late._open().take_back(trial)
        await late.tell(other, 1.0)
        forgotten(server, name)
        third = await late.ask()
        assert third is not None and (third.id, third.attempt) == (trial.id, 2)
        await late.tell(third, 1.0)
        await finished(late)
