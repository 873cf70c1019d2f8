"""`asynchopper verify` and `asynchopper repair`: what they say, what they keep, and with which status they end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.cli import main
from asynchopper.records import encode
from asynchopper.space import Space
from asynchopper.state import Asked, Fact, Header, Told
from asynchopper.storage import Entry, open_storage
from asynchopper.testing.logs import contents
from asynchopper.testing.system import WithoutSync
from asynchopper.verify import Report, _Fold, repair, verify
from tests.damage import DAMAGES, SPACE, checkpoints
from tests.test_bulk import SPACES, change_some
from tests.test_bulk import logs as some_logs


@pytest.fixture
async def logs(tmp_path: Path) -> dict[str, bytes]:
    made = tmp_path / "made"
    made.mkdir()
    return await checkpoints(made)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.ckpt"


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The command in this process: it makes a loop of its own, so it must not be called from one."""
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asynchopper", *map(str, words)], capture_output=True, text=True, timeout=60
    )


# -- verify


def test_a_whole_checkpoint_says_what_it_holds(
    logs: dict[str, bytes], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in logs.items():
        path.write_bytes(data)
        status, out, err = command(capsys, "verify", path)
        assert (status, err) == (0, "")
        assert out.startswith(f"{path}: whole\n  search ")
        assert "to maximize, seed 3" in out
        assert "parameters: x, n, w, kind, kind.depth" in out
        assert "best: " in out
        assert "damage" not in out
        assert path.read_bytes() == data, "verify has changed the file"
        if name == "resumed":
            assert "2 runs, the last ended: steps" in out
            assert "40 finished trials (" in out
        if name == "killed":
            assert "1 run, the last has not ended" in out
            assert " in flight" in out


def test_what_a_crash_left_is_a_note_and_not_a_damage(
    logs: dict[str, bytes], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(logs["killed"] + b'{"kind":"told","id":2')
    status, out, _ = command(capsys, "verify", path)
    assert status == 0
    assert "note: line " in out
    assert "(21 bytes): never acknowledged, the last line is incomplete, as a crash leaves it" in out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [*lines[:5], lines[5].replace(b"attempt", b"attemqt"), *lines[6:]], "line 6 ("),
        (lambda lines: [*lines[:5], lines[5].replace(b"attempt", b"attemqt"), *lines[6:]], "record 5 is missing"),
        (lambda lines: [*lines[:5], *lines[8:]], "records 5 to 7 are missing"),
        (lambda lines: [*lines[:6], *lines[5:]], "record 5 is there twice"),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "1 record out of order"),
        (lambda lines: lines[:-3], "durable records, and the last 3 are gone"),
        (lambda lines: [*lines, b"garbage\n"], "this is not a record of asynchopper's"),
        (lambda lines: [*lines[:4], b"\0" * 700 + b"\n", *lines[4:]], "line 5 (701 bytes)"),
        (lambda lines: [*lines[:4], *[b"x\n"] * 3, *lines[4:]], "lines 5 to 7 (6 bytes)"),
    ],
)
def test_damage_is_listed(
    logs: dict[str, bytes], path: Path, capsys: pytest.CaptureFixture[str], damage: Any, said: str
) -> None:
    path.write_bytes(b"".join(damage(logs["ended"].splitlines(keepends=True))))
    status, out, _ = command(capsys, "verify", path)
    assert status == 1
    assert out.startswith(f"{path}: damaged\n")
    assert said in out
    assert f"asynchopper repair {path} {path}.repaired" in out


def test_a_name_that_a_shell_would_take_apart_is_quoted(
    logs: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my run.ckpt"
    path.write_bytes(b"".join(line for i, line in enumerate(logs["ended"].splitlines(keepends=True)) if i != 3))
    _, out, _ = command(capsys, "verify", path)
    assert f"asynchopper repair '{path}' '{path}.repaired'" in out


def test_what_cannot_be_mended_is_not_offered_to_be(
    logs: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("two eggs\na loaf\n")
    (tmp_path / "headless.ckpt").write_bytes(b"garbage\n" + logs["ended"].partition(b"\n")[2])
    for name in ("list.txt", "headless.ckpt"):
        status, out, _ = command(capsys, "verify", tmp_path / name)
        assert status == 2 and "this is not a record of asynchopper's" in out and "asynchopper repair" not in out
    assert "record 0 is missing" in out


def test_names_that_cannot_be_opened_leave_the_others_readable(
    logs: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.ckpt").symlink_to("nowhere")
    (tmp_path / "b.ckpt").write_bytes(logs["ended"])
    status, out, err = command(capsys, "verify", tmp_path, "x" * 300)
    assert status == 2 and f"{tmp_path / 'b.ckpt'}: whole" in out
    assert "a.ckpt" in err and "File name too long" in err and "the output" not in err


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"asynchopper {ah.__version__}\n"


def test_what_cannot_be_read_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"")
    for name, said in (
        ("nothing", "there is no checkpoint at"),
        ("empty", "there is no checkpoint at"),
        ("link", "is a symbolic link"),
        ("fifo", "is not a regular file"),
    ):
        status, out, err = command(capsys, "verify", tmp_path / name)
        assert (status, out) == (2, "")
        assert said in err
    status, _, err = command(capsys, "verify", "nobody://x")
    assert status == 2
    assert "there is no backend for nobody://" in err


def test_a_newer_version_is_named_and_not_called_damaged(
    logs: dict[str, bytes], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from asynchopper.records import frame, unframe

    first, rest = logs["ended"].split(b"\n", 1)
    at = first.index(b',"durable"')
    body = first[: unframe(first[:at] + b"}").size].replace(b'"format":"1.0"', b'"format":"3.0"') + b"}"
    path.write_bytes(frame(body, 0)[:-2] + first[at:] + b"\n" + rest)
    status, out, err = command(capsys, "verify", path)
    assert (status, out) == (2, "")
    assert "format 3.0" in err
    assert "upgrade asynchopper" in err


def test_a_directory_means_all_logs_in_it(
    logs: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    assert command(capsys, "verify", runs)[0] == 2
    (runs / "run_00000.ckpt").write_bytes(logs["ended"])
    (runs / "run_00001.ckpt").write_bytes(logs["killed"][:-1])
    (runs / "run_00002.ckpt").write_bytes(logs["ended"])
    for said in (runs, f"dir://{runs}"):
        status, out, _ = command(capsys, "verify", said)
        assert status == 1
        assert f"{runs}/run_00000.ckpt: whole\n" in out
        assert f"{runs}/run_00001.ckpt: damaged\n" in out
    status, out, _ = command(capsys, "repair", runs / "run_00001.ckpt", f"{tmp_path}/mended/")
    assert out.startswith(f"{tmp_path}/mended/run_00000.ckpt: ")
    assert command(capsys, "verify", runs / "run_00000.ckpt", runs / "none.ckpt")[0] == 2


def test_an_empty_log_in_a_directory_is_passed_over(
    logs: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what a run leaves that was killed before it had written anything."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "run_00000.ckpt").write_bytes(logs["ended"])
    (runs / "run_00001.ckpt").touch()
    status, out, _ = command(capsys, "verify", runs)
    assert status == 0
    assert "run_00001.ckpt: empty" in out
    (runs / "run_00000.ckpt").write_bytes(logs["ended"][:-1])
    assert command(capsys, "verify", runs)[0] == 1
    assert command(capsys, "verify", runs, runs / "none.ckpt")[0] == 1  # what is damaged matters most


def test_what_the_output_cannot_hold_is_no_damage(logs: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "uni é ☃.ckpt"
    path.write_bytes(logs["ended"])
    words = [sys.executable, "-m", "asynchopper", "verify", str(path)]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, env=ascii_only)
    assert (ran.returncode, ran.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ran.returncode == 2
    assert ran.stderr.startswith("the output cannot be written: ")
    assert "Traceback" not in ran.stderr


async def test_a_running_search_can_be_looked_at(path: Path) -> None:
    reports = []

    async def objective(params: dict[str, Any]) -> float:
        reports.append(await verify(path))
        return float(params["x"])

    await ah.Search(SPACE, seed=1).run(objective, steps=20, concurrency=4, checkpoint_path=path, quiet=True)
    assert [report.damage for report in reports] == [[]] * 20
    assert max(report.state.told for report in reports) >= 12


def test_without_an_output_a_whole_checkpoint_is_whole(logs: dict[str, bytes], path: Path) -> None:
    path.write_bytes(next(iter(logs.values())))
    command = f"{shlex.quote(sys.executable)} -m asynchopper verify {shlex.quote(str(path))} >&-"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_commands_of_a_shell(logs: dict[str, bytes], path: Path) -> None:
    path.write_bytes(logs["ended"])
    ran = run("verify", path)
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"{path}: whole\n")
    assert ran.stderr == ""
    path.write_bytes(logs["ended"][:-1])
    assert run("verify", path).returncode == 1
    assert run("repair", path, f"{path}.new").returncode == 1
    assert run("verify", f"{path}.new").returncode == 0
    said = run()
    assert said.returncode == 2
    assert "COMMAND" in said.stderr


def test_help_names_the_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["verify", "--help"], ["repair", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "exit status:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["mend", "x"])
    assert ended.value.code == 2


# -- repair


def test_repair_lists_what_it_left_and_runs_it_again(
    logs: dict[str, bytes], path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logs["ended"].splitlines(keepends=True)
    asked = next(i for i, line in enumerate(lines) if b'"kind":"asked","id":7,' in line)
    told = next(i for i, line in enumerate(lines) if b'"kind":"told","id":12,' in line)
    data = b"".join(line.replace(b"1", b"2") if i in (asked, told) else line for i, line in enumerate(lines))
    path.write_bytes(data)
    new = tmp_path / "new.ckpt"
    status, out, err = command(capsys, "repair", path, new)
    assert (status, err) == (1, "")
    assert f"{new}: " in out
    assert "with 28 finished trials" in out
    assert f"left: line {asked + 1} (" in out
    assert "a result of trial 7, has lost its parameters, and cannot be used" in out
    assert path.read_bytes() == data, "repair has changed its source"
    assert command(capsys, "verify", new)[0] == 0
    status, _, err = command(capsys, "repair", path, new)
    assert status == 2
    assert "already" in err


async def test_a_repaired_search_goes_on(logs: dict[str, bytes], path: Path, tmp_path: Path) -> None:
    lines = logs["killed"].splitlines(keepends=True)
    told = [i for i, line in enumerate(lines) if b'"kind":"told"' in line]
    path.write_bytes(b"".join(line for i, line in enumerate(lines) if i not in told[3:6]))
    report = await repair(path, tmp_path / "new.ckpt")
    lost = sorted(report.state.pending)
    assert len(lost) >= 3
    again: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        again.append(trial.id)
        return float(params["x"])

    search = ah.Search(SPACE, seed=3)
    await search.run(objective, steps=30, checkpoint_path=tmp_path / "new.ckpt", quiet=True)
    assert again[: len(lost)] == lost, "what was lost does not run again first"
    assert sorted(t.id for t in search.history) == list(range(30))


async def test_a_whole_checkpoint_repairs_to_itself(logs: dict[str, bytes], path: Path, tmp_path: Path) -> None:
    for name, data in logs.items():
        path.write_bytes(data)
        new = tmp_path / f"{name}.new"
        assert (await repair(path, new)).damage == []
        assert await contents(open_storage(new)) == await contents(open_storage(path))


async def test_without_its_header_a_checkpoint_means_nothing(
    logs: dict[str, bytes], path: Path, tmp_path: Path
) -> None:
    path.write_bytes(b"x" + logs["ended"])
    with pytest.raises(ah.StorageError, match="the first record, which says what the search is, cannot be read"):
        await repair(path, tmp_path / "new.ckpt")
    assert not (tmp_path / "new.ckpt").exists()


async def test_whatever_was_damaged_a_repair_keeps_what_is_intact_and_invents_nothing(
    logs: dict[str, bytes], path: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new.ckpt"
    whole = {}
    for name, data in logs.items():
        path.write_bytes(data)
        search = ah.Search(SPACE)
        await search.load(path)
        whole[name] = {t.id: (repr(t.params), repr(t.value), t.state, t.estimates) for t in search.history}
    kept = 0
    with WithoutSync(tmp_path):
        for i in range(168):
            rng = random.Random(i)
            name = rng.choice(sorted(logs))
            damage = DAMAGES[i % len(DAMAGES)]
            data = damage(logs[name], rng)
            path.write_bytes(data)
            new.unlink(missing_ok=True)
            try:
                report = await repair(path, new)
            except ah.StorageError:
                assert not new.exists()
                continue
            search = ah.Search(SPACE)
            await search.load(new)
            found = {t.id: (repr(t.params), repr(t.value), t.state, t.estimates) for t in search.history}
            assert found.items() <= whole[name].items(), f"{damage.__name__} {i}: something was invented"
            if found.keys() < whole[name].keys():
                assert report.damage, f"{damage.__name__} {i}: something was lost and not listed"
            lines = set(data.split(b"\n")[:-1])
            intact = [line for line in logs[name].splitlines()[1:] if line in lines]
            unusable = [said for said in report.damage if "cannot be used" in said]
            if not report.notes:  # what was never acknowledged counts by whole batches
                assert len(report.whole) + len(unusable) >= len(intact) + 1, f"{damage.__name__} {i}: too much was left"
            kept += 1
    assert kept > 60


def reported(entries: list[Entry]) -> tuple[Any, ...]:
    report = Report("a log")
    _Fold(report, entries)
    state = report.state
    trials = [repr(replace(state.table.trial(i), params={})) for i in range(state.told)]
    numbers = state.told, state.next_id, state.best_row, state.elapsed, state.cost, state.reason, sorted(state.pending)
    return report.damage, report.usable, report.size, report.runs, trials, repr(numbers), list(report.lines())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_in_bulk_it_finds_what_it_finds_record_by_record(data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    space = data.draw(st.sampled_from(SPACES))
    records = [encode(fact, space) for fact in data.draw(some_logs(space))]
    change_some(data, records, 0)
    entries = [Entry(i, record) for i, record in enumerate(records)]
    if data.draw(st.booleans()):
        entries = [Entry(i, entry.data) for i, entry in enumerate(entries[1:])]
    for lost in data.draw(st.lists(st.integers(0, len(entries)), max_size=3)):
        entries = [entry for entry in entries if entry.seq != lost]
    monkeypatch.setattr("asynchopper.bulk._FEW", data.draw(st.sampled_from([1, 4])))
    monkeypatch.setattr("asynchopper.verify._PORTION", data.draw(st.sampled_from([8, 64])))
    in_bulk = reported(entries)
    with monkeypatch.context() as patch:
        patch.setattr("asynchopper.bulk.Bulk.take", lambda *_: False)
        assert in_bulk == reported(entries)


def test_the_best_trial_is_found_in_a_record_with_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space({"x": ah.float(0, 1)})
    facts: list[Fact] = [Header("id", "maximize", 7, space.describe())]
    for i in range(12):
        facts += [Asked(i, 1, (i / 12,), "local"), Told(i, 1, "completed", float(i == 7), (), 0.0, 0.0, 0.0)]
    records = [encode(fact, space) for fact in facts]
    records[15] = json.dumps(orjson.loads(records[15])).encode()
    monkeypatch.setattr("asynchopper.bulk._FEW", 1)  # so that its result is not looked at together with it
    said = reported([Entry(i, record) for i, record in enumerate(records)])[-1]
    assert f"  best: 1, trial 7, {{'x': {7 / 12}}}" in said


async def test_a_plain_log_is_looked_at_in_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = ah.Search(x=ah.float(0, 1), w=ah.float(0, 1, shape=20), o=ah.choice(max, 1), seed=1)
    path = tmp_path / "run.ckpt"
    await search.run(lambda params: params["x"], steps=300, concurrency=8, checkpoint_path=path, quiet=True)
    single: list[int] = []
    take_one = _Fold._take_one
    monkeypatch.setattr(_Fold, "_take_one", lambda self, seq, data: (single.append(seq), take_one(self, seq, data)))
    report = await verify(path)
    assert report.state.told == 300 and not report.damage and len(single) < 100
    best = report.state.table.trial(report.state.best_row)
    assert search.best is not None and best.params["x"] == search.best["x"] == search.best_value


async def test_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    search = ah.Search(x=ah.float(0, 1), seed=1)
    await search.run(lambda params: params["x"], steps=3000, concurrency=8, sampler=ah.RandomSampler(), quiet=True)
    await search.save(tmp_path / "a.ckpt")  # packed, which is looked at trial by trial
    turns, longest, before = 0, 0.0, time.thread_time()

    async def count() -> None:
        nonlocal turns, longest, before
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns, longest, before = turns + 1, max(longest, now - before), now

    counting = asyncio.ensure_future(count())
    began = time.process_time()
    report = await verify(tmp_path / "a.ckpt")
    whole = time.process_time() - began
    await asyncio.sleep(0)
    counting.cancel()
    assert report.state.told == 3000
    assert longest < whole / 4
