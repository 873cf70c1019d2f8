"""What a server would lose, and what it would throw away: read once, refused or said before a run begins."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import dataclass
from typing import Any

from asynchopper.errors import StorageError
from asynchopper_backends.redis_address import Address, Options
from asynchopper_backends.redis_link import Command, Link, Refused

_log = logging.getLogger("asynchopper")

_ASKED = ("appendonly", "appendfsync", "save", "maxmemory-policy", "maxmemory")
_WAIT_MS = (
    3000  # one wait for replicas or for the disk, which is synced once a second; repeated while the patience lasts
)


@dataclass(frozen=True)
class Server:
    """A server's settings; `None` where it does not say."""

    product: str
    version: tuple[int, ...]
    appendonly: bool | None
    fsync: str | None
    snapshots: bool | None
    policy: str | None
    replicas: int | None

    @classmethod
    async def read(cls, link: Link) -> Server:
        info = _pairs(await _allowed(link, "INFO"))
        said = await _allowed(link, "CONFIG", "GET", *_ASKED[:1])
        config: dict[str, str] = {}
        if isinstance(said, list):
            for name in _ASKED:
                pair = await _allowed(link, "CONFIG", "GET", name)
                if isinstance(pair, list) and len(pair) == 2:
                    config[name] = pair[1].decode()
        valkey = "valkey_version" in info
        version = info.get("valkey_version") or info.get("redis_version", "0")
        aof = config.get("appendonly") or {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""))
        return cls(
            "Valkey" if valkey else "Redis",
            tuple(int(n) for n in version.split(".") if n.isdigit()),
            None if aof is None else aof == "yes",
            config.get("appendfsync"),
            None if "save" not in config else bool(config["save"].strip()),
            config.get("maxmemory-policy") or info.get("maxmemory_policy"),
            int(info["connected_slaves"]) if info.get("connected_slaves", "").isdigit() else None,
        )

    @property
    def syncs_each(self) -> bool:
        """Whether a reply means that the disk has it."""
        return self.appendonly is True and self.fsync == "always"

    @property
    def can_wait_for_disk(self) -> bool:
        return self.version >= ((7, 2) if self.product == "Redis" else (7, 2, 0))

    def survives(self) -> str:
        """What a power cut and a failover could lose, in words."""
        if self.appendonly is None:
            disk = "its persistence settings are unknown, so a power cut may lose everything"
        elif self.appendonly and self.fsync is None:
            disk = "a log on disk, synced when is unknown: a power cut may lose some seconds"
        elif self.appendonly:
            disk = {
                "always": "a log on disk, synced before each reply: a power cut loses nothing",
                "everysec": "a log on disk, synced every second: a power cut may lose the last second or two",
            }.get(self.fsync or "", "a log on disk, synced when the system likes: a power cut may lose half a minute")
        elif self.snapshots is False:
            disk = "memory only: a restart loses everything"
        else:
            disk = "snapshots only: a restart may lose all since the last one"
        if self.replicas:
            return (
                f"{disk}; {self.replicas} replica{'s' * (self.replicas > 1)}, a failover may lose what they lag behind"
            )
        return f"{disk}; no replica" if self.replicas is not None else disk

    def check(self, location: str) -> None:
        """Raises `StorageError` for a server that may throw a search away."""
        if self.policy is not None and self.policy.startswith("allkeys-"):
            raise StorageError(
                f"{location}: this server drops keys of its own choice when its memory is full (maxmemory-policy "
                f"{self.policy}), and a search could be among them; set maxmemory-policy noeviction, or volatile-lru"
            )
        if self.version < (6, 2) and self.version != (0,):
            raise StorageError(
                f"{location}: {self.product} {'.'.join(map(str, self.version))} is too old; 6.2 or newer is needed"
            )

    def demanded(self, options: Options, location: str) -> tuple[Command, ...]:
        """The command that every commit sends along to get what was demanded. Raises `StorageError` where it cannot be had."""
        wanted = options.durability
        if wanted in ("everysec", "always"):
            if self.appendonly is False:
                raise StorageError(
                    f"{location}: durability={wanted!r} needs a server that keeps a log on disk; set appendonly yes"
                )
            if wanted == "everysec" and self.fsync == "no":
                raise StorageError(f"{location}: durability='everysec' needs appendfsync everysec, or always; it is no")
            if wanted == "always" and not self.syncs_each:
                if not self.can_wait_for_disk:
                    raise StorageError(
                        f"{location}: durability='always' needs appendfsync always, or a server of version 7.2 or newer"
                    )
                return (("WAITAOF", 1, 0, _WAIT_MS),)
        if wanted == "replicated":
            if self.replicas is not None and self.replicas < options.replicas:
                _log.warning(
                    "%s: durability='replicated' waits for %d replica(s), and %d are connected",
                    location, options.replicas, self.replicas,
                )  # fmt: skip
            return (("WAIT", options.replicas, _WAIT_MS),)
        return ()


def had(reply: Any, wanted: Command) -> bool:
    """Whether what a commit waited for has come."""
    count = reply[0] if isinstance(reply, list) else reply
    return bool(count >= wanted[1])


async def warn_if_open(address: Address, location: str) -> None:
    """A server that anyone can write to is said."""
    if address.password or address.kind == "socket" or "ssl_certfile" in address.tls_words:
        return
    for host, port in address.hosts:
        try:
            async with asyncio.timeout(2.0):
                found = await asyncio.get_running_loop().getaddrinfo(host, port)
        except (OSError, TimeoutError):
            continue
        if any(not ipaddress.ip_address(where[4][0].partition("%")[0]).is_loopback for where in found):  # type: ignore[union-attr]  # an address is a text
            _log.warning(
                "%s: this server is used without a password over a network: whoever can reach it can read and change the search",
                location,
            )
            return


async def _allowed(link: Link, *command: Any) -> Any:
    """A reply; `None` where the server does not let this user ask."""
    try:
        return await link.command(*command)
    except Refused as e:
        if any(word in str(e) for word in ("NOPERM", "unknown command", "not allowed", "permission")):
            return None
        raise


def _pairs(info: Any) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines() if isinstance(info, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)
