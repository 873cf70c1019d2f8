"""What is particular to a search on a server: whose it is, what is said of the server, and how a loss shows."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from pathlib import Path
from typing import Any

import anyio
import pytest
from asynchopper_backends import redis_label
from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from asynchopper.cli import main
from asynchopper.errors import CheckpointLocked, CheckpointVersionError, StorageError, StudyMismatch, UsageError
from asynchopper.storage import Grant
from asynchopper.testing.logs import header
from asynchopper.testing.turns import OLD, RUN, ask, tell
from tests.redis.fleet import Counts, log_of, told_of
from tests.servers import Server, free_port

PARTS = ("meta", "log", "out", "free", "alive", "ops")


def key(name: str, part: str) -> str:
    return f"asynchopper:{{{name}}}:{part}"


async def joined(server: Server, name: str, **words: Any) -> RedisStorage:
    storage = RedisStorage(server.url(name, **words))
    if not (await storage.join()).seq:
        await storage.create([header(), RUN], None)
    else:
        async for _ in storage.read():
            pass
    return storage


async def search(
    url: str, *, steps: int | None = 10, space: Any = None, direction: Any = "maximize", **words: Any
) -> ah.Search:
    found = words.pop("search", None) or ah.Search(space or {"x": ah.float(0, 1)}, seed=1)
    await found.run(lambda p: p["x"], direction, steps=steps, checkpoint_path=url, quiet=True, **words)
    return found  # type: ignore[no-any-return]  # a Search


# -- leases


async def test_who_was_taken_for_dead_gets_back_what_nobody_has_begun(server: Server, name: str) -> None:
    a, b = await joined(server, name), await joined(server, name)
    await a.turn([], [ask(0), ask(1)])
    with server.client() as client:  # its lease has ended
        client.zadd(key(name, "alive"), {a._me: 1})
        counts = Counts(client, name)
        counts["first"] = 1
        counts.write()
        await b.turn([], [])
        assert client.zcard(key(name, "alive")) == 1
        assert client.zcard(key(name, "free")) == 2
    await a.turn([], [])
    assert (await b.turn([], [OLD])).grants == ["none"], "what its worker has taken up again was given away"
    await a.close()
    await b.close()


async def test_a_restarted_worker_need_not_wait_for_its_former_self(server: Server, name: str) -> None:
    first = await joined(server, name)
    await first.turn([], [ask(0)])
    with server.client() as client:
        (label,) = client.zrange(key(name, "alive"), 0, -1)
        client.hset(key(name, "out"), "0", b"1 2 " + label.replace(b'"born":"', b'"born":"9'))
        client.zadd(key(name, "alive"), {label.replace(b'"born":"', b'"born":"9'): 9e12})
    again = await joined(server, name)
    assert (await again.turn([], [OLD])).grants == [Grant(0, 2)]
    await first.close()
    await again.close()


def test_a_process_that_may_not_be_seen_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = redis_label.label().replace(b'"born":"', b'"born":"9')
    assert redis_label.is_dead(dead)

    def hidden(*_: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", hidden)
    assert not redis_label.is_dead(dead)
    monkeypatch.setattr("os.kill", lambda pid, number: (_ for _ in ()).throw(PermissionError()))
    assert not redis_label.is_dead(dead)
    monkeypatch.setattr("os.kill", lambda pid, number: (_ for _ in ()).throw(ProcessLookupError()))
    assert redis_label.is_dead(dead)


async def test_a_search_whose_making_is_said_again_follows_what_others_wrote_meanwhile(
    server: Server, name: str
) -> None:
    maker = RedisStorage(server.url(name))
    await maker.join()
    once = maker._committed

    async def twice(*words: Any, **more: Any) -> Any:
        await once(*words, **more)
        others.append(await joined(server, name))
        await others[0].turn([], [ask(0)])
        return await once(*words, **more)

    others: list[RedisStorage] = []
    maker._committed = twice  # type: ignore[method-assign]  # as if the first reply was lost
    await maker.create([header(), RUN], None)
    maker._committed = once  # type: ignore[method-assign]  # as it was
    assert [b'"kind":"asked"' in entry.data for entry in (await maker.turn([], [])).news] == [True]
    for storage in (maker, *others):
        await storage.close()


async def test_a_heartbeat_behind_the_goodbye_brings_nobody_back(server: Server, name: str) -> None:
    one, other = await joined(server, name), await joined(server, name)
    late = one._beat_words()
    await one.leave(b'{"kind":"ended","reason":"stopped","elapsed":1.0}', False)
    assert other._link is not None
    assert (await other._link.call(*late))[0][0] == b"ok"
    with server.client() as client:
        assert client.zcard(key(name, "alive")) == 1
    await other.close()


# -- losses


async def test_a_server_that_falls_back_and_goes_on_without_us_is_noticed(server: Server, name: str) -> None:
    a, b = await joined(server, name), await joined(server, name)
    await b.turn([], [])
    with server.client() as client:
        for part in PARTS:
            client.copy(key(name, part), key(name, part) + "-old")
        await a.turn([], [ask(0), ask(1)])
        for part in PARTS:  # a failover to a replica that lagged behind
            client.delete(key(name, part))
            if client.exists(key(name, part) + "-old"):
                client.rename(key(name, part) + "-old", key(name, part))
    await b.turn([], [ask(5), ask(6), ask(7)])  # who had not seen what was lost goes on
    with pytest.raises(ah.StorageError, match="has lost results that it had confirmed"):
        await a.turn([tell(Grant(0, 1))], [])
    await a.close()
    await b.close()


async def test_another_search_in_its_place_is_noticed(server: Server, name: str) -> None:
    a = await joined(server, name)
    with server.client() as client:
        for part in PARTS:
            client.delete(key(name, part))
    b = await joined(server, name)
    with pytest.raises(ah.StorageError, match="replaced the search by another"):
        await a.turn([], [])
    await a.close()
    await b.close()


@pytest.mark.parametrize(("layout", "whose"), [("3", "newer"), ("1", "older")])
async def test_another_layout_is_refused_by_name(layout: str, whose: str, server: Server, name: str) -> None:
    await search(server.url(name))
    with server.client() as client:
        client.hset(key(name, "meta"), "layout", layout)
    with pytest.raises(CheckpointVersionError, match=f"{whose} asynchopper"):
        await search(server.url(name))


async def test_a_newer_format_is_refused_by_name(server: Server, name: str) -> None:
    storage = await joined(server, name + "-2")
    await storage.close()
    newer = RedisStorage(server.url(name))
    await newer.join()
    await newer.create([header().replace(b'"1.0"', b'"9.0"'), RUN], None)
    await newer.close()
    with pytest.raises(CheckpointVersionError):
        await search(server.url(name))


# -- one search, many programs


async def test_a_spent_budget_is_spent_for_who_comes_late(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await search(server.url(name))
    late = await search(server.url(name))
    assert len(late.history) == 10
    assert late.best == first.best
    assert late.outcome is not None
    assert late.outcome.reason == "steps"
    assert "nothing left to do" in caplog.text
    more = await search(server.url(name), steps=5)  # another budget begins on top
    assert len(more.history) == 15
    await search(server.url(name), steps=5, search=more)  # as does the same one for who saw it being spent
    assert len(more.history) == 20
    assert len(told_of(log_of(server, name))) == 20


async def test_a_plain_checkpoint_has_one_owner_and_the_rules_of_a_file(server: Server, name: str) -> None:
    url = server.url(name, workers=1)
    await search(url)
    assert len((await search(url)).history) == 20
    owner = ah.Search({"x": ah.float(0, 1)})
    inside = asyncio.Event()

    async def hold(params: dict[str, Any]) -> float:
        inside.set()
        await asyncio.Event().wait()
        return 0.0

    task = asyncio.create_task(owner.run(hold, steps=1, checkpoint_path=url, quiet=True, grace=0))
    await inside.wait()
    with pytest.raises(CheckpointLocked, match=r"process \d+ on"):
        await search(url)
    with pytest.raises(CheckpointLocked, match=r"process \d+ on"):
        await search(server.url(name))
    task.cancel()
    await asyncio.wait([task])
    fleet = await search(server.url(name), steps=2)  # the interrupted one counts for the budget that is going on
    assert len(fleet.history) == 22


async def test_other_directions_and_budgets_are_refused(server: Server, name: str) -> None:
    url = server.url(name)
    inside, go = asyncio.Event(), asyncio.Event()

    async def hold(params: dict[str, Any]) -> float:
        inside.set()
        await go.wait()
        return 0.0

    task = asyncio.create_task(ah.Search({"x": ah.float(0, 1)}).run(hold, steps=3, checkpoint_path=url, quiet=True))
    await inside.wait()
    with pytest.raises(StudyMismatch, match="started to maximize"):
        await search(url, direction="minimize", steps=3)
    with pytest.raises(StudyMismatch, match=r"budget of steps=3.*steps=4"):
        await search(url, steps=4)
    with pytest.raises(CheckpointLocked):
        await search(url, steps=3, overwrite_checkpoint=True)
    with pytest.raises(ah.StorageError, match="already"):
        await search(url, steps=3, resume="never")
    go.set()
    await task
    other = await search(server.url(name + "-2"))
    with pytest.raises(StudyMismatch, match="another search"):
        await search(url, search=other)


async def test_spaces_may_differ_and_it_is_said(server: Server, name: str, caplog: pytest.LogCaptureFixture) -> None:
    await search(server.url(name))
    wider = await search(server.url(name), steps=4, space={"x": ah.float(0, 2), "y": ah.int(1, 3)})
    assert "the search space has changed" in caplog.text
    assert "y is new" in caplog.text
    assert len(wider.history) == 14
    narrow = await search(server.url(name), steps=3)
    assert len(narrow.history) == 17


async def test_workers_at_once_never_evaluate_a_candidate_twice(server: Server, name: str) -> None:
    seen: list[int] = []

    async def objective(params: dict[str, Any]) -> float:
        seen.append(params["n"])
        await asyncio.sleep(0)
        return float(params["n"])

    workers = [ah.Search({"n": ah.int(0, 59)}, seed=2) for _ in range(6)]
    await asyncio.gather(
        *(w.run(objective, steps=500, checkpoint_path=server.url(name), quiet=True, concurrency=3) for w in workers)
    )
    assert sorted(seen) == list(range(60))
    assert {w.outcome.reason for w in workers if w.outcome} == {"exhausted"}


async def test_a_session_shares_too(server: Server, name: str) -> None:
    a, b = ah.Search({"x": ah.float(0, 1)}), ah.Search({"x": ah.float(0, 1)})
    words: dict[str, Any] = {"steps": 5, "checkpoint_path": server.url(name)}
    async with a.session("minimize", **words) as one, b.session("minimize", **words) as other:
        out = [await one.ask(), await other.ask(), await one.ask(), await other.ask(), await one.ask()]
        assert [t.id for t in out if t] == [0, 1, 2, 3, 4]
        assert await other.ask() is None
        assert out[0] is not None
        await one.tell(out[0], 3.0)
        for session, trial in zip((other, one, other, one), out[1:], strict=True):
            assert trial is not None
            await session.tell(trial, float(trial.id))
        assert await one.ask() is None
    assert sorted(r["value"] for r in told_of(log_of(server, name))) == [1.0, 2.0, 3.0, 3.0, 4.0]


async def test_a_session_in_a_scope_that_is_cancelled_gives_its_trials_back(server: Server, name: str) -> None:
    search, url = ah.Search({"x": ah.float(0, 1)}), server.url(name)
    with anyio.move_on_after(0.5) as scope:
        async with search.session(steps=5, checkpoint_path=url) as session:
            out = [await session.ask() for _ in range(3)]
            await anyio.sleep_forever()
    assert scope.cancelled_caught and all(out)
    began = time.monotonic()
    await search.run(lambda p: p["x"], steps=5, checkpoint_path=url, quiet=True)
    assert time.monotonic() - began < 5, "no lease had to run out"
    assert sorted((t.id, t.attempt) for t in search.history) == [(0, 2), (1, 2), (2, 2), (3, 1), (4, 1)]


async def test_a_budget_in_time_is_the_searchs(server: Server, name: str) -> None:
    async def objective(params: dict[str, Any]) -> float:
        await asyncio.sleep(0.01)
        return 0.0

    first, second = ah.Search({"x": ah.float(0, 1)}), ah.Search({"x": ah.float(0, 1)})
    loop = asyncio.get_running_loop()
    began = loop.time()
    url = server.url(name)
    task = asyncio.create_task(first.run(objective, runtime=2.0, checkpoint_path=url, quiet=True))
    while not len(first.history) > 20:
        await asyncio.sleep(0.01)
    joined_at = loop.time()
    await second.run(objective, runtime=2.0, checkpoint_path=url, quiet=True)
    assert loop.time() - joined_at < 1.95, "it had a budget of its own"
    await task
    assert 1.8 < loop.time() - began < 6.0
    assert {s.outcome.reason for s in (first, second) if s.outcome} == {"runtime"}


async def test_saving_in_the_middle_writes_a_file(server: Server, name: str, tmp_path: Path) -> None:
    found = ah.Search({"x": ah.float(0, 1)}, seed=1)
    path = tmp_path / "snapshot.ckpt"
    calls = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        if calls == 20:
            await found.save(path)
        return float(params["x"])

    await found.run(objective, steps=30, checkpoint_path=server.url(name), quiet=True, concurrency=2)
    loaded = ah.Search({"x": ah.float(0, 1)})
    await loaded.load(path)
    assert 15 <= len(loaded.history) <= 20
    again = ah.Search({"x": ah.float(0, 1)})
    await again.load(server.url(name))
    assert list(again.history.values) == list(found.history.values)
    assert list(again.history.values)[: len(loaded.history)] == list(loaded.history.values)


async def test_what_an_object_knows_goes_into_a_new_shared_search(server: Server, name: str, tmp_path: Path) -> None:
    known = await search(str(tmp_path / "a.ckpt"))
    await search(server.url(name), search=known)
    assert len(known.history) == 20
    other = await search(server.url(name), steps=3)
    assert list(other.history.values)[:20] == list(known.history.values)
    assert len(told_of(log_of(server, name))) == 23


async def test_saved_states_reach_the_next_attempt_elsewhere(server: Server, name: str) -> None:
    got: list[Any] = []

    async def first(params: dict[str, Any], trial: Any) -> float:
        await trial.save({"epoch": 7})
        a.stop()
        await asyncio.Event().wait()
        return 0.0

    async def second(params: dict[str, Any], trial: Any) -> float:
        got.append((trial.id, trial.attempt, trial.restored))
        return 0.0

    a, b = ah.Search({"x": ah.float(0, 1)}), ah.Search({"x": ah.float(0, 1)})
    await a.run(first, steps=2, checkpoint_path=server.url(name), quiet=True, grace=0)
    await b.run(second, steps=2, checkpoint_path=server.url(name), quiet=True)
    assert got == [(0, 2, {"epoch": 7}), (1, 1, None)]


# -- what is said of a server


async def test_a_server_that_may_drop_keys_is_refused(home: Path) -> None:
    with Server(home, maxmemory_policy="allkeys-lru") as server:
        with pytest.raises(ah.StorageError, match="maxmemory-policy"):
            await search(server.url())
        with server.client() as client:
            client.config_set("maxmemory-policy", "volatile-lru")
        await search(server.url())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "memory only: a restart loses everything"),
        ({"save": "3600 1"}, "snapshots only"),
        ({"appendonly": "yes"}, "may lose the last second"),
        ({"appendonly": "yes", "appendfsync": "always"}, "a power cut loses nothing"),
    ],
)
async def test_what_a_power_cut_could_lose_is_said(settings: dict[str, str], said: str, home: Path) -> None:
    with Server(home, **settings) as server:
        storage = RedisStorage(server.url())
        await storage.open()
        assert said in storage.describe()
        assert "no replica" in storage.describe()
        await storage.close()


async def test_what_a_server_cannot_give_is_refused(home: Path) -> None:
    with Server(home) as server:
        for wanted in ("everysec", "always"):
            with pytest.raises(ah.StorageError, match="appendonly yes"):
                await search(server.url(durability=wanted))
        with pytest.raises(ah.StorageError, match="durability='replicated' was not reached"):
            await search(server.url(durability="replicated", patience=1.5))
    with Server(home / "2", appendonly="yes") as server:
        for wanted in ("everysec", "always"):
            await search(server.url(wanted, durability=wanted), steps=2)


async def test_a_user_with_few_rights_is_enough(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(home, requirepass="root", login={"password": "root"}) as server:
        with server.client() as client:
            client.execute_command(
                "ACL SETUSER tuner on >secret ~asynchopper:* +eval +evalsha +@stream +@hash +@sortedset "
                "+del +exists +time +ping +client|setinfo"
            )
        url = f"redis://tuner:secret@127.0.0.1:{server.port}/0?search=it"
        found = await search(url)
        assert len(found.history) == 10
        storage = RedisStorage(url)
        await storage.open(readonly=True)
        assert "unknown" in storage.describe()
        await storage.close()
        for wrong in (url.replace("secret", "s3cr3t"), url.replace("tuner:secret@", "")):
            with pytest.raises(ah.StorageError, match="refuses this user") as raised:
                await search(wrong)
            assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))
        for text in (storage.location, repr(storage), storage.describe(), str(found.checkpoint_path), caplog.text):
            assert "secret" not in text
            assert "127.0.0.1" in text or text is caplog.text


@pytest.mark.parametrize("command", ["hget", "hdel", "xadd", "del", "zadd"])
@pytest.mark.parametrize("alone", ["", "&workers=1"])
async def test_a_user_with_a_right_too_few_is_refused_before_anything_is_touched(
    command: str, alone: str, server: Server, name: str
) -> None:
    url = server.url(name) + alone
    await search(url)
    before = log_of(server, name)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "short", "reset", "on", ">pw", "~*", "&*", "+@all", f"-{command}")
        for words in ({"steps": 20}, {"overwrite_checkpoint": True}):
            with pytest.raises(ah.StorageError, match=f"no permissions to run the '{command}' command"):
                await search(url.replace("//", "//short:pw@"), **words)
            assert log_of(server, name) == before
        client.execute_command("ACL DELUSER short")
    assert len((await search(url, steps=12, search=ah.Search({"x": ah.float(0, 1)}))).history) == 22


def test_urls_that_mean_nothing_are_refused_without_their_password() -> None:
    for url in (
        "redis://u:hunter2@host:1/0", "redis://u:hunter2@host:x/0?search=a", "redis://u:hunter2@host/0?search=a&lease=-1",
        "redis://u:hunter2@host/0?search=a&what=1", "redis://u:hunter2@host/0?search=a&durability=some",
        "redis+sentinel://u:hunter2@host/?search=a", "redis+cluster://u:hunter2@host/3?search=a",
        "redis://u:hunter2@h1,h2/0?search=a", "redis://u:hunter2@/0?search=a", "redis://u:hunter2@host/0?search={a}",
        "redis://u:hunter2@host/0?search=a&ssl_ca_certs=x", "redis://u:hunter2@host/0?search=a&search=b",
        "redis://u:hunter2@host:70000/0?search=a", "redis://u:hunter2@host:0/0?search=a",
        "redis://u:hunter2@host/1?db=2&search=a", "redis://u:hunter2@host/0?search=\ud800",
        "unix://?search=a", "redis://u:hunter2@host/0?search=a&workers=2", "redis://u:hunter2@host/0?search=a&replicas=0",
    ):  # fmt: skip
        with pytest.raises(UsageError) as raised:
            RedisStorage(url)
        assert "hunter2" not in str(raised.value), url


def test_a_url_is_shown_as_it_is_but_for_what_is_secret() -> None:
    for url, shown in {
        "redis://host?search=a": "redis://host:6379/0?search=a",
        "rediss://u:p%40ss@host:7/2?search=a&lease=5": "rediss://u:***@host:7/2?search=a&lease=5",
        "redis://:pass@[::1]:7?search=a%20b": None,
        "unix:///run/redis.sock?db=2&search=a": "unix:///run/redis.sock?search=a&db=2",
        "redis+sentinel://:pass@h1,h2:7/main/3?search=a&sentinel_password=pass": "redis+sentinel://:***@h1:26379,h2:7/main/3?search=a",
        "redis+cluster://h1,h2:7?search=a&durability=always": "redis+cluster://h1:6379,h2:7?search=a&durability=always",
    }.items():
        if shown is None:
            with pytest.raises(UsageError):
                RedisStorage(url)
        else:
            storage = RedisStorage(url)
            assert storage.location == shown
            assert "pass" not in repr(storage) + repr(storage.address)
    assert RedisStorage("redis://h?search=a&lease=9", lease=4).location == "redis://h:6379/0?search=a&lease=4"


async def test_a_socket_file_that_wants_a_password_says_so_at_once(home: Path) -> None:
    with (
        Server(home, requirepass="root", login={"password": "root"}, unixsocket=str(home / "s")),
        pytest.raises(ah.StorageError, match="the server refuses this user: Authentication required"),
    ):
        await ah.Search(x=ah.bool()).run(lambda p: 1, steps=1, checkpoint_path=f"unix://{home}/s?search=a", quiet=True)


async def test_a_socket_file_works(home: Path) -> None:
    with Server(home, unixsocket=str(home / "s")):
        assert len((await search(f"unix://{home}/s?search=it")).history) == 10


async def test_an_open_server_on_a_network_is_warned_about(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with Server(home) as server:
        await search(server.url("a"), steps=1)
        assert "without a password" not in caplog.text
    storage = RedisStorage("redis://192.0.2.1:6379/0?search=a&patience=0.3")
    with pytest.raises(ah.StorageError, match="no server was reached"):
        await storage.open()
    assert "without a password" in caplog.text


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_a_host_that_no_name_server_could_be_asked_for_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="names no host that can be meant"):
        RedisStorage(f"redis://{host}/0?search=x")


async def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    storage = RedisStorage(f"redis://127.0.0.1:{free_port()}/0?search=x&patience=0.5")
    with pytest.raises(
        StorageError, match=r"no server was reached in .* s: .*; start it, or check the scheme, the host"
    ):
        await storage.open()


async def test_commands_show_no_password(home: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(home, requirepass="sekret", login={"password": "sekret"}) as server:
        url = f"redis://:sekret@127.0.0.1:{server.port}/0?search={name}"
        search = ah.Search(x=ah.float(0, 1))
        await search.run(lambda p: 1.0, steps=5, checkpoint_path=url, quiet=True)
        await search.save(home / "a.ckpt")
        copy_ = url + "-again"
        assert await asyncio.to_thread(main, ["repair", str(home / "a.ckpt"), copy_]) == 0
        with server.client() as client:
            log = key(name, "log")
            client.xdel(log, client.xrange(log)[3][0])
        assert await asyncio.to_thread(main, ["verify", url]) == 1
    said = capsys.readouterr()
    assert "sekret" not in said.out + said.err
    assert f"asynchopper repair 'redis://:***@127.0.0.1:{server.port}/0?search={name}' mended.ckpt" in said.out
