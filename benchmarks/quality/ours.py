"""asynchopper's samplers, driven as the engine drives them: facts are folded, the proposer decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from spaces import Param
from task import Task

import asynchopper as ah
from asynchopper.budget import Budget, Schedule
from asynchopper.samplers import PortfolioSampler, Proposer, RandomSampler, TwoStageSampler
from asynchopper.samplers.tuning import Tuning
from asynchopper.space import Space
from asynchopper.state import Asked, Header, Run, State, Told


def space_of(params: tuple[Param, ...]) -> dict[str, Any]:
    def leaf(p: Param) -> Any:
        if p.kind == "float":
            return ah.float(p.low, p.high, log=p.log)
        if p.kind == "int":
            return ah.int(int(p.low), int(p.high), log=p.log)
        if p.kind == "array":
            return ah.float(p.low, p.high, shape=(p.size,))
        inner = {o: [q for q in params if q.under == (p.name, o)] for o in p.options}
        if not any(inner.values()):
            return ah.choice(list(p.options), ordinal=p.kind == "ord")
        return ah.choice([{"=": o, **{q.name: leaf(q) for q in qs}} for o, qs in inner.items()])

    return {p.name: leaf(p) for p in params if p.under is None}


def flat(params: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, v in params.items():
        if isinstance(v, dict):
            out[name] = v["="]
            out.update(flat({k: x for k, x in v.items() if k != "="}))
        else:
            out[name] = v
    return out


class Ours:
    """Evaluations of so many `seconds`, with a result in each `pace`."""

    def __init__(
        self, task: Task, steps: int, slots: int, seed: int, sampler: Any, seconds: float = 1.0, pace: float = 0.0
    ) -> None:
        self.seconds, self.pace, self.elapsed = seconds, pace, 0.0
        self.state = State(Space(space_of(task.params)))
        self.budget = budget = Budget.of(None, steps, False)
        self.state.fold(Header("bench", "minimize", seed, {}))
        self.state.fold(Run(budget.describe(), 0, 0.0, 0.0, None, "", "", 0))
        self.proposer = Proposer(sampler, Schedule(), deque(), seed)

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        chosen = self.proposer.next(self.state, 0.0, self.budget.progress(self.state, 0.0))
        if chosen is None:
            return None
        id = self.state.next_id
        proposal = chosen.proposal
        self.state.fold(Asked(id, 1, proposal.values, proposal.origin, proposal.note, None, chosen.key))
        return id, flat(self.state.space.build(proposal.values))

    def tell(self, token: Any, value: float) -> None:
        self.elapsed += self.pace
        self.state.fold(Told(token, 1, "completed", value, (), 0.0, self.seconds, self.elapsed))


def ours(sampler: Callable[[], Any], *times: float) -> Callable[[Task, int, int, int], Ours]:
    return lambda task, steps, slots, seed: Ours(task, steps, slots, seed, sampler(), *times)


OURS = {
    "asynchopper": ours(PortfolioSampler),
    "quick": ours(PortfolioSampler, 5e-6, 5e-5),  # what it is where an evaluation costs nothing
    "no-model": ours(lambda: PortfolioSampler(Tuning(model=False))),
    "two-stage": ours(TwoStageSampler),
    "random": ours(RandomSampler),
}
