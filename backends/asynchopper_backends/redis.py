"""One search on a Redis or Valkey server, for any number of workers on any number of machines.

The log is a stream; every transition is one script over keys that share a hash tag (`redis.lua`); a worker has one connection
for its turns, one to wait for news with, and one for its heartbeat, which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import orjson

from asynchopper.errors import StorageError
from asynchopper.storage import Ask, Entry, Grant, Joined, Refusal, Reply, Resume, Tell, check_presence
from asynchopper_backends.redis_label import label
from asynchopper_backends.redis_link import Failed, Link
from asynchopper_backends.redis_log import _GOODBYE_S, RedisLog
from asynchopper_backends.redis_wire import Answer

_Words: TypeAlias = tuple[tuple[Any, ...], list[Any]]

_NEWS = 2000  # records that a turn may bring; more are fetched before anything is said
_REFUSALS: dict[bytes, Refusal] = {b"full": "full", b"known": "known", b"none": "none"}


class RedisStorage(RedisLog):
    """A search on a server. `redis://user:password@host:port/db?search=name`, and see `redis_address` for the rest."""

    _counted = True
    _overwrite = False
    _budget = 0
    """Which of the search's budgets this worker has a part in, as the server counts them."""
    _news_link: Link | None = None
    _alarm: asyncio.Event | None = None

    # -- joining

    async def join(self, *, resume: Resume = "auto", overwrite: bool = False) -> Joined:
        return await self._carefully(self._join(resume, overwrite))

    async def _join(self, resume: Resume, overwrite: bool) -> Joined:
        link, seen = await self._look(overwrite)
        check_presence(seen.seq > 0, self.location, resume, overwrite, False)
        self._me, self._alarm = label(), asyncio.Event()
        words = (b"join", self._me, self._lease_ms, 1 + len(seen.dead), seen.dead_owner, *seen.dead)
        reply = (await link.call(*words))[0]
        if reply[0] == b"empty" or overwrite:
            self._epoch = reply[1] if reply[0] == b"ok" else b""
            self._state, self._overwrite = "worker", overwrite  # which says goodbye where it is refused
            if self._epoch and reply[3]:
                self._refuse((b"busy", reply[3], seen.others[0] if seen.others else b""))
            return Joined(0, 0, 0, True, 0, 0.0)
        if reply[0] != b"ok":
            self._refuse(reply)
        _, self._epoch, number, others, seq, _, clock, runs, plain, self._budget, begun = reply
        self._state, self._counted = "worker", not plain
        self._start_beat(self._beat_words)
        return Joined(number, others, seq, self._counted, runs, clock / 1000, begun)

    async def create(self, records: Sequence[bytes], limit: int | None) -> bool:
        link, epoch = self._worker(), secrets.token_hex(8).encode()
        words = (b"create", self._me, self._lease_ms, epoch, int(self._overwrite), _limit(limit), _budget(records[-1]))
        reply = await self._wholly(functools.partial(self._committed, *words, len(records), *records))
        if reply[0] == b"exists":
            await self._anew(link)
            return False
        if reply[0] != b"ok":
            self._refuse(reply)
        self._epoch, self._last, self._seq, self._budget = epoch, reply[3], len(records), 0
        self._was_read = True
        self._start_beat(self._beat_words)
        return True

    def _beat_words(self) -> tuple[Any, ...]:
        return b"beat", self._me, self._epoch, self._lease_ms, self._last

    async def _anew(self, link: Link) -> None:
        self._state = "closed"
        await link.drop()

    async def index(self, told: int, next_id: int, out: Sequence[tuple[int, int, int]], elapsed: float) -> None:
        flat = [n for one in out for n in one]
        words = (b"index", self._epoch, self._seq, told, next_id, round(elapsed * 1000), len(out), *flat)
        reply = await self._wholly(functools.partial(self._committed, *words))
        if reply[0] not in (b"ok", b"moved"):
            self._refuse(reply)

    # -- working

    async def begin(self, run: bytes, limit: int | None, runs: int) -> Reply:
        return await self._wholly(functools.partial(self._begin, run, limit, runs))  # type: ignore[no-any-return]  # what _begin gives

    async def _begin(self, run: bytes, limit: int | None, runs: int) -> Reply:
        news: list[Entry] = []
        while True:
            words = (b"run", self._me, self._epoch, self._last, _NEWS, self._lease_ms, runs, _limit(limit))
            reply = await self._committed(*words, _budget(run), run)
            if reply[0] == b"behind":
                self._behind(reply, news)
                continue
            if reply[0] != b"ok":
                self._refuse(reply)
            self._budget = reply[-1]
            return self._reply(reply, news)

    async def turn(self, tells: Sequence[Tell], asks: Sequence[Ask]) -> Reply:
        while self._under_way is not None:
            await asyncio.wait([self._under_way])
        if self._wrong is not None:
            raise self._wrong
        self._worker()
        return await self._turn(
            self._worded(tells, asks)
        )  # when it is cancelled, what it has written is news to the next one

    def say(self, tells: Sequence[Tell], asks: Sequence[Ask], heard: Callable[[Reply | StorageError], None]) -> bool:
        link = self._link
        if (
            self._state != "worker"
            or link is None
            or self._also
            or self._under_way is not None
            or self._wrong is not None
        ):
            return False
        loop = asyncio.get_running_loop()
        words, began = self._worded(tells, asks), loop.time()

        def answered(replies: list[Any] | Exception) -> None:
            if isinstance(replies, list) and replies[0][0] == b"ok":
                self._under_way = None
                said.set_result(None)
                if self._alarm is not None:
                    self._alarm.clear()
                heard(self._reply(replies[0], []))
            else:  # the same words again, so that what was done counts once
                failed = None
                if isinstance(replies, Exception) and not (isinstance(replies, Answer) and replies.unknown_script):
                    failed = Failed(replies, began)
                again = loop.create_task(self._say_again(words, failed, said, heard), name="asynchopper-redis")
                asyncio.tasks._unregister_task(again)

        if not link.say((*words[0], self._last, *words[1]), answered):
            return False
        said: asyncio.Future[None] = loop.create_future()
        self._under_way = said
        return True

    async def _say_again(
        self,
        words: _Words,
        failed: Failed | None,
        said: asyncio.Future[None],
        heard: Callable[[Reply | StorageError], None],
    ) -> None:
        came: Reply | StorageError
        try:
            came = await self._turn(words, failed)
        except StorageError as e:
            came = e
        finally:
            self._under_way = None
            said.set_result(None)
        heard(came)

    def _worded(self, tells: Sequence[Tell], asks: Sequence[Ask]) -> _Words:
        """A turn, as the script is told it: what comes before the record that was seen last, and what comes behind it."""
        said: list[Any] = [len(tells)]
        for tell in tells:
            said += tell
        said.append(len(asks))
        for ask in asks:
            said += ask
        return (b"turn", self._me, self._epoch, _NEWS, self._lease_ms, next(self._turns)), said

    async def _turn(self, words: _Words, failed: Failed | None = None) -> Reply:
        news: list[Entry] = []
        before, behind = words
        unasked = 0
        try:
            while True:
                reply = await self._committed(*before, self._last, *behind, failed=failed)
                failed = None
                if reply[0] == b"behind":  # what is asked may be in the news that the script does not look at any more
                    self._behind(reply, news)
                    at = 1 + 4 * behind[0]
                    behind, unasked = [*behind[:at], 0], unasked or behind[at]
                    continue
                if reply[0] != b"ok":
                    self._refuse(reply)
                break
        except StorageError as e:
            self._wrong = e
            raise
        if self._alarm is not None:
            self._alarm.clear()  # a failover that has come to a good end
        told = self._reply(reply, news)
        return told._replace(grants=[*told.grants, *[_REFUSALS[b"none"]] * (unasked - len(told.grants))])

    def _behind(self, reply: Sequence[Any], news: list[Entry]) -> None:
        _, self._last, records = reply
        news += [Entry(self._seq + i, data) for i, data in enumerate(records)]
        self._seq += len(records)

    def _reply(self, reply: Sequence[Any], news: list[Entry]) -> Reply:
        _, now, clock, told, out, runs, workers, ends, last, whole, verdicts, granted, records, _ = reply
        if records:
            news += map(Entry, itertools.count(self._seq), records)
        self._last = last
        self._seq = int(last[: last.index(b"-")])
        grants: list[Grant | Refusal] = []
        for text in granted.split(b",") if granted else ():
            id, _, attempt = text.partition(b" ")
            grants.append(Grant(int(id), int(attempt)) if attempt else _REFUSALS[id])
        kept = [c - 48 for c in verdicts]
        lease_ends = max(ends - now, 0) / 1000 if ends else math.inf
        return Reply(news, bool(whole), kept, grants, clock / 1000, told, out, runs, workers, lease_ends)

    async def wait(self, timeout: float) -> None:
        alarm = self._alarm
        if alarm is None or alarm.is_set() or timeout <= 0:
            return
        link = self._news_link
        if link is None:
            link = self._news_link = Link(self.address, self.name, self.location, self.options.patience_s)
        watch = asyncio.ensure_future(alarm.wait())
        news = asyncio.ensure_future(self._read_news(link, timeout))
        try:
            await asyncio.wait([watch, news], return_when="FIRST_COMPLETED")
        finally:
            for task in (watch, news):
                task.cancel()
            await asyncio.wait([watch, news])
        if not news.cancelled() and isinstance(error := news.exception(), StorageError):
            raise error

    async def _read_news(self, link: Link, timeout: float) -> None:
        most_s = min(timeout, self.options.lease_s / 3)
        await link.command(
            "XREAD", "COUNT", 1, "BLOCK", max(round(most_s * 1000), 1), "STREAMS", link.keys[1], self._last or b"0",
            within_s=most_s,
        )  # fmt: skip

    def _beat_ended(self, word: bytes) -> None:
        if self._alarm is not None:
            self._alarm.set()

    # -- leaving

    async def leave(self, ended: bytes, final: bool) -> None:
        try:
            if self._state == "worker" and self._wrong is None and self._epoch:
                words = (*self._leave_words, ended, b"1" if final else b"0", self._budget)
                reply = await self._wholly(functools.partial(self._committed, *words))
                if reply[0] != b"ok":
                    self._refuse(reply)
                self._epoch = b""
        finally:
            await self.close()

    @property
    def _leave_words(self) -> tuple[Any, ...]:
        return b"leave", self._me, self._epoch, self._last

    async def _let_go(self, link: Link, state: str) -> None:
        news, self._news_link = self._news_link, None
        if news is not None:
            await news.drop()
        if state == "worker" and self._epoch:
            try:
                await link.call(*self._leave_words, b"", b"0", self._budget, patience_s=_GOODBYE_S)
            except StorageError:
                return

    def _worker(self) -> Link:
        if self._state != "worker":
            raise StorageError(f"{self.location} is not joined")
        return self._connected()

    @property
    def _lease_ms(self) -> int:
        return round(self.options.lease_s * 1000)

    @property
    def round_trips(self) -> int:
        """How often this worker has asked the server something."""
        return sum(link.round_trips for link in (self._link, self._news_link) if link is not None)


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit


def _budget(run: bytes) -> bytes:
    """What tells the budget of a run from another one."""
    return orjson.dumps(orjson.loads(run).get("budget"), option=orjson.OPT_SORT_KEYS)
