"""A directory of logs: which one a search continues, and which number it gets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from asynchopper.storage import open_storage
from asynchopper.testing.logs import opened


async def objective(params: dict[str, Any]) -> float:
    return float(params["x"])


async def run(directory: Path | str, steps: int = 3, **words: Any) -> ah.Search:
    search = ah.Search(x=ah.float(0, 1), seed=1)
    await search.run(objective, steps=steps, checkpoint_path=directory, quiet=True, **words)
    return search


async def unfinished(directory: Path | str) -> str:
    """A log whose run was stopped."""

    async def stopping(params: dict[str, Any]) -> float:
        search.stop()
        return 1.0

    search = ah.Search(x=ah.float(0, 1), seed=1)
    await search.run(stopping, steps=10, checkpoint_path=directory, quiet=True, handle_signals=False)
    assert search.outcome is not None
    assert search.outcome.reason == "stopped"
    assert search.checkpoint_path is not None
    return search.checkpoint_path


async def test_each_new_search_gets_the_next_number(tmp_path: Path) -> None:
    for n in range(3):
        assert (await run(f"{tmp_path}/runs/")).checkpoint_path == f"{tmp_path}/runs/run_{n:05d}.ckpt"
    assert sorted(os.listdir(tmp_path / "runs")) == [f"run_{n:05d}.ckpt" for n in range(3)]


async def test_an_existing_directory_needs_no_slash(tmp_path: Path) -> None:
    assert (await run(tmp_path)).checkpoint_path == f"{tmp_path}/run_00000.ckpt"


async def test_auto_continues_the_newest_that_has_not_ended(tmp_path: Path) -> None:
    first = await unfinished(tmp_path)
    assert (await run(tmp_path, resume="never")).checkpoint_path == f"{tmp_path}/run_00001.ckpt"
    search = await run(tmp_path, steps=10)
    assert search.checkpoint_path == first
    assert len(search.history) == 10
    assert (await run(tmp_path)).checkpoint_path == f"{tmp_path}/run_00002.ckpt"


async def test_a_run_that_ends_while_it_is_looked_at_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_before = FileStorage.open

    async def a_moment_later(self: FileStorage, **words: Any) -> None:
        if words.get("resume") == "must":
            monkeypatch.undo()
            await run(tmp_path / "run_00000.ckpt", steps=10)  # its owner ends it, between the look and the lock
        await opened_before(self, **words)

    await unfinished(f"{tmp_path}/")
    monkeypatch.setattr(FileStorage, "open", a_moment_later)
    search = await run(tmp_path)
    assert (len(search.history), search.checkpoint_path) == (3, f"{tmp_path}/run_00001.ckpt")


async def test_results_behind_the_end_do_not_make_a_run_an_unfinished_one(tmp_path: Path) -> None:
    search = ah.Search(x=ah.float(0, 1))
    async with search.session(steps=2, checkpoint_path=tmp_path / "late.ckpt") as session:
        first, second = await session.ask(), await session.ask()
        assert first is not None and second is not None
        await session.tell(first, 1.0)
        await session.tell(second, 1.0)
    lines = (tmp_path / "late.ckpt").read_bytes().splitlines()
    bare = [line[: line.rindex(b',"seq"')] + b"}" for line in lines]
    ended = next(i for i, line in enumerate(bare) if b'"kind":"ended"' in line)
    storage = FileStorage(tmp_path / "runs" / "run_00000.ckpt")
    await storage.open()
    async for _ in storage.read():
        pass
    told = next(i for i, line in enumerate(bare) if b'"kind":"told","id":1' in line)
    await storage.append([line for i, line in enumerate(bare) if i not in (ended, told)])
    await storage.append([bare[ended], bare[told]])
    await storage.close()
    log = tmp_path / "runs" / "run_00000.ckpt"
    whole = log.read_bytes()
    assert (await run(tmp_path / "runs" / "")).checkpoint_path == f"{tmp_path}/runs/run_00001.ckpt"
    (tmp_path / "runs" / "run_00001.ckpt").unlink()
    log.write_bytes(whole + b'{"kind":"run","budget":{"steps":2},"bas')  # what a kill leaves of a run that was to begin
    assert (await run(tmp_path / "runs" / "")).checkpoint_path == f"{tmp_path}/runs/run_00001.ckpt"


async def test_never_always_starts_a_new_one(tmp_path: Path) -> None:
    await unfinished(tmp_path)
    search = await run(tmp_path, resume="never")
    assert search.checkpoint_path == f"{tmp_path}/run_00001.ckpt"
    assert len(search.history) == 3
    assert (await run(tmp_path, overwrite_checkpoint=True)).checkpoint_path == f"{tmp_path}/run_00002.ckpt"


async def test_must_wants_one_that_can_be_continued(tmp_path: Path) -> None:
    with pytest.raises(ah.StorageError, match="no checkpoint"):
        await run(tmp_path / "nowhere" / "", resume="must")
    with pytest.raises(ah.StorageError, match="no checkpoint"):
        await run(f"{tmp_path}/", resume="must")
    await run(tmp_path)
    with pytest.raises(ah.StorageError, match="one that can be continued"):
        await run(tmp_path, resume="must")
    where = await unfinished(tmp_path)
    assert (await run(tmp_path, resume="must", steps=10)).checkpoint_path == where


async def test_save_takes_the_next_number_and_load_the_newest(tmp_path: Path) -> None:
    search = await run(f"{tmp_path}/")
    assert await search.save(tmp_path) == tmp_path / "run_00001.ckpt"
    assert await search.save(f"{tmp_path}/") == tmp_path / "run_00002.ckpt"
    other = ah.Search(x=ah.float(0, 1))
    await other.load(tmp_path)
    assert [t.params for t in other.history] == [t.params for t in search.history]


async def test_numbers_go_on_behind_the_highest_and_foreign_names_do_not_count(tmp_path: Path) -> None:
    for name in ("run_00041.ckpt.bak", "run_7.ckpt", "run_٠٠٠٠٩.ckpt", "notes.txt", "run_000x1.ckpt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "run_00007.ckpt").mkdir()
    os.mkfifo(tmp_path / "run_00009.ckpt")  # nobody writes into it: opening it would wait for ever
    assert (await run(tmp_path)).checkpoint_path == f"{tmp_path}/run_00010.ckpt"
    (tmp_path / "run_99999.ckpt").write_bytes(b"")
    assert (await run(tmp_path)).checkpoint_path == f"{tmp_path}/run_100000.ckpt"
    assert (tmp_path / "notes.txt").read_text() == "mine"


async def test_an_empty_log_is_passed_over_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = await unfinished(tmp_path)
    (tmp_path / "run_00001.ckpt").write_bytes(b"")
    assert (await run(tmp_path, steps=10)).checkpoint_path == where
    assert "run_00001.ckpt is empty and is passed over" in caplog.text


async def test_a_number_that_was_never_used_is_given_back(tmp_path: Path) -> None:
    storage = open_storage(f"{tmp_path}/runs/")
    await opened(storage)
    assert os.listdir(tmp_path / "runs") != []
    await storage.close()
    assert os.listdir(tmp_path / "runs") == []


async def test_a_damaged_newest_log_is_said_and_not_passed_over(tmp_path: Path) -> None:
    where = Path(await unfinished(tmp_path))
    where.write_bytes(where.read_bytes()[:-5])
    with pytest.raises(ah.CheckpointCorrupted, match=r"run_00000\.ckpt"):
        await run(tmp_path)
    assert os.listdir(tmp_path) == ["run_00000.ckpt"]


async def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ah.StorageError, match="file/"):
        await run(f"{tmp_path}/file/")
    with pytest.raises(ah.StorageError, match="file/below"):
        await run(f"{tmp_path}/file/below/")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("url", ["dir://elsewhere/tmp", "dir://", "dir:///tmp?x=1", "dir:///tmp#1"])
def test_urls_that_mean_nothing_are_refused(url: str) -> None:
    with pytest.raises(ah.UsageError, match="dir:///absolute/path"):
        open_storage(url)
