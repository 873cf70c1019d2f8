"""Nothing grows: what each call of a trial costs with 100 trials behind it, and with 100,000; and what arrays cost by their size.

Processor time; the two searches take turns, so that a slow minute of the machine hits both.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import orjson
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from asynchopper.callbacks import Watchers
from asynchopper.keys import Keys
from asynchopper.ledger import Ledger
from asynchopper.samplers import RandomSampler, TwoStageSampler
from benchmarks.bench import Row, row
from benchmarks.parts import asked_and_told, ledger_of, moves_alone, turn

_FEW, _BLOCK = 100, 128
_TOGETHER = 10  # blocks that are one figure: what a sampler does once for hundreds of trials is in each of them
_CALLS = ("propose, and fold the asked", "fold the told", "callbacks")


def measure(rounds: int, quick: bool = False) -> list[Row]:
    many = 5_000 if quick else 100_000
    rows = []
    for name, words in cases().items():
        if words.get("few", _FEW) < many:
            rows += grown(name, words, many, rounds)
    rows.append(appended(many, 10 * rounds))
    return [*rows, *arrays(10 * rounds, quick)]


def cases() -> dict[str, dict[str, Any]]:
    """What a search is made with, by name."""
    floats = ah.Search(
        {name: ah.float(0, 1) for name in "abcde"}
    )  # where nothing is drawn twice, however much there is
    few = ah.Search({"a": ah.int(1, 8), "b": ah.choice("x", "y", "z"), "c": ah.int(1, 20)})
    return {
        "random": {"sampler": RandomSampler},
        "seeding": {"sampler": TwoStageSampler, "seeding_ratio": 1.0},
        "local": {"sampler": TwoStageSampler, "seeding_steps": 0},
        "local, floats only": {"sampler": TwoStageSampler, "seeding_steps": 0, "search": floats},
        "default": {"sampler": moves_alone},
        "default, by the block": {"sampler": moves_alone, "few": 5_000},
        "default, duplicates reused": {"sampler": moves_alone, "duplicates": "reuse"},
        "default, duplicates allowed": {"sampler": moves_alone, "duplicates": "allow"},
        "random, duplicates allowed": {"sampler": RandomSampler, "duplicates": "allow"},
        "random, 480 points, duplicates reused": {"sampler": RandomSampler, "duplicates": "reuse", "search": few},
    }


def score(params: dict[str, Any]) -> float:
    """A number between 0 and 1 for any parameters, without a best place to settle at: the history is what grows, not the luck."""
    return zlib.crc32(orjson.dumps(params, option=orjson.OPT_SERIALIZE_NUMPY)) / 2**32


def grown(name: str, words: dict[str, Any], many: int, rounds: int) -> list[Row]:
    """Each call at many trials, beside the same at few."""

    few = words.get("few", _FEW)
    made = {k: v for k, v in words.items() if k not in ("few", "sampler")}

    def search(trials: int) -> Ledger:
        ledger = ledger_of(words["sampler"](), **made)
        for _ in range(trials):
            turn(ledger, score)
        return ledger

    large = search(many)
    taken: list[tuple[list[float], list[float]]] = [([], []) for _ in _CALLS]
    for _ in range(rounds):
        if few == _FEW:
            small = [_block(search(few)) for _ in range(_TOGETHER)]
        else:  # so many more make no difference there, and what is made for 256 at once has to be in it
            there = search(few)
            small = [_block(there) for _ in range(_TOGETHER)]
        late = [_block(large) for _ in range(_TOGETHER)]
        for at, figures in enumerate(taken):
            figures[0].append(statistics.mean(block[at] for block in small))
            figures[1].append(statistics.mean(block[at] for block in late))
    rows = [
        row(f"{name}: {call}, at {many:,} trials", late, f"at {few:,}", early, "us", at_most=1.1)
        for call, (early, late) in zip(_CALLS, taken, strict=True)
    ]
    if words.get("duplicates") is None and "random" not in name and name != "seeding":
        what = f"{name}: candidates looked up for one that is new, at {many:,} trials"
        rows.append(row(what, [_draws(large)], f"at {few:,}", [_draws(search(few))], ""))
    return rows


class _Counted(Keys):
    """Counts how often it is asked whether it has a key."""

    __slots__ = ("asked",)

    def __contains__(self, number: Any) -> bool:
        self.asked += 1
        return super().__contains__(number)


def _draws(ledger: Ledger) -> float:
    """How many candidates are looked up for each that is asked: those that were asked before are drawn again. It is a count."""
    n, seen = 5 * _BLOCK, ledger.state.seen
    assert seen is not None
    counted = _Counted(seen)
    counted.asked, ledger.state.seen = 0, counted
    for _ in range(n):
        turn(ledger, score)
    return counted.asked / n


def _block(ledger: Ledger) -> tuple[float, float, float]:
    """Microseconds of the processor for each call."""
    watchers = Watchers(_heard)
    asyncio.run(ledger.journal.commit())
    ledger.news()
    gc.collect(0)
    asking, telling = asked_and_told(ledger, _BLOCK, score)
    asyncio.run(ledger.journal.commit())
    began = time.process_time()
    for trial in ledger.news():
        watchers.told(trial)
    return asking, telling, (time.process_time() - began) / _BLOCK * 1e6


def _heard(trial: Any) -> None:
    pass


def appended(many: int, blocks: int) -> Row:
    """Processor time of a durable append of one result, whatever the disk takes."""

    async def appends(folder: Path) -> tuple[list[float], list[float]]:
        head = b'{"kind":"header","format":"1.0","search":"0","direction":"maximize","seed":1,"space":{}}'
        record = b'{"kind":"told","id":1,"attempt":1,"state":"completed","value":0.5,"seconds":0.0,"elapsed":0.0}'
        taken: tuple[list[float], list[float]] = ([], [])
        logs = []
        for results in (_FEW, many):
            storage = FileStorage(folder / f"{results}.ckpt")
            await storage.open()
            async for _ in storage.read():
                pass
            await storage.append([head])
            await storage.append([record] * (2 * results))
            logs.append(storage)
        for _ in range(blocks):
            for storage, figures in zip(logs, taken, strict=True):
                began = time.process_time()
                for _ in range(10):
                    await storage.append([record] * 2)
                figures.append((time.process_time() - began) / 10 * 1e6)
        for storage in logs:
            await storage.close()
        return taken

    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd()))
    try:
        few, lots = asyncio.run(appends(folder))
    finally:
        shutil.rmtree(folder)
    return row(f"file: append a result, at {many:,} results", lots, "at 100", few, "us", at_most=1.1)


# -- arrays


def arrays(blocks: int, quick: bool) -> list[Row]:
    """Ask and tell of one array: by its history, and by its size."""
    rows, entry = [], {}
    many = 300 if quick else 2_000
    for size in (10, 100, 1_000, 10_000):
        words = {"search": ah.Search({"w": ah.float(-1, 1, shape=(size,))})}
        small, large = _trials(words, _FEW), _trials(words, min(many, 2_000_000 // size + 300))
        few: list[float] = []
        lots: list[float] = []
        n = max(2, min(50, 20_000 // size))
        for _ in range(blocks):
            for ledger, taken in ((small, few), (large, lots)):
                began = time.process_time()
                for _ in range(n):
                    turn(ledger, _sum)
                taken.append((time.process_time() - began) / n * 1e6)
        entry[size] = [us / size for us in lots]
        rows.append(
            row(
                f"array of {size:,}: a trial, at {large.state.told:,} trials",
                lots,
                "from 100 on",
                few,
                "us",
                at_most=1.1,
            )
        )
    return rows + [
        row(
            f"array of {size:,}: a trial, for each entry",
            [us * 1e3 for us in entry[size]],
            f"of {size // 10:,}",
            [us * 1e3 for us in entry[size // 10]],
            "ns",
            at_most=1.1,
        )
        for size in (100, 1_000, 10_000)
    ]


def _trials(words: dict[str, Any], trials: int) -> Ledger:
    ledger = ledger_of(moves_alone(), **words)
    for _ in range(trials):
        turn(ledger, _sum)
    return ledger


def _sum(params: dict[str, Any]) -> float:
    return float(params["w"][0])
