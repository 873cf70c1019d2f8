"""The layers of a result on its way into a file, and of one that is read back."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import zlib
from array import array
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from asynchopper_backends.file import FileStorage
from asynchopper_backends.lines import batches

from asynchopper.journal import Journal, Replay, fold_portion
from asynchopper.records import encode, frame
from asynchopper.space import Space
from asynchopper.state import Asked, Fact, State, Told
from asynchopper.storage import Done
from benchmarks.parts import Layer, cost, ledger_of, moves_alone
from benchmarks.tuners import in_loop, our_search, ours

_HEADER = b'{"kind":"header","format":"1.0","search":"0","direction":"maximize","seed":1,"space":{}}'


class _Nowhere(FileStorage):
    """Takes records, and keeps none."""

    def append_soon(self, records: Any, done: Done) -> None:
        asyncio.get_running_loop().call_soon(done, None)


class _Encoded(Journal):
    """A journal whose records are made already."""

    def __init__(self, state: State, storage: FileStorage, records: list[bytes]) -> None:
        super().__init__(state, storage)
        self.records = records

    def _encode(self, facts: Any) -> list[bytes]:
        return self.records


def durable(folder: Path, n: int, repeats: int) -> dict[str, list[Layer]]:
    """What a result costs on its way into a file: its `told` and the next one's `asked`, alone and with 100 in flight."""
    ledger = ledger_of(moves_alone(), 200)
    table, last = ledger.state.table, len(ledger.state.table) - 1
    facts: list[Fact] = [
        Told(last, 1, "completed", table.values[last], (), 0.0, 1.3e-05, 12.345678),
        Asked(last + 1, 1, table.row(last), "local", table.notes.get(last)),
    ]
    space = ledger.state.space
    return {
        f"{c} in flight": asyncio.run(_durable(folder / f"{c}.ckpt", space, facts * c, max(20, n // c), repeats))
        for c in (1, 100)
    }


async def _durable(path: Path, space: Space, facts: list[Fact], rounds: int, repeats: int) -> list[Layer]:
    bodies = [orjson.loads(encode(f, space)) for f in facts]
    records = [encode(f, space) for f in facts]
    results = len(records) // 2

    def took(work: Callable[[], object]) -> float:
        return cost(lambda: [work() for _ in range(rounds)], results * rounds, repeats)

    async def waited(work: Callable[[], Awaitable[Any]]) -> float:
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken) / results * 1e6

    encoding, encoded = took(lambda: [encode(f, space) for f in facts]), took(lambda: [orjson.dumps(b) for b in bodies])
    framing = took(lambda: b"".join([frame(r, 10_000 + i) for i, r in enumerate(records)]))
    framed = took(lambda: [zlib.crc32(r) for r in records])
    storage = await _opened(path)
    try:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            hop = await waited(lambda: _there_and_back(storage))
            bare_hop = await waited(lambda: loop.run_in_executor(pool, _nothing))
        journal = _Encoded(State(space), _Nowhere(path), records)

        def committed() -> Awaitable[None]:
            over = loop.create_future()
            journal.stage_log(facts)
            journal.commit_soon(partial(over.set_result, None))
            return over

        commit = await waited(committed)
        task = await waited(lambda: loop.create_task(_slept()))
        wall = await _into_files(storage, records, rounds)
    finally:
        await storage.close()
    writing, syncing, whole, guard = (x / results for x in wall)
    floor = encoded + framed + writing + syncing
    return [
        Layer("journal: begin a write, and hear of its end", commit, task, "a task"),
        Layer("encode (processor time)", encoding, encoded, "orjson"),
        Layer("frame: number and checksum (processor time)", framing, framed, "crc32"),
        Layer("to the file's thread and back", hop, bare_hop, "a call in an executor"),
        Layer("write", writing, writing, "itself"),
        Layer("sync", syncing, syncing, "fdatasync itself"),
        Layer("watermark, and a look at the file's name", guard, None, ""),
        Layer("all of it", whole + commit + encoding, floor, "the floors of encode, frame, write and sync", True),
    ]


async def _opened(path: Path) -> FileStorage:
    storage = FileStorage(path)
    await storage.open()
    async for _ in storage.read():
        pass
    await storage.append([_HEADER])
    return storage


def _nothing() -> None:
    pass


def _there_and_back(storage: FileStorage) -> Awaitable[None]:
    loop, thread = asyncio.get_running_loop(), storage._thread
    over = loop.create_future()
    assert thread is not None
    thread.do(partial(loop.call_soon_threadsafe, over.set_result, None))
    return over


async def _slept() -> None:
    pass


async def _into_files(storage: FileStorage, records: list[bytes], rounds: int) -> tuple[float, float, float, float]:
    """Microseconds of a bare write, a bare sync, a whole append, and of its watermark; medians of turns taken."""
    data = b"".join([frame(r, 10_000 + i) for i, r in enumerate(records)])
    taken: list[tuple[float, ...]] = []
    fd = os.open(storage.path.with_suffix(".bare"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        for i in range(rounds):
            marks = [time.perf_counter()]
            os.pwrite(fd, data, i * len(data))
            marks.append(time.perf_counter())
            os.fdatasync(fd)
            marks.append(time.perf_counter())
            await storage.append(records)
            marks.append(time.perf_counter())
            storage._note_durable()
            storage._check_in_place()
            marks.append(time.perf_counter())
            taken.append(tuple((b - a) * 1e6 for a, b in pairwise(marks)))
    finally:
        os.close(fd)
    write, sync, append, guard = (statistics.median(column) for column in zip(*taken, strict=True))
    return write, sync, append, guard


def reading(folder: Path, n: int, repeats: int) -> list[Layer]:
    """What a stored result costs when a log is read: its `asked` and its `told`."""
    path, saved = folder / "long.ckpt", folder / "saved.ckpt"
    in_loop(in_loop(ours(n, 1000, checkpoint_path=path)).save(saved))
    space = our_search().space

    def took(work: Callable[[], object]) -> float:
        return cost(work, n, repeats)

    with path.open("rb", 0) as file:
        fd, size = file.fileno(), path.stat().st_size

        def read() -> bytes:
            return b"".join([os.pread(fd, 2**20, at) for at in range(0, size, 2**20)])

        def in_bulk() -> None:
            log = Replay(State(space, remember=False), str(path))
            for portion in portions:
                log.fold(portion)
            log.end()

        def one_by_one() -> None:
            state = State(space, remember=False)
            for portion in portions:
                fold_portion(portion, state, str(path))

        portions = list(batches(fd))
        lines = [entry.data for portion in portions for entry in portion]
        reads, columns = took(read), took(lambda: _columns(n))
        parse = took(lambda: [orjson.loads(line) for line in lines])
        crcs = took(lambda: [zlib.crc32(line) for line in read().split(b"\n")]) - reads
        return [
            Layer("read", reads, reads, "itself"),
            Layer("lines: number, batch, checksum", took(lambda: list(batches(fd))) - reads, crcs, "split and crc32"),
            Layer(
                "parse, check, and fold, in bulk", took(in_bulk), parse + columns, "orjson into dicts; twelve columns"
            ),
            Layer("(parse, check, and fold, record by record)", took(one_by_one), parse + columns, "the same"),
            Layer(
                "(all of it, of a saved file)",
                took(lambda: in_loop(our_search().load(saved))),
                took(saved.read_bytes),
                "read",
            ),
            Layer(
                "all of it: load",
                took(lambda: in_loop(our_search().load(path))),
                took(lambda: [(zlib.crc32(line), orjson.loads(line)) for line in read().splitlines()]),
                "read, split, crc32 and orjson into dicts",
                True,
            ),
        ]


def _columns(n: int) -> None:
    kept = [array("d") for _ in range(12)]
    out: dict[int, int] = {}
    for i in range(n):
        out[i] = i
        del out[i]
        for column in kept:
            column.append(0.5)
