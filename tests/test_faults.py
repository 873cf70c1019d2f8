"""A disk that is full, broken, read-only or gone: the run ends with a clear error, and nothing that was acknowledged is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.testing.system import Fault, Layer, Room, WithoutSync

SPACE = {"x": ah.float(0, 1), "n": ah.int(0, 10**6)}
STEPS = 24


def value(params: dict[str, Any]) -> float:
    return float(params["x"]) + params["n"] / 1e9


async def search_on(
    path: Path, acknowledged: dict[int, float], during: Callable[[int], None] | None = None
) -> ah.Search:
    """Runs a search until it ends or its log breaks; the search, whichever it was."""

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if during is not None:
            during(trial.id)
        return value(params)

    def told(trial: ah.Trial) -> None:
        assert trial.value is not None
        acknowledged[trial.id] = trial.value

    search = ah.Search(SPACE, seed=5)
    try:
        await search.run(objective, steps=STEPS, concurrency=2, checkpoint_path=path, callbacks=told, quiet=True)
    except ah.StorageError as e:
        assert str(path) in str(e), f"the error does not say where: {e}"
        assert search.outcome is None or search.outcome.reason == "error" or search.outcome.reason == "steps"
        search.failure = e  # type: ignore[attr-defined]  # for the test
    return search


def failure(search: ah.Search) -> ah.StorageError | None:
    return getattr(search, "failure", None)


async def check_nothing_is_lost(path: Path, search: ah.Search, acknowledged: dict[int, float], aside: Path) -> None:
    """The fault is gone: what was acknowledged is in memory, can be saved elsewhere, is on the disk, and is run on from."""
    assert {t.id: t.value for t in search.history}.items() >= acknowledged.items()
    if search.history:
        saved = await search.save(aside / "elsewhere.ckpt")
        other = ah.Search(SPACE)
        await other.load(saved)
        assert [t.id for t in other.history] == [t.id for t in search.history]
    again: dict[int, float] = {}
    resumed = await search_on(path, again)
    assert failure(resumed) is None, f"it does not go on: {failure(resumed)}"
    found = {t.id: t.value for t in resumed.history}
    assert found.items() >= acknowledged.items(), "an acknowledged result is gone"
    assert all(t.value == value(t.params) for t in resumed.history)
    if len(acknowledged) < STEPS:
        assert sorted(found) == list(range(STEPS)), "the budget was not met"
    assert [name for name in os.listdir(path.parent) if name.endswith(".tmp")] == []


async def broken(tmp_path: Path, layer: Callable[[Path], Layer], name: str) -> tuple[Layer, ah.Search]:
    """A run under a fault, and all that must hold after it."""
    root, aside = tmp_path / name, tmp_path / f"{name} aside"
    root.mkdir()
    aside.mkdir()
    acknowledged: dict[int, float] = {}
    with layer(root) as fault:
        search = await search_on(root / "sub" / "run.ckpt", acknowledged)
    if failure(search) is None:
        assert len(acknowledged) == STEPS
    with WithoutSync(tmp_path):
        await check_nothing_is_lost(root / "sub" / "run.ckpt", search, acknowledged, aside)
    shutil.rmtree(root)
    return fault, search


@pytest.mark.parametrize(
    "error", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES], ids=errno.errorcode.get
)
async def test_an_error_at_each_of_the_first_60_calls(tmp_path: Path, error: int) -> None:
    broke, ended = set(), 0
    for at in range(60):
        fault, search = await broken(tmp_path, lambda root, at=at: Fault(root, at, error), f"at{at}")  # type: ignore[misc]  # binds `at`
        assert isinstance(fault, Fault)
        if fault.broke:
            broke.add(fault.broke.split()[0])
        if (said := failure(search)) is not None:
            ended += 1
            assert os.strerror(error) in str(said) or "earlier write failed" in str(said)
            assert isinstance(said.__cause__, OSError) or said.__cause__ is None
    assert {"open", "pwrite", "fsync", "fdatasync", "rename", "mkdir", "stat", "fstat"} <= broke
    assert ended >= 40


async def test_a_disk_that_stays_broken(tmp_path: Path) -> None:
    ended = 0
    for at in range(0, 60, 3):
        _, search = await broken(tmp_path, lambda root, at=at: Fault(root, at, errno.EIO, lasting=True), f"at{at}")  # type: ignore[misc]  # binds `at`
        ended += failure(search) is not None
    assert ended >= 18


async def test_a_short_write_at_each_of_the_first_60_calls_changes_nothing(tmp_path: Path) -> None:
    short = 0
    for at in range(60):
        fault, search = await broken(tmp_path, lambda root, at=at: Fault(root, at, None), f"at{at}")  # type: ignore[misc]  # binds `at`
        assert isinstance(fault, Fault)
        assert failure(search) is None
        short += bool(fault.broke and fault.broke.startswith("pwrite"))
    assert short >= 10


async def test_a_disk_with_little_room(tmp_path: Path) -> None:
    """Every room from nothing to four pages, in steps smaller than a record."""
    ended = 0
    for room in range(0, 4 * 4096, 197):
        _, search = await broken(tmp_path, lambda root, room=room: Room(root, room), f"room{room}")  # type: ignore[misc]  # binds `room`
        if (said := failure(search)) is not None:
            ended += 1
            assert "No space left on device (ENOSPC)" in str(said)
    assert 10 < ended < 4 * 4096 // 197, "the rooms do not reach from too little to enough"


async def test_after_a_failed_write_nothing_is_written_any_more(tmp_path: Path) -> None:
    """A sync that failed may have lost what it should have written; trying again would only hide that."""
    for at in range(3, 9):
        path = tmp_path / f"{at}.ckpt"
        with Fault(tmp_path, at, errno.EIO, of={"fdatasync"}) as fault:
            search = await search_on(path, {})
            assert failure(search) is not None
            assert fault.seen == at + 1, "it was synced again after a sync had failed"
        loaded = ah.Search(SPACE)
        await loaded.load(path)
        assert [t.id for t in loaded.history] == [t.id for t in search.history]


async def test_a_session_whose_log_broke_refuses_every_result_and_keeps_none(tmp_path: Path) -> None:
    """Also one that is told again: it is no more durable than it was."""
    path = tmp_path / "a.ckpt"
    search = ah.Search(SPACE, seed=5)
    async with search.session(steps=STEPS, checkpoint_path=path) as session:
        a, b, c, d = [await session.ask() for _ in range(4)]
        assert a is not None and b is not None and c is not None and d is not None
        await session.tell(a, 1.0)
        path.unlink()
        for trial in (b, b, c, b):
            with pytest.raises(ah.StorageError, match="was removed or replaced"):
                await session.tell(trial, 2.0, cost=5.0)
        with pytest.raises(ah.StorageError, match="was removed or replaced"):
            await session.ask()
    assert search.history.values.tolist() == [1.0]
    loaded = ah.Search(SPACE)
    await loaded.load(await search.save(tmp_path / "elsewhere.ckpt"))
    assert loaded.history.values.tolist() == [1.0]
    async with loaded.session(steps=STEPS) as session:  # what was out is out still
        again = [await session.ask() for _ in range(3)]
    assert [t and (t.id, t.params) for t in again] == [(t.id, t.params) for t in (b, c, d)]


async def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    search = await search_on(tmp_path / "run.ckpt", {})
    place = tmp_path / "saves"
    path = await search.save(place / "saved.ckpt")
    before = path.read_bytes()
    failed = 0
    for at in range(40):
        with Fault(place, at, errno.ENOSPC):
            try:
                await search.save(path)
            except ah.StorageError as e:
                failed += 1
                assert "saved.ckpt" in str(e)
        loaded = ah.Search(SPACE)
        await loaded.load(path)
        assert len(loaded.history) == STEPS
        assert os.listdir(place) == ["saved.ckpt"], "something was left beside it"
    assert failed >= 10
    assert len(path.read_bytes()) == len(before)


# -- the file or its directory goes away


async def test_a_vanished_directory_ends_the_run(tmp_path: Path) -> None:
    acknowledged: dict[int, float] = {}
    place = tmp_path / "place"

    def vanish(trial: int) -> None:
        if trial == 5:
            shutil.rmtree(place)

    search = await search_on(place / "run.ckpt", acknowledged, vanish)
    assert "removed or replaced" in str(failure(search))
    assert len(acknowledged) >= 4
    assert [t.id for t in search.history] == sorted(acknowledged)
    loaded = ah.Search(SPACE)
    await loaded.load(await search.save(tmp_path / "elsewhere.ckpt"))
    assert {t.id: t.value for t in loaded.history} == acknowledged


@pytest.mark.parametrize(
    "how", ["removed", "replaced by another file", "replaced by another log", "replaced by a link"]
)
async def test_a_log_that_was_removed_or_replaced_ends_the_run(tmp_path: Path, how: str) -> None:
    acknowledged: dict[int, float] = {}
    path, aside = tmp_path / "run.ckpt", tmp_path / "aside.ckpt"
    await search_on(tmp_path / "other.ckpt", {})
    other = (tmp_path / "other.ckpt").read_bytes()

    def replace(trial: int) -> None:
        if trial != 5:
            return
        if how == "removed":
            path.unlink()
        elif how == "replaced by another file":
            aside.write_text("precious")
            aside.replace(path)
        elif how == "replaced by another log":
            aside.write_bytes(other)
            aside.replace(path)
        else:
            path.rename(aside)
            path.symlink_to(aside)

    search = await search_on(path, acknowledged, replace)
    assert "was removed or replaced while the search was writing to it" in str(failure(search))
    assert [t.id for t in search.history] == sorted(acknowledged)
    loaded = ah.Search(SPACE)
    await loaded.load(await search.save(tmp_path / "elsewhere.ckpt"))
    assert {t.id: t.value for t in loaded.history} == acknowledged
    if how == "replaced by another file":
        assert path.read_text() == "precious"
    elif how == "replaced by another log":
        assert path.read_bytes() == other
    elif how == "replaced by a link":  # it is under its other name, with all that was acknowledged
        moved = ah.Search(SPACE)
        await moved.load(aside)
        assert {t.id: t.value for t in moved.history}.items() >= acknowledged.items()


# -- with the kernel's own faults, in processes of their own

KERNEL = """
import asyncio, os, resource, shutil, signal, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_faults import STEPS, check_nothing_is_lost, failure, search_on

async def run(path, aside, fault, undo, said):
    os.makedirs(path.parent, exist_ok=True)
    os.makedirs(aside, exist_ok=True)
    acknowledged = {}
    fault()
    try:
        search = await search_on(path, acknowledged)
    finally:
        undo()
    problem = failure(search)
    if problem is None:
        assert len(acknowledged) == STEPS
    else:
        assert said in str(problem), str(problem)
    await check_nothing_is_lost(path, search, acknowledged, aside)
    return problem is not None

def limits(place):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    ended = 0
    rooms = range(0, 4 * 4096, 499)
    for room in rooms:
        ended += asyncio.run(run(
            place / str(room) / "run.ckpt", place / f"{room} aside",
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
            "File too large (EFBIG)",
        ))
    print(ended, len(rooms))

def full(place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    ended, filler = 0, place / "filler"
    for pages in range(5):
        def fill():
            for name in place.glob("*"):
                shutil.rmtree(name) if name.is_dir() else name.unlink()
            os.makedirs(place / "log")
            filler.write_bytes(b"x" * 4096 * (16 - pages))
        ended += asyncio.run(run(
            place / "log" / "run.ckpt", place.parent / f"aside{pages}", fill, lambda: filler.unlink(),
            "No space left on device (ENOSPC)",
        ))
    print(ended, 5)

def readonly(place):
    from asynchopper import Search, StorageError
    from tests.test_faults import SPACE
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    asyncio.run(search_on(place / "run.ckpt", {}))
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    for name in ("run.ckpt", "new.ckpt", "new/run.ckpt", ""):
        try:
            asyncio.run(Search(SPACE).run(lambda p: 1.0, steps=99, checkpoint_path=f"{place}/{name}", quiet=True))
        except StorageError as e:
            assert "Read-only file system" in str(e), str(e)
        else:
            raise SystemExit(f"{name} was written")
    search = Search(SPACE)
    asyncio.run(search.load(place / "run.ckpt"))
    print(len(search.history), STEPS)

globals()[sys.argv[2]](Path(sys.argv[3]))
"""


def kernel(tmp_path: Path, what: str, *before: str) -> tuple[int, int]:
    (tmp_path / "place").mkdir()
    script = tmp_path / "script.py"
    script.write_text(KERNEL)
    here = str(Path(__file__).parent.parent)
    ran = subprocess.run(
        [*before, sys.executable, str(script), here, what, str(tmp_path / "place")],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    ended, of = ran.stdout.split()
    return int(ended), int(of)


def can_mount() -> bool:
    try:
        words = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
        return subprocess.run(words, capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    ended, of = kernel(tmp_path, "limits")
    assert 10 < ended < of


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a file system of their own")
def test_a_real_disk_that_is_full(tmp_path: Path) -> None:
    ended, of = kernel(tmp_path, "full", "unshare", "-rm")
    assert 0 < ended < of


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a file system of their own")
def test_a_real_disk_that_is_read_only(tmp_path: Path) -> None:
    found, steps = kernel(tmp_path, "readonly", "unshare", "-rm")
    assert found == steps


async def test_a_file_system_that_cannot_sync_directories_is_said_and_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Some network and user-space file systems answer EINVAL; whoever has no other can still tune."""
    acknowledged: dict[int, float] = {}
    with Fault(tmp_path, 0, errno.EINVAL, of={"fsync"}, lasting=True) as fault:
        search = await search_on(tmp_path / "run.ckpt", acknowledged)
    assert fault.broke == "fsync ."
    assert failure(search) is None
    assert len(acknowledged) == STEPS
    assert "this file system cannot sync a directory; a power cut may lose a new file's name" in caplog.text


async def test_the_same_search_can_run_again_when_the_fault_is_gone(tmp_path: Path) -> None:
    broke = 0
    for at in range(45):
        place = tmp_path / str(at)
        place.mkdir()
        search = ah.Search(SPACE, seed=5)
        words: dict[str, Any] = {"steps": STEPS, "concurrency": 2, "checkpoint_path": place / "run.ckpt", "quiet": True}
        try:
            with Fault(place, at, errno.EIO):
                await search.run(value, **words)
        except ah.StorageError:
            broke += 1
            await search.run(value, **words)
        loaded = ah.Search(SPACE)
        await loaded.load(place / "run.ckpt")
        for known in (search, loaded):
            assert sorted(t.id for t in known.history) == list(range(STEPS))
            assert all(t.value == value(t.params) for t in known.history)
    assert broke >= 25
