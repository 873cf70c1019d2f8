"""The public surface as a typed program sees it. Checked by type checkers, and run by nobody."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import asynchopper as ah
from asynchopper.storage import Entry, MemoryStorage, Storage, open_storage

search = ah.Search(
    {
        "lr": ah.float(1e-5, 1e-1, log=True, precision=2),
        "short": ah.float(1e-5, 1e-1, "0.2g"),
        "normal": ah.float(),
        "upper": ah.float(5),
        "units": ah.int(16, 512, power_of=2),
        "layers": ah.int(1, 8, init=3),
        "width": ah.int(1, 4096, log=True),
        "batch": ah.int(32, 512, multiple_of=32),
        "optimizer": ah.choice("adam", {"name": "sgd", "momentum": ah.float(0, 0.99)}, init="adam"),
        "activation": ah.choice([abs, lambda x: x], labels=["abs", "same"]),
        "decay": ah.choice(range(3), ordinal=True),
        "weights": ah.float(-1, 1, shape=(20, 20), init=np.zeros((20, 20))),
        "amsgrad": ah.bool(init=True),
        "order": ah.custom(sample=lambda rng: rng.permutation(4).tolist(), mutate=lambda value, rng: value),
        "model": "resnet18",
    },
    {"more": ah.float(sample=lambda rng: rng.normal(), mutate=lambda value, rng, strength: value)},
    seed=7,
    extra=ah.int(3),
)


class Day(ah.Parameter):
    def sample(self, rng: np.random.Generator) -> str:
        return f"2024-01-{rng.integers(1, 32):02d}"


days = ah.Search(day=Day())
search.enqueue({"lr": 0.1})
search += {"layers": 2}


async def coroutine(params: dict[str, Any]) -> float:
    return 0.0


async def with_trial(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    assert_type(trial.id, int)
    assert_type(trial.attempt, int)
    assert_type(trial.params, dict[Any, Any])
    await trial.report(0.5)
    await trial.save({"epoch": 1})
    start = trial.restored or 0
    print(start)
    trial.add_cost(0.01)
    assert_type(trial.interrupted.is_set(), bool)
    await trial.interrupted.wait()
    if trial.should_prune(0.4):
        raise ah.TrialPruned
    return 1.0


async def async_generator(params: dict[str, Any]) -> AsyncIterator[float]:
    yield 0.5


def generator(params: Mapping[str, Any]) -> Iterator[float]:
    yield 0.5


def function(params: dict[str, Any], scale: float = 1.0) -> np.float64:
    ah.report(0.5)
    if ah.should_prune(0.5):
        raise ah.TrialPruned
    assert_type(ah.current_trial(), ah.RunningTrial)
    return np.float64(scale)


class Announce(ah.Callback):
    def on_start(self, search: ah.Search) -> None: ...

    async def on_trial(self, trial: ah.Trial) -> None: ...

    def on_best(self, trial: ah.Trial) -> None: ...

    async def on_end(self, search: ah.Search) -> None: ...


async def heard(trial: ah.Trial) -> None: ...


async def runs() -> None:
    best = await search.run(coroutine, "maximize", "8h", concurrency=64, checkpoint_path="runs/a.ckpt")
    assert_type(best, dict[Any, Any] | None)
    await search.run(with_trial, "min", 60.0, timeout=1, on_error="record", grace=5, handle_signals=False)
    await search.run(async_generator, "minimise", steps=10, pruner=ah.pruners.QuantilePruner(0.5), quiet=True)
    await search.run(generator, steps=10, pruner=ah.pruners.TopKPruner(3), executor="process")
    await search.run(function, steps=10, executor="thread", kwargs={"scale": 2.0}, ignore_nans=True)
    await search.run(functools.partial(function, scale=3.0), endless=True, duplicates="reuse")
    await search.run(lambda params: params["lr"], steps=1, sampler=ah.RandomSampler())
    await search.run(ah.wrap_n_times(coroutine, 5, 1, "median"), steps=1, sampler=ah.TwoStageSampler())
    await search.run(coroutine, steps=1, callbacks=Announce(), seeding_steps=3, start_temperature=0.5)
    await search.run(coroutine, steps=1, callbacks=[Announce(), heard, print], seeding_runtime="5min")
    await search.run(coroutine, steps=1, checkpoint_path=Path("a.ckpt"), resume="must")
    await search.run(coroutine, steps=1, storage=MemoryStorage("a"), overwrite_checkpoint=True)
    async for trial in search.iterate(coroutine, "max", steps=10, concurrency=4):
        assert_type(trial, ah.Trial)
    async with search.session("minimize", steps=10, checkpoint_path="s.ckpt") as session:
        assert_type(session, ah.Session)
        while (asked := await session.ask()) is not None:
            assert_type(asked, ah.RunningTrial)
            await session.tell(asked, 1.0, cost=0.5)
            await session.tell(asked, state="failed")
    assert_type(await search.save("a.ckpt", pruner=ah.pruners.TopKPruner(3)), Path | str)
    await search.load("a.ckpt")
    search.stop()


def knows() -> None:
    assert_type(search.best, dict[Any, Any] | None)
    assert_type(search.best_value, float | None)
    assert_type(search.best_trial, ah.Trial | None)
    assert_type(search.outcome, ah.RunOutcome | None)
    assert_type(search.checkpoint_path, str | None)
    assert_type(search.history, ah.History)
    history = search.history
    assert_type(history[0], ah.Trial)
    assert_type(history[:2], list[ah.Trial])
    assert_type(history["lr"], np.ndarray[Any, Any])
    assert_type(history.values, np.ndarray[Any, Any])
    assert_type(history.best_values, np.ndarray[Any, Any])
    assert_type(len(history), int)
    for trial in history:
        assert_type(trial.value, float | None)
        assert_type(trial.params, dict[str, Any])
        assert_type(trial.estimates, tuple[float, ...])
        assert_type(trial.seconds, float)
        assert_type(trial.state, str)
        assert_type(trial.origin, str)
    if search.outcome is not None:
        assert_type(search.outcome.reason, str)
        assert_type(search.outcome.trials, int)


class Nowhere(Storage):
    @classmethod
    def from_url(cls, url: str) -> Nowhere:
        return cls()

    async def open(self, *, resume: str = "auto", overwrite: bool = False, readonly: bool = False) -> None: ...

    async def read(self) -> AsyncIterator[Sequence[Entry]]:
        yield [Entry(0, b"{}")]

    async def append(self, records: Sequence[bytes]) -> None: ...

    async def close(self) -> None: ...


assert_type(open_storage("runs/"), Storage)
assert_type(open_storage(Nowhere()), Storage)


def errors(e: ah.AsynchopperError) -> str:
    match e:
        case ah.CheckpointLocked() | ah.CheckpointCorrupted() | ah.CheckpointVersionError() | ah.StudyMismatch():
            return "the checkpoint"
        case ah.LeaseLost() | ah.StorageError():
            return "the storage"
        case ah.SpaceError() | ah.UsageError():
            return "the call"
        case ah.ObjectiveError() | ah.TrialTimeout() | ah.TrialPruned():
            return "the objective"
        case _:
            return "something else"


# What must not pass: each line would be an error, and mypy says so when it is none.
async def refused() -> None:
    await search.run(coroutine, "upwards", steps=1)  # type: ignore[arg-type]  # a direction that is none
    await search.run(coroutine, steps="ten")  # type: ignore[arg-type]  # a text where a count belongs
    await search.run(coroutine, steps=1, resume="maybe")  # type: ignore[arg-type]  # a word that is none
    await search.run(coroutine, step=1)  # type: ignore[call-arg]  # a keyword that is none
    ah.float(0, 1, step=1)  # type: ignore[call-arg]  # as above
    search.best = {}  # type: ignore[misc]  # what is known is not set from outside
