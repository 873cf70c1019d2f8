"""Where a search is kept on a server, from a URL; and the same without what must stay secret."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from asynchopper.errors import UsageError

Durability: TypeAlias = Literal["memory", "everysec", "always", "replicated"]
DURABILITIES = ("memory", "everysec", "always", "replicated")
Kind: TypeAlias = Literal["server", "socket", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "valkey": ("server", False),
    "valkeys": ("server", True),
    "unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_TLS = {
    "ssl_ca_certs": "ssl_ca_certs",
    "ssl_certfile": "ssl_certfile",
    "ssl_keyfile": "ssl_keyfile",
    "ssl_cert_reqs": "ssl_cert_reqs",
    "ssl_check_hostname": "ssl_check_hostname",
}
_SECRET = frozenset({"sentinel_username", "sentinel_password"})
_SHAPES = {
    "server": "redis://user:password@host:6379/0?search=name",
    "socket": "unix:///path/to/socket?db=0&search=name",
    "sentinel": "redis+sentinel://host:26379,host:26379/service/0?search=name",
    "cluster": "redis+cluster://host:6379,host:6379?search=name",
}


@dataclass(frozen=True)
class Options:
    """How a search is kept. Times are in seconds."""

    lease_s: float = 30.0
    """A worker that has not been heard of for so long is taken for dead, and its trials run again elsewhere."""
    patience_s: float = 60.0
    """For how long a server that does not answer is tried again before a run ends with `StorageError`."""
    durability: Durability | None = None
    """What every commit waits for; `None` for whatever the server does by itself."""
    replicas: int = 1
    """How many replicas have to have a commit, where `durability="replicated"`."""
    workers: int | None = None
    """1 for a plain checkpoint, that one process has at a time; `None` for any number of workers."""

    def __post_init__(self) -> None:
        for name, value in (("lease", self.lease_s), ("patience", self.patience_s)):
            if not (isinstance(value, (int, float)) and 0.1 <= value < math.inf):
                raise UsageError(f"{name}={value!r}: must be seconds, 0.1 or more")
        if self.durability is not None and self.durability not in DURABILITIES:
            raise UsageError(f"durability={self.durability!r}: must be one of {', '.join(DURABILITIES)}")
        if self.replicas < 1:
            raise UsageError(f"replicas={self.replicas!r}: must be 1 or more")
        if self.workers not in (None, 1):
            raise UsageError(f"workers={self.workers!r}: must be 1 (a plain checkpoint), or left out")

    def words(self) -> dict[str, str]:
        """As a URL says them; what is as usual is left out."""
        usual = Options()
        said = {
            "lease": f"{self.lease_s:g}" if self.lease_s != usual.lease_s else "",
            "patience": f"{self.patience_s:g}" if self.patience_s != usual.patience_s else "",
            "durability": self.durability or "",
            "replicas": str(self.replicas) if self.replicas != usual.replicas else "",
            "workers": str(self.workers or ""),
        }
        return {name: text for name, text in said.items() if text}


@dataclass(frozen=True)
class Address:
    """A server, or those that know which one it is. Its `repr` holds no password."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    path: str = ""
    db: int = 0
    service: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel: dict[str, str] = field(default_factory=dict, repr=False)
    tls_words: dict[str, Any] = field(default_factory=dict)

    def login(self) -> dict[str, Any]:
        """What a connection to the server that holds the search is made with, but for where it is."""
        words: dict[str, Any] = {"username": self.username, "password": self.password}
        return words if self.kind == "cluster" else words | {"db": self.db}


def parse(url: str) -> tuple[Address, str, Options, str]:
    """The address, the search's name, the options, and the location: the URL without secrets. Raises `UsageError`."""
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise UsageError(f"{scheme}:// is not a Redis URL; for instance {_SHAPES['server']}")
    kind, tls = _SCHEMES[scheme]
    user, hosts, path, query = _split(url, kind)
    words = dict(query)
    if len(words) != len(query):
        raise UsageError(f"{scheme}://…: a word is said twice in {', '.join(name for name, _ in query)}")
    name = words.pop("search", "")
    if not name or not re.fullmatch(r"[^{}\s\x00-\x1f\ud800-\udfff]{1,200}", name):
        raise UsageError(f"{scheme}://…: say which search, with ?search=name; for instance {_SHAPES[kind]}")
    options = _options(words)
    username, _, password = user.partition(":")
    secrets = {k.removeprefix("sentinel_"): words.pop(k) for k in tuple(words) if k in _SECRET}
    tls_words: dict[str, Any] = {_TLS[k]: words.pop(k) for k in tuple(words) if k in _TLS}
    shown_tls = dict(tls_words)
    if tls_words and not tls:
        raise UsageError(f"{scheme}://…: {', '.join(tls_words)} need a rediss:// URL")
    if "ssl_check_hostname" in tls_words:
        tls_words["ssl_check_hostname"] = tls_words["ssl_check_hostname"].lower() in ("1", "true", "yes")
    if kind == "socket":
        parts, db = [path], words.pop("db", "0")
    else:
        parts = [unquote(p) for p in path.strip("/").split("/") if p]
        last = parts.pop() if parts and (kind == "server" or len(parts) == 2) else None
        db = words.pop("db", last or "0")
        if last is not None and db != last:
            raise UsageError(f"{scheme}://…: two databases are named, {last} and {db}")
    if words:
        known = ["search", "db", *(f.name.removesuffix("_s") for f in fields(Options)), *sorted(_SECRET), *_TLS]
        raise UsageError(f"{scheme}://…: unknown words {', '.join(sorted(words))}; there are {', '.join(known)}")
    service = parts.pop(0) if kind == "sentinel" and parts else ""
    if not db.isdecimal() or (parts and kind != "socket") or (kind == "sentinel") != bool(service):
        raise UsageError(f"{scheme}://…: such a URL is {_SHAPES[kind]}")
    if kind == "cluster" and int(db) != 0:
        raise UsageError(f"{scheme}://…: a cluster has database 0 only")
    address = Address(
        kind,
        hosts,
        tls,
        parts[0] if kind == "socket" else "",
        int(db),
        service,
        unquote(username) or None,
        unquote(password) or None,
        secrets,
        tls_words,
    )
    return address, name, options, _location(scheme, address, name, options.words() | shown_tls)


def _split(url: str, kind: Kind) -> tuple[str, tuple[tuple[str, int], ...], str, list[tuple[str, str]]]:
    """User and password, hosts, path, query. Says nothing of the URL itself when it is wrong: it may hold a password."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        user, _, netloc = parts.netloc.rpartition("@")
        hosts = tuple(_host(text, 26379 if kind == "sentinel" else 6379) for text in netloc.split(",") if text)
    except ValueError:
        hosts, query, user, parts = (), [], "", urlsplit("x://")
    if kind == "socket":
        if hosts or not parts.path.strip("/"):
            raise UsageError(f"unix://…: such a URL is {_SHAPES[kind]}")
    elif not hosts or (kind == "server" and len(hosts) > 1):
        raise UsageError(f"the URL names no host that can be meant; such a URL is {_SHAPES[kind]}")
    return user, hosts, unquote(parts.path) if kind == "socket" else parts.path, query


def _host(text: str, port: int) -> tuple[str, int]:
    if match := re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|([^:\[\]]+)(?::(\d{1,5}))?", text):
        said = match[2] or match[4]
        if said and not 0 < int(said) < 2**16:
            raise ValueError(text)
        host = unquote(match[1] or match[3])
        host.encode("idna")  # or a UnicodeError, which is a ValueError, as whoever looks it up would raise it
        return host, int(said) if said else port
    raise ValueError(text)


def _options(words: dict[str, str]) -> Options:
    def take(name: str, kind: type[float] | type[int], usual: Any) -> Any:
        text = words.pop(name, "")
        try:
            return kind(text) if text else usual
        except ValueError:
            raise UsageError(f"{name}={text!r}: must be a number") from None

    usual = Options()
    return Options(
        take("lease", float, usual.lease_s),
        take("patience", float, usual.patience_s),
        cast("Durability | None", words.pop("durability", None) or None),
        take("replicas", int, usual.replicas),
        take("workers", int, usual.workers),
    )


def _location(scheme: str, address: Address, name: str, words: dict[str, str]) -> str:
    hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts)
    user = f"{quote(address.username or '')}{':***' if address.password else ''}@" if _named(address) else ""
    if address.kind == "socket":
        where = quote(address.path)
        words = {"db": str(address.db), **words} if address.db else words
    elif address.kind == "sentinel":
        where = f"/{quote(address.service, '')}/{address.db}"
    else:
        where = f"/{address.db}" if address.kind == "server" else ""
    return f"{scheme}://{user}{hosts}{where}?{urlencode({'search': name, **words}, quote_via=quote)}"


def _named(address: Address) -> bool:
    return address.username is not None or address.password is not None
