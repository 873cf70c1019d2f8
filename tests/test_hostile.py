"""Files that mean harm: refused within bounded time and memory, and nothing in them is ever carried out."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends.lines import MAX_LINE, first_line

import asynchopper as ah
from asynchopper.records import frame
from asynchopper.testing.logs import header
from tests.fuzz.reader import CORPUS, read

MEMORY = 3 * 2**30  # bytes of address space that a reader of a hostile file may take
SECONDS = 60

READ = """
import asyncio, json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
import asynchopper as ah

def peak():  # getrusage would count what the parent had before exec
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))

async def main():
    search = ah.Search(x=ah.float(0, 1))
    before = peak()
    began = time.perf_counter()
    try:
        await search.load(sys.argv[1])
    except ah.StorageError as e:
        said = f"{type(e).__name__}: {e}"
    else:
        said = f"{len(search.history)} trials"
    print(json.dumps([said, time.perf_counter() - began, (peak() - before) / 1024]))

asyncio.run(main())
"""

Lines = Iterator[bytes]
HEADER = first_line(header(), 10**6)[0]
ASKED = b'{"kind":"asked","id":0,"attempt":1,"params":{"x":0.5},"origin":"seeding"}'


def log(*records: bytes) -> Lines:
    """A log with whole frames: an attacker can compute a checksum too."""
    yield first_line(header(), 1 + len(records))[0]
    for seq, record in enumerate(records, 1):
        yield frame(record, seq)


def in_params(value: bytes) -> Lines:
    return log(b'{"kind":"asked","id":0,"attempt":1,"params":{"y":%b},"origin":"seeding"}' % value)


def in_saved(value: bytes) -> Lines:
    return log(ASKED, b'{"kind":"saved","id":0,"attempt":1,"data":%b}' % value)


def told(**members: Any) -> Lines:
    body = {"kind": "told", "id": 0, "attempt": 1, "state": "completed", "value": 1.0, "seconds": 0.1, "elapsed": 0.1}
    return log(ASKED, json.dumps(body | members).encode())


def trials(n: int, first: int = 0, paths: int = 1) -> bytes:
    """A record of many trials."""

    def column(dtype: str, size: int) -> dict[str, Any]:
        return {"$array": [dtype, [n], base64.b64encode(bytes(size * n)).decode()]}

    ids = b"".join((first + i).to_bytes(8, "little") for i in range(n))
    zeros, floats = column("|i1", 1), column("<f8", 8)
    body = {
        "kind": "trials",
        "id": {"$array": ["<i8", [n], base64.b64encode(ids).decode()]},
        "attempt": zeros,
        "state": {"options": ["pruned"], "of": zeros},
        "origin": {"options": ["seeding"], "of": zeros},
        "params": {f"x{i}": {"options": ["a"], "of": zeros} for i in range(paths)},
        "value": floats,
        "seconds": floats,
        "elapsed": floats,
    }
    return json.dumps(body).encode()


def line_of(size: int, end: bytes = b"") -> Lines:
    """One line of a size, in pieces."""
    yield HEADER
    yield b'{"kind":"saved","id":0,"attempt":1,"data":"'
    for _ in range(size // 2**20):
        yield b"x" * 2**20
    yield end


def many_values(n: int) -> Lines:
    return log(ASKED, b'{"kind":"saved","id":0,"attempt":1,"data":[%b]}' % (b"[]," * n)[:-1])


def lines_forever(line: bytes, n: int) -> Lines:
    yield HEADER
    for _ in range(n // 1000):
        yield line * 1000


HOSTILE: dict[str, tuple[Callable[[], Lines], str]] = {
    "nested a million deep": (lambda: in_params(b"[" * 10**6 + b"]" * 10**6), "CheckpointCorrupted"),
    "nested 500 deep": (lambda: in_params(b'{"a":' * 500 + b"1" + b"}" * 500), "CheckpointCorrupted"),
    "an integer of a million digits": (lambda: in_params(b"9" * 10**6), "CheckpointCorrupted"),
    "a tagged integer of a million digits": (
        lambda: in_saved(b'{"$int":"%b"}' % (b"9" * 10**6)),
        "CheckpointCorrupted",
    ),
    "a float of a million digits": (lambda: in_params(b"0." + b"9" * 10**6), "0 trials"),
    "a float beyond all": (lambda: in_params(b"1e999999999"), "CheckpointCorrupted"),
    "an id beyond 64 bits": (
        lambda: log(ASKED.replace(b'"id":0', b'"id":36893488147419103232')),
        "CheckpointCorrupted",
    ),
    "an id of 2^63-1": (lambda: log(ASKED.replace(b'"id":0', b'"id":9223372036854775807')), "CheckpointCorrupted"),
    "a negative id": (lambda: log(ASKED.replace(b'"id":0', b'"id":-1')), "CheckpointCorrupted"),
    "an id that is a truth": (lambda: log(ASKED.replace(b'"id":0', b'"id":true')), "CheckpointCorrupted"),
    "an attempt of 2^31": (lambda: log(ASKED.replace(b'"attempt":1', b'"attempt":2147483648')), "CheckpointCorrupted"),
    "an array of 2^62 entries": (
        lambda: in_saved(b'{"$array":["<f8",[4611686018427387904],""]}'),
        "CheckpointCorrupted",
    ),
    "an array with no entries of a huge shape": (
        lambda: in_saved(b'{"$array":["<f8",[0,9223372036854775807,9223372036854775807],""]}'),
        "CheckpointCorrupted",
    ),
    "an array of objects": (lambda: in_saved(b'{"$array":["|O",[1],"AAAAAAAAAAA="]}'), "CheckpointCorrupted"),
    "a dtype that NumPy would compile": (
        lambda: in_saved(b'{"$array":["(%b)f8,i4",[1],"AAAA"]}' % (b"(" * 500 + b")" * 500)),
        "CheckpointCorrupted",
    ),
    "32,768 origins": (
        lambda: log(
            *(
                record
                for i in range(32_769)
                for record in (
                    b'{"kind":"asked","id":%d,"attempt":1,"params":{"x":0.5},"origin":"o%d"}' % (i, i),
                    b'{"kind":"told","id":%d,"attempt":1,"state":"pruned","seconds":0,"elapsed":0}' % i,
                )
            )
        ),
        "CheckpointCorrupted",
    ),
    "trials told at once": (lambda: log(trials(10), trials(5, 1000)), "15 trials"),
    "trials told at once, and again": (lambda: log(trials(10), trials(10, 5)), "told or asked before"),
    "one trial told behind two billion others": (lambda: log(trials(1, 2**31 - 1)), "are left out"),
    "a trial told at once with an id that none has": (lambda: log(trials(1, 2**31)), "CheckpointCorrupted"),
    "70,000 trials in a line": (lambda: log(trials(70_000)), "70000 trials in a record"),
    "70,000 parameters of 60 trials in a line": (lambda: log(trials(60, 0, 70_000)), "60 trials in a record"),
    "60,000 parameters of 60 trials in a line": (lambda: log(trials(60, 0, 60_000)), "60 trials"),
    "NaN as JSON has it not": (lambda: in_params(b"NaN"), "CheckpointCorrupted"),
    "nan in small letters": (lambda: told(value="nan"), "CheckpointCorrupted"),
    "Infinity with a plus": (lambda: told(value="+Infinity"), "CheckpointCorrupted"),
    "a value that is a list": (lambda: told(value=[1]), "CheckpointCorrupted"),
    "a state that nobody knows": (lambda: told(state="won"), "CheckpointCorrupted"),
    "estimates that are a text": (lambda: told(estimates="123"), "CheckpointCorrupted"),
    "keys that shadow attributes": (
        lambda: log(
            b'{"kind":"asked","id":0,"attempt":1,"origin":"__init__","__class__":"os.system","__reduce__":["os"],"params":'
            b'{"__class__":"x","__dict__":{},"encode":"y","x":0.5,"$dict":[["__init__",1]],"self":{"$float":"NaN"}}}'
        ),
        "0 trials",
    ),
    "a tag that nobody knows": (lambda: in_saved(b'{"$import":"os"}'), "CheckpointCorrupted"),
    "a tag that nobody knows, in a parameter that nobody knows": (lambda: in_params(b'{"$import":"os"}'), "0 trials"),
    "nested 60 deep": (lambda: in_saved(b"[" * 60 + b"]" * 60), "0 trials"),
    "two headers": (lambda: log(header()), "CheckpointCorrupted"),
    "a line without an end": (lambda: line_of(MAX_LINE + 2**22), "longer than any record"),
    "a line of the greatest size, without a frame": (lambda: line_of(MAX_LINE - 2**20, b"\n"), "not a record"),
    "80 million values in a line": (lambda: many_values(80 * 10**6), "more than 4194304 values"),
    "4 million values in a line": (lambda: many_values(2 * 10**6), "0 trials"),
    "20 million empty lines": (lambda: lines_forever(b"\n", 20 * 10**6), "not a record"),
    "20 million empty objects": (lambda: lines_forever(b"{}\n", 20 * 10**6), "not a record"),
}


def measured(path: Path) -> tuple[str, float, float]:
    """What the reader says, after how many seconds, and by how many MB it grew."""
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(MEMORY)], capture_output=True, text=True, timeout=2 * SECONDS
    )
    assert ran.returncode == 0, f"the reader died: {ran.stderr[-2000:]}"
    said, seconds, grown = json.loads(ran.stdout)
    return said, seconds, grown


def write(path: Path, pieces: Lines) -> None:
    with open(path, "wb") as f:
        for piece in pieces:
            f.write(piece)


async def load(path: Path) -> str:
    search = ah.Search(x=ah.float(0, 1))
    try:
        await search.load(path)
    except ah.StorageError as e:
        return f"{type(e).__name__}: {e}"
    return f"{len(search.history)} trials"


HEAVY = {name for name in HOSTILE if "line" in name or "20 million" in name}


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_is_refused(tmp_path: Path, name: str) -> None:
    make, said = HOSTILE[name]
    path = tmp_path / "hostile.ckpt"
    write(path, make())
    if name not in HEAVY:
        assert said in await load(path)
        return
    answer, seconds, grown = measured(path)
    path.unlink()
    assert said in answer
    assert seconds < SECONDS
    assert grown < MEMORY / 2**20


async def test_a_terabyte_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.ckpt"
    for start in (b"", HEADER, HEADER + b'{"kind":"told"'):
        path.write_bytes(start)
        os.truncate(path, 2**40)
        assert "CheckpointCorrupted" in await load(path)
    path.unlink()


async def test_a_pickle_is_not_carried_out(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/boom",)

    path = tmp_path / "bomb.ckpt"
    bomb = pickle.dumps(Bomb())
    for data in (bomb, HEADER + bomb, HEADER + bomb + b"\n"):
        path.write_bytes(data)
        assert "CheckpointCorrupted" in await load(path)
    write(path, in_params(b'"%b"' % bomb.hex().encode()))
    assert await load(path) == "0 trials"
    assert not (tmp_path / "boom").exists()


async def test_a_search_goes_on_from_a_file_with_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    write(path, HOSTILE["keys that shadow attributes"][0]())
    search = ah.Search(x=ah.float(0, 1))
    await search.run(lambda params: params["x"], steps=5, checkpoint_path=path, quiet=True)
    assert sorted(t.id for t in search.history) == [0, 1, 2, 3, 4]
    assert all(set(t.params) == {"x"} or t.id == 0 for t in search.history)


def test_what_the_fuzzer_found_is_read() -> None:
    paths = sorted(CORPUS.iterdir())
    assert len(paths) >= 200
    for path in paths:
        try:
            read(path.read_bytes())
        except BaseException as e:
            e.add_note(f"the input is {path}")
            raise
