"""What one evaluation is called at each stage: `Proposal` before it starts, `Outcome` when it ends, `Trial` for good."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

State: TypeAlias = Literal["completed", "pruned", "nan", "failed", "interrupted"]

STATES: tuple[State, ...] = ("completed", "pruned", "nan", "failed", "interrupted")
"""How an evaluation can end. All but `interrupted` finish a trial and spend a step."""

Values: TypeAlias = tuple[Any, ...]
"""A candidate as the space sees it: one entry a parameter, in the space's order; the option's index for a choice,
`None` for a parameter whose branch is not taken."""


class Proposal(NamedTuple):
    """A candidate that a sampler wants evaluated. `note` is JSON that the sampler wants to find again when it is told."""

    values: Values
    origin: str
    note: Any = None


class Completed(NamedTuple):
    """The objective returned a number. It may be infinite, and it may be NaN."""

    value: float


class Pruned(NamedTuple):
    """The pruner, or the objective itself, gave the evaluation up."""


class Failed(NamedTuple):
    """The objective raised, timed out, or returned something that is not a number."""

    error: BaseException


class Interrupted(NamedTuple):
    """The evaluation was taken away. It spends nothing and runs again when the search resumes."""


Outcome: TypeAlias = Completed | Pruned | Failed | Interrupted


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A finished evaluation.

    `value` is `None` unless the trial completed (NaN in state `nan`); `estimates` are the intermediate values in the
    order they were reported; `cost` is in the objective's own unit, `seconds` is wall time.
    """

    id: int
    attempt: int
    params: dict[str, Any]
    value: float | None
    state: str
    origin: str
    estimates: tuple[float, ...] = ()
    cost: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trial):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, also where there are arrays in them, whose == gives no single answer; NaNs are."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
