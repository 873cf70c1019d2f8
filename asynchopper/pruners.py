"""Pruners decide, from the estimates so far, whether an evaluation is worth going on with.

A pruner is a fold over finished trials: `observe` takes one in, `should_prune` reads, and what was folded can be saved and
restored. So its state can always be had again from the history alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Sequence
from numbers import Real
from typing import Any

from asynchopper.errors import UsageError
from asynchopper.trial import Trial
from asynchopper.values import whole


class Pruner(ABC):
    """The base of all pruners. `direction` is set by the search before the first call."""

    direction: str = "maximize"

    @abstractmethod
    def should_prune(self, estimates: Sequence[float]) -> bool:
        """Whether to give up an evaluation that has reported these estimates, the latest last."""

    @abstractmethod
    def observe(self, trial: Trial) -> None:
        """Takes in a finished trial."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What was folded, as JSON."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; raises `ValueError` for the state of a pruner of other settings."""

    def reset(self) -> None:
        """Forgets what was folded. A pruner without it is to be made anew for each run."""
        return

    @property
    def _sign(self) -> float:
        return -1.0 if self.direction.startswith("min") else 1.0


def _count(given: Any, said: str) -> int:
    number = whole(given, 1)
    if number is None:
        raise UsageError(f"{said}{given!r:.80}): must be an integer of 1 or more")
    return number


class QuantilePruner(Pruner):
    """Prunes what is worse than the `q` quantile of the earlier estimates at the same position.

    `q` is between 0 and 1, or a percentage above 1 and below 100. The first `warmup` estimates at a
    position are never pruned, nor is the last one of a full evaluation.
    """

    def __init__(self, q: float, warmup: int = 5) -> None:
        if not isinstance(q, Real) or not 0 < q < 100 or q == 1:
            raise UsageError(
                f"QuantilePruner({q!r:.80}): q must be between 0 and 1, or a percentage above 1 and below 100"
            )
        self.q: float = float(q / 100 if q > 1 else q)
        self.warmup: int = _count(warmup, "QuantilePruner(warmup=")
        self.reset()

    def reset(self) -> None:
        self._full = 0
        self._sorted: list[list[float]] = []

    def should_prune(self, estimates: Sequence[float]) -> bool:
        i = len(estimates) - 1
        if i < 0 or i >= len(self._sorted) or len(estimates) == self._full or len(self._sorted[i]) < self.warmup:
            return False
        earlier = self._sorted[i]
        q = self.q if self._sign > 0 else 1 - self.q
        place = q * (len(earlier) - 1)
        k = int(place)
        low, high = earlier[k], earlier[min(k + 1, len(earlier) - 1)]
        if low == high or place == k:
            bar = low
        elif math.isinf(low) or math.isinf(high):  # nothing lies between them: the one that prunes less
            bar = low if self._sign > 0 else high
        else:
            bar = low + (high - low) * (place - k)
        return not self._sign * estimates[i] >= self._sign * bar

    def observe(self, trial: Trial) -> None:
        if trial.state not in ("completed", "pruned"):
            return
        if trial.state == "completed":
            self._full = max(self._full, len(trial.estimates))
        for i, x in enumerate(trial.estimates):
            if i == len(self._sorted):
                self._sorted.append([])
            if not math.isnan(x):
                insort(self._sorted[i], x)

    def state_dict(self) -> dict[str, Any]:
        return {"full": self._full, "estimates": [list(s) for s in self._sorted]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._full = int(state["full"])
        self._sorted = [sorted(float(x) for x in s) for s in state["estimates"]]


class TopKPruner(Pruner):
    """Prunes what is worse than all of the `k` best evaluations were at the same position. The first `k` run whole."""

    def __init__(self, k: int) -> None:
        self.k: int = _count(k, "TopKPruner(")
        self.reset()

    def reset(self) -> None:
        self._top: list[tuple[float, tuple[float, ...]]] = []

    def should_prune(self, estimates: Sequence[float]) -> bool:
        i = len(estimates) - 1
        if i < 0 or len(self._top) < self.k:
            return False
        at = [self._sign * e[i] for _, e in self._top if i < len(e) and not math.isnan(e[i])]
        if not at or all(len(e) == len(estimates) for _, e in self._top):
            return False  # that was the last one
        return not any(self._sign * estimates[i] >= x for x in at)

    def observe(self, trial: Trial) -> None:
        if trial.state != "completed" or trial.value is None or not trial.estimates:
            return
        self._top.append((trial.value, tuple(trial.estimates)))
        if len(self._top) > self.k:
            self._top.sort(key=lambda v: self._sign * v[0], reverse=True)  # stable: of equals the earlier stays
            self._top.pop()

    def state_dict(self) -> dict[str, Any]:
        return {"k": self.k, "top": [[value, list(estimates)] for value, estimates in self._top]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["k"] != self.k:
            raise ValueError(f"this is the state of a TopKPruner({state['k']}), and not of a TopKPruner({self.k})")
        self._top = [(float(v), tuple(float(x) for x in estimates)) for v, estimates in state["top"]]
