"""A connection to whichever server holds a search now: found, kept, tried again, and its errors made ours in one place."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias, TypeVar

import hiredis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from asynchopper.errors import StorageError
from asynchopper_backends.redis_address import Address
from asynchopper_backends.redis_wire import Answer, Heard, Made, Wire

T = TypeVar("T")
W = TypeVar("W", Connection, UnixDomainSocketConnection)
Command: TypeAlias = tuple[Any, ...]

_log = logging.getLogger("asynchopper")

SCRIPT = (files("asynchopper_backends") / "redis.lua").read_bytes()
_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
PARTS = ("meta", "log", "out", "free", "alive", "ops")

_SHORTEST_TRY_S = 0.3
_HURRIED_S = 2.0  # what a question gets once there is no time for patience
_LONGEST_TRY_S = 5.0  # what one attempt gets at first; doubled while attempts time out
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0

_PASSING = {
    "LOADING": "it is loading its data",
    "READONLY": "it is a replica that takes no writes",
    "MASTERDOWN": "its primary is down",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving the keys",
    "MOVED": "the cluster has moved the keys",
    "ASK": "the cluster is moving the keys",
    "NOREPLICAS": "it has too few good replicas to take writes (min-replicas-to-write)",
    "OOM": "its memory is full (maxmemory); make room, or raise maxmemory",
    "MISCONF": "it cannot write to its disk, and so takes no writes",
    "BUSY": "it is busy with somebody's script",
    "UNBLOCKED": "it let go of a waiting client",
    "max number of clients": "it has as many clients as it allows (maxclients)",
}
"""Replies of a server that may well answer otherwise in a moment."""

_KINDS: dict[type[BaseException], str] = {
    AskError: "ASK",
    BusyLoadingError: "LOADING",
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    MovedError: "MOVED",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}


class Failed(NamedTuple):
    """An attempt that came to nothing."""

    error: Exception
    began: float
    """On the loop's clock."""


class Refused(StorageError):
    """The server answers, and will not have this, now or later."""


class Link:
    """One connection. For one task at a time; `call` runs the search's script."""

    def __init__(self, address: Address, name: str, location: str, patience_s: float) -> None:
        self.address, self.location, self.patience_s = address, location, patience_s
        self.prefix = f"asynchopper:{{{name}}}:"
        self.keys = tuple(self.prefix + part for part in PARTS)
        self.round_trips = self.made = 0
        """How often something was asked, and how many connections there have been."""
        self._hurry_at = math.inf
        self._slot = key_slot(self.prefix.encode())
        self._wire: Wire | None = None
        self._script = (len(PARTS), *self.keys)
        self._head = _words(("EVALSHA", _SHA, *self._script))
        self._try_s = _try_s(patience_s)

    def __repr__(self) -> str:
        return f"Link({self.location!r}, {'connected' if self._wire is not None else 'not connected'})"

    # -- what is asked

    async def call(
        self,
        *args: Any,
        then: Sequence[Command] = (),
        patience_s: float | None = None,
        within_s: float = 0.0,
        failed: Failed | None = None,
    ) -> list[Any]:
        """The script's reply, and those of the commands sent along behind it. Raises `StorageError`.

        `failed` is what became of saying it before.
        """
        packed = b"".join([self._called(args), *map(_packed, then)])

        async def once(wire: Wire, within_s: float) -> list[Any]:
            try:
                return await self._asked(wire, packed, 1 + len(then), within_s)
            except Answer as e:
                if not e.unknown_script:
                    raise
            whole = b"".join(map(_packed, (("EVAL", SCRIPT, *self._script, *args), *then)))
            return await self._asked(wire, whole, 1 + len(then), within_s)

        return await self.tried(once, patience_s, within_s, failed)

    def say(self, args: tuple[Any, ...], heard: Heard) -> bool:
        """As `call`, once and at once: `heard` gets the replies, or an error, with which `call` may say it again.

        `False` where there is no connection.
        """
        if self._wire is None:
            return False
        self.round_trips += 1
        self._wire.say(self._called(args), 1, min(self._try_s, _HURRIED_S) if self.hurried else self._try_s, heard)
        return True

    def _called(self, args: tuple[Any, ...]) -> bytes:
        return b"*%d\r\n%b%b" % (3 + len(PARTS) + len(args), self._head, _words(args))

    async def command(self, *args: Any, within_s: float = 0.0, patience_s: float | None = None) -> Any:
        """One command's reply, which may take `within_s` seconds more than usual."""

        async def once(wire: Wire, within_s: float) -> Any:
            return (await self._asked(wire, _packed(args), 1, within_s))[0]

        return await self.tried(once, patience_s, within_s)

    async def _asked(self, wire: Wire, packed: bytes, count: int, within_s: float) -> list[Any]:
        self.round_trips += 1
        return await wire.ask(packed, count, within_s)

    def hurry(self, within_s: float) -> None:
        """Nothing is tried for longer than so many seconds from now, or for `_HURRIED_S` where it begins later."""
        self._hurry_at = min(self._hurry_at, asyncio.get_running_loop().time() + within_s)
        if self._wire is not None:
            self._wire.hurry(self._hurry_at)

    @property
    def hurried(self) -> bool:
        """Whether the time for patience is over."""
        return asyncio.get_running_loop().time() > self._hurry_at

    # -- again and again

    async def tried(
        self,
        work: Callable[[Wire, float], Awaitable[T]],
        patience_s: float | None = None,
        within_s: float = 0.0,
        failed: Failed | None = None,
    ) -> T:
        """Does something with a connection, in so many seconds, on a new one if need be, for as long as the patience lasts.

        Raises `Refused` for what will not get better, `StorageError` when the patience is at its end. What was tried may
        have been done without being heard of, so it has to be such that it can be said twice.
        """
        clock = asyncio.get_running_loop().time
        patience_s = self.patience_s if patience_s is None else patience_s
        began, pause_s, complained = clock() if failed is None else failed.began, _FIRST_PAUSE_S, False
        try_s = _try_s(patience_s)
        while True:
            until = min(began + patience_s, max(self._hurry_at, began + _HURRIED_S))
            left_s = min(try_s, max(until - clock(), _SHORTEST_TRY_S))
            try:
                if failed is not None:
                    error, failed = failed.error, None
                    raise error
                if self._wire is None:
                    async with asyncio.timeout(left_s):
                        self._wire = Wire(await self._connected())
                    self.made += 1
                done = await work(self._wire, left_s + within_s)
            except (OSError, RedisError, TimeoutError) as e:  # redis-py's errors are not OSErrors
                await self.drop()
                problem = self._problem(e)
                if isinstance(e, TimeoutError):
                    try_s *= 2
            except BaseException:
                await self.drop()  # a reply may be under way to nobody
                raise
            else:
                if complained:
                    _log.warning("%s answers again, after %.1f s", self.location, clock() - began)
                return done
            waited = clock() - began
            if clock() + pause_s > until:
                problem = problem.rstrip(".")
                if not self.made:
                    raise StorageError(
                        f"{self.location}: no server was reached in {waited:.0f} s: {problem}; start it, or check the scheme, "
                        "the host and the port of the URL"
                    )
                raise StorageError(
                    f"{self.location} could not be used for {waited:.0f} s: {problem}. What was confirmed is on the server as "
                    "far as its settings go; whether the last batch is, is unknown. Trials that were running here run "
                    "again, here or elsewhere, when the search goes on"
                )
            if not complained and waited > 0.5:
                complained = True
                _log.warning("%s: %s; it is tried again for %.0f s", self.location, problem, patience_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _problem(self, e: BaseException) -> str:
        """What is wrong, in words, where it may pass. Raises `Refused` where it will not."""
        text = _text(e)
        if isinstance(e, (AuthenticationError, AuthorizationError)) or text.startswith(
            ("NOAUTH", "WRONGPASS", "NOPERM", "Authentication required")  # the last is what it says over a socket file
        ):
            raise Refused(f"{self.location}: the server refuses this user: {text}") from None
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise Refused(f"{self.location}: the server's certificate is not accepted: {text}") from None
        if isinstance(e, ResponseError):
            for word, means in _PASSING.items():
                if re.search(rf"\b{word}\b", text):
                    return f"{means} ({text[:200]})"
            raise Refused(f"{self.location}: the server answers: {text[:500]}") from None
        if isinstance(e, (NoConnection, NoAnswer, OSError, InvalidResponse)):
            return text if text and not isinstance(e, TimeoutError) else "no answer"
        raise Refused(f"{self.location}: {text}") from None

    # -- connecting

    async def _connected(self) -> Made:
        address = self.address
        if address.kind == "socket":
            return await _up(UnixDomainSocketConnection(path=address.path, **_usual(address.login())))
        host, port = await self._home()
        return await _up(self._wire_to(host, port, address.login()))

    def _wire_to(self, host: str, port: int, login: dict[str, Any]) -> Connection:
        if self.address.tls:
            return SSLConnection(host=host, port=port, **self.address.tls_words, **_usual(login))
        return Connection(host=host, port=port, **_usual(login))

    async def _home(self) -> tuple[str, int]:
        """Where the search is now."""
        address = self.address
        if address.kind == "server":
            return address.hosts[0]
        problem: Exception = NoConnection("no host is named")
        for host, port in address.hosts:
            try:
                async with asyncio.timeout(2.0):
                    if address.kind == "sentinel":
                        said = await self._told_by(
                            host, port, address.sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service
                        )
                        if said:
                            return said[0].decode(), int(said[1])
                        problem = NoConnection(f"the Sentinel at {host}:{port} knows no service {address.service}")
                    else:
                        for first, last, primary, *_ in await self._told_by(
                            host, port, address.login(), "CLUSTER", "SLOTS"
                        ):
                            if first <= self._slot <= last:
                                return (primary[0] or b"").decode() or host, int(primary[1])
                        problem = NoConnection("CLUSTERDOWN: nobody serves the search's slot")
            except (OSError, RedisError) as e:
                problem = NoAnswer(f"{host}:{port} does not answer") if isinstance(e, TimeoutError) else e
        raise problem

    async def _told_by(self, host: str, port: int, login: dict[str, Any], *command: Any) -> Any:
        wire = await _up(self._wire_to(host, port, login))
        try:
            await wire.send_command(*command)
            return await wire.read_response(disable_decoding=True)
        finally:
            await wire.disconnect(nowait=True)

    async def drop(self) -> None:
        """Lets go of the connection; the next call makes a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()


def _try_s(patience_s: float) -> float:
    """What the first attempt gets."""
    return min(_LONGEST_TRY_S, max(patience_s / 4, _SHORTEST_TRY_S))


def _packed(words: tuple[Any, ...]) -> bytes:
    return hiredis.pack_command(words)  # type: ignore[no-any-return]  # it is not typed for mypy


def _words(words: tuple[Any, ...]) -> bytes:
    """Words as the protocol has them, without how many they are."""
    packed = _packed(words)
    return packed[packed.index(b"\n") + 1 :]


async def _up(wire: W) -> W:
    try:
        await wire.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    except BaseException:
        await wire.disconnect(nowait=True)
        raise
    return wire


def _usual(login: dict[str, Any]) -> dict[str, Any]:
    # time limits are the link's own: redis-py's make a task of every write
    return {"socket_timeout": None, "socket_connect_timeout": 30.0, "protocol": 2, **login}


def _text(e: BaseException) -> str:
    """An error on one line, with the first word of the server's reply, which redis-py takes off for the kinds it knows."""
    text = " ".join(str(e).split())
    kind = _KINDS.get(type(e), "")
    return text if text.startswith(kind) else f"{kind} {text}"
