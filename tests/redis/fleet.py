"""Fleets of worker processes, and what must be true of what they left."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import orjson

from tests.servers import PATIENCE_S, Server

SCRIPT = Path(__file__).parent.parent / "scripts" / "worker.py"


class Worker:
    """A worker process."""

    def __init__(self, home: Path, number: int, **words: Any) -> None:
        self.log = home / f"worker-{number}.log"
        self.stderr = home / f"worker-{number}.err"
        said = json.dumps({"log": str(self.log), **words})
        with open(self.stderr, "wb") as err:
            self.process = subprocess.Popen([sys.executable, str(SCRIPT), said], stdout=err, stderr=err)
        self.pid = self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def lines(self, *words: Any) -> list[list[Any]]:
        with contextlib.suppress(FileNotFoundError):
            whole = self.log.read_bytes().split(b"\n")[:-1]
            found: list[list[Any]] = [json.loads(line) for line in whole]
            return [line for line in found if line[: len(words)] == list(words)]
        return []

    def wait_line(self, *words: Any, count: int = 1, within_s: float = PATIENCE_S) -> list[list[Any]]:
        deadline = time.monotonic() + within_s
        while len(found := self.lines(*words)) < count:
            assert not self.ended, f"ended with {self.process.returncode}: {self.stderr.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no {words} within {within_s} s: {self.lines()[-5:]}"
            time.sleep(0.01)
        return found

    def wait(self, within_s: float = PATIENCE_S) -> int:
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still there after {within_s} s: {self.lines()[-5:]} {self.stderr.read_text()[-3000:]}"
            ) from None


class Fleet:
    """Workers on one search."""

    def __init__(self, home: Path, url: str, **words: Any) -> None:
        self.home, self.words = home, {"url": url, **words}
        self.workers: list[Worker] = []
        self.disturbed: set[int] = set()
        home.mkdir(exist_ok=True)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGKILL)
            worker.process.wait(PATIENCE_S)

    def start(self, count: int = 1, **words: Any) -> list[Worker]:
        new = [Worker(self.home, len(self.workers) + i, **self.words, **words) for i in range(count)]
        self.workers += new
        return new

    @property
    def alive(self) -> list[Worker]:
        return [w for w in self.workers if not w.ended]

    def disturb(self, worker: Worker, number: int) -> None:
        self.disturbed.add(worker.pid)
        worker.signal(number)

    def wait(self, within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        for worker in self.workers:
            worker.wait(max(deadline - time.monotonic(), 0.1))

    def lines(self, *words: Any) -> list[list[Any]]:
        return [line for worker in self.workers for line in worker.lines(*words)]


def log_of(server: Server, name: str) -> list[dict[str, Any]]:
    """The records of a search, as another program would read them."""
    with server.client() as client:
        entries = client.xrange(f"asynchopper:{{{name}}}:log")
    numbers = [int(id.split(b"-")[0]) for id, _ in entries]
    assert numbers == list(range(1, len(entries) + 1)), "the log has gaps"
    return [orjson.loads(fields[b"r"]) for _, fields in entries]


def told_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in records if r["kind"] == "told" and r["state"] != "interrupted"]


def count_told(server: Server, name: str) -> int:
    with server.client() as client:
        return int(Counts(client, name)["told"])


class Counts(dict[str, float]):
    """What the server counts of a search; nothing of one that is not there."""

    _FORM = struct.Struct("<14d")
    _NAMES = [
        "seq",
        "told",
        "next",
        "out",
        "free",
        "limit",
        "runs",
        "ended",
        "clock",
        "tick",
        "plain",
        "till",
        "first",
        "live",
    ]

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._key = client, f"asynchopper:{{{name}}}:meta"
        packed = client.hget(self._key, "counts") or bytes(self._FORM.size)
        super().__init__(zip(self._NAMES, self._FORM.unpack_from(packed), strict=True))
        self._words = packed[self._FORM.size :]

    def write(self) -> None:
        self._client.hset(self._key, "counts", self._FORM.pack(*self.values()) + self._words)


def wait_until(true: Any, within_s: float = PATIENCE_S, what: str = "") -> Any:
    deadline = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return found


def check(fleet: Fleet, server: Server, name: str, steps: int) -> None:
    """What must be true when a search is over, whatever happened to its workers."""
    records = log_of(server, name)
    told = told_of(records)
    ids = [r["id"] for r in told]
    assert len(ids) == steps, f"{len(ids)} results for a budget of {steps}"
    assert len(set(ids)) == steps, f"counted twice: {[i for i, n in Counter(ids).items() if n > 1]}"
    assert sorted(ids) == list(range(steps)), "a trial was begun beyond the budget"

    ends = {(id, attempt, value) for _, id, attempt, value, *_ in fleet.lines("end")}
    for r in told:
        assert (r["id"], r["attempt"], r["value"]) in ends, f"nobody reached what is stored: {r}"

    begun: dict[int, list[tuple[int, int, float, float]]] = defaultdict(list)
    for _, id, attempt, x, pid, at in fleet.lines("begin"):
        begun[id].append((attempt, pid, at, x))
    for id, evaluations in begun.items():
        evaluations.sort()
        assert len({attempt for attempt, *_ in evaluations}) == len(evaluations), f"an attempt of {id} was begun twice"
        assert len({x for *_, x in evaluations}) == 1, "another candidate under the same number"
        for (_, pid, *_), _ in itertools.pairwise(evaluations):
            assert pid in fleet.disturbed, f"trial {id} ran again though nothing had happened to its worker"

    for _, _, known, best_value, *_ in fleet.lines("over"):
        assert known == ids[: len(known)], "a worker saw another order"
        assert best_value == max(r["value"] for r in told[: len(known)])


def pidfd_wait(pid: int, within_s: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            select.select([fd], [], [], within_s)
        finally:
            os.close(fd)
