"""What a worker reads while others write: rows stay where they were seen, and pages fit what is in them."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from asynchopper.samplers.memory import Memory
from asynchopper.samplers.portfolio import PortfolioSampler
from asynchopper.samplers.random import RandomSampler
from asynchopper.state import State
from asynchopper.storage import Ask
from asynchopper.testing.logs import header
from asynchopper.testing.turns import RUN, ask
from asynchopper.trial import Proposal
from tests.servers import Server


class Learning(PortfolioSampler):
    """The default, which remembers every memory that it has had."""

    def __init__(self) -> None:
        super().__init__()
        self.memories: list[Memory] = []

    def _recall(self, state: State, rows: int) -> Memory:
        memory = super()._recall(state, rows)
        if not self.memories or self.memories[-1] is not memory:
            self.memories.append(memory)
        return memory


def learnt(memory: Memory) -> dict[str, Any]:
    """What it knows, comparable."""
    known = {name: value for name, value in vars(memory).items() if name not in ("latent", "branches", "distribution")}
    known["elites"] = [(e.row, e.loss, e.values) for e in memory.elites]
    known["sampled"], known["bottoms"] = [e.row for e in memory.sampled], [e.row for e in memory.bottoms]
    known |= vars(memory.branches) | {"_leaves": [leaf.path for leaf in memory.latent.space.leaves]}
    assert memory.distribution is not None
    return known | {"mean": memory.distribution.mean.tolist(), "step": memory.distribution.step}


class Watching:
    """A sampler that draws at random, and remembers which value each row had."""

    def __init__(self) -> None:
        self.rows: list[float] = []
        self.moved = 0

    def propose(self, view: Any, rng: Any) -> Any:
        now = list(view.state.table.values)
        self.moved += now[: len(self.rows)] != self.rows
        self.rows = now
        return RandomSampler().propose(view, rng)


async def test_rows_stay_where_a_sampler_has_seen_them_while_others_write(server: Server, name: str) -> None:
    workers = [ah.Search({"x": ah.float(0, 1)}, seed=2) for _ in range(3)]
    samplers = [Watching() for _ in workers]

    async def objective(params: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        return float(params["x"])

    await asyncio.gather(
        *(
            w.run(objective, steps=300, checkpoint_path=server.url(name), sampler=s, quiet=True, concurrency=2)
            for w, s in zip(workers, samplers, strict=True)
        )
    )
    assert all(len(s.rows) > 100 for s in samplers)
    assert sum(s.moved for s in samplers) <= len(workers), "at most once, when the first of the others has come"
    assert len({tuple(w.history.values) for w in workers}) == 1


class Shown(PortfolioSampler):
    """One whose memory can be looked at from outside of the run."""

    def apart(self) -> Self:
        return self


async def test_the_default_sampler_learns_what_is_in_the_log(server: Server, name: str) -> None:
    workers = [ah.Search({"x": ah.float(0, 1), "y": ah.float(0, 1)}, seed=2) for _ in range(3)]
    samplers = [Shown() for _ in workers]

    async def objective(params: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        return -abs(params["x"] - 0.3) - abs(params["y"] - 0.6)  # where no descent ends

    await asyncio.gather(
        *(
            w.run(objective, steps=1500, checkpoint_path=server.url(name), sampler=s, quiet=True)
            for w, s in zip(workers, samplers, strict=True)
        )
    )
    for worker, sampler in zip(workers, samplers, strict=True):
        assert sampler._memory is not None
        values = list(worker.history.values)
        assert len(sampler._memory.elites) > 10
        assert all(values[e.row] == -e.loss for e in sampler._memory.elites)


async def test_a_refused_ask_has_nothing_learnt_anew(server: Server, name: str) -> None:
    search, sampler = ah.Search({"x": ah.float(0, 1)}, seed=2), Learning()
    async with search.session("maximize", steps=24, checkpoint_path=server.url(name), sampler=sampler) as session:
        trials = [await session.ask() for _ in range(24)]
        for first, second in zip(trials[:20:2], trials[1:20:2], strict=True):
            assert first is not None
            assert second is not None
            # the second is told together with what is asked, and the sampler has seen it
            *_, new = await asyncio.gather(
                session.tell(first, first.params["x"]), session.tell(second, second.params["x"]), session.ask()
            )
            assert new is None
        assert len(sampler.memories) == 1
        assert session._ledger is not None
        state = session._ledger.state
        told = state.told
        assert learnt(sampler._recall(state, told)) == learnt(PortfolioSampler()._recall(state, told))


async def test_a_trial_of_others_that_is_granted_has_nothing_learnt_anew(server: Server, name: str) -> None:
    left = ah.Search({"x": ah.float(0, 1), "y": ah.float(0, 1)}, seed=2)
    async with left.session("maximize", steps=900, checkpoint_path=server.url(name)) as session:
        trials = [await session.ask() for _ in range(40)]
        for trial in trials[:8]:
            assert trial is not None
            await session.tell(trial, trial.params["x"])
    search, sampler, attempts = ah.Search({"x": ah.float(0, 1), "y": ah.float(0, 1)}, seed=2), Learning(), []

    async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
        attempts.append(trial.attempt)
        if len(attempts) == 60:
            search.stop()
        return float(params["x"])

    await search.run(objective, "maximize", steps=900, checkpoint_path=server.url(name), sampler=sampler, quiet=True)
    assert attempts.count(2) == 32
    assert len(sampler.memories) == 1


async def test_answers_from_the_history_have_nothing_learnt_anew(server: Server, name: str) -> None:
    search, sampler = ah.Search({"a": ah.int(0, 9), "b": ah.int(0, 9)}, seed=2), Learning()
    told: set[int] = set()

    async def evaluate(session: Any) -> None:
        while (trial := await session.ask()) is not None:
            await asyncio.sleep(0)
            await session.tell(trial, float(trial.params["a"] - trial.params["b"]))
            told.add(trial.id)

    async with search.session(
        "maximize", steps=300, checkpoint_path=server.url(name), sampler=sampler, duplicates="reuse"
    ) as session:
        await asyncio.gather(*(evaluate(session) for _ in range(4)))
    assert len(told) <= 100
    assert len(search.history) > 250
    assert len(sampler.memories) == 1


class Same:
    """A sampler that proposes what the first trial was."""

    def propose(self, view: Any, rng: Any) -> Any:
        return Proposal(view.state.table.row(0), "local")


async def test_what_others_gave_up_is_evaluated_and_not_answered_for_another(server: Server, name: str) -> None:
    left = ah.Search({"a": ah.int(0, 9)}, seed=2)
    async with left.session("maximize", steps=8, checkpoint_path=server.url(name)) as session:
        trials = [await session.ask() for _ in range(4)]
        assert trials[0] is not None
        await session.tell(trials[0], 5.0)
    search = ah.Search({"a": ah.int(0, 9)}, seed=2)
    async with search.session(
        "maximize", steps=8, checkpoint_path=server.url(name), sampler=Same(), duplicates="reuse"
    ) as session:
        again = [await session.ask() for _ in range(3)]
        assert [(t.id, t.attempt, t.params) for t in again if t] == [(t.id, 2, t.params) for t in trials[1:] if t]
        assert len(search.history) == 1
        for trial in again:
            assert trial is not None
            await session.tell(trial, 1.0)
        assert await session.ask() is None
    assert search.history.values.tolist() == [5.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 5.0]


async def test_pages_follow_the_size_of_the_records(server: Server, name: str) -> None:
    storage = RedisStorage(server.url(name))
    await storage.join()
    await storage.create([header(), RUN], None)
    many = [ask(n) for n in range(1500)]
    large = [Ask("", b'"params":{"x":"' + b"a" * 200_000 + b'"},"origin":"seeding"}') for _ in range(20)]
    await storage.turn([], many + large)
    await storage.close()
    reader = RedisStorage(server.url(name))
    await reader.open(readonly=True)
    sizes = [len(portion) async for portion in reader.read()]
    assert sum(sizes) == 2 + 1500 + 20
    assert sizes[0] == 200
    assert max(sizes) > 500
    halfway = reader.read()
    async for _ in halfway:
        break
    await halfway.aclose()  # type: ignore[attr-defined]  # a generator
    assert sum([len(portion) async for portion in reader.read()]) == 1522
    await reader.close()


async def test_a_reply_is_heeded_when_nobody_reads_the_state(server: Server, name: str) -> None:
    search = ah.Search({"x": ah.float(0, 1)}, seed=2)
    async with search.session("maximize", steps=5, checkpoint_path=server.url(name)) as session:
        trial = await session.ask()
        assert trial is not None
        assert session._ledger is not None
        journal = session._ledger.journal
        storage = journal.storage
        assert isinstance(storage, RedisStorage)
        async with journal.still:  # another thread thinks about what it holds
            turns = storage.round_trips
            telling = asyncio.ensure_future(session.tell(trial, 1.0))
            while storage.round_trips == turns or storage._under_way is not None:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not telling.done()
            assert journal.head.rows == 0
        await telling
        assert journal.head.rows == 1
    assert search.best == trial.params
