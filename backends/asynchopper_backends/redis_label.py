"""What a worker is called on the server, and what that says of it to others."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket

import orjson

open_here: set[str] = set()
"""The labels of this very process that are in use."""


def label() -> bytes:
    """This process, so that another one on this machine can tell that it is dead, and a person who it is."""
    pid, id = os.getpid(), secrets.token_hex(4)
    open_here.add(id)
    return orjson.dumps({"pid": pid, "host": socket.gethostname(), "home": _home(), "born": _born(pid), "id": id})


def who(of: bytes) -> str:
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
        said = orjson.loads(of)
        return f"process {said['pid']} on {said['host']}"
    return "somebody"


def is_dead(worker: bytes) -> bool:
    """Whether this is a process of this very machine and namespace that has ended, or one of this process's own that was
    closed while the server did not answer. Of others nobody can say."""
    try:
        said = orjson.loads(worker)
        if not said["home"] or said["home"] != _home():
            return False
        pid = int(said["pid"])
        if (born := _born(pid)) != said["born"]:
            return born is not None
        return pid == os.getpid() and said["id"] not in open_here
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return False


@functools.cache
def _home() -> str:
    """Says which processes can see each other: the boot, and the process namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f"{f.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process began, in ticks since the boot; empty where there is no such process, or it only waits to be buried;
    `None` where it may not be seen."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            return None
        return None
    return "" if fields[0] in "ZX" else fields[19]
