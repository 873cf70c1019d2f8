"""`asynchopper copy`: between places, there and back, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asynchopper as ah
from asynchopper.storage import open_storage
from asynchopper.testing.logs import contents
from asynchopper.transfer import copy
from tests.servers import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


async def test_what_is_saved_on_a_server_is_loaded_from_where_save_says(server: Server) -> None:
    search = new()
    await search.run(lambda p: p["x"], steps=3, quiet=True)
    place = await search.save(server.url("saved"))
    assert place == server.url("saved")
    other = new()
    await other.load(place)
    assert other.history.values.tolist() == search.history.values.tolist()


def new() -> ah.Search:
    return ah.Search(
        {
            "x": ah.float(-1, 1),
            "w": ah.float(0, 1, shape=(3, 2)),
            "n": ah.int(0, 9),
            "c": ah.choice("ä", {"k": ah.int(1, 3)}),
        },
        seed=3,
    )


async def objective(params: dict[str, Any], trial: Any) -> float:
    if trial.id == 5:
        raise ValueError("five")
    if trial.id == 6:
        return float("nan")
    if trial.id == 19 and trial.attempt == 1:
        await trial.save({"half": [1, 2.5]})
        raise KeyboardInterrupt
    return float(params["x"] + params["w"].sum()) / 3


async def made(path: Path) -> ah.Search:
    """A search with everything in it, that was cut short."""
    search = new()
    with pytest.raises(KeyboardInterrupt):
        await search.run(
            objective,
            steps=30,
            checkpoint_path=path,
            quiet=True,
            on_error="record",
            ignore_nans=True,
            handle_signals=False,
        )
    return search


async def test_there_and_back_loses_nothing(server: Server, tmp_path: Path) -> None:
    search = await made(tmp_path / "a.ckpt")
    before = await contents(open_storage(str(tmp_path / "a.ckpt")))
    done = await copy(tmp_path / "a.ckpt", server.url("b"))
    assert done.records == len(before)
    assert await contents(open_storage(server.url("b"))) == before
    await copy(server.url("b"), tmp_path / "c" / "d.ckpt")
    assert await contents(open_storage(str(tmp_path / "c" / "d.ckpt"))) == before
    await copy(server.url("b"), str(tmp_path / "runs") + "/")
    assert await contents(open_storage(str(tmp_path / "runs" / "run_00000.ckpt"))) == before

    ends = []
    for where in (str(tmp_path / "a.ckpt"), server.url("b"), str(tmp_path / "c" / "d.ckpt")):
        again = new()
        restored: list[Any] = []
        await again.run(
            lambda p, t, restored=restored: restored.append((t.id, t.attempt, t.restored)) or p["x"],  # type: ignore[misc]  # a lambda with a default
            steps=30, checkpoint_path=where, quiet=True,
        )  # fmt: skip
        assert restored[0] == (19, 2, {"half": [1, 2.5]})
        assert len(again.history) == 30
        ends.append([(t.id, t.attempt, t.state, str(t.value), t.origin) for t in again.history])
        for a, b in zip(search.history, again.history, strict=False):
            assert np.array_equal(a.params["w"], b.params["w"])
    assert ends[0] == ends[1] == ends[2]


async def test_a_search_that_runs_is_copied_as_it_is(server: Server, tmp_path: Path) -> None:
    search = new()
    copies: list[int] = []

    async def copying(params: dict[str, Any], trial: Any) -> float:
        if trial.id in (5, 15):
            await copy(server.url("live"), tmp_path / f"{trial.id}.ckpt")
            copies.append(trial.id)
        return float(params["x"])

    await search.run(copying, steps=20, checkpoint_path=server.url("live"), quiet=True)
    assert copies == [5, 15]
    for id in copies:
        found = new()
        await found.load(tmp_path / f"{id}.ckpt")
        assert len(found.history) == id


async def written(path: Path, records: list[bytes]) -> None:
    storage = open_storage(path)
    await storage.open()
    assert [portion async for portion in storage.read()] == []
    await storage.append(records)
    await storage.close()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asynchopper", "copy", *map(str, words)], capture_output=True, text=True, timeout=60
    )


def test_the_command_says_what_it_did(server: Server, tmp_path: Path) -> None:
    asyncio.run(made(tmp_path / "a.ckpt"))
    done = command(tmp_path / "a.ckpt", server.url("cmd"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "records" in done.stdout
    again = command(tmp_path / "a.ckpt", server.url("cmd"))
    assert again.returncode == 2
    assert "already" in again.stderr
    assert command("--overwrite", tmp_path / "a.ckpt", server.url("cmd")).returncode == 0
    missing = command(tmp_path / "none.ckpt", server.url("cmd2"))
    assert missing.returncode == 2
    assert "there is no checkpoint" in missing.stderr
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes().replace(b'"origin"', b'"0rigin"', 1))
    damaged = command(tmp_path / "a.ckpt", server.url("cmd3"))
    assert damaged.returncode == 2
    assert "Traceback" not in damaged.stderr
    asyncio.run(written(tmp_path / "odd.ckpt", [b'{"kind":"header","format":"abc"}']))
    odd = command(tmp_path / "odd.ckpt", server.url("cmd4"))
    assert odd.returncode == 2
    assert "a header of format 'abc'" in odd.stderr and "Traceback" not in odd.stderr
