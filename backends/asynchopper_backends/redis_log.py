"""A log on a Redis or Valkey server, for one owner at a time; and what that has in common with a log of many."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Literal, NoReturn, Self, TypeVar

import orjson

from asynchopper.errors import CheckpointCorrupted, CheckpointLocked, CheckpointVersionError, LeaseLost, StorageError
from asynchopper.storage import Entry, Lost, Resume, SharedStorage, check_presence, open_already
from asynchopper_backends.redis_address import Options, parse
from asynchopper_backends.redis_beat import Beat
from asynchopper_backends.redis_label import is_dead, label, open_here, who
from asynchopper_backends.redis_link import Command, Failed, Link
from asynchopper_backends.redis_server import Server, had, warn_if_open

T = TypeVar("T")

_log = logging.getLogger("asynchopper")

_LAYOUT = 2
_FIRST_PAGE, _LONGEST_PAGE = 200, 5000  # records that are read at once; the server does nothing else meanwhile
_PAGE_BYTES = 2**20  # what they should come to, since records of large candidates are large
_LOSSES = (b"empty", b"lost", b"torn", b"epoch")
_SETTLED_S = 5.0  # a loss on one of many servers is believed after this time
_GOODBYE_S = 3.0  # what letting go may take when the server does not answer


class RedisLog(SharedStorage):
    """A search on a server: the plain log."""

    def __init__(
        self,
        url: str,
        *,
        lease: float | None = None,
        patience: float | None = None,
        durability: str | None = None,
        replicas: int | None = None,
        workers: int | None = None,
    ) -> None:
        """`url` may say these words as well: `redis://host:port/db?search=name&lease=30&durability=always`.

        `lease` and `patience` are in seconds. Raises `UsageError` for what cannot be meant.
        """
        self.address, self.name, said, self.location = parse(url)
        given = {"lease_s": lease, "patience_s": patience, "durability": durability, "replicas": replicas}
        given["workers"] = workers
        words: dict[str, Any] = {k: v if v is not None else getattr(said, k) for k, v in given.items()}
        self.options = Options(**words)
        if self.options != said:
            self.location = parse(_with(url, self.options))[3]
        self.shared = self.options.workers is None
        self.server: Server | None = None
        self._state: Literal["closed", "owner", "reader", "worker"] = "closed"
        self._opening = False
        self._link: Link | None = None
        self._beat: Beat | None = None
        self._also: tuple[Command, ...] = ()
        self._settings_of = 0
        """Of which of the link's connections the server's settings are known."""
        self._epoch, self._last, self._seq = b"", b"", 0
        self._found = 0
        """How many records there should be, for a reader."""
        self._me = b""
        self._turns = itertools.count(1)
        self._replace = self._was_read = False
        self._under_way: asyncio.Future[Any] | None = None
        self._wrong: StorageError | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r}, {self._state})"

    def describe(self) -> str:
        if self.server is None:
            return self.location
        version = ".".join(map(str, self.server.version))
        asked = f"; each commit waits: {self.options.durability}" if self._also else ""
        return f"{self.location} ({self.server.product} {version}: {self.server.survives()}{asked})"

    # -- the port

    async def open(self, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False) -> None:
        await self._carefully(self._open(resume, overwrite, readonly))

    async def _open(self, resume: Resume, overwrite: bool, readonly: bool) -> None:
        link, seen = await self._look(readonly or overwrite)
        check_presence(seen.seq > 0, self.location, resume, overwrite, readonly)
        if readonly:
            self._epoch, self._state, self._found = seen.epoch, "reader", seen.seq
            return
        self._me = label()
        lease_ms = round(self.options.lease_s * 1000)
        words = (b"lock", self._me, lease_ms, seen.dead_owner, len(seen.dead), *seen.dead, int(overwrite))
        reply = (await link.call(*words))[0]
        if reply[0] != b"ok":
            self._refuse(reply)
        _, self._epoch, self._seq, self._last = reply
        self._state = "owner"
        check_presence(self._seq > 0, self.location, resume, overwrite, readonly)  # somebody may have been faster
        self._replace = overwrite or not self._seq
        self._start_beat(lambda: (b"hold", self._me, lease_ms))

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        if self._state == "closed":
            raise StorageError(f"{self.location} is not open")
        if self._replace:
            self._was_read = True
            return
        seen, number, most = b"", 0, _FIRST_PAGE
        ahead: asyncio.Task[Any] | None = self._asked_ahead(seen, most)
        try:
            while ahead is not None:
                reply = await ahead
                if reply[0] != b"ok":
                    self._refuse(reply)
                _, seen, records = reply
                if int(seen.partition(b"-")[0] or 0) != number + len(records):
                    raise CheckpointCorrupted(
                        f"{self.location}: records after {number} are missing; the server has lost them"
                    )
                ahead = None
                if len(records) == most:
                    fitting = most * _PAGE_BYTES // max(sum(map(len, records)), 1)
                    most = max(1, min(_LONGEST_PAGE, 4 * most, fitting))
                    ahead = self._asked_ahead(seen, most)  # comes while the caller is at work on this one
                if records:
                    yield [Entry(number + i, data) for i, data in enumerate(records)]
                    number += len(records)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait([ahead])
                if not ahead.cancelled():
                    ahead.exception()  # whoever awaited it has heard of it, and nobody else wants to
        if self._state != "reader":
            self._last, self._seq, self._was_read = seen, number, True

    async def salvage(self) -> AsyncIterator[Sequence[Entry | Lost]]:
        link, last, number = self._connected(), b"-", 0
        while entries := await link.command("XRANGE", link.keys[1], last, b"+", "COUNT", _FIRST_PAGE):
            portion = [Entry(int(id.partition(b"-")[0]) - 1, fields[1]) for id, fields in entries]
            yield portion
            last, number = b"(" + entries[-1][0], portion[-1].seq + 1
        if number < self._found:
            yield [Lost("the end", 0, f"records {number} to {self._found - 1} are not on the server", True)]

    def _asked_ahead(self, seen: bytes, most: int) -> asyncio.Task[Any]:
        async def page() -> Any:
            return (await self._connected().call(b"page", self._epoch, seen, most))[0]

        return asyncio.get_running_loop().create_task(page(), name="asynchopper-page")

    async def append(self, records: Sequence[bytes]) -> None:
        if self._wrong is not None:
            raise self._wrong
        if self._state != "owner":
            raise StorageError(f"{self.location} is not open for writing")
        if not self._was_read:
            raise StorageError(f"{self.location} must be read to its end before anything is appended")
        if records:
            await self._wholly(functools.partial(self._append, list(records)))

    async def _append(self, records: list[bytes]) -> None:
        new = secrets.token_hex(8).encode() if self._replace else b""
        words = (b"append", self._me, round(self.options.lease_s * 1000), next(self._turns))
        reply = await self._committed(*words, self._epoch, new, self._last, len(records), *records)
        if reply[0] != b"ok":
            self._refuse(reply)
        if new:
            self._epoch, self._seq, self._replace = new, 0, False
        self._last = reply[1]
        self._seq += len(records)

    def hurry(self, within: float) -> None:
        if self._link is not None:
            self._link.hurry(within)

    async def close(self) -> None:
        if self._state != "closed" or self._link is not None:
            await _carried(self._close())

    async def _close(self) -> None:
        state, self._state = self._state, "closed"
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
        await self._stop_beat()
        link, self._link = self._link, None
        if link is not None:
            if state == "owner" or (state == "closed" and self._me):
                with contextlib.suppress(StorageError):
                    await link.call(b"unlock", self._me, patience_s=_GOODBYE_S)
            await self._let_go(link, state)
            await link.drop()
        if self._me:
            open_here.discard(orjson.loads(self._me)["id"])
        self._me, self._wrong, self._replace, self._was_read = b"", None, False, False
        self._epoch, self._last, self._seq = b"", b"", 0

    async def _let_go(self, link: Link, state: str) -> None:
        """What is to be said besides, before the connection goes."""

    # -- beneath

    async def _carefully(self, opening: Coroutine[Any, Any, T]) -> T:
        """Opens, or leaves nothing behind: neither a lock on the server nor a connection."""
        if self._state != "closed" or self._opening:
            opening.close()
            raise open_already(self.location)
        self._opening = True
        task = asyncio.ensure_future(opening)
        try:
            return await asyncio.shield(task)
        except BaseException:
            await _carried(self._undo(task))
            raise
        finally:
            self._opening = False

    async def _undo(self, task: asyncio.Task[Any]) -> None:
        """What a cancelled task had sent may be done after what is sent to undo it, so it gets a moment to hear of it."""
        if not task.done():
            await asyncio.wait([task], timeout=_GOODBYE_S)
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        await self._close()

    async def _look(self, forgiving: bool) -> tuple[Link, _Seen]:
        """A fresh connection to a server that will do, and what is there; also where it is in pieces, if that is `forgiving`."""
        link = self._link = Link(self.address, self.name, self.location, self.options.patience_s)
        await warn_if_open(self.address, self.location)
        await self._read_settings(link)
        reply = (await link.call(b"look"))[0]
        if reply[0] == b"empty":
            return link, _Seen(b"", 0, b"", ())
        if reply[0] == b"torn" and forgiving:
            return link, _Seen(b"", await link.command("XLEN", link.keys[1]), b"", ())
        if reply[0] != b"ok":
            self._refuse(reply)
        _, epoch, seq, owner, there = reply
        dead = tuple(worker for worker in there if is_dead(worker))
        others = tuple(worker for worker in there if worker not in dead)
        return link, _Seen(epoch, seq, owner if is_dead(owner) else b"-", dead, others)

    async def _read_settings(self, link: Link) -> None:
        """Raises `StorageError` for a server that will not do."""
        self.server = await Server.read(link)
        self._settings_of = link.made
        self.server.check(self.location)
        self._also = self.server.demanded(self.options, self.location)

    async def _committed(self, *words: Any, failed: Failed | None = None) -> Any:
        """The script's reply, once what it wrote is as durable as it was asked to be; `failed` is as in `Link.call`."""
        link, also = self._connected(), self._also
        if not also:
            reply = (await link.call(*words, failed=failed))[0]
            if reply[0] not in _LOSSES:
                # a server that came back may be set otherwise; where there is no time, what it has confirmed counts as it is
                if link.made != self._settings_of and not link.hurried:
                    await self._read_settings(link)
                    also = self._also
                if not also:
                    return reply
        clock = asyncio.get_running_loop().time
        began, lost = clock(), math.inf if self.address.kind in ("sentinel", "cluster") else -math.inf
        while True:
            within_s = also[0][-1] / 1000 if also else 0.0
            reply, *waited = await link.call(*words, then=also, within_s=within_s)
            if reply[0] in _LOSSES:
                lost = min(lost, clock())
            if reply[0] in _LOSSES and clock() - lost < min(_SETTLED_S, self.options.patience_s / 2):
                await link.drop()  # a primary that is back from the dead, and about to be told that it is none any more
                await asyncio.sleep(0.1)
                continue
            if reply[0] != b"ok" or all(had(r, w) for r, w in zip(waited, also, strict=True)):
                return reply
            if clock() - began > self.options.patience_s or (link.hurried and clock() - began > _GOODBYE_S):
                raise StorageError(
                    f"{self.location}: durability={self.options.durability!r} was not reached in {clock() - began:.0f} s: "
                    f"{also[0][0]} says {waited[0]!r}, and {also[0][1]} is needed. The last batch is in the server's memory"
                )

    async def _wholly(self, work: Any) -> Any:
        """Does something that goes on when the caller is cancelled; the next one waits for it."""
        while self._under_way is not None:
            await asyncio.wait([self._under_way])
        if self._wrong is not None:
            raise self._wrong
        task = self._under_way = asyncio.get_running_loop().create_task(self._said(work), name="asynchopper-redis")
        asyncio.tasks._unregister_task(task)  # who cancels every task there is does not mean what is being written
        return await asyncio.shield(task)

    async def _said(self, work: Any) -> Any:
        try:
            return await work()
        except StorageError as e:
            self._wrong = e
            raise
        finally:
            self._under_way = None

    def _connected(self) -> Link:
        if self._link is None:
            raise StorageError(f"{self.location} is not open")
        return self._link

    def _start_beat(self, words: Callable[[], tuple[Any, ...]]) -> None:
        link = Link(self.address, self.name, self.location, self.options.patience_s)
        self._beat = Beat(link, words, self.options.lease_s, self._beat_ended)

    async def _stop_beat(self) -> None:
        beat, self._beat = self._beat, None
        if beat is not None:
            await beat.stop()

    def _beat_ended(self, word: bytes) -> None:
        """The server no longer knows us; the next call will find out why."""

    def _refuse(self, reply: Sequence[Any]) -> NoReturn:
        """Raises what a word of the script means."""
        word = reply[0]
        here = self.location
        if word == b"locked":
            raise CheckpointLocked(
                f"{here} is in use by {who(reply[1])}; wait for it, stop it, or use another search name"
            )
        if word == b"busy":
            others = f"{reply[1]} workers, one of them {who(reply[2])}" if reply[1] > 1 else who(reply[2])
            raise CheckpointLocked(
                f"{here} is in use by {others}; wait for the end, stop them, or use another search name"
            )
        if word == b"layout":
            layout = reply[1].decode()
            newer = not layout.isdecimal() or int(layout) > _LAYOUT
            raise CheckpointVersionError(
                f"{here} was made by {'a newer' if newer else 'an older'} asynchopper (layout {layout}, known is {_LAYOUT}); "
                + ("update this one" if newer else "copy it to a file with that one, and back with this one")
            )
        if word == b"empty":
            raise StorageError(
                f"{here}: the search is gone from the server: its keys were deleted, or the server was flushed or restarted "
                f"without its data. {self._known()}"
            )
        if word == b"epoch":
            raise StorageError(f"{here}: somebody has replaced the search by another one. {self._known()}")
        if word in (b"lost", b"torn"):
            raise StorageError(
                f"{here}: the server has lost results that it had confirmed: its log has {reply[1].decode() or 'no'} records "
                f"now, and is not the one that was read here. A failover to a replica that lagged behind, a restart from an "
                f"older copy, or a deleted key does that. {self._known()}"
            )
        if word == b"gone":
            raise LeaseLost(
                f"{here}: this process was not heard of for longer than its lease of {self.options.lease_s:g} s, and somebody "
                f"else has the search now. {self._known()}"
            )
        if word == b"plain":
            raise StorageError(
                f"{here}: somebody went on with this search alone (workers=1) while this worker was not heard of. {self._known()}"
            )
        raise StorageError(f"{here}: the server answers {word.decode(errors='replace')}")

    def _known(self) -> str:
        if not self._seq:
            return "Nothing was read here: a new log of what is left is made with: asynchopper repair"
        return f"This process knows {self._seq} records; its search is whole in memory and can be saved to a file"


class _Seen:
    """What was there before anything was touched."""

    def __init__(
        self, epoch: bytes, seq: int, dead_owner: bytes, dead: tuple[bytes, ...], others: tuple[bytes, ...] = ()
    ) -> None:
        self.epoch, self.seq, self.dead_owner, self.dead, self.others = epoch, seq, dead_owner, dead, others


async def _carried(work: Coroutine[Any, Any, None]) -> None:
    """Carries a closing step through, however often the caller is cancelled."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _with(url: str, options: Options) -> str:
    """The URL with these options in place of its own."""
    own = ("lease=", "patience=", "durability=", "replicas=", "workers=")
    head, _, query = url.partition("?")
    words = [w for w in query.split("&") if w and not w.startswith(own)]
    return f"{head}?{'&'.join([*words, *(f'{k}={v}' for k, v in options.words().items())])}"
