"""Real child processes: start a script, wait for a line it says, signal it, see how it ended and what it left running.

A child says lines (JSON lists) on a named pipe that every process of its family can open, so waiting for one is a `select`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "scripts"
PATIENCE_S = 30.0  # how long a wait may take on a crowded machine before it is a failure

Line = list[Any]


class Wire:
    """The reading end of a named pipe, and every line that came over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(
            path, os.O_RDWR | os.O_NONBLOCK
        )  # our own writing end: it never ends while children come and go
        self._rest = b""
        self.lines: list[Line] = []

    def read(self, within_s: float = 0.0) -> None:
        """Takes what has been said, waiting at most `within_s` seconds for the first of it."""
        if self._fd >= 0 and select.select([self._fd], [], [], max(within_s, 0.0))[0]:
            while True:
                try:
                    chunk = os.read(self._fd, 2**16)
                except BlockingIOError:
                    break
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self.lines += [json.loads(line) for line in lines]

    def forget_torn(self) -> None:
        """Drops the half of a line that a killed process left."""
        self.read()
        self._rest = b""

    def said(self, *words: Any) -> list[Line]:
        """The lines so far that begin with these words."""
        self.read()
        return [line for line in self.lines if line[: len(words)] == list(words)]

    def close(self) -> None:
        self.read()
        os.close(self._fd)
        self._fd = -1


class Child:
    """`python tests/scripts/<script>` with one JSON argument, in a session of its own."""

    def __init__(
        self, script: str, home: Path, wire: Wire | None = None, prefix: Sequence[str] = (), **words: Any
    ) -> None:
        self.home = home
        self.wire = wire or Wire(home / f"wire-{len(list(home.glob('wire-*')))}")
        self._owns_wire = wire is None
        words["wire"] = str(self.wire.path)
        self._stderr = open(home / "stderr", "w+b")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(SCRIPTS / script), json.dumps(words)],
            stdin=subprocess.DEVNULL,
            stdout=self._stderr,
            stderr=self._stderr,
            cwd=home,
            start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"},
        )
        self.pid = self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for pid in self.family():
            kill_quietly(pid)
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._stderr.close()
        if self._owns_wire:
            self.wire.close()

    # -- watching

    def wait_for(self, enough: Callable[[Wire], Any], within_s: float = PATIENCE_S) -> Any:
        """What `enough` says of the lines, once it is true. Fails when the child ends or the time is up before."""
        deadline = time.monotonic() + within_s
        ended = False
        while not (found := enough(self.wire)):
            left = deadline - time.monotonic()
            if ended or left <= 0:
                raise AssertionError(
                    f"{'the child ended' if ended else f'not within {within_s} s'}\n{self.wire.lines[-20:]}\n{self.stderr()}"
                )
            ended = self.process.poll() is not None
            self.wire.read(0 if ended else min(left, 0.05))
        return found

    def wait_line(self, *words: Any, count: int = 1, within_s: float = PATIENCE_S) -> list[Line]:
        """The lines that begin with these words, once there are `count`."""

        def enough(wire: Wire) -> list[Line]:
            lines = wire.said(*words)
            return lines if len(lines) >= count else []

        found: list[Line] = self.wait_for(enough, within_s)
        return found

    def stderr(self) -> str:
        return (self.home / "stderr").read_text(errors="replace")[-4000:]

    # -- ending it

    def signal(self, number: int) -> float:
        """Sends a signal; gives the time, on the clock that all processes share."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def status(self, within_s: float = PATIENCE_S) -> int:
        """The exit status, negative for a signal. Keeps reading the wire, so that the child never waits for us."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {within_s} s\n{self.wire.lines[-20:]}\n{self.stderr()}")
            pidfd = os.pidfd_open(self.pid)
            try:
                select.select([pidfd, self.wire._fd], [], [], max(deadline - time.monotonic(), 0.0))
            finally:
                os.close(pidfd)
            self.wire.read()
        self.wire.read()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    # -- what it left

    def family(self) -> list[int]:
        """The living processes of the child's session, itself not counted."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                try:
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(session) == self.pid and state not in "ZX":
                    found.append(int(entry.name))
        return found

    def orphans(self, within_s: float = 5.0) -> list[int]:
        """Who is still there of the family after at most `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while (alive := self.family()) and time.monotonic() < deadline:
            try:
                pidfd = os.pidfd_open(alive[0])
            except ProcessLookupError:
                continue
            try:
                select.select([pidfd], [], [], max(deadline - time.monotonic(), 0.0))
            finally:
                os.close(pidfd)
        return alive


def kill_quietly(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# -- what a search left in its log, read as any other process would


def records(path: Path) -> list[dict[str, Any]]:
    """The whole records of a checkpoint, in order; what a crash left behind them is not looked at."""
    found: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record.get("seq") != len(found):
            break
        found.append(record)
    return found


def told(path: Path, *states: str) -> dict[int, dict[str, Any]]:
    """The last `told` record of each trial, of those in these states (all but interrupted, when none is given)."""
    found = {r["id"]: r for r in records(path) if r["kind"] == "told"}
    return {i: r for i, r in found.items() if (r["state"] in states if states else r["state"] != "interrupted")}


def asked(path: Path) -> dict[int, dict[str, Any]]:
    """The last `asked` record of each trial."""
    return {r["id"]: r for r in records(path) if r["kind"] == "asked"}


def wait_told(path: Path, ids: set[int], within_s: float) -> float:
    """The time at which every one of these trials could be read as finished."""
    deadline = time.monotonic() + within_s
    while not (path.exists() and ids <= told(path).keys()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{sorted(ids - told(path).keys())} not in {path.name} after {within_s} s")
        time.sleep(0.002)
    return time.monotonic()
