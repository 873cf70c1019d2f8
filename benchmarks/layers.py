"""`python -m benchmarks.layers [--quick] [--write]`: where the time of a trial goes, layer by layer, and each layer's floor.

Each layer is called in a loop of its own, on the objects that a search uses. Its floor is the least that could do the same
for the caller: the bare operation that the layer cannot do without. Figures are microseconds a trial, medians of some
repeats; of the processor, but for the durable ones, which wait for a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asynchopper.callbacks import Watchers
from asynchopper.engine import Engine
from asynchopper.ledger import Ledger
from asynchopper.objective import Evaluation, RunningTrial
from asynchopper.policy import Policy
from asynchopper.samplers import RandomSampler, TwoStageSampler
from asynchopper.samplers.base import View
from asynchopper.state import Asked, State, Told
from asynchopper.trial import Proposal
from benchmarks.bench import machine, put_into_page, shown
from benchmarks.parts import Layer, asked_and_told, cost, ledger_of, moves_alone
from benchmarks.stored_layers import durable, reading
from benchmarks.tuners import bare_tasks, in_loop, ours, trivial

_TOLD = 2_000  # trials that the search has behind it
_REST = "what is left: waiting, and that code is slower among other code than in a loop of its own"
Took = Callable[[Callable[[], object]], float]


def in_memory(n: int, repeats: int) -> list[Layer]:
    """The layers of a trial without a storage. What stands in brackets is not in the sum: it is in the place of another."""

    def took(work: Callable[[], object]) -> float:
        return cost(work, n, repeats)

    ledger, rng = ledger_of(moves_alone(), _TOLD), np.random.Generator(np.random.Philox(1))
    state, space, default = ledger.state, ledger.state.space, moves_alone()
    view = View(state, 0.5, False, 0.5)
    proposals = [default.propose(view, rng) for _ in range(n)]
    values = [p.values for p in proposals]
    keys = [space.key(v) for v in values]
    params = [space.build(v) for v in values]
    names, ids = space.paths, range(n)

    def propose(sampler: Any) -> float:
        return took(lambda: [sampler.propose(view, rng) for _ in ids])

    turns = [asked_and_told(ledger_of(moves_alone(), _TOLD), n) for _ in range(repeats)]
    asking, telling = (statistics.median(figures) for figures in zip(*turns, strict=True))
    draws = took(lambda: [rng.random(5).tolist() for _ in ids])
    dicts = took(lambda: [dict(zip(names, v, strict=True)) for v in values])
    tuples = took(lambda: [(i, p) for i, p in zip(ids, params, strict=True)])
    built = took(lambda: [space.build(v) for v in values])
    handles = took(lambda: [RunningTrial(i, 1, p, None, ledger) for i, p in zip(ids, params, strict=True)])
    fold_asked, fold_told = folds(state, proposals, keys, repeats)
    proposing = asking - built - handles - fold_asked.ours
    clocks = took(lambda: [time.monotonic() for _ in ids])
    layers = [
        Layer("propose: learn, choose, look up duplicates, budget, clock", proposing, draws, "five random numbers"),
        Layer("build the parameters", built, dicts, "a dict of five"),
        Layer("the trial's handle", handles, tuples, "a tuple"),
        fold_asked,
        fold_told,
        Layer("the outcome, and the clock", telling - fold_told.ours, clocks, "a look at the clock"),
    ]
    layers += evaluating(params, took)
    layers += [
        Layer("(one candidate by itself, default sampler)", propose(default), draws, "five random numbers"),
        Layer("(one candidate by itself, two-stage sampler)", propose(TwoStageSampler()), draws, "five random numbers"),
        Layer("(one candidate by itself, random sampler)", propose(RandomSampler()), draws, "five random numbers"),
        callbacks(n, took),
    ]
    for c in (1, 100):
        whole = took(lambda c=c: in_loop(ours(4 * n, c, handle_signals=False))) / 4
        bare = took(lambda c=c: in_loop(bare_tasks(n, c)))
        layers.append(Layer(f"a whole trial, {c} at a time", whole, bare, "one asyncio task an evaluation", True))
    return layers


def folds(state: State, proposals: list[Proposal], keys: list[Any], repeats: int) -> list[Layer]:
    """Folding is undone each time before it is measured again, so that the state stays as it is."""
    first = state.next_id
    state.keep_undo(True)
    mark = state.mark()
    out: dict[int, Any] = {}
    seen: set[Any] = set()
    columns = [array("d") for _ in range(12)]

    def took(work: Callable[[], object], before: Callable[[], object]) -> float:
        return cost(work, len(keys), repeats, before=before)

    def undo() -> None:
        state.rollback(mark)

    def ask() -> None:
        for i, (p, key) in enumerate(zip(proposals, keys, strict=True), first):
            state.fold(Asked(i, 1, p.values, p.origin, p.note, None, key))

    def tell() -> None:
        for i in range(first, first + len(keys)):
            state.fold(Told(i, 1, "completed", 0.1, (), 0.0, 1e-5, 1.0))

    def floor_undo() -> None:
        out.clear()
        seen.clear()

    def floor_ask() -> None:
        for i, key in enumerate(keys):
            out[i] = key
            seen.add(key)

    def floor_tell() -> None:
        for i in range(len(keys)):
            del out[i]
            for column in columns:
                column.append(0.5)

    asking, bare_ask = took(ask, undo), took(floor_ask, floor_undo)
    telling = took(tell, lambda: (undo(), ask()))
    bare_tell = took(floor_tell, lambda: (floor_undo(), floor_ask()))
    undo()
    state.keep_undo(False)
    return [
        Layer("fold the asked", asking, bare_ask, "an entry in a dict and one in a set"),
        Layer("fold the told", telling, bare_tell, "twelve columns"),
    ]


class _Ready(Ledger):
    """A ledger that costs nothing: its trials are made beforehand, and nothing is kept of what is told."""

    trials: list[RunningTrial]

    def ask(self) -> Any:
        if self.trials:
            return self.trials.pop(), None
        self.dry = "steps"
        return None

    def tell(self, trial: Any, outcome: Any) -> None:
        pass


def evaluating(params: list[Any], took: Took) -> list[Layer]:
    ledger = ledger_of(moves_alone(), 100)
    n = len(params)

    async def engine(concurrency: int) -> None:
        ready = _Ready(ledger.journal, ledger.proposer, ledger.budget, None)
        ready.trials = [RunningTrial(i, 1, p, None, ready) for i, p in enumerate(params)]
        policy = Policy.of(concurrency=concurrency, timeout=None, grace=0, on_error="raise", ignore_nans=False)
        await Engine(ready, Evaluation(trivial, None, None), Watchers(()), policy).run()

    async def objective() -> None:
        for p in params:
            await trivial(p)

    async def nothing() -> None:
        pass

    async def commits() -> None:
        for _ in params:
            await ledger.journal.commit()

    async def awaits() -> None:
        for _ in params:
            await nothing()

    handles = took(lambda: [RunningTrial(i, 1, p, None, ledger) for i, p in enumerate(params)])
    bare = took(lambda: in_loop(objective()))
    commit, floor = took(lambda: in_loop(commits())), took(lambda: in_loop(awaits()))
    layers = []
    for c in (1, 100):
        mine = took(lambda c=c: in_loop(engine(c))) - handles - bare - commit / c
        tasks = took(lambda c=c: in_loop(bare_tasks(n, c))) - bare
        name = f"start, switch to it, take its outcome, {c} at a time"
        layers.append(Layer(name if c == 1 else f"({name}, instead)", mine, tasks, "an asyncio task"))
    return [
        layers[0],
        Layer("the objective", bare, bare, "itself"),
        Layer("commit, without a storage", commit, floor, "awaiting nothing"),
        layers[1],
    ]


def callbacks(n: int, took: Took) -> Layer:
    ledger = ledger_of(RandomSampler(), n)
    heard: list[Any] = []
    watchers = Watchers(heard.append)
    asyncio.run(ledger.journal.commit())

    def tell() -> None:
        ledger.observed = 0
        heard.clear()
        for trial in ledger.news():
            watchers.told(trial)

    bare = list(range(n))

    def floor() -> None:
        heard.clear()
        for x in bare:
            heard.append(x)  # noqa: PERF402 - what is measured is the call

    return Layer("(a callback, where there is one)", took(tell), took(floor), "a call")


def table(layers: list[Layer]) -> str:
    """The layers, what is left of the whole, and the whole itself."""
    lines = ["| layer | us a trial | floor, us | the floor is |", "| --- | --- | --- | --- |"]
    parts = sum(layer.ours for layer in layers if not layer.whole and not layer.name.startswith("("))
    whole = next((layer for layer in layers if layer.whole), layers[-1])
    for layer in layers:
        if layer is whole:
            lines.append(f"| {_REST} | {_said(whole.ours - parts)} | | |")
        name, mine = (f"**{x}**" if layer.whole else x for x in (layer.name, _said(layer.ours)))
        floor = "" if layer.floor is None else _said(layer.floor)
        lines.append(f"| {name} | {mine} | {floor} | {layer.floor_is} |")
    return "\n".join(lines)


def _said(us: float) -> str:
    return shown(us) if abs(us) >= 0.01 else f"{us:.2f}"


def measured(quick: bool) -> str:
    """All the tables."""
    n, repeats = (300, 3) if quick else (2_000, 9)
    folder = Path(tempfile.mkdtemp(prefix="layers-", dir=Path.cwd()))
    try:
        parts = {f"In memory, {_TOLD:,} trials told before, processor time": in_memory(n, repeats)}
        for name, layers in durable(folder, 100 if quick else 1_000, repeats).items():
            parts[f"A durable result in a file, {name}, wall time"] = layers
        many = 1_000 if quick else 20_000
        parts[f"Reading a log of {many:,} results, a result, processor time"] = reading(folder, many, 3 if quick else 5)
    finally:
        shutil.rmtree(folder)
    return "\n\n".join(f"**{title}**\n\n{table(layers)}" for title, layers in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls, to see that everything works")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    words = parser.parse_args()
    text = measured(words.quick)
    print(f"{text}\n\n{machine()}")
    if words.write:
        put_into_page("layers", text)


if __name__ == "__main__":
    main()
