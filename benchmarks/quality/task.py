"""A task, and one asynchronous run of an optimizer on it, in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from spaces import Param


@dataclass(frozen=True)
class Task:
    """Minimise `value`. `floor` is the best value that is known to be possible; `noisy` adds noise to what is told."""

    name: str
    params: tuple[Param, ...]
    value: Callable[[dict[str, Any]], float]
    floor: float | None = None
    noisy: Callable[[float, np.random.Generator], float] | None = None


class Optimizer(Protocol):
    """What a peer looks like: `ask` gives a token and parameters, `tell` takes the token and a value to minimise."""

    def ask(self) -> tuple[Any, dict[str, Any]] | None: ...
    def tell(self, token: Any, value: float) -> None: ...


def simulate(
    make: Callable[[Task, int, int, int], Optimizer], task: Task, steps: int, slots: int, seed: int
) -> list[float]:
    """The value of the returned best after each evaluation: the true one, also where what was told was noisy.

    Every slot takes a random time (log-normal, sigma 0.5) for an evaluation; results come in the order of their ends.
    """
    optimizer = make(task, steps, slots, seed)
    rng = np.random.default_rng([seed, 7])
    queue: list[tuple[float, int, Any, float, float]] = []
    out: list[float] = []
    told, best_told, best_true, now, asked = 0, np.inf, np.inf, 0.0, 0
    dry = False
    while told < steps:
        while not dry and asked < steps and len(queue) < slots:
            new = optimizer.ask()
            if new is None:
                dry = True
                break
            true = float(task.value(new[1]))
            seen = true if task.noisy is None else float(task.noisy(true, rng))
            heapq.heappush(queue, (now + rng.lognormal(0.0, 0.5), asked, new[0], true, seen))
            asked += 1
        if not queue:
            break
        now, _, token, true, seen = heapq.heappop(queue)
        optimizer.tell(token, seen)
        told += 1
        if seen < best_told:
            best_told, best_true = seen, true
        out.append(best_true)
    return out + [best_true] * (steps - len(out))
