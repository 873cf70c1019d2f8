"""What kills, torn writes, full disks, signals, damage and malice do to the checkpoints of tuners, side by side.

`python -m benchmarks.durability.peers [TIMES [TOOL...]]` needs pyhopper and optuna too, and leaves out whatever is not
installed. It prints a table for people, in Markdown. Each cell says how often something went wrong, of how many times.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import importlib.util
import json
import os
import pickle
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
BOUND_S = 60.0
PACKAGES = {"asynchopper": "asynchopper", "pyhopper": "pyhopper", "optuna-journal": "optuna", "optuna-sqlite": "optuna"}
APPENDING = ("asynchopper", "optuna-journal")


class Running:
    """A tuner at work, and what it has gone on from."""

    def __init__(self, tool: str, path: Path, room: int | None = None) -> None:
        words = [sys.executable, str(WORKER), tool, "run", str(path), *([] if room is None else [str(room)])]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        self.evaluating = False
        self.ended: list[str] = []
        self._rest = b""

    @property
    def acknowledged(self) -> list[str]:
        """Values whose evaluation had ended before the last one began."""
        return self.ended if self.evaluating else self.ended[:-1]

    def listen(self, until: Callable[[], bool]) -> None:
        """Takes in what it says until that is enough, or it has ended."""
        assert self.process.stdout is not None
        while not until():
            ready, _, _ = select.select([self.process.stdout], [], [], BOUND_S)
            if not ready or not (data := os.read(self.process.stdout.fileno(), 2**16)):
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self.evaluating = line == b"s"
                if line.startswith(b"v "):
                    self.ended.append(line[2:].decode())

    def stop(self, number: int) -> int:
        """Sends a signal, and waits for the end; what was said until then counts. Gives the status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        self.listen(lambda: False)
        try:
            return self.process.wait(BOUND_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(BOUND_S)


def known(tool: str, path: Path) -> list[str] | None:
    """The values in a checkpoint; `None` when the tool cannot read it."""
    try:
        ran = subprocess.run(
            [sys.executable, str(WORKER), tool, "read", str(path)], capture_output=True, timeout=BOUND_S
        )
        values: list[str] = json.loads(ran.stdout) if ran.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return values


def ran(tool: str, path: Path, results: int, number: int = signal.SIGKILL, rng: random.Random | None = None) -> Running:
    """A checkpoint of a run that was stopped after some results, at any moment of what follows the last one."""
    running = Running(tool, path)
    running.listen(lambda: len(running.ended) >= results)
    if rng is not None:
        end = rng.random() * 0.006
        select.select([], [], [], end)
    running.stop(number)
    return running


def verdict(tool: str, path: Path, acknowledged: list[str]) -> str:
    found = known(tool, path)
    if found is None:
        return "unreadable"
    return "lost results" if set(acknowledged) - set(found) else "fine"


def on(tool: str, path: Path, acknowledged: list[str]) -> str:
    """What becomes of a checkpoint when the search goes on from it, until five more results."""
    running = Running(tool, path)
    running.listen(lambda: len(running.ended) >= 6)
    running.stop(signal.SIGKILL)
    if len(running.ended) < 6:
        return "does not go on"
    return verdict(tool, path, acknowledged + running.acknowledged)


# -- what is tried


def kill(tool: str, place: Path, rng: random.Random) -> str:
    running = ran(tool, place / "c", rng.randrange(2, 60), rng=rng)
    return verdict(tool, place / "c", running.acknowledged)


def torn(tool: str, place: Path, rng: random.Random) -> str:
    """What a kill in the middle of the next write leaves: half a line, or half of the file for those who rewrite it."""
    path = place / "c"
    running = ran(tool, path, rng.randrange(5, 20))
    data = path.read_bytes()
    if tool in APPENDING:
        last = data.rstrip(b"\n").rsplit(b"\n", 1)[-1]
        path.write_bytes(data + last[: rng.randrange(1, len(last))])
    else:
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    return on(tool, path, running.acknowledged)


def full(tool: str, place: Path, rng: random.Random) -> str:
    path = place / "c"
    first = ran(tool, path, 10)
    then = Running(tool, path, path.stat().st_size + rng.randrange(4 * 4096))
    then.listen(lambda: len(then.ended) > 400)
    if then.process.poll() is None:
        then.stop(signal.SIGKILL)
    then.wait()
    return on(tool, path, first.acknowledged + then.acknowledged)


def sigterm(tool: str, place: Path, rng: random.Random) -> str:
    running = ran(tool, place / "c", rng.randrange(3, 40), signal.SIGTERM, rng)
    return verdict(tool, place / "c", running.ended)  # a graceful end loses nothing that was computed


def flips(tool: str, place: Path, rng: random.Random) -> Iterator[str]:
    path = place / "c"
    running = Running(tool, path)
    running.listen(lambda: len(running.ended) >= 30 and running.evaluating)  # so nothing is being written
    running.stop(signal.SIGKILL)
    whole, data = known(tool, path), path.read_bytes()
    for _ in range(30):
        out = bytearray(data)
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        path.write_bytes(out)
        for suffix in ("-journal", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        found = known(tool, path)
        yield "refused" if found is None else "unchanged" if found == whole else "silently different"


def malice(tool: str, place: Path) -> str:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {place}/boom",)

    for pack in (pickle.dumps, lambda x: gzip.compress(pickle.dumps(x))):
        (place / "c").write_bytes(pack(Bomb()))
        known(tool, place / "c")
    return "runs its code" if (place / "boom").exists() else "refused"


@contextlib.contextmanager
def somewhere() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp())
    try:
        yield place
    finally:
        shutil.rmtree(place)


def tried(trial: Callable[[str, Path, random.Random], str], tool: str, times: int) -> str:
    counts: Counter[str] = Counter()
    for i in range(times):
        with somewhere() as place:
            counts[trial(tool, place, random.Random(f"{trial.__name__} {i}"))] += 1
    return _said(counts)


def _said(counts: Counter[str]) -> str:
    bad = [f"**{n} {word}**" for word, n in sorted(counts.items()) if word not in ("fine", "refused", "unchanged")]
    good = [f"{n} {word}" for word, n in sorted(counts.items()) if word in ("refused", "unchanged")]
    return ", ".join(
        [*bad, *good, f"of {counts.total()}"] if bad or good else [f"{counts.total()} of {counts.total()} fine"]
    )


def main(times: int, *wanted: str) -> None:
    tools = [tool for tool in wanted or PACKAGES if importlib.util.find_spec(PACKAGES[tool])]
    rows: dict[str, list[str]] = {}
    for tool in tools:
        column = {
            "kill -9 at any moment": tried(kill, tool, times),
            "goes on after a torn write": tried(torn, tool, times // 5) if tool != "optuna-sqlite" else "not tried",
            "goes on after a full disk": tried(full, tool, times // 5),
            "SIGTERM: all that was computed is there": tried(sigterm, tool, times // 5),
        }
        with somewhere() as place:
            column["one bit flipped"] = _said(Counter(flips(tool, place, random.Random(7))))
        with somewhere() as place:
            column["a file that means harm"] = malice(tool, place)
        for name, cell in column.items():
            rows.setdefault(name, []).append(cell)
        print(tool, column, file=sys.stderr, flush=True)
    versions = {tool: importlib.metadata.version(PACKAGES[tool]) for tool in tools}
    print("| | " + " | ".join(f"{tool} {versions[tool]}" for tool in tools) + " |")
    print("|---" * (len(tools) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, *sys.argv[2:])
