"""A log in a file: what is cut, what is refused, what is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from asynchopper.errors import UsageError
from asynchopper.storage import Entry, Storage, open_storage
from asynchopper.testing.logs import batch, contents, header, opened, record, written
from asynchopper.testing.system import WithoutSync


async def objective(params: dict[str, Any]) -> float:
    return float(params["x"])


async def run(path: Path, steps: int = 10, **words: Any) -> ah.Search:
    search = ah.Search(x=ah.float(0, 1), seed=1)
    await search.run(objective, steps=steps, checkpoint_path=path, quiet=True, **words)
    return search


async def log(path: Path, batches: int = 4) -> list[bytes]:
    """A log that was closed cleanly."""
    records = [header(), *(r for i in range(batches) for r in batch(i))]
    await written(open_storage(path), [header()], *(batch(i) for i in range(batches)))
    return records


async def killed(path: Path, batches: int = 4) -> list[bytes]:
    """A log as a killed process leaves it: a copy, taken while it was open."""
    storage = open_storage(path)
    await opened(storage)
    await storage.append([header()])
    for i in range(batches):
        await storage.append(batch(i))
    data = path.read_bytes()
    await storage.close()
    path.write_bytes(data)
    return [header(), *(r for i in range(batches) for r in batch(i))]


async def reopened(path: Path) -> list[bytes]:
    storage = open_storage(path)
    try:
        return await opened(storage)
    finally:
        await storage.close()


# -- what stands in it


async def test_it_is_a_json_object_a_line_with_seq_and_crc(tmp_path: Path) -> None:
    await run(tmp_path / "run.ckpt")
    lines = (tmp_path / "run.ckpt").read_bytes().splitlines()
    for seq, line in enumerate(lines):
        body = json.loads(line)
        assert body["seq"] == seq
        assert body["crc"] == zlib.crc32(line[: line.rindex(b',"crc":')])
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds[:3] == ["header", "run", "asked"]
    assert kinds[-1] == "ended"


async def test_it_is_readable_by_its_owner_only_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    search = await run(tmp_path / "run.ckpt")
    await search.save(tmp_path / "saved.ckpt")
    await search.save(tmp_path / "saved.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["run.ckpt", "saved.ckpt"]
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_directories_on_the_way_are_made(tmp_path: Path) -> None:
    await run(tmp_path / "a" / "b" / "run.ckpt")
    assert (tmp_path / "a" / "b" / "run.ckpt").stat().st_size > 0


async def test_home_is_known_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    await run(Path("~/run.ckpt"))
    assert (tmp_path / "run.ckpt").stat().st_size > 0
    assert await ah.Search(x=ah.float(0, 1)).save("~/saved.ckpt") == tmp_path / "saved.ckpt"


async def test_a_sign_without_such_a_user_is_part_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await run("~nobody-of-that-name.ckpt")
    assert (tmp_path / "~nobody-of-that-name.ckpt").stat().st_size > 0


async def test_a_relative_path_means_where_the_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    async def wandering(params: dict[str, Any]) -> float:
        os.chdir(tmp_path / "elsewhere")
        return 1.0

    await ah.Search(x=ah.float(0, 1)).run(wandering, steps=5, checkpoint_path="run.ckpt", quiet=True)
    assert os.listdir(tmp_path / "elsewhere") == []
    assert len(await contents(open_storage(tmp_path / "run.ckpt"))) > 10


async def test_a_search_says_first_how_safe_its_results_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.ckpt"
    await ah.Search(x=ah.float(0, 1)).run(objective, steps=3, checkpoint_path=path)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"asynchopper: {path} (each result synced to disk before it counts)"
    await ah.Search(x=ah.float(0, 1)).run(objective, steps=3, checkpoint_path=f"{tmp_path}/runs/")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"asynchopper: {tmp_path}/runs/run_00000.ckpt (each result synced to disk before it counts)"


# -- torn, cut, damaged


@pytest.mark.parametrize("torn", [b'{"kind":"to', b"{", b'{"kind":"told","id":1,"seq":13,"crc":12', b"\0" * 5000])
async def test_a_torn_tail_is_cut_before_anything_is_appended_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    path = tmp_path / "run.ckpt"
    records = await killed(path)
    whole = path.stat().st_size
    with open(path, "ab") as f:
        f.write(torn)
    assert await contents(open_storage(path)) == records
    assert path.stat().st_size == whole + len(torn), "a reader has changed the file"
    storage = open_storage(path)
    assert await opened(storage) == records
    assert path.stat().st_size == whole, "the torn tail is still there"
    assert f"the last {len(torn)} bytes are what a crash left" in caplog.text
    await storage.append(batch(9))
    await storage.close()
    assert await contents(open_storage(path)) == records + batch(9)


async def test_a_torn_batch_goes_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    storage = open_storage(path)
    await opened(storage)
    await storage.append([header()])
    await storage.append(batch(0))
    before = path.read_bytes()
    await storage.append(batch(1))
    data = path.read_bytes()
    await storage.close()
    with WithoutSync(tmp_path):
        for size in range(len(before), len(data)):  # what the kernel had taken of the second batch
            path.write_bytes(before + data[len(before) : size])
            assert await reopened(path) == [header(), *batch(0)], size


async def test_a_cut_at_any_byte_is_noticed_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    await killed(path, 3)
    data = path.read_bytes()
    for size in [*range(1, len(data), 7), *range(len(data) - 150, len(data))]:
        path.write_bytes(data[:size])
        for storage, readonly in ((open_storage(path), False), (open_storage(path), True)):
            with pytest.raises(ah.CheckpointCorrupted, match=r"run\.ckpt"):
                await opened(storage, readonly=readonly)
        assert path.read_bytes() == data[:size], "it was not left as it is"


async def test_a_file_cut_to_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.ckpt"
    await log(path)
    path.write_bytes(b"")
    with pytest.raises(ah.StorageError, match="no checkpoint"):
        await run(path, resume="must")
    await run(path)
    assert "run.ckpt is empty" in caplog.text


async def test_damage_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    await log(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "line 4": b"".join([*lines[:3], lines[3].replace(b"attempt", b"attempd"), *lines[4:]]),
        "line 5: record 4 is missing: in its place is record 5": b"".join([*lines[:4], *lines[5:]]),
        "line 6: record 5 is missing: in its place is record 4": b"".join([*lines[:5], *lines[4:]]),
        "line 2": lines[0] + b"\n" + b"".join(lines[1:]),
        "line 14": b"".join(lines) + b"hello\n",
        "watermark": lines[0].replace(b'"durable":"0', b'"durable":"9').replace(b" 0", b" 9") + b"".join(lines[1:]),
    }
    for said, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(ah.CheckpointCorrupted, match=said):
            await reopened(path)
        assert path.read_bytes() == data


async def test_one_torn_field_of_the_watermark_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    records = await log(path)
    data = path.read_bytes()
    at = data.index(b'"durable":"') + len('"durable":"')
    for start in (at, at + 22):
        path.write_bytes(data[: start + 3] + b"\0" * 8 + data[start + 11 :])
        assert await reopened(path) == records


# -- what is not ours


@pytest.mark.parametrize(
    "data",
    [
        b"mine\n",
        b"\x80\x04\x95pickle",
        b"\0" * 9000,
        b'{"kind":"other"}\n',
        b"{}",
        b"\n",
        b"[1]\n",
        b'{"kind":"header"',
    ],
    ids=["text", "pickle", "zeros", "json", "empty object", "empty line", "list", "begun"],
)
async def test_files_of_other_programs_are_refused_and_left(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(data)
    for resume in ("auto", "must"):
        with pytest.raises(ah.CheckpointCorrupted, match="precious"):
            await run(path, resume=resume)
    with pytest.raises(ah.StorageError, match="precious"):
        await run(path, resume="never")
    assert path.read_bytes() == data


async def test_links_fifos_and_devices_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    await log(target)
    before = target.read_bytes()
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "made by whom")
    os.mkfifo(tmp_path / "fifo")
    for path, said in (
        (tmp_path / "link", "symbolic link"),
        (tmp_path / "dangling", "symbolic link"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
    ):
        for words in ({}, {"resume": "must"}, {"overwrite_checkpoint": True}):
            with pytest.raises(ah.StorageError, match=said):
                await run(path, **words)
        with pytest.raises(ah.StorageError, match=said):
            await ah.Search(x=ah.float(0, 1)).load(path)
        with pytest.raises(ah.StorageError, match=said):
            await ah.Search(x=ah.float(0, 1)).save(path)
    assert target.read_bytes() == before
    assert not (tmp_path / "made by whom").exists()


# -- replacing, saving


async def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    await log(tmp_path / "run.ckpt")
    mine = [".run.ckpt.tmp", ".run.ckpt.0123456789ab.tmp.bak", ".other.ckpt.0123456789ab.tmp"]
    for name in [".run.ckpt.0123456789ab.tmp", *mine]:
        (tmp_path / name).write_text("half a log")
    await reopened(tmp_path / "run.ckpt")
    assert sorted(os.listdir(tmp_path)) == sorted(["run.ckpt", *mine])


async def test_opening_without_writing_leaves_no_trace(tmp_path: Path) -> None:
    assert await reopened(tmp_path / "run.ckpt") == []
    assert os.listdir(tmp_path) == []
    (tmp_path / "was.ckpt").write_bytes(b"")  # somebody else made this name
    await reopened(tmp_path / "was.ckpt")
    assert os.listdir(tmp_path) == ["was.ckpt"]


async def test_saving_over_a_checkpoint_replaces_it_as_a_whole(tmp_path: Path) -> None:
    first, second = await run(tmp_path / "a.ckpt", 30), await run(tmp_path / "b.ckpt", 5)
    path = await first.save(tmp_path / "saved.ckpt")
    with open(path, "rb") as old:
        before = old.read()
        await second.save(path)
        assert old.read() == b""
        old.seek(0)
        assert old.read() == before  # whoever still reads the old one reads all of it
    loaded = ah.Search(x=ah.float(0, 1))
    await loaded.load(path)
    assert len(loaded.history) == 5


async def test_a_saved_search_is_durable_as_a_whole(tmp_path: Path) -> None:
    search = await run(tmp_path / "run.ckpt", 20)
    path = await search.save(tmp_path / "saved.ckpt")
    data = path.read_bytes()
    for size in range(1, len(data), 37):
        path.write_bytes(data[:size])
        with pytest.raises(ah.CheckpointCorrupted):
            await ah.Search(x=ah.float(0, 1)).load(path)


@pytest.mark.parametrize("restored", [True, False], ids=["restored", "emptied"])
async def test_what_somebody_else_puts_into_a_log_is_left_as_it_is(restored: bool, tmp_path: Path) -> None:
    path, backup = tmp_path / "run.ckpt", tmp_path / "backup.ckpt"
    await run(backup, steps=30)
    meant = backup.read_bytes() if restored else b""

    async def meddling(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 3:
            path.write_bytes(meant)
        return float(params["x"])

    with pytest.raises(ah.StorageError, match=f"{'written to' if restored else 'shortened'} by somebody else"):
        await ah.Search(x=ah.float(0, 1)).run(meddling, steps=9, checkpoint_path=path, quiet=True)
    assert path.read_bytes() == meant


async def test_a_log_that_is_moved_away_while_it_is_written_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    told: list[int] = []

    async def moving(params: dict[str, Any]) -> float:
        if len(told) == 3:
            os.rename(path, tmp_path / "moved.ckpt")
        return float(params["x"])

    search = ah.Search(x=ah.float(0, 1), seed=1)
    with pytest.raises(ah.StorageError, match="removed or replaced"):
        await search.run(moving, steps=5000, checkpoint_path=path, callbacks=lambda t: told.append(t.id), quiet=True)
    assert len(search.history) == len(told)
    await search.save(tmp_path / "elsewhere.ckpt")
    for name in ("moved.ckpt", "elsewhere.ckpt"):
        loaded = ah.Search(x=ah.float(0, 1))
        await loaded.load(tmp_path / name)
        assert [t.id for t in loaded.history] == told


# -- the loop, the words


async def test_a_large_append_does_not_block_the_loop(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "run.ckpt")
    await opened(storage)
    await storage.append([header()])
    records = [record(i, 2**20) for i in range(64)]
    ticks = [time.perf_counter()]

    async def tick() -> None:
        while True:
            await asyncio.sleep(0)
            ticks.append(time.perf_counter())

    ticking = asyncio.create_task(tick())
    began = time.perf_counter()
    await storage.append(records)
    took = time.perf_counter() - began
    ticking.cancel()
    await storage.close()
    assert sum(t > began for t in ticks) > 10, f"the loop stood still for {took:.2f} s"


async def test_what_must_come_first_comes_first(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "run.ckpt")
    await opened(storage)
    with pytest.raises(ah.StorageError, match="header"):
        await storage.append(batch(0))
    await storage.close()
    await log(tmp_path / "run.ckpt")
    again: Storage = open_storage(tmp_path / "run.ckpt")
    await again.open()
    with pytest.raises(ah.StorageError, match="must be read to its end"):
        await again.append(batch(0))
    await again.close()


@pytest.mark.parametrize(
    "url", ["file://elsewhere/tmp/x", "file://", "file:///", "file:///tmp/x?y=1", "file:///tmp/x#1"]
)
def test_urls_that_mean_nothing_are_refused(url: str) -> None:
    with pytest.raises(ah.UsageError, match="file:///absolute/path"):
        open_storage(url)


async def test_its_repr_tells_its_state(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "run.ckpt")
    assert repr(storage) == f"FileStorage('{tmp_path}/run.ckpt', closed)"
    await opened(storage)
    await storage.append([header(), *batch(0)])
    assert repr(storage) == f"FileStorage('{tmp_path}/run.ckpt', 4 records)"
    await storage.close()


async def test_whoever_stops_waiting_for_a_scan_stops_it(tmp_path: Path) -> None:
    long = [header(), *[record(i, 1000) for i in range(5_000)]]
    await written(open_storage(tmp_path / "a.ckpt"), long)
    storage = open_storage(tmp_path / "a.ckpt")
    await storage.open(readonly=True)
    try:
        got: list[bytes] = []
        await storage.scan(lambda portion: got.extend(entry.data for entry in portion))
        assert len(got) == len(long)
        begun, going_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
        portions = 0

        def take(portion: Sequence[Entry]) -> None:
            nonlocal portions
            portions += 1
            loop.call_soon_threadsafe(begun.set)
            assert going_on.wait(10)

        scan = asyncio.ensure_future(storage.scan(take))
        await asyncio.wait_for(begun.wait(), 10)
        scan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scan
        going_on.set()
    finally:
        await storage.close()
    assert portions == 1


@pytest.mark.parametrize("how", ["shortened", "written to"])
async def test_a_file_that_somebody_else_changes_ends_the_run(how: str, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"

    def meddling(params: dict[str, Any]) -> float:
        if len(search.history) == 20:
            if how == "shortened":
                os.truncate(path, 500)
            else:
                with path.open("ab") as f:
                    f.write(b"{}\n")
        return float(params["x"])

    search = ah.Search(x=ah.float(0, 1), seed=1)
    with pytest.raises(ah.StorageError, match=f"was {how} by somebody else while the search was writing to it"):
        await search.run(meddling, steps=40, checkpoint_path=path, quiet=True)
    assert len(search.history) in (19, 20)
    await search.save(tmp_path / "elsewhere.ckpt")


@pytest.mark.parametrize("url", ["file:///tmp/a%00b.ckpt", "dir:///tmp/a%00b"])
async def test_a_path_with_a_zero_in_it_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no path holds a zero"):
        await ah.Search(x=ah.bool()).run(lambda p: 1.0, steps=1, checkpoint_path=url, quiet=True)


async def test_a_run_that_cannot_listen_for_signals_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(signals: Any) -> None:
        raise OSError(24, "Too many open files")

    search = ah.Search(x=ah.float(0, 1))
    with monkeypatch.context() as patched:
        patched.setattr("asynchopper.signals.Signals.enter", full)
        with pytest.raises(OSError, match="Too many open files"):
            await search.run(lambda p: 1.0, steps=3, checkpoint_path=tmp_path / "run.ckpt", quiet=True)
    await search.run(lambda p: 1.0, steps=3, checkpoint_path=tmp_path / "run.ckpt", quiet=True)
    assert len(search.history) == 3
