"""Random damage to checkpoints, and the verdict on what a search makes of it."""

from __future__ import annotations

import gzip
import logging
import math
import pickle
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

import asynchopper as ah
from asynchopper.journal import replay
from asynchopper.records import encode, frame, unframe
from asynchopper.space import Space
from asynchopper.state import State
from asynchopper.storage import open_storage

SPACE = {
    "x": ah.float(0, 1),
    "n": ah.int(0, 10**6),
    "w": ah.float(-1, 1, shape=(5, 5)),
    "kind": ah.choice({"name": "a", "depth": ah.int(1, 9)}, "b"),
}


async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    """Every way to end, so that every kind of record is there."""
    if trial.id % 11 == 3:
        raise ValueError('no such thing: ä\n"quoted"')
    if trial.id % 13 == 5:
        return math.nan
    if trial.id % 5 == 1:
        await trial.save({"epoch": trial.id, "notes": ["a", None, 1.5]})
    for step in range(trial.id % 3):
        await trial.report(step / 7)
    return float(params["x"]) + params["n"] / 1e9


async def checkpoints(place: Path) -> dict[str, bytes]:
    """Logs of the ways to end one: cleanly, resumed, by a kill, by `save`."""
    words: dict[str, Any] = {"on_error": "record", "ignore_nans": True, "concurrency": 3, "quiet": True}
    logs: dict[str, bytes] = {}
    path = place / "run.ckpt"

    def copy(trial: ah.Trial) -> None:
        if trial.id == 20:
            logs["killed"] = path.read_bytes()

    search = ah.Search(SPACE, seed=3)
    pruner = ah.pruners.QuantilePruner(0.9)
    await search.run(objective, steps=30, checkpoint_path=path, callbacks=copy, pruner=pruner, **words)
    logs["ended"] = path.read_bytes()
    search = ah.Search(SPACE, seed=3)
    await search.run(objective, steps=10, checkpoint_path=path, **words)
    logs["resumed"] = path.read_bytes()
    logs["saved"] = (await search.save(place / "saved.ckpt", pruner=pruner)).read_bytes()
    return logs


# -- damages: bytes in, bytes out

Damage = Callable[[bytes, random.Random], bytes]


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def flip(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_first_line(data: bytes, rng: random.Random) -> bytes:
    first, rest = data.split(b"\n", 1)
    return flip(first + b"\n", rng) + rest


def flip_last_line(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    return b"".join(lines[:-1]) + flip(lines[-1], rng)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    at, n = rng.randrange(len(data)), rng.choice((1, 2, 7, 50))
    return data[:at] + rng.randbytes(n) + data[at + n :]


def retype_digit(data: bytes, rng: random.Random) -> bytes:
    at = rng.choice([m.start() for m in re.finditer(rb"[0-9]", data)])
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def cut_at_line(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    return b"".join(lines[: rng.randrange(len(lines))])


def cut_last_bytes(data: bytes, rng: random.Random) -> bytes:
    return data[: -rng.randrange(1, 20)]


def cut_front(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(1, len(data)) :]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:a] + data[b + 1 :]


def delete_lines(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    at = rng.randrange(len(lines))
    del lines[at : at + rng.choice((1, 1, 2, 5))]
    return b"".join(lines)


def double_lines(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    at, n = rng.randrange(len(lines)), rng.choice((1, 1, 2, 5))
    return b"".join(lines[: at + n] + lines[at:])


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    a, b = rng.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def shuffle_lines(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    rng.shuffle(lines)
    return b"".join(lines)


def zero_page(data: bytes, rng: random.Random) -> bytes:
    unit = rng.choice((512, 4096))
    at = rng.randrange(len(data) // unit + 1) * unit
    n = min(unit * rng.choice((1, 1, 2)), len(data) - at)
    return data[:at] + b"\0" * n + data[at + n :]


def zero_tail(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + b"\0" * (len(data) - at)


def move_page(data: bytes, rng: random.Random) -> bytes:
    a, b = (rng.randrange(len(data) // 512) * 512 for _ in range(2))
    return data[:a] + data[b : b + 512] + data[a + 512 :]


def append_garbage(data: bytes, rng: random.Random) -> bytes:
    lines = lines_of(data)
    garbage = (
        rng.randbytes(rng.choice((1, 10, 5000))),
        b"\0" * rng.choice((1, 4096)),
        b"hello\n",
        b"\n",
        b"{}\n",
        b'{"kind":"told","id":0}\n',
        rng.choice(lines),
        lines[-1],
        frame(b'{"kind":"ended","reason":"steps","elapsed":1}', rng.randrange(10**6)),
        data,
        b" ",
    )
    return data + rng.choice(garbage)


def insert_garbage(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((rng.randbytes(20), b"\n", b"\0", b" ", b"{}\n", b"\r")) + data[at:]


def other_line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))


def byte_order_mark(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"\xef\xbb\xbf" + data, data.decode().encode("utf-16")))


def reencoded(data: bytes, rng: random.Random) -> bytes:
    """As a tool writes it that reads JSON and writes it again."""
    lines = lines_of(data)
    at = rng.randrange(len(lines))
    body = orjson.loads(lines[at])
    lines[at] = rng.choice(
        (orjson.dumps(body, option=orjson.OPT_SORT_KEYS), orjson.dumps(body, option=orjson.OPT_INDENT_2))
    )
    return b"".join(lines)


def files_of_others(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            rng.randbytes(rng.choice((1, 100, 9000))),
            pickle.dumps({"history": [1, 2, 3]}),
            b"SQLite format 3\0" + rng.randbytes(4080),
            b"\x89PNG\r\n\x1a\n" + rng.randbytes(500),
            gzip.compress(data),
            b'{"state": [], "study_name": "x"}\n' * 3,
            b"\0" * rng.choice((1, 4096, 9000)),
            b"lr,loss\n0.1,2.5\n",
            data[::-1],
        )
    )


def other_version(data: bytes, rng: random.Random) -> bytes:
    """The header as another version would write it, with a checksum that fits."""
    first, rest = data.split(b"\n", 1)
    at = first.index(b',"durable"')
    found = unframe(first[:at] + b"}")
    body = first[: found.size] + b"}"
    version = rng.choice((b"0.1", b"1.1", b"1.99", b"2.7", b"3.0", b"10.3", b"x", b"", b"1", b"-1.0", b"9" * 30))
    body = body.replace(b'"format":"1.0"', b'"format":"%b"' % version)
    return frame(body, 0)[:-2] + first[at:] + b"\n" + rest


DAMAGES: tuple[Damage, ...] = (
    flip, flip, flip, flip_first_line, flip_last_line, overwrite, retype_digit, cut, cut, cut_at_line, cut_last_bytes,
    cut_front, cut_out, delete_lines, double_lines, swap_lines, shuffle_lines, zero_page, zero_tail, move_page,
    append_garbage, append_garbage, insert_garbage, other_line_ends, byte_order_mark, reencoded, files_of_others,
    other_version,
)  # fmt: skip


# -- the verdict


@dataclass
class Verdict:
    word: str
    """`refused`, `said` (opened with a warning), `harmless` (nothing is different), or `SILENT`."""
    detail: str


class _Listening(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


def facts(state: State) -> list[bytes]:
    return [encode(fact, state.space) for fact in state.facts()]


async def known(path: Path) -> list[bytes]:
    """All that a search knows after it has loaded a checkpoint."""
    search = ah.Search(SPACE)
    await search.load(path)
    return facts(search._journal.state)


async def judge(path: Path, data: bytes, expected: list[bytes], owner: bool) -> Verdict:
    """Puts a file in place and opens it, for reading or to continue it."""
    path.write_bytes(data)
    listening = _Listening()
    log = logging.getLogger("asynchopper")
    log.addHandler(listening)
    try:
        if owner:
            storage = open_storage(path)
            try:
                await storage.open()
                await replay(storage, State(Space(SPACE)))
            finally:
                await storage.close()
        found = await known(path) if not owner or path.stat().st_size else []
    except ah.StorageError as e:
        if path.read_bytes() != data:
            return Verdict("SILENT", f"refused, but the file was changed: {e}")
        return Verdict("refused", str(e))
    finally:
        log.removeHandler(listening)
    if found == expected:
        return Verdict("harmless", "; ".join(listening.heard))
    if listening.heard and data == b"":
        return Verdict("said", "; ".join(listening.heard))
    return Verdict("SILENT", f"{len(found)} facts instead of {len(expected)}; said: {listening.heard}")


async def campaign(place: Path, count: int, seed: int) -> dict[str, dict[str, int]]:
    """Damages checkpoints `count` times; counts the verdicts by damage. Raises `AssertionError` for a silent one."""
    logs = await checkpoints(place)
    path = place / "damaged.ckpt"
    expected = {}
    for name, data in logs.items():
        path.write_bytes(data)
        expected[name] = await known(path)
    counts: dict[str, dict[str, int]] = {}
    for i in range(count):
        rng = random.Random(f"{seed} {i}")
        name = rng.choice(sorted(logs))
        damage = DAMAGES[i % len(DAMAGES)]
        data = damage(logs[name], rng)
        verdict = await judge(path, data, expected[name], owner=i % 3 == 0)
        assert verdict.word != "SILENT", (
            f"damage {i} of seed {seed}, {damage.__name__} of the log that was {name}: {verdict}"
        )
        of = counts.setdefault(damage.__name__, {})
        of[verdict.word] = of.get(verdict.word, 0) + 1
    return counts
