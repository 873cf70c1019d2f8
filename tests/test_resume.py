"""What a search promises about going on: one test a promise, named after it."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import threading
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import asynchopper as ah
from asynchopper.errors import CheckpointLocked, StorageError, StudyMismatch, UsageError
from asynchopper.pruners import QuantilePruner, TopKPruner
from asynchopper.samplers import RandomSampler
from asynchopper.state import State
from asynchopper.storage import MemoryStorage, open_storage
from asynchopper.verify import verify

pytestmark = pytest.mark.every_loop

SPACE = {
    "lr": ah.float(1e-5, 1e-1, log=True, precision=2),
    "n": ah.int(1, 1000),
    "opt": ah.choice("adam", "sgd", "lion"),
    "w": ah.float(-1, 1, shape=(2, 2)),
    "model": ah.choice({"kind": "a", "depth": ah.int(1, 9)}, {"kind": "b", "rate": ah.float(0, 1)}),
}


def score(params: dict[str, Any]) -> float:
    return float(np.log10(params["lr"]) - abs(params["n"] - 500) / 500 + params["w"].sum())


def seen(history: Any) -> list[tuple[Any, ...]]:
    """What must be the same in two searches: not how long it took."""
    return [(t.id, repr(t.params), repr(t.value), t.state, t.origin, t.estimates) for t in history]


def new(seed: int | None = 7) -> ah.Search:
    return ah.Search(SPACE, seed=seed)


@pytest.fixture(params=["file", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run.ckpt") if request.param == "file" else f"memory://{uuid.uuid4()}"


def reason(search: ah.Search) -> str:
    assert search.outcome is not None
    return search.outcome.reason


# -- what PyHopper's page promises, and more of it


async def test_save_and_load_carry_the_best_and_the_history_of_all_evaluated_and_pruned_candidates(
    tmp_path: Path,
) -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        trial.report(score(params))
        if trial.id % 4 == 1:
            raise ah.TrialPruned
        if trial.id % 4 == 2:
            raise ValueError("no luck")
        trial.add_cost(1.5)
        return float("nan") if trial.id % 4 == 3 else score(params)

    search = new()
    await search.run(objective, steps=30, concurrency=3, on_error="record", ignore_nans=True, quiet=True)
    path = await search.save(tmp_path / "run_completed.ckpt")
    assert path == tmp_path / "run_completed.ckpt"
    other = new(seed=None)
    await other.load(path)
    assert seen(other.history) == seen(search.history)
    told = [[(t.cost, t.error, t.attempt) for t in s.history] for s in (search, other)]
    assert told[0] == told[1]
    assert np.allclose(other.history.seconds, search.history.seconds, rtol=0, atol=1e-6)
    assert repr(other.best) == repr(search.best) and other.best_value == search.best_value
    assert (
        other.best_trial is not None and search.best_trial is not None and other.best_trial.id == search.best_trial.id
    )


async def test_a_loaded_search_continues_the_tuning(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=20, quiet=True)
    await search.save(tmp_path / "a.ckpt")
    other = new(seed=None)
    await other.load(tmp_path / "a.ckpt")
    await other.run(score, steps=20, quiet=True)
    assert len(other.history) == 40 and seen(other.history)[:20] == seen(search.history)
    await search.run(score, steps=20, quiet=True)
    assert seen(other.history) == seen(search.history)


async def test_what_save_gives_can_be_loaded_also_where_it_is_no_file(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=3, quiet=True)
    urls = f"memory://{uuid.uuid4()}", (tmp_path / "a.ckpt").as_uri()
    places = [await search.save(url) for url in urls]
    assert places == [urls[0], tmp_path / "a.ckpt"]
    for place in places:
        other = new()
        await other.load(place)
        assert seen(other.history) == seen(search.history)


async def test_saving_into_a_directory_takes_the_next_free_number(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=3, quiet=True)
    first = await search.save(f"{tmp_path}/mine/")
    second = await search.save(f"{tmp_path}/mine/")
    third = await search.save(tmp_path / "mine")
    assert [p.name for p in (first, second, third)] == ["run_00000.ckpt", "run_00001.ckpt", "run_00002.ckpt"]
    assert all(p.parent == tmp_path / "mine" and p.is_file() for p in (first, second, third))
    other = new()
    await other.load(second)
    assert seen(other.history) == seen(search.history)


async def test_a_file_that_is_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    search = new()
    await search.run(score, steps=30, quiet=True)
    await search.save(path)
    short = new()
    await short.run(score, steps=2, quiet=True)
    await short.save(path)
    other = new()
    await other.load(path)
    assert len(other.history) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


async def test_a_checkpoint_path_saves_continuously(where: str) -> None:
    """At every moment, what the search knows can be read back by somebody else."""
    search = new()
    lengths: list[tuple[int, int]] = []

    async def objective(params: dict[str, Any]) -> float:
        reader = new()
        if len(search.history):
            await reader.load(where)
            lengths.append((len(reader.history), len(search.history)))
        return score(params)

    await search.run(objective, steps=12, checkpoint_path=where, quiet=True)
    assert lengths == [(n, n) for n in range(1, 12)]


async def test_a_checkpoint_that_is_there_is_resumed_and_only_the_rest_is_run(where: str) -> None:
    calls = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:
            search.stop()
        return score(params)

    search = new()
    await search.run(objective, steps=20, checkpoint_path=where, quiet=True)
    assert calls == len(search.history) == 6 and reason(search) == "stopped"
    search = new()
    await search.run(objective, steps=20, checkpoint_path=where, quiet=True)
    assert calls == len(search.history) == 20 and reason(search) == "steps"


async def test_save_works_in_the_middle_of_a_run_with_its_progress(tmp_path: Path) -> None:
    """Trials that are out come back, the budget is what remains, and the seeding is not begun anew."""
    search = new()
    out: list[int] = []
    four = asyncio.Event()

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id >= 16 and trial.attempt == 1 and not four.is_set():
            out.append(trial.id)
            if len(out) == 4:
                await search.save(tmp_path / "middle.ckpt")
                four.set()
            await four.wait()
        return score(params)

    await search.run(objective, steps=40, concurrency=4, quiet=True)
    other, attempts = new(), []
    await other.load(tmp_path / "middle.ckpt")
    assert len(other.history) == 16

    def again(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        attempts.append((trial.id, trial.attempt))
        return score(params)

    await other.run(again, steps=40, quiet=True)
    assert attempts[:5] == [(16, 2), (17, 2), (18, 2), (19, 2), (20, 1)]
    assert len(other.history) == 40
    assert {t.id: repr(t.params) for t in other.history if t.id < 20} == {
        t.id: repr(t.params) for t in search.history if t.id < 20
    }
    assert {t.origin for t in other.history if t.id > 16} == {"local"}


@pytest.mark.parametrize("make", [lambda: TopKPruner(4), lambda: QuantilePruner(0.5, warmup=3)])
async def test_the_pruners_state_is_in_the_checkpoint(make: Any, where: str) -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        for i in range(4):
            yield score(params) + i

    whole, pruner = new(), make()
    await whole.run(objective, steps=60, pruner=pruner, quiet=True)
    assert 0 < whole.history.pruned.sum() < 55
    first = new()
    await first.run(objective, steps=60, pruner=make(), checkpoint_path=where, callbacks=stop_at(first, 30), quiet=True)
    assert 30 <= len(first.history) < 60
    second, resumed = new(), make()
    await second.run(objective, steps=60, pruner=resumed, checkpoint_path=where, quiet=True)
    assert seen(second.history) == seen(whole.history)
    assert resumed.state_dict() == pruner.state_dict()


def stop_at(search: ah.Search, n: int) -> Any:
    def on_trial(trial: ah.Trial) -> None:
        if len(search.history) >= n:
            search.stop()

    return on_trial


async def test_load_restores_a_pruner_from_a_checkpoint_into_another_one(where: str) -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        for i in range(4):
            yield score(params) + i

    search, pruner = new(), TopKPruner(10)
    await search.run(objective, steps=40, pruner=pruner, checkpoint_path=where, quiet=True)
    other, other_pruner = new(), TopKPruner(10)
    other_pruner.observe(search.history[0])
    await other.load(where, pruner=other_pruner)
    assert other_pruner.state_dict() == pruner.state_dict()
    assert seen(other.history) == seen(search.history)


@pytest.mark.parametrize("with_pruner", [True, False])
async def test_save_and_load_take_a_pruner_by_state_or_by_replay(with_pruner: bool, tmp_path: Path) -> None:
    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        for i in range(3):
            yield score(params) + i

    search, pruner = new(), TopKPruner(5)
    await search.run(objective, steps=40, pruner=pruner, quiet=True)
    await search.save(tmp_path / "a.ckpt", pruner=pruner if with_pruner else None)
    kinds = [orjson.loads(line)["kind"] for line in (tmp_path / "a.ckpt").read_bytes().splitlines()]
    assert kinds.count("pruner") == with_pruner
    same, narrower, of_another_kind = TopKPruner(5), TopKPruner(2), QuantilePruner(0.3)
    for other in (same, narrower, of_another_kind):
        await new().load(tmp_path / "a.ckpt", pruner=other)
    assert same.state_dict() == pruner.state_dict()
    assert len(narrower.state_dict()["top"]) == 2
    fresh = QuantilePruner(0.3)
    for trial in search.history:
        fresh.observe(trial)
    assert of_another_kind.state_dict() == fresh.state_dict()


async def test_save_in_the_middle_of_a_run_brings_its_pruner_along(tmp_path: Path) -> None:
    search, pruner = new(), TopKPruner(3)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> Any:
        if trial.id == 20:  # before the pruner can end it
            await search.save(tmp_path / "a.ckpt")
        yield score(params)
        yield score(params)

    await search.run(objective, steps=21, concurrency=4, checkpoint_path=tmp_path / "b.ckpt", pruner=pruner, quiet=True)
    other, restored, expected = new(), TopKPruner(3), TopKPruner(3)
    await other.load(tmp_path / "a.ckpt", pruner=restored)
    for trial in other.history:
        expected.observe(trial)
    assert len(other.history) > 10 and restored.state_dict() == expected.state_dict()


class Gated(MemoryStorage):
    """Holds a write back until it is let through."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.hold = False
        self.held, self.free = asyncio.Event(), asyncio.Event()

    async def append(self, records: Any) -> None:
        if self.hold:
            self.held.set()
            await self.free.wait()
        await super().append(records)


async def test_save_while_results_are_being_written_loses_none_of_them_for_the_pruner(tmp_path: Path) -> None:
    search, pruner, storage = new(), TopKPruner(8), Gated(str(uuid.uuid4()))

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        trial.report(score(params))
        if trial.id == 3:
            storage.hold = True
        if trial.id == 2:
            await storage.held.wait()
            await search.save(tmp_path / "a.ckpt")
            storage.hold = False
            storage.free.set()
        return score(params)

    await search.run(objective, steps=10, concurrency=2, storage=storage, pruner=pruner, quiet=True)
    other, restored, expected = new(), TopKPruner(8), TopKPruner(8)
    await other.load(tmp_path / "a.ckpt", pruner=restored)
    for trial in other.history:
        expected.observe(trial)
    assert len(other.history) >= 3 and restored.state_dict() == expected.state_dict()


class Broken(Gated):
    """Does not get through with what it held back."""

    async def append(self, records: Any) -> None:
        held = self.hold
        await super().append(() if held else records)
        if held:
            raise OSError(errno.ENOSPC, "no space left")


async def test_save_beside_a_write_that_fails_has_what_is_durable(tmp_path: Path) -> None:
    """Rows are taken back while another thread reads them."""
    reading, gone = threading.Event(), threading.Event()

    def slowly(value: int) -> int:
        if threading.current_thread().name == "asynchopper-aside" and not gone.is_set():
            reading.set()
            gone.wait(10)
        return value

    def draw(rng: Any) -> int:
        return int(rng.integers(1000))

    def search() -> ah.Search:
        return ah.Search({"x": ah.custom(sample=draw, encode=slowly, decode=int)}, seed=1)

    storage, one, saves = Broken(str(uuid.uuid4())), search(), list[asyncio.Task[Any]]()

    async def save() -> None:
        await storage.held.wait()
        saves.append(asyncio.create_task(one.save(tmp_path / "a.ckpt")))
        assert await asyncio.to_thread(reading.wait, 10)
        storage.free.set()

    def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        storage.hold = trial.id == 20
        return float(params["x"])

    saver = asyncio.create_task(save())
    with pytest.raises(StorageError, match="no space left"):
        await one.run(objective, steps=30, storage=storage, sampler=RandomSampler(), quiet=True)
    gone.set()
    await asyncio.gather(saver, *saves)
    other = search()
    await other.load(tmp_path / "a.ckpt")
    assert seen(other.history) == seen(one.history)
    assert len(one.history) == 20


class Counting(ah.pruners.Pruner):
    """Knows something that no replay gives: how often it was asked."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.asked = self.observed = 0

    def should_prune(self, estimates: Any) -> bool:
        self.asked += 1
        return False

    def observe(self, trial: ah.Trial) -> None:
        self.observed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "observed": self.observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked, self.observed = state["asked"], state["observed"]


async def test_a_pruner_of_ones_own_gets_its_own_state_back_and_sees_what_came_after(tmp_path: Path) -> None:
    path, pruner, search = tmp_path / "a.ckpt", Counting(), new()
    await search.run(lambda p, trial: trial.report(1.0) and 1.0, steps=5, pruner=pruner, quiet=True)
    await search.save(path, pruner=pruner)
    await new().run(lambda p: 1.0, steps=3, checkpoint_path=path, quiet=True)
    restored, again = Counting(), new()
    await again.load(path, pruner=restored)
    assert (restored.asked, restored.observed) == (5, 8)


# -- the budget


async def test_a_resumed_search_runs_what_remains_of_its_steps(where: str) -> None:
    total = 0
    for n in (5, 11, 11, 24):
        search = new()
        await search.run(score, steps=30, checkpoint_path=where, callbacks=stop_at(search, n), quiet=True)
        total += search.outcome.trials if search.outcome else 0
        assert reason(search) == "stopped" and n <= len(search.history) < 30
    search = new()
    await search.run(score, steps=30, checkpoint_path=where, quiet=True)
    assert reason(search) == "steps" and len(search.history) == 30
    assert search.outcome is not None and total + search.outcome.trials == 30


async def test_the_same_object_continues_too() -> None:
    search = new()
    await search.run(score, steps=30, callbacks=stop_at(search, 10), quiet=True)
    await search.run(score, steps=30, quiet=True)
    assert len(search.history) == 30


async def test_a_resumed_search_runs_what_remains_of_its_time(where: str) -> None:
    async def objective(params: dict[str, Any]) -> float:
        await asyncio.sleep(0.002)
        return score(params)

    search = new()
    await search.run(objective, "max", 0.3, checkpoint_path=where, callbacks=stop_at(search, 40), quiet=True)
    assert search.outcome is not None
    assert reason(search) in ("stopped", "runtime")
    spent = search.outcome.seconds
    search = new()
    await search.run(objective, "max", 0.3, checkpoint_path=where, quiet=True)
    assert reason(search) == "runtime" and search.outcome is not None
    if spent < 0.3:
        assert abs(spent + search.outcome.seconds - 0.3) < 0.25


async def test_time_between_runs_does_not_count(where: str) -> None:
    search = new()
    await search.run(score, "max", 3600, checkpoint_path=where, callbacks=stop_at(search, 3), quiet=True)
    other = new()
    await other.load(where)
    assert other._journal.state.elapsed < 60
    await other.run(score, "max", 3600, checkpoint_path=where, callbacks=stop_at(other, 5), quiet=True)
    assert 5 <= len(other.history) <= 6


async def test_a_larger_budget_extends_and_a_smaller_one_ends_at_once(where: str) -> None:
    search = new()
    await search.run(score, steps=30, checkpoint_path=where, callbacks=stop_at(search, 10), quiet=True)
    n = len(search.history)
    search = new()
    await search.run(score, steps=n, checkpoint_path=where, quiet=True)
    assert (len(search.history), reason(search)) == (n, "steps")
    search = new()
    await search.run(score, steps=n + 2, checkpoint_path=where, quiet=True)
    assert len(search.history) == 2 * n + 2  # the budget of n was spent, so this is a new one


async def test_a_budget_of_which_nothing_is_left_is_said(where: str, caplog: pytest.LogCaptureFixture) -> None:
    search = new()
    await search.run(score, steps=30, checkpoint_path=where, callbacks=stop_at(search, 10), quiet=True)
    assert not caplog.messages
    await new().run(score, steps=5, checkpoint_path=where, quiet=True)
    assert "nothing is left of steps=5" in caplog.text and "10 steps" in caplog.text


@pytest.mark.parametrize("first", [{"endless": True}, {"runtime": 3600}])
async def test_a_budget_of_another_kind_begins_anew(where: str, first: dict[str, Any]) -> None:
    search = new()
    await search.run(score, **first, checkpoint_path=where, callbacks=stop_at(search, 10), quiet=True)
    n = len(search.history)
    search = new()
    await search.run(score, steps=5, checkpoint_path=where, quiet=True)
    assert (len(search.history), reason(search)) == (n + 5, "steps")
    await search.run(score, endless=True, callbacks=stop_at(search, n + 7), quiet=True)
    n = len(search.history)
    await search.run(score, steps=5, quiet=True)
    assert len(search.history) == n + 5


async def test_a_finished_search_that_is_run_again_gets_a_new_budget(where: str) -> None:
    for times in (1, 2, 3):
        search = new()
        await search.run(score, steps=10, checkpoint_path=where, quiet=True)
        assert len(search.history) == 10 * times and search.outcome is not None and search.outcome.trials == 10


async def test_an_interrupted_evaluation_spends_no_step_and_runs_again_first(where: str) -> None:
    started: list[tuple[int, int, str]] = []
    release = False

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        started.append((trial.id, trial.attempt, repr(params)))
        if trial.id >= 5 and not release:
            if trial.id == 8:
                search.stop()
            await asyncio.Event().wait()
        return score(params)

    search = new()
    await search.run(objective, steps=20, concurrency=4, grace=0, checkpoint_path=where, quiet=True)
    assert len(search.history) == 5 and search.outcome is not None and search.outcome.trials == 5
    flying = {(i, p) for i, a, p in started if i >= 5}
    assert len(flying) == 4
    started.clear()
    release = True
    search = new()
    await search.run(objective, steps=20, concurrency=4, checkpoint_path=where, quiet=True)
    assert [(i, a) for i, a, _ in started[:4]] == [(5, 2), (6, 2), (7, 2), (8, 2)]
    assert {(i, p) for i, _, p in started[:4]} == flying
    assert len(search.history) == 20 and len({t.id for t in search.history}) == 20


async def test_attempts_count_up_however_often_a_trial_is_taken_away(where: str) -> None:
    attempts: list[int] = []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        attempts.append(trial.attempt)
        if trial.attempt < 4:
            search.stop()
            await asyncio.Event().wait()
        return 1.0

    for _ in range(4):
        search = new()
        await search.run(objective, steps=1, grace=0, checkpoint_path=where, quiet=True)
    assert attempts == [1, 2, 3, 4]
    assert search.history[0].attempt == 4


# -- the same proposals


async def test_fifty_trials_equal_25_and_a_stop_and_25(where: str) -> None:
    whole = new()
    await whole.run(score, steps=50, quiet=True)
    first = new()
    await first.run(score, steps=50, checkpoint_path=where, callbacks=stop_at(first, 25), quiet=True)
    second = new()
    await second.run(score, steps=50, checkpoint_path=where, quiet=True)
    assert seen(second.history) == seen(whole.history)


async def test_fifty_trials_equal_25_and_an_interrupted_one_and_the_rest(where: str) -> None:
    whole = new()
    await whole.run(score, steps=50, quiet=True)

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        if trial.id == 25 and trial.attempt == 1:
            search.stop()
            await asyncio.Event().wait()
        return score(params)

    for _ in range(2):
        search = new()
        await search.run(objective, steps=50, grace=0, checkpoint_path=where, quiet=True)
    assert seen(search.history) == seen(whole.history)
    assert search.history[25].attempt == 2


async def test_fifty_trials_equal_50_runs_of_one_trial_each(where: str) -> None:
    whole = new()
    await whole.run(score, steps=50, quiet=True)
    for n in range(1, 51):
        search = new(seed=None)
        if n == 1:
            search = new()
        await search.run(score, steps=50, checkpoint_path=where, callbacks=stop_at(search, n), quiet=True)
    assert seen(search.history)[:50] == seen(whole.history)


@pytest.mark.parametrize("cut", [30, 45, 55, 70])
@pytest.mark.parametrize("killed", [False, True])
async def test_sixteen_at_a_time_are_asked_the_same_as_without_a_stop(killed: bool, cut: int, tmp_path: Path) -> None:
    """Where so many are out, a candidate knows what was known when the one before it was asked, also in another process."""

    async def asked(path: Path, stop: bool) -> list[tuple[Any, ...]]:
        rng, proposed, sessions = np.random.default_rng(1), list[tuple[Any, ...]](), AsyncExitStack()

        def opened() -> Any:
            search = ah.Search(x=ah.float(-1, 1), n=ah.int(1, 50), c=ah.choice("a", "b", "c"), seed=3)
            return sessions.enter_async_context(search.session("max", steps=100, checkpoint_path=str(path)))

        async with sessions:
            session = await opened()
            out: list[ah.RunningTrial] = []
            for told in range(100):
                while len(out) < 16 and (trial := await session.ask()) is not None:
                    out.append(trial)
                    proposed.append((trial.id, repr(trial.params)))
                trial = out.pop(int(rng.integers(len(out))))
                await session.tell(trial, trial.params["x"] * trial.params["n"])
                if stop and told == cut:
                    if killed:
                        path = Path(shutil.copy(path, path.with_suffix(".copy.ckpt")))
                    else:
                        await sessions.aclose()
                    session = await opened()
                    again = {trial.id: trial for trial in [await session.ask() for _ in out] if trial is not None}
                    out = [again[trial.id] for trial in out]
        return proposed

    assert await asked(tmp_path / "a.ckpt", stop=True) == await asked(tmp_path / "whole.ckpt", stop=False)


async def test_the_same_seed_gives_the_same_search_and_another_another() -> None:
    searches = []
    for seed in (7, 7, 8):
        search = new(seed)
        await search.run(score, steps=40, quiet=True)
        searches.append(seen(search.history))
    assert searches[0] == searches[1] != searches[2]


async def test_a_search_without_a_seed_draws_one_and_logs_it(tmp_path: Path) -> None:
    histories = []
    for name in ("a", "b"):
        search = new(seed=None)
        await search.run(score, steps=10, checkpoint_path=tmp_path / name, quiet=True)
        histories.append(seen(search.history))
        seed = orjson.loads((tmp_path / name).read_bytes().splitlines()[0])["seed"]
        again = new(seed)
        await again.run(score, steps=10, quiet=True)
        assert seen(again.history) == histories[-1]
    assert histories[0] != histories[1]


async def test_a_resumed_search_keeps_its_own_seed_and_says_so(where: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = new(1)
    await whole.run(score, steps=20, quiet=True)
    first = new(1)
    await first.run(score, steps=20, checkpoint_path=where, callbacks=stop_at(first, 10), quiet=True)
    assert caplog.text == ""
    second = new(2)
    await second.run(score, steps=20, checkpoint_path=where, quiet=True)
    assert seen(second.history) == seen(whole.history)
    assert "goes on with its own seed 1, not 2" in caplog.text


# -- which checkpoint, and whose


async def test_resume_never_refuses_a_checkpoint_that_is_there(where: str) -> None:
    await new().run(score, steps=5, checkpoint_path=where, resume="never", quiet=True)
    with pytest.raises(
        StorageError,
        match=r"there is a checkpoint at .* already; continue it with resume='auto', replace it with overwrite_",
    ):
        await new().run(score, steps=5, checkpoint_path=where, resume="never", quiet=True)
    search = new()
    await search.load(where)
    assert len(search.history) == 5


async def test_resume_must_refuses_to_begin_anew(where: str) -> None:
    with pytest.raises(StorageError, match=r"there is no checkpoint at .*; check the path"):
        await new().run(score, steps=5, checkpoint_path=where, resume="must", quiet=True)
    with pytest.raises(StorageError, match="there is no checkpoint at"):
        await new().load(where)
    await new().run(score, steps=5, checkpoint_path=where, quiet=True)
    search = new()
    await search.run(score, steps=5, checkpoint_path=where, resume="must", quiet=True)
    assert len(search.history) == 10


async def test_overwrite_checkpoint_begins_anew_and_keeps_the_old_one_until_then(where: str) -> None:
    await new().run(score, steps=9, checkpoint_path=where, quiet=True)

    async def objective(params: dict[str, Any]) -> float:
        return score(params)

    for resume in ("auto", "never"):
        search = new()
        await search.run(
            objective, steps=4, checkpoint_path=where, overwrite_checkpoint=True, resume=resume, quiet=True
        )  # type: ignore[arg-type]  # a text from a tuple
        assert len(search.history) == 4
    with pytest.raises(UsageError):
        await new().run(lambda: 1, steps=4, checkpoint_path=where, overwrite_checkpoint=True, quiet=True)
    search = new()
    await search.load(where)
    assert len(search.history) == 4


async def test_a_directory_continues_its_newest_unfinished_run(tmp_path: Path) -> None:
    runs = f"{tmp_path}/runs/"
    search = new()
    await search.run(score, steps=10, checkpoint_path=runs, callbacks=stop_at(search, 4), quiet=True)
    assert search.checkpoint_path is not None and search.checkpoint_path.endswith("run_00000.ckpt")
    search = new()
    await search.run(score, steps=10, checkpoint_path=runs, quiet=True)
    assert len(search.history) == 10 and search.checkpoint_path is not None
    assert search.checkpoint_path.endswith("run_00000.ckpt")
    search = new()
    await search.run(score, steps=10, checkpoint_path=runs, quiet=True)
    assert len(search.history) == 10 and search.checkpoint_path is not None
    assert search.checkpoint_path.endswith("run_00001.ckpt")
    search = new()
    await search.run(score, steps=2, checkpoint_path=runs, resume="never", quiet=True)
    assert search.checkpoint_path is not None and search.checkpoint_path.endswith("run_00002.ckpt")


async def test_the_other_direction_is_another_search(where: str) -> None:
    await new().run(score, "minimize", steps=5, checkpoint_path=where, quiet=True)
    with pytest.raises(StudyMismatch, match="was started to minimize, and now it is asked to maximize"):
        await new().run(score, "maximize", steps=5, checkpoint_path=where, quiet=True)
    search = new()
    await search.run(score, "min", steps=5, checkpoint_path=where, quiet=True)
    assert len(search.history) == 10
    with pytest.raises(StudyMismatch, match="was started to minimize"):
        await search.run(score, "max", steps=5, quiet=True)


async def test_an_object_with_a_history_does_not_continue_another_search(where: str) -> None:
    await new().run(score, steps=5, checkpoint_path=where, quiet=True)
    search = new()
    await search.run(score, steps=3, quiet=True)
    with pytest.raises(StudyMismatch, match=r"holds another search \(5 trials\) than this object \(3\)"):
        await search.run(score, steps=3, checkpoint_path=where, quiet=True)
    assert len(search.history) == 3
    await search.run(score, steps=3, checkpoint_path=where, overwrite_checkpoint=True, quiet=True)
    other = new()
    await other.load(where)
    assert len(other.history) == 6 and seen(other.history) == seen(search.history)


async def test_two_continuations_of_one_search_are_kept_apart(tmp_path: Path, where: str) -> None:
    search = new()
    await search.run(score, steps=5, quiet=True)
    await search.save(tmp_path / "common.ckpt")
    other = new()
    await other.load(tmp_path / "common.ckpt")
    await search.run(lambda p: -score(p), steps=5, checkpoint_path=where, quiet=True)
    await other.run(score, steps=8, quiet=True)
    with pytest.raises(StudyMismatch, match=r"holds another search \(10 trials\) than this object \(13\)"):
        await other.run(score, steps=5, checkpoint_path=where, quiet=True)


async def test_results_that_a_longer_checkpoint_does_not_have_are_not_dropped(where: str) -> None:
    search = new()
    await search.run(score, steps=5, checkpoint_path=where, quiet=True)
    await search.run(lambda p: score(p) + 100, steps=3, quiet=True)
    await new().run(score, steps=5, checkpoint_path=where, quiet=True)
    with pytest.raises(StudyMismatch, match=r"holds another search \(10 trials\) than this object \(8\)"):
        await search.run(score, steps=3, checkpoint_path=where, quiet=True)
    assert len(search.history) == 8


async def test_a_search_that_ran_in_memory_moves_into_a_checkpoint(where: str) -> None:
    search = new()
    await search.run(score, steps=30, callbacks=stop_at(search, 10), quiet=True)
    await search.run(score, steps=30, checkpoint_path=where, quiet=True)
    other, whole = new(), new()
    await other.load(where)
    await whole.run(score, steps=30, quiet=True)
    assert seen(other.history) == seen(search.history) == seen(whole.history)


async def test_a_checkpoint_that_is_behind_the_object_catches_up(where: str) -> None:
    search = new()
    await search.run(score, steps=10, concurrency=3, checkpoint_path=where, quiet=True)
    await search.run(score, steps=10, concurrency=3, quiet=True)
    await search.run(score, steps=10, concurrency=3, checkpoint_path=where, quiet=True)
    other = new()
    await other.load(where)
    assert len(other.history) == 30 and seen(other.history) == seen(search.history)


async def test_a_checkpoint_that_is_ahead_of_the_object_brings_it_up(where: str) -> None:
    search = new()
    await search.run(score, steps=10, checkpoint_path=where, quiet=True)
    await new().run(score, steps=10, checkpoint_path=where, quiet=True)
    await search.run(score, steps=10, checkpoint_path=where, quiet=True)
    assert len(search.history) == 30 == len({t.id for t in search.history})


async def test_one_checkpoint_has_one_search_at_a_time(where: str) -> None:
    tried = asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        if not tried.is_set():
            tried.set()
            with pytest.raises(CheckpointLocked):
                await new().run(score, steps=5, checkpoint_path=where, quiet=True)
            with pytest.raises(CheckpointLocked):
                await search.save(where)
        return score(params)

    search = new()
    await search.run(objective, steps=3, checkpoint_path=where, quiet=True)
    assert len(search.history) == 3
    await new().run(score, steps=3, checkpoint_path=where, quiet=True)


@pytest.mark.parametrize("kind", ["run.ckpt", "runs/", "memory://"])
async def test_a_storage_that_is_in_use_is_refused_and_goes_on(kind: str, tmp_path: Path) -> None:
    storage = open_storage(f"memory://{uuid.uuid4()}" if "://" in kind else f"{tmp_path}/{kind}")
    begun, refused = asyncio.Event(), asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        begun.set()
        await refused.wait()
        return score(params)

    search = new()
    running = asyncio.create_task(search.run(objective, steps=3, storage=storage, quiet=True))
    both = asyncio.create_task(new().run(score, steps=3, storage=storage, quiet=True))  # while it is being opened
    async with asyncio.timeout(10.0):
        with pytest.raises(CheckpointLocked, match="is open already"):
            await both
        await begun.wait()
        with pytest.raises(CheckpointLocked, match="is open already"):
            await new().run(score, steps=3, storage=storage, quiet=True)
        refused.set()
        await running
    assert len(search.history) == 3


async def test_loading_into_a_running_search_is_refused(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=1, quiet=True)
    await search.save(tmp_path / "a.ckpt")

    async def objective(params: dict[str, Any]) -> float:
        with pytest.raises(UsageError, match="this search is running"):
            await search.load(tmp_path / "a.ckpt")
        return 1.0

    await search.run(objective, steps=1, quiet=True)


async def test_no_run_begins_while_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    await (other := new()).run(score, steps=5, quiet=True)
    await other.save(tmp_path / "a.ckpt")
    search = new()
    loading = asyncio.ensure_future(search.load(tmp_path / "a.ckpt"))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="this search is running already"):
        await search.run(score, steps=20, quiet=True)
    await loading
    assert len(search.history) == 5
    await search.run(score, steps=3, quiet=True)
    assert len(search.history) == 8


async def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=5, quiet=True)
    (tmp_path / "empty.ckpt").touch()
    for path in ("nothing.ckpt", "empty.ckpt"):
        with pytest.raises(StorageError):
            await search.load(tmp_path / path)
    assert len(search.history) == 5
    await search.run(score, steps=5, quiet=True)
    assert len(search.history) == 10


async def test_an_empty_search_can_be_saved_and_loaded(tmp_path: Path) -> None:
    search = new()
    await search.save(tmp_path / "a.ckpt")
    other = new(seed=None)
    await other.load(tmp_path / "a.ckpt")
    assert len(other.history) == 0
    await search.run(score, "minimize", steps=5, quiet=True)
    await other.run(score, "minimize", steps=5, quiet=True)
    assert seen(other.history) == seen(search.history)


async def test_a_storage_instance_is_as_good_as_a_path() -> None:
    name = str(uuid.uuid4())
    search = new()
    await search.run(score, steps=6, storage=MemoryStorage(name), callbacks=stop_at(search, 3), quiet=True)
    again = new()
    await again.run(score, steps=6, storage=MemoryStorage(name), quiet=True)
    assert len(again.history) == 6 and again.checkpoint_path == f"memory://{name}"


async def test_a_saved_file_can_be_the_checkpoint_of_a_run(tmp_path: Path) -> None:
    search = new()
    await search.run(score, steps=20, concurrency=4, callbacks=stop_at(search, 10), quiet=True)
    await search.save(tmp_path / "a.ckpt")
    other = new()
    await other.run(score, steps=20, checkpoint_path=tmp_path / "a.ckpt", quiet=True)
    assert len(other.history) == 20 and seen(other.history)[: len(search.history)] == seen(search.history)


async def test_resuming_says_nothing_unless_something_has_changed(where: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "asynchopper"):
        for _ in range(3):
            await new().run(score, steps=3, checkpoint_path=where, quiet=True)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_long_history_is_looked_at_off_the_loop(tmp_path: Path) -> None:
    """By whoever learns from it: a sampler, and a pruner whose state was not saved."""
    where: list[tuple[str, int, int]] = []

    class Learner(RandomSampler):
        def learn(self, state: State, rows: int) -> None:
            where.append(("sampler", min(state.told, rows), threading.get_ident()))

    class Looker(TopKPruner):
        def observe(self, trial: ah.Trial) -> None:
            where.append(("pruner", trial.id, threading.get_ident()))
            super().observe(trial)

    path, here = tmp_path / "run.ckpt", threading.get_ident()
    await new().run(score, steps=20, checkpoint_path=path, quiet=True)
    await new().run(score, steps=1, checkpoint_path=path, quiet=True, sampler=Learner(), pruner=Looker(3))
    first = {who: thread for who, _, thread in reversed(where)}
    assert first.keys() == {"sampler", "pruner"} and here not in first.values()
    assert {thread for who, id, thread in where if who == "pruner" and id < 20} == {first["pruner"]}
    assert next(told for who, told, _ in where if who == "sampler") == 20


async def test_a_long_history_is_written_off_the_loop(tmp_path: Path) -> None:
    """When a search that has lived in memory gets a checkpoint, all of it is encoded at once."""
    where: list[int] = []

    def encode(value: Any) -> Any:
        where.append(threading.get_ident())
        return value

    own = ah.custom(sample=lambda rng: float(rng.random()), encode=encode, decode=float)
    search = ah.Search({"x": own}, seed=1)
    await search.run(lambda params: params["x"], steps=2_000, concurrency=50, quiet=True)
    running = asyncio.Event()

    async def objective(params: dict[str, Any]) -> float:
        running.set()
        await asyncio.Event().wait()
        return 0.0

    task = asyncio.ensure_future(search.run(objective, steps=1, checkpoint_path=tmp_path / "a.ckpt", quiet=True))
    where.clear()
    await asyncio.wait_for(running.wait(), 30)
    search.stop()
    search.stop()
    await task
    assert len(where) >= 2_000
    assert where.count(threading.get_ident()) < 100


async def test_times_are_known_as_the_log_has_them(where: str) -> None:
    """So that whoever heeds the pace of a search decides alike after it was read back."""
    search, again = new(), new()
    await search.run(score, steps=20, checkpoint_path=where, quiet=True)
    await again.load(search.checkpoint_path)
    for times in ("seconds", "elapsed"):
        known, read = (getattr(s._journal.state.table, times).tolist() for s in (search, again))
        assert known == read


async def test_what_a_killed_run_took_counts_up_to_what_it_last_saved(tmp_path: Path) -> None:
    path, killed = tmp_path / "run.ckpt", tmp_path / "killed.ckpt"

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        await trial.save("half way")
        shutil.copy(path, killed)  # what would be there if the process died now
        return 0.0

    await new().run(objective, steps=1, checkpoint_path=path, quiet=True)
    report = await verify(killed)
    assert report.state.told == 0
    assert 0.0 < report.state.elapsed <= (await verify(path)).state.elapsed


async def test_a_save_in_the_middle_of_a_run_knows_what_the_runs_have_taken(tmp_path: Path) -> None:
    path, saved = tmp_path / "run.ckpt", tmp_path / "saved.ckpt"
    search = new()

    async def stopped(params: dict[str, Any]) -> float:
        search.stop()
        await asyncio.Event().wait()
        return 0.0

    async def saves(params: dict[str, Any]) -> float:
        await search.save(saved)
        return 0.0

    await search.run(stopped, runtime=60, checkpoint_path=path, grace=0, quiet=True)
    before = (await verify(path)).state.elapsed
    await search.run(saves, steps=1, checkpoint_path=path, quiet=True)
    report = await verify(saved)
    assert report.state.told == 0
    assert 0.0 < before < report.state.elapsed <= (await verify(path)).state.elapsed


@pytest.mark.parametrize("steps", [20, 100])
async def test_names_may_hold_anything_that_a_text_holds(steps: int, tmp_path: Path) -> None:
    space = {'say "hi"': ah.float(0, 1), "back\\slash": ah.int(1, 9), "line\n": ah.choice({'a"b': ah.bool()}, 1)}
    path = tmp_path / "run.ckpt"
    first = ah.Search(space, seed=1)
    await first.run(lambda p: p['say "hi"'], steps=steps, checkpoint_path=path, quiet=True)
    again = ah.Search(space, seed=1)
    await again.run(lambda p: p['say "hi"'], steps=1, checkpoint_path=path, quiet=True)
    await (saved := ah.Search(space)).load(await first.save(tmp_path / "saved.ckpt"))
    params = [t.params for t in first.history]
    assert [t.params for t in again.history][:steps] == params == [t.params for t in saved.history]


async def test_a_pruner_whose_state_no_log_can_hold_is_said_when_saving(tmp_path: Path) -> None:
    class Odd(TopKPruner):
        def state_dict(self) -> Any:
            return {"seen": {1, 2}}

    search = ah.Search(x=ah.bool())
    await search.run(lambda p: 1.0, steps=1, quiet=True)
    with pytest.raises(StorageError, match="JSON cannot hold a value of this search, or of its pruner"):
        await search.save(tmp_path / "run.ckpt", pruner=Odd(2))
    assert not (tmp_path / "run.ckpt").exists()
