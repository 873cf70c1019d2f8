"""What a person sees: a live line on a terminal, log lines elsewhere, a table at the end, nothing when quiet."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import asynchopper as ah
from asynchopper import progress
from asynchopper.progress import Progress, clock

SPACE = {"x": ah.float(-1, 1)}
PATIENCE_S = 60

SCRIPT = """
import asyncio
import asynchopper as ah
from asynchopper import progress

progress._REFRESH_S = 0.01  # five times a second is for people

async def objective(params, trial):
    if trial.id == 3:
        print("said by the objective", flush=True)
    if trial.id == 30:
        await asyncio.sleep(0.09)
    return params["x"]

async def main():
    await ah.Search({"x": ah.float(-1, 1)}, seed=1).run(objective, steps=40, concurrency=2)
    print("done", flush=True)

asyncio.run(main())
"""


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


async def run(objective: Any = lambda p: p["x"], steps: int = 20, **words: Any) -> ah.Search:
    search = ah.Search(SPACE, seed=1)
    await search.run(objective, steps=steps, **words)
    return search


async def test_without_a_terminal_there_are_plain_lines_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 1:
            raise ah.TrialPruned
        if trial.id == 2:
            raise ValueError
        return float("nan") if trial.id == 6 else trial.id

    await run(objective, on_error="record", ignore_nans=True)
    out, err = capsys.readouterr()
    said = lines(err)
    assert out == "" and "\x1b" not in err
    assert said[0] == "asynchopper: memory only: give checkpoint_path= to survive this process"
    assert re.fullmatch(
        r"asynchopper: 20/20 trials · [\d.,]+/s · best 19 · 0:00 elapsed · 0:00 left · 0 running · ended: steps",
        said[1],
    )
    table = [re.sub(r"\s+", " ", line.strip("|+- ").replace("|", "")) for line in said[2:]]
    assert table[1].split() == ["origin", "trials", "pruned", "failed", "NaN", "best", "seconds", "each"]
    rows = {
        line.split()[0]: line.split()[1:6]
        for line in table
        if line and line.split()[0] in ("initial", "seeding", "local", "all")
    }
    assert rows == {
        "initial": ["1", "0", "0", "0", "0"],
        "seeding": ["3", "1", "1", "0", "3"],
        "local": ["16", "0", "0", "1", "19"],
        "all": ["20", "1", "1", "1", "19"],
    }


async def test_a_quiet_run_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    await run(quiet=True)
    assert capfd.readouterr() == ("", "")


async def test_it_says_where_the_search_lives_and_that_it_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.ckpt"
    await run(steps=5, checkpoint_path=path)
    assert str(path) in lines(capsys.readouterr().err)[0]
    await run(steps=5, checkpoint_path=path)
    said = lines(capsys.readouterr().err)
    assert str(path) in said[0] and said[0].endswith("continues after 5 trials")
    assert said[1].startswith("asynchopper: 10/10 trials")


async def test_log_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_FIRST_LINE_S", 0.005)
    monkeypatch.setattr(progress, "_LONGEST_LINE_S", 0.01)

    async def objective(params: dict[str, Any]) -> float:
        while capsys_lines() < 4:
            await asyncio.sleep(0.001)
        return 1.0

    seen: list[str] = []

    def capsys_lines() -> int:
        seen.extend(lines(capsys.readouterr().err))
        return len(seen)

    await asyncio.wait_for(run(objective, steps=1), PATIENCE_S)
    assert re.fullmatch(r"asynchopper: 0/1 trials · 0\.0/s · 0:0\d elapsed · 1 running", seen[1])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (11_045, "3:04:05"), (359_999, "99:59:59")]
)
def test_clocks_read_like_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


async def test_the_live_line_has_rate_best_elapsed_remaining_and_running() -> None:
    """In the engine's own words, on a console that takes itself for a terminal."""
    search = ah.Search(SPACE, seed=1)
    screens: list[str] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 15:
            console = Console(file=io.StringIO(), force_terminal=True, width=120)
            assert search._ledger is not None and search._engines
            live = Progress(search._ledger, search._engines[0], console)
            live.start()
            await live.finish("steps")
            screens.append(console.file.getvalue())  # type: ignore[attr-defined]  # it is a StringIO
        return float(trial.id)

    await search.run(objective, steps=20, quiet=True)
    assert "━━━━━━━━━━━━━━━" in screens[0]
    assert "15/20 trials" in screens[0] and "best 14" in screens[0] and "1 running" in screens[0]


async def test_a_budget_in_time_shows_what_is_left() -> None:
    search = ah.Search(SPACE, seed=1)
    texts: list[str] = []

    async def objective(params: dict[str, Any]) -> float:
        assert search._ledger is not None and search._engines
        texts.append(Progress(search._ledger, search._engines[0]).text())
        search.stop()
        return 1.0

    await search.run(objective, "max", "1h 30min", quiet=True)
    assert "0 trials" in texts[0] and "1:30:00 left" in texts[0]


def on_a_terminal(script: Path, **files: Any) -> tuple[int, str]:
    """Runs a script whose standard error, and what else is not said, is a terminal; gives status and screen."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, script], stderr=theirs, env=env, **{"stdout": theirs, **files})
    os.close(theirs)
    screen, deadline = b"", time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and select.select([ours], [], [], PATIENCE_S)[0]:
        try:
            chunk = os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        screen += chunk
    os.close(ours)
    return child.wait(PATIENCE_S), screen.decode()


def test_on_a_terminal_there_is_a_live_line_that_leaves_no_trace(tmp_path: Path) -> None:
    script = tmp_path / "tune.py"
    script.write_text(SCRIPT)
    status, screen = on_a_terminal(script)
    assert status == 0
    assert "━" in screen and re.search(r"\d+/40 trials · .*1 running", screen)
    assert "\x1b[2K" in screen  # the line is wiped and drawn again
    assert "said by the objective\r\n" in screen
    assert screen.index("ended: steps") < screen.index("seeding") < screen.index("done")


def test_what_the_program_prints_into_a_file_stays_in_the_file(tmp_path: Path) -> None:
    script, out = tmp_path / "tune.py", tmp_path / "out.txt"
    script.write_text(SCRIPT)
    with out.open("wb") as file:
        status, screen = on_a_terminal(script, stdout=file)
    assert status == 0 and "━" in screen
    assert out.read_text() == "said by the objective\ndone\n"


@pytest.mark.parametrize("how", ["broken pipe", "closed", "full"])
def test_a_terminal_that_goes_away_ends_no_search(how: str, tmp_path: Path) -> None:
    script = tmp_path / "tune.py"
    script.write_text(SCRIPT)
    if how != "broken pipe":
        command = [
            "sh",
            "-c",
            f'exec "$0" "$1" 2>{"&-" if how == "closed" else "/dev/full"}',
            sys.executable,
            str(script),
        ]
        child = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    else:
        read, write = os.pipe()
        os.close(read)
        child = subprocess.run(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=write, timeout=PATIENCE_S, check=False
        )
        os.close(write)
    assert child.stdout == b"said by the objective\ndone\n"
    assert child.returncode in (0, 120)  # 120 is what Python says when it cannot flush its own stderr at exit
