"""Group commit, by counting: few syncs carry many results, and no slot goes on before its own result is on the disk."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asynchopper as ah
from asynchopper.testing.system import SYNCS, Counting, Layer

SPACE = {"x": ah.float(0, 1), "n": ah.int(0, 10**6)}


async def test_64_results_that_come_together_need_few_syncs(tmp_path: Path) -> None:
    slots, rounds = 64, 10
    gate = asyncio.Event()
    waiting = 0

    async def objective(params: dict[str, Any]) -> float:
        nonlocal waiting, gate
        mine, waiting = gate, waiting + 1
        if waiting == slots:
            waiting, gate = 0, asyncio.Event()
            mine.set()
        await mine.wait()
        return float(params["x"])

    search = ah.Search(SPACE, seed=3)
    with Counting(tmp_path) as counted:
        await search.run(
            objective,
            steps=slots * rounds,
            concurrency=slots,
            checkpoint_path=tmp_path / "run.ckpt",
            sampler=ah.RandomSampler(),  # no candidate is waited for
            quiet=True,
        )
    assert len(search.history) == slots * rounds
    assert counted.calls["fdatasync"] >= rounds
    assert counted.syncs <= 6 * rounds + 10, f"{counted.syncs} syncs for {slots * rounds} results"


async def test_one_slot_syncs_once_a_result(tmp_path: Path) -> None:
    """The candidate that follows a result travels with it, so durability costs one sync a result and no more.

    Unless a model thinks about that candidate: then the result goes ahead, and does not wait for it.
    """

    async def objective(params: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        return float(params["x"])

    with Counting(tmp_path) as counted:
        words = {"checkpoint_path": tmp_path / "run.ckpt", "sampler": ah.TwoStageSampler(), "quiet": True}
        await ah.Search(SPACE, seed=3).run(objective, steps=50, **words)
    assert 50 <= counted.calls["fdatasync"] <= 55


class _Durable(Layer):
    """Knows what is on the disk: what a sync that has returned had found in the file when it began."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.told: set[int] = set()
        self.asked: set[int] = set()

    def call(self, name: str, real: Callable[..., Any], target: str, *args: Any, **kwargs: Any) -> Any:
        if name not in SYNCS or os.path.isdir(target):
            return real(*args, **kwargs)
        lines = self._real["pread"](args[0], 2**26, 0).split(b"\n")[:-1]
        records = [json.loads(line) for line in lines]
        result = real(*args, **kwargs)
        self.told |= {r["id"] for r in records if r["kind"] == "told"}
        self.asked |= {r["id"] for r in records if r["kind"] == "asked"}
        return result


async def test_no_slot_goes_on_before_its_result_is_durable(tmp_path: Path) -> None:
    slots = 8
    started: list[int] = []
    problems: list[str] = []

    with _Durable(tmp_path) as disk:

        async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
            started.append(trial.id)
            if trial.id not in disk.asked:
                problems.append(f"trial {trial.id} has started and is not in the log")
            if len(started) - len(disk.told) > slots:
                problems.append(f"{len(started)} have started, and only {len(disk.told)} results are durable")
            for _ in range(params["n"] % 5):
                await asyncio.sleep(0)
            return float(params["x"])

        def told(trial: ah.Trial) -> None:
            if trial.id not in disk.told:
                problems.append(f"a callback hears of trial {trial.id}, which the log could still lose")

        search = ah.Search(SPACE, seed=3)
        await search.run(
            objective,
            steps=200,
            concurrency=slots,
            checkpoint_path=tmp_path / "run.ckpt",
            callbacks=told,
            quiet=True,
        )
    assert problems == []
    assert len(started) == 200
    assert disk.told == set(range(200))


async def test_tell_returns_when_the_result_is_durable(tmp_path: Path) -> None:
    with _Durable(tmp_path) as disk:
        async with ah.Search(SPACE, seed=3).session(
            "minimize", steps=40, checkpoint_path=tmp_path / "run.ckpt"
        ) as session:

            async def worker() -> None:
                while (trial := await session.ask()) is not None:
                    assert trial.id in disk.asked
                    await session.tell(trial, trial.params["x"])
                    assert trial.id in disk.told

            await asyncio.gather(*(worker() for _ in range(7)))
    assert disk.told == set(range(40))
