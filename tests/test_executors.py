"""Plain functions in threads and in processes: off the loop, taken away in time, and never the end of the pool."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import asynchopper as ah
from tests.processes import Child, records
from tests.scripts import places

BOTH = ["thread", "process"]


def a_search() -> ah.Search:
    return ah.Search(x=ah.float(0, 1), seed=3)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


async def until(true: Any, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


# -- both


@pytest.mark.every_loop
@pytest.mark.parametrize("executor", BOTH)
async def test_the_loop_goes_on_while_functions_block(executor: Any) -> None:
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.005)

    heart = asyncio.ensure_future(beat())
    search = a_search()
    began = time.monotonic()
    await search.run(places.where_slowly, steps=40, concurrency=4, executor=executor, quiet=True)
    took = time.monotonic() - began
    heart.cancel()
    assert len(search.history) == 40
    assert len(beats) > took / 0.005 / 10, "the loop had its turns"
    mine = {float(os.getpid())}
    assert (set(search.history.values) == mine) == (executor == "thread")


@pytest.mark.every_loop
@pytest.mark.parametrize("executor", BOTH)
async def test_every_kind_of_objective_runs_in_either(executor: Any) -> None:
    for objective in (places.reports, places.yields, places.ayields):
        search = a_search()
        await search.run(objective, steps=4, concurrency=2, executor=executor, quiet=True)
        for trial in search.history:
            assert trial.state == "completed"
            n = 5 if objective is places.reports else 3
            assert trial.estimates == pytest.approx([trial.params["x"] + i for i in range(n)])
    search = a_search()
    await search.run(places.awaits, steps=2, executor=executor, quiet=True)
    assert [trial.cost for trial in search.history] == [1.0, 1.0]
    search = a_search()
    await search.run(places.scaled, steps=3, executor=executor, kwargs={"by": 10.0}, quiet=True)
    assert list(search.history.values) == pytest.approx([10 * trial.params["x"] for trial in search.history])


@pytest.mark.parametrize("executor", BOTH)
async def test_a_cost_can_be_set_and_read(executor: Any) -> None:
    search = a_search()
    await search.run(places.pays, steps=2, executor=executor, quiet=True)
    assert [(trial.cost, trial.value) for trial in search.history] == [(6.0, 6.0)] * 2


async def test_options_that_cannot_be_sent_are_refused_before_anything_runs() -> None:
    search = ah.Search(x=ah.choice(lambda v: v, labels=["same"]), y=ah.choice(lambda: 1, lambda: 2, labels=["a", "b"]))
    with pytest.raises(ah.UsageError, match="the options of x cannot be sent to another process"):
        await search.run(places.pays, steps=2, executor="process", on_error="record", quiet=True)
    assert len(search.history) == 0 and search.outcome is None


@pytest.mark.parametrize(
    "space",
    [
        {"x": ah.float(0, 1), "loss": lambda v: v},
        {"m": ah.choice({"loss": lambda v: v, "q": ah.float(0, 1)}, {"q": 1})},
        {"m": ah.choice({"q": ah.float(0, 1)}, {"all": [1, {"loss": lambda v: v}]})},
    ],
    ids=["beside a parameter", "in a branch", "deep in a branch"],
)
async def test_constants_that_cannot_be_sent_are_refused_before_anything_runs(space: dict[str, Any]) -> None:
    search = ah.Search(space)
    with pytest.raises(ah.UsageError, match="cannot be sent to another process"):
        await search.run(places.pays, steps=2, executor="process", on_error="record", quiet=True)
    assert len(search.history) == 0 and search.outcome is None


@pytest.mark.parametrize("executor", BOTH)
async def test_costs_states_and_prunings_reach_the_search(executor: Any, tmp_path: Path) -> None:
    search, path = a_search(), tmp_path / "a.ckpt"
    await search.run(places.reports, steps=3, executor=executor, checkpoint_path=path, quiet=True)
    assert [trial.cost for trial in search.history] == [2.5] * 3
    assert [r["data"] for r in records(path) if r["kind"] == "saved"] == [{"at": 5}] * 3
    search = a_search()
    pruner = ah.pruners.TopKPruner(1)
    await search.run(places.reports, steps=20, executor=executor, pruner=pruner, quiet=True)
    assert sum(search.history.pruned) > 0
    assert all(len(trial.estimates) < 5 for trial in search.history if trial.state == "pruned")


@pytest.mark.parametrize("executor", BOTH)
async def test_what_it_raises_arrives_as_itself_with_a_note(executor: Any) -> None:
    with pytest.raises(places.Plain) as caught:
        await a_search().run(places.raises, steps=3, executor=executor, quiet=True)
    assert caught.value.args == ("no good", True)
    notes = "\n".join(caught.value.__notes__)
    assert "in trial 0 (attempt 1) with params {'x': 0.5}" in notes
    if executor == "process":
        assert "raise Plain(" in notes, "where in the worker it was"
    with pytest.raises(FileNotFoundError, match=r"train\.csv"):
        await a_search().run(places.raises_oserror, steps=3, executor=executor, quiet=True)


@pytest.mark.parametrize("objective", [places.raises_frozen, places.awaits_and_raises_frozen])
async def test_an_exception_that_takes_no_note_arrives_as_itself_too(objective: Any) -> None:
    search = a_search()
    with pytest.raises(places.Frozen) as caught:
        await search.run(objective, steps=3, quiet=True)
    assert caught.value.code == 7
    assert [trial.state for trial in search.history] == ["failed"]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_errors_whose_text_no_log_could_hold_are_recorded(executor: Any, stored: bool, tmp_path: Path) -> None:
    search, words = a_search(), {"checkpoint_path": tmp_path / "a.ckpt"} if stored else {}
    words |= {"steps": 6, "concurrency": 2, "on_error": "record", "executor": executor, "quiet": True}
    await search.run(places.raises_oddly, **words)  # type: ignore[arg-type]  # a mix
    assert search.outcome is not None and search.outcome.reason == "steps"
    loaded = a_search()
    await loaded.load(await search.save(tmp_path / "saved.ckpt"))
    for known in (search, loaded):
        for trial in known.history:
            text = "ValueError: half \\ud800" if trial.id % 2 else "Unprintable: (an error that cannot be printed)"
            assert text in (trial.error or "")


@pytest.mark.parametrize("executor", BOTH)
async def test_a_timeout_takes_the_evaluation_away(executor: Any) -> None:
    search = a_search()
    began = time.monotonic()
    await search.run(places.never_ends, steps=2, concurrency=2, executor=executor, timeout=1.5, quiet=True)
    assert time.monotonic() - began < 10
    assert [trial.state for trial in search.history] == ["failed", "failed"]
    if executor == "process":
        pids = [int(trial.estimates[0]) for trial in search.history if trial.estimates]
        assert pids
        assert all(ended(pid) for pid in pids)


@pytest.mark.every_loop
@pytest.mark.parametrize("executor", BOTH)
async def test_an_interruption_is_heard_over_there(executor: Any) -> None:
    for objective in (places.sees_its_interruption, places.awaits_its_interruption):
        search, begun = a_search(), asyncio.Event()

        class Stop(ah.pruners.TopKPruner):
            def should_prune(self, estimates: Any) -> bool:
                begun.set()  # noqa: B023 - it is called in this turn of the loop
                return False

        run = asyncio.ensure_future(
            search.run(objective, steps=3, executor=executor, pruner=Stop(1), quiet=True, grace=30)
        )
        await asyncio.wait_for(begun.wait(), 20)
        search.stop()
        assert await asyncio.wait_for(run, 20) is not None
        assert list(search.history.values) == [1.0]


async def test_any_thread_of_a_worker_may_talk_to_its_trial() -> None:
    search = a_search()
    await asyncio.wait_for(search.run(places.talks_from_threads, steps=4, executor="process", quiet=True), 60)
    assert [(t.value, t.estimates, t.cost) for t in search.history] == [(1.0, (1.0,) * 80, 80.0)] * 4


async def test_starting_a_worker_is_not_part_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing what an objective needs may take longer than evaluating it."""
    (tmp_path / "slow_to_import.py").write_text(
        "import threading\nthreading.Event().wait(0.6)\ndef objective(params):\n    return params['x']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from slow_to_import import objective  # type: ignore[import-not-found]  # it was just made

    search = a_search()
    await search.run(objective, steps=6, concurrency=2, executor="process", timeout=0.5, quiet=True)
    assert [trial.state for trial in search.history] == ["completed"] * 6
    assert max(search.history.seconds) < 0.5


# -- threads


async def test_a_thread_that_does_not_come_back_holds_up_nothing() -> None:
    release, begun = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def objective(params: dict[str, Any]) -> float:
        begun.set()
        release.wait(60)
        return 1.0

    search = a_search()
    run = asyncio.ensure_future(search.run(objective, steps=3, concurrency=2, grace=0, quiet=True))
    await until(begun.is_set)
    search.stop()
    began = time.monotonic()
    await asyncio.wait_for(run, 10)
    assert time.monotonic() - began < 1
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("asynchopper-")]
    assert left
    assert all(t.daemon for t in left)
    release.set()
    for t in left:
        t.join(10)  # the loop has no turn meanwhile
        assert not t.is_alive(), "it ends once the objective does"
    assert len(search.history) == 0, "what it returned too late was not listened to"


async def test_a_thread_whose_evaluation_was_taken_away_learns_it_at_its_next_word() -> None:
    ended_with: list[BaseException] = []
    begun, release = threading.Event(), threading.Event()

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        begun.set()
        release.wait(60)
        try:
            trial.report(1.0)
        except BaseException as e:
            ended_with.append(e)
            raise
        return 1.0

    search = a_search()
    run = asyncio.ensure_future(search.run(objective, steps=1, grace=0, quiet=True))
    await until(begun.is_set)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    release.set()
    await until(lambda: ended_with)
    assert not isinstance(ended_with[0], Exception), "an `except Exception` in the objective does not keep it alive"


async def test_threads_are_used_again() -> None:
    seen: set[int] = set()

    def objective(params: dict[str, Any]) -> float:
        seen.add(threading.get_ident())
        return params["x"]

    await a_search().run(objective, steps=50, concurrency=3, quiet=True)
    assert len(seen) <= 3


# -- processes


async def test_worker_processes_are_used_again_and_are_gone_at_the_end() -> None:
    search = a_search()
    await search.run(places.where, steps=20, concurrency=2, executor="process", quiet=True)
    pids = {int(value) for value in search.history.values}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    assert all(ended(pid) for pid in pids)


@pytest.mark.parametrize(
    ("objective", "how"),
    [
        (places.exits, "ended by itself (exit code 3)"),
        (places.crashes, "was killed by SIGSEGV"),
        (places.leaves_a_child_and_crashes, "was killed by SIGKILL"),
    ],
)
async def test_a_worker_that_dies_fails_its_trial_and_the_pool_goes_on(objective: Any, how: str) -> None:
    search = a_search()
    await search.run(objective, steps=6, concurrency=2, executor="process", on_error="record", quiet=True)
    states = {trial.id: trial.state for trial in search.history}
    assert states == {i: "failed" if i == 1 else "completed" for i in range(6)}
    with pytest.raises(ah.AsynchopperError) as caught:
        await a_search().run(objective, steps=6, executor="process", quiet=True)
    assert str(caught.value) == f"the worker process {how} while it evaluated trial 1"
    assert "in trial 1 (attempt 1)" in "\n".join(caught.value.__notes__)


async def test_what_cannot_travel_is_said_instead() -> None:
    with pytest.raises(ah.ObjectiveError, match="Awkward: code 7 at home"):
        await a_search().run(places.raises_awkwardly, steps=2, executor="process", quiet=True)
    with pytest.raises(ah.ObjectiveError, match=r"lock.*not a number"):
        await a_search().run(places.returns_a_lock, steps=2, executor="process", quiet=True)


async def test_an_objective_that_no_process_can_import_is_refused_before_anything_runs(tmp_path: Path) -> None:
    def local(params: dict[str, Any]) -> float:
        return 1.0

    path = tmp_path / "a.ckpt"
    for objective in (lambda params: 1.0, local):
        with pytest.raises(ah.UsageError, match="at the top level of a module"):
            await a_search().run(objective, steps=2, executor="process", checkpoint_path=path, quiet=True)
    with pytest.raises(ah.UsageError, match="kwargs that can be sent"):
        await a_search().run(
            places.scaled, steps=2, executor="process", kwargs={"by": threading.Lock()}, checkpoint_path=path
        )
    assert not path.exists()


async def test_a_busy_checkpoint_leaves_no_worker_behind(tmp_path: Path) -> None:
    path, begun = tmp_path / "a.ckpt", asyncio.Event()

    async def holds(params: dict[str, Any]) -> float:
        begun.set()
        await asyncio.Event().wait()
        return 0.0

    holder = asyncio.ensure_future(a_search().run(holds, steps=1, checkpoint_path=path, quiet=True))
    await asyncio.wait_for(begun.wait(), 10)
    before = set(children())
    with pytest.raises(ah.CheckpointLocked):
        await a_search().run(places.where, steps=2, executor="process", checkpoint_path=path, quiet=True)
    assert [pid for pid in set(children()) - before if "spawn_main" in command(pid)] == []
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder


async def test_programs_of_an_objective_see_ordinary_signals() -> None:
    search = a_search()
    await search.run(places.stops_its_own_program, steps=1, executor="process", quiet=True)
    assert list(search.history.values) == [0.0]


async def test_an_objective_may_use_processes_of_its_own() -> None:
    search = a_search()
    await search.run(places.has_children_of_its_own, steps=1, executor="process", quiet=True)
    assert list(search.history.values) == [3.0]


def test_a_script_without_a_guard_is_told_so_and_breeds_nothing(tmp_path: Path) -> None:
    with Child("no_guard.py", tmp_path, path=str(tmp_path / "a.ckpt")) as child:
        assert child.status() == 1
        assert len(child.wire.said("imported")) == 2, "the script, and one worker"
        assert not child.wire.said("evaluated")
        assert child.orphans() == []
        text = (tmp_path / "stderr").read_text()
        assert text.count("if __name__ == '__main__':") >= 2
        assert "UsageError" in text.strip().splitlines()[-1]
        assert not (tmp_path / "a.ckpt").exists(), "nothing had begun"


def test_an_objective_of_an_interactive_session_is_refused(tmp_path: Path) -> None:
    """There is no file that a worker could import it from."""
    code = (
        "import asyncio, asynchopper as ah\n"
        "def f(params): return 1.0\n"
        "asyncio.run(ah.Search(x=ah.float(0, 1)).run(f, steps=2, executor='process', quiet=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "UsageError: a worker process cannot take the objective" in done.stderr


async def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    pids: list[int] = []

    def kill(trial: ah.Trial) -> None:
        assert trial.value is not None
        pids.append(int(trial.value))
        pidfd = os.pidfd_open(pids[-1])
        os.kill(pids[-1], signal.SIGKILL)
        select.select([pidfd], [], [], 10)
        os.close(pidfd)

    search = a_search()
    await search.run(places.where, steps=3, executor="process", callbacks=kill, quiet=True)
    assert [trial.state for trial in search.history] == ["completed"] * 3
    assert len(set(pids)) == 3


def children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except FileNotFoundError:
        return ""


class Immovable(Exception):
    def __init__(self) -> None:
        super().__init__("no way to send this")
        self.lock = threading.Lock()


class OnceBroken(ah.pruners.Pruner):
    asked = 0

    def should_prune(self, estimates: Any) -> bool:
        self.asked += 1
        if self.asked == 2:
            raise Immovable
        return False

    def observe(self, trial: ah.Trial) -> None: ...
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


async def test_an_answer_that_cannot_travel_leaves_every_trial_its_own_value() -> None:
    search = a_search()
    words: Any = {"executor": "process", "pruner": OnceBroken(), "on_error": "record"}
    await search.run(places.reports_whatever_comes, steps=5, quiet=True, **words)
    assert [(t.state, t.value) for t in search.history] == [("completed", t.params["x"]) for t in search.history]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what is open where Linux shows it")
async def test_runs_leave_nothing_open() -> None:
    open_: list[int] = []
    for _ in range(3):
        await a_search().run(places.where, steps=6, concurrency=3, executor="process", quiet=True)
        gc.collect()
        open_.append(len(os.listdir("/proc/self/fd")))
    assert open_[0] == open_[1] == open_[2]
