"""Several processes on one file or one directory: refused at once, never waiting on the dead, never sharing a number."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import asynchopper as ah
from asynchopper.storage import open_storage
from asynchopper.testing.logs import contents, header, opened

BOUND_S = 60


@contextlib.contextmanager
def process(*args: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=BOUND_S)


def writers(stack: contextlib.ExitStack, n: int, location: object) -> list[subprocess.Popen[bytes]]:
    module = ("-m", "asynchopper.testing.writer")
    return [stack.enter_context(process(*module, location, "write")) for _ in range(n)]


def first_word(child: subprocess.Popen[bytes]) -> list[str]:
    assert child.stdout is not None
    return child.stdout.readline().decode().strip().split(" ", 2)


async def objective(params: dict[str, float]) -> float:
    return params["x"]


def test_eight_processes_never_share_a_number(tmp_path: Path) -> None:
    runs = f"{tmp_path}/runs/"
    with contextlib.ExitStack() as stack:
        children = writers(stack, 8, runs)
        places = [first_word(child)[2] for child in children]
        for child in children:
            child.send_signal(signal.SIGKILL)
    assert sorted(places) == [f"{runs}run_{n:05d}.ckpt" for n in range(8)]
    with (
        contextlib.ExitStack() as stack
    ):  # and again over the logs that the dead have left: each goes on in one of them
        children = writers(stack, 8, runs)
        said = [first_word(child) for child in children]
        for child in children:
            child.send_signal(signal.SIGKILL)
    assert sorted(word[2] for word in said) == sorted(places)
    assert all(int(word[1]) > 0 for word in said)


async def test_a_search_is_refused_at_once_with_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with process("-m", "asynchopper.testing.writer", path, "write") as owner:
        first_word(owner)
        began = time.monotonic()
        with pytest.raises(ah.CheckpointLocked, match=rf"run.ckpt is in use by pid {owner.pid} on \S+; wait"):
            await ah.Search(x=ah.float(0, 1)).run(objective, steps=3, checkpoint_path=path, quiet=True)
        assert time.monotonic() - began < 5
        with pytest.raises(ah.CheckpointLocked):
            await ah.Search(x=ah.float(0, 1)).save(path)
        seen = await contents(open_storage(path))  # reading is allowed
        assert seen[0] == header()


async def test_the_lock_of_a_killed_process_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    for _ in range(3):
        with process("-m", "asynchopper.testing.writer", path, "write") as owner:
            first_word(owner)
            owner.send_signal(signal.SIGKILL)
            owner.wait(BOUND_S)
            began = time.monotonic()
            storage = open_storage(path)
            await opened(storage)
            assert time.monotonic() - began < 5
            await storage.close()


FORKS = """
import asyncio, os, sys
from asynchopper.storage import open_storage
from asynchopper.testing.logs import header, opened

async def main():
    storage = open_storage(sys.argv[1])
    await opened(storage)
    await storage.append([header()])
    return storage

storage = asyncio.run(main())
if os.fork() == 0:
    os.write(1, b"child\\n")
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    script = tmp_path / "forks.py"
    script.write_text(FORKS)
    with process(script, path) as owner:
        assert first_word(owner) == ["child"]
        with pytest.raises(ah.CheckpointLocked):
            await open_storage(path).open()
        owner.send_signal(signal.SIGKILL)
        owner.wait(BOUND_S)
        storage = open_storage(path)
        assert await opened(storage) == [header()]  # though the child still lives
        await storage.close()


async def test_a_log_that_is_dropped_without_being_closed_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    dropped = open_storage(path)
    await opened(dropped)
    await dropped.append([header()])
    del dropped
    gc.collect()
    storage = open_storage(path)
    assert await opened(storage) == [header()]
    await storage.close()


async def test_overwriting_keeps_others_out_before_and_after_the_new_log_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    storage = open_storage(path)
    await opened(storage)
    await storage.append([header()])
    await storage.close()
    await opened(storage, overwrite=True)
    with pytest.raises(ah.CheckpointLocked):
        await open_storage(path).open()
    await storage.append([header()])
    with pytest.raises(ah.CheckpointLocked):
        await open_storage(path).open()
    await storage.close()
    again = open_storage(path)
    assert await opened(again) == [header()]
    await again.close()


async def test_the_directory_passes_over_what_others_use(tmp_path: Path) -> None:
    """`auto` continues the newest log that has not ended and is not locked, and makes the next number when there is none."""
    runs = f"{tmp_path}/"
    first, second = open_storage(runs), open_storage(runs)
    for storage in (first, second):
        await opened(storage)
        await storage.append([header()])
    assert [s.location for s in (first, second)] == [f"{runs}run_00000.ckpt", f"{runs}run_00001.ckpt"]
    await first.close()
    third = open_storage(runs)
    await opened(third)
    assert third.location == f"{runs}run_00000.ckpt"
    await third.close()
    await second.close()
    fourth = open_storage(runs)
    await opened(fourth)
    assert fourth.location == f"{runs}run_00001.ckpt"
    await fourth.close()
