"""kill -9, again and again, at random moments, and what must be true of the log afterwards."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import Child, Line, Wire, asked, records, told


@dataclass
class Chaos:
    """One search that is killed `kills` times, and then left to finish. Every choice follows from `seed`."""

    home: Path
    seed: int
    steps: int
    concurrency: int
    directory: bool = False
    mean_s: float = 0.01  # seconds of one evaluation
    killed: int = 0
    killed_running: int = 0
    resumed_with: list[int] = field(default_factory=list)
    """How many candidates were in flight, kill by kill."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.wire = Wire(self.home / "wire")
        self.place = self.home / "runs" if self.directory else self.home / "a.ckpt"

    @property
    def log(self) -> Path:
        """The file that holds the search."""
        if not self.directory:
            return self.place
        files = [f for f in sorted(self.place.glob("run_*.ckpt")) if records(f)]
        assert len(files) < 2, "a run that was killed is continued, not begun again beside"
        return files[0] if files else self.place / "run_00000.ckpt"

    def child(self, mean_s: float) -> Child:
        path = f"{self.place}/" if self.directory else str(self.place)
        words = {
            "path": path,
            "steps": self.steps,
            "concurrency": self.concurrency,
            "seed": self.seed,
            "mean_s": mean_s,
        }
        return Child("tuning.py", self.home, self.wire, host="chaos", **words)

    def run(self, kills: int) -> None:
        try:
            for _ in range(kills):
                self.kill_one()
                self.check()
            with self.child(0.0) as child:
                assert child.status(120) == 0, child.stderr()
            self.check()
            self.check_whole()
        finally:
            self.wire.close()

    def kill_one(self) -> None:
        """Kills one process, most often while it evaluates, sometimes while it starts or reads its log."""
        early = self.random.random() < 0.2
        within_s = self.random.uniform(0.0, 0.6 if early else 0.15)
        before = len(self.wire.lines)
        with self.child(self.mean_s) as child:
            if not early:
                child.wait_for(lambda wire: any(line[0] == "start" for line in wire.lines[before:]))
            until = time.monotonic() + within_s
            while (left := until - time.monotonic()) > 0:
                self.wire.read(left)
            assert child.process.poll() is None, f"it ended before it could be killed: {child.stderr()}"
            child.kill()
            self.wire.forget_torn()
            self.killed += 1
            self.killed_running += any(line[0] == "start" for line in self.wire.lines[before:])

    # -- what must be true

    def check(self) -> None:
        """After each kill: all that was acknowledged is there, all that is there can be read."""
        log = self.log
        if not log.exists():
            assert not self.wire.said("start")
            return
        finished = told(log)
        for _, id, attempt, value in self.wire.said("durable"):
            assert finished[id]["value"] == value, f"trial {id} was acknowledged"
            assert finished[id]["attempt"] == attempt
        candidates = asked(log)
        for _, id, attempt, params in self.wire.said("start"):
            assert candidates[id]["attempt"] >= attempt, f"trial {id} started before it was durable"
            assert candidates[id]["params"] == params, "the same candidate, however often it is evaluated"
        self.resumed_with.append(len(candidates.keys() - finished.keys()))

    def check_whole(self) -> None:
        """At the end: the budget is met exactly, nothing counted twice, what was in flight came back first."""
        starts = [(id, attempt) for _, id, attempt, _ in self.wire.said("start")]
        assert len(starts) == len(set(starts)), "no attempt is made twice"
        log = records(self.log)
        assert log[-1]["kind"] == "ended"
        assert log[-1]["reason"] == "steps"
        results = [r["id"] for r in log if r["kind"] == "told" and r["state"] != "interrupted"]
        assert sorted(results) == list(range(self.steps))
        check_order(log)

    def params(self) -> list[dict[str, Any]]:
        found = asked(self.log)
        return [found[i]["params"] for i in sorted(found)]


def check_order(log: list[dict[str, Any]]) -> None:
    """After each start, what was in flight is asked again, with the next attempt, before anything new."""
    out: dict[int, dict[str, Any]] = {}
    due: set[int] = set()
    for r in log:
        if r["kind"] == "run":
            due = set(out)
        elif r["kind"] == "asked":
            if r["id"] in out:
                assert r["attempt"] == out[r["id"]]["attempt"] + 1
                assert r["params"] == out[r["id"]]["params"]
                due.discard(r["id"])
            else:
                assert not due, f"{sorted(due)} were in flight, and {r['id']} came before them"
                assert r["attempt"] == 1
            out[r["id"]] = r
        elif r["kind"] == "told" and r["state"] != "interrupted":
            assert r["attempt"] == out.pop(r["id"])["attempt"]


def acknowledged(lines: list[Line]) -> int:
    return sum(line[0] == "durable" for line in lines)
