"""Every state in which a kill or a power cut may leave a log, opened, resumed, and run on; and backends that are broken on
purpose, each of which must be caught."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends import file as file_module
from asynchopper_backends import lines
from asynchopper_backends.file import FileStorage

import asynchopper as ah
from asynchopper.testing import CrashContract
from asynchopper.testing.crash_contract import Unsafe
from asynchopper.testing.crashes import CrashState, Recording
from asynchopper.testing.system import WithoutSync


class TestFile(CrashContract):
    def location(self, root: Path) -> str:
        return str(root / "a" / "b" / "run.ckpt")


class TestDirectory(CrashContract):
    def location(self, root: Path) -> str:
        return f"{root}/runs/"

    def test_a_log_that_is_replaced(self, tmp_path: Path) -> None:
        """A directory replaces nothing: it takes the next number."""


# -- a whole search


SPACE = {"x": ah.float(0, 1), "n": ah.int(0, 10**6), "kind": ah.choice("a", "b")}
STEPS = 14


def value(params: dict[str, Any]) -> float:
    return float(params["x"]) + params["n"] / 1e9


async def search_on(path: Path, recording: Recording | None = None, steps: int = STEPS) -> ah.Search:
    acknowledged: dict[int, float] = {}

    async def objective(params: dict[str, Any]) -> float:
        for _ in range(params["n"] % 3):
            await asyncio.sleep(0)
        return value(params)

    def told(trial: ah.Trial) -> None:
        assert trial.value is not None
        acknowledged[trial.id] = trial.value
        if recording is not None:
            recording.promise(dict(acknowledged))

    search = ah.Search(SPACE, seed=11)
    await search.run(objective, steps=steps, concurrency=3, checkpoint_path=path, callbacks=told, quiet=True)
    return search


async def resumed(state: CrashState, root: Path) -> None:
    """Builds the state, runs the search on, and checks that the two make one whole."""
    state.build(root)
    search = await search_on(root / "run.ckpt")
    found = {trial.id: trial.value for trial in search.history}
    for id, said in (state.promised or {}).items():
        assert found.get(id) == said, f"{state}: the result of trial {id} was promised, and is gone"
    assert sorted(found) == list(range(STEPS)), f"{state}: the budget was not met"
    for trial in search.history:
        assert trial.value == value(trial.params), f"{state}: a result belongs to other parameters"


async def test_a_search_goes_on_from_every_state(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    with Recording(root) as recording:
        whole = await search_on(root / "run.ckpt", recording)
    assert len(whole.history) == STEPS
    states = [*recording.kills(), *recording.power_cuts(draws=2)]
    unfinished = [s for s in states if b'"kind":"ended"' not in b"".join(s.files.values())]
    chosen = unfinished[:: max(1, len(unfinished) // 250)]
    assert len(chosen) >= 200
    with WithoutSync(tmp_path):
        for state in chosen:
            await resumed(state, tmp_path / "state")


# -- what must be caught


def rewrite_in_place(self: FileStorage, records: Any) -> None:
    """Each commit writes the whole file anew over the old one."""
    before = os.pread(self._fd, 2**26, 0)
    os.ftruncate(self._fd, 0)
    file_module.write(self._fd, before, 0)
    append(self, records)


append = FileStorage._append


def no_sync(fd: int) -> None:
    """The data's own sync is left out; those of directories are not."""


def keep_torn_tail(self: FileStorage, end: lines.End) -> None:
    """Appends behind what a crash left, without cutting it first."""
    finish(self, end._replace(offset=os.fstat(self._fd).st_size))


finish = FileStorage._finish


def mark_ahead(self: FileStorage, records: Any) -> None:
    """Says that records are durable before they are."""
    if self._mark is not None:
        self._next_seq += len(records)
        self._note_durable()
        self._next_seq -= len(records)
    append(self, records)


def put_in_place_unsynced(self: FileStorage) -> None:
    """Renames a new log into place before its content is on the disk."""
    assert self._temporary is not None
    os.rename(self._temporary, self.path)
    self._temporary = None
    file_module.sync_directory(self.path.parent)
    os.fsync(self._fd)


def write_twice(self: FileStorage, records: Any) -> None:
    """A batch as two."""
    append(self, records[:1])
    if len(records) > 1:
        append(self, records[1:])


def acknowledge_early(self: FileStorage, records: Any) -> None:
    """Writes, and leaves the sync to the next commit."""
    real, os.fdatasync = os.fdatasync, no_sync
    try:
        append(self, records)
    finally:
        os.fdatasync = real


def no_directory(path: Path) -> None:
    """Directories are not synced."""


def made_but_not_synced(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)


def sync_only_data_before_reading(self: FileStorage, end: lines.End) -> None:
    """What a killed process left in the page cache counts, and is not synced."""
    real, os.fdatasync = os.fdatasync, no_sync
    try:
        finish(self, end)
    finally:
        os.fdatasync = real


@pytest.mark.parametrize(
    ("name", "where", "attribute", "mutant", "said"),
    [
        ("in-place rewrite", FileStorage, "_append", rewrite_in_place, "kill after .* promised: "),
        ("no fsync", FileStorage, "_append", acknowledge_early, "power after .* lost"),
        ("no directory fsync", file_module, "sync_directory", no_directory, "power after .* there is no checkpoint"),
        ("new directories not synced", file_module, "make_directories", made_but_not_synced, "power .* no checkpoint"),
        ("watermark ahead of the truth", FileStorage, "_append", mark_ahead, "kill after .* the file was shortened"),
        ("rename before sync", FileStorage, "_put_in_place", put_in_place_unsynced, "power .* line is incomplete"),
        ("batches that are not atomic", FileStorage, "_append", write_twice, "kill after .* a part of a batch"),
    ],
)
def test_a_broken_backend_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: Any, attribute: str, mutant: Any, said: str
) -> None:
    monkeypatch.setattr(where, attribute, mutant)
    with pytest.raises(Unsafe, match=said):
        TestFile().test_a_new_log(tmp_path)


@pytest.mark.parametrize(
    ("name", "mutant", "said"),
    [
        ("append before cutting the torn tail", keep_torn_tail, "(kill|power) after "),
        ("no sync at resume", sync_only_data_before_reading, "power after .* (lost|arrived)"),
    ],
)
def test_a_backend_that_continues_badly_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mutant: Any, said: str
) -> None:
    monkeypatch.setattr(FileStorage, "_finish", mutant)
    with pytest.raises(Unsafe, match=said):
        TestFile().test_a_log_that_is_continued_after_a_kill(tmp_path)
