"""kill -9: nothing that was acknowledged is lost, what was in flight comes back, the budget is met exactly.

`python -m tests.long.kill 5000` does it five thousand times.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import Chaos, acknowledged
from tests.processes import Child, asked, records, told
from tests.test_signals import resumed


@pytest.mark.timeout(240)
def test_thirty_kills_at_random_moments(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=11, steps=2500, concurrency=4)
    chaos.run(30)
    assert chaos.killed == 30
    assert chaos.killed_running >= 20, "most of them while it was evaluating"
    assert any(chaos.resumed_with), "candidates were in flight"
    assert acknowledged(chaos.wire.lines) > 500


@pytest.mark.timeout(120)
def test_kills_of_a_search_in_a_directory(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=12, steps=600, concurrency=3, directory=True)
    chaos.run(6)
    assert chaos.killed_running >= 3


@pytest.mark.timeout(120)
def test_kills_change_no_proposal_of_a_seeded_search(tmp_path: Path) -> None:
    """At concurrency 1 the results come in one order only, so the candidates are those of a search that never stopped."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for home in (killed, whole):
        home.mkdir()
    chaos = Chaos(killed, seed=13, steps=200, concurrency=1)
    chaos.run(5)
    path = whole / "a.ckpt"
    resumed(whole, path=str(path), steps=200, seed=13)
    assert chaos.params() == params_of(path)


@pytest.mark.parametrize("place", ["a.ckpt", "runs/"])
def test_50_trials_are_25_and_a_kill_and_25(tmp_path: Path, place: str) -> None:
    def where(name: str) -> tuple[Path, dict[str, Any]]:
        home = tmp_path / name
        home.mkdir()
        return home, {"path": f"{home}/{place}", "steps": 50, "seed": 21}

    home, words = where("whole")
    resumed(home, **words)
    whole = params_of(only_log(home))
    home, words = where("killed")
    with Child("tuning.py", home, quick=25, **words) as child:
        child.wait_line("start", 25)
        child.signal(signal.SIGKILL)
        assert child.status() == -signal.SIGKILL
        assert sorted(told(only_log(home))) == list(range(25))
    child = resumed(home, **words)
    assert child.wire.said("start")[0][1:3] == [25, 2]
    assert params_of(only_log(home)) == whole
    assert len(whole) == 50
    values = [[told(only_log(tmp_path / name))[i]["value"] for i in range(50)] for name in ("whole", "killed")]
    assert values[0] == values[1]


@pytest.mark.parametrize("objective", ["blocking", "process", "spawning"])
def test_a_killed_search_leaves_no_process_behind(tmp_path: Path, objective: str) -> None:
    path = tmp_path / "a.ckpt"
    with Child("tuning.py", tmp_path, path=str(path), objective=objective, quick=2, concurrency=3) as child:
        child.wait_line("start", count=5 if objective != "spawning" else 3)
        child.kill()
        if objective == "spawning":  # a program that the objective started goes with the worker that it ran in
            assert child.orphans() == []
        else:
            assert child.orphans() == []
            assert sorted(told(path)) == [0, 1]


def test_a_locked_up_interpreter_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """No Python thread of the worker can run while it holds the interpreter: only the kernel can end it."""
    with Child("tuning.py", tmp_path, path=str(tmp_path / "a.ckpt"), objective="holding", concurrency=2) as child:
        child.wait_line("start", count=2)
        child.kill()
        assert child.orphans() == []


def params_of(path: Path) -> list[dict[str, Any]]:
    found = asked(path)
    return [found[i]["params"] for i in sorted(found)]


def only_log(home: Path) -> Path:
    (found,) = [f for f in [*home.glob("*.ckpt"), *home.glob("runs/*.ckpt")] if records(f)]
    return found
