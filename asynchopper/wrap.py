"""Averaging a noisy objective."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import numpy as np

from asynchopper.errors import UsageError
from asynchopper.objective import Objective, finish, kind_of, to_number

_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda x: float(np.mean(x)),
    "median": lambda x: float(np.median(x)),
    "min": min,
    "max": max,
    "sum": lambda x: float(np.sum(x)),
}


def wrap_n_times(
    objective: Objective,
    n: int,
    yield_after: int = 0,
    reduction: Literal["mean", "median", "min", "max", "sum"] | Callable[[Sequence[float]], float] = "mean",
    pass_index_arg: bool = False,
) -> Objective:
    """An objective that evaluates the given one `n` times and reduces the values.

    It yields the reduction of the values so far after each evaluation from number `yield_after` on (counted from 0), so
    that a pruner can stop it early; so it is an async generator when the objective is a coroutine function, and a plain
    generator when it is a plain function. With `pass_index_arg` the objective gets the number of the repetition as its
    second argument. Raises `UsageError` for a count, a reduction or an objective that cannot be meant.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UsageError(f"wrap_n_times(n={n!r}): must be a positive integer")
    if not 0 <= yield_after < n:
        raise UsageError(f"wrap_n_times(yield_after={yield_after!r}): must be from 0 to n - 1 = {n - 1}")
    reduce = reduction if callable(reduction) else _REDUCTIONS.get(reduction)
    if reduce is None:
        raise UsageError(
            f"wrap_n_times(reduction={reduction!r}): must be a function or one of {', '.join(_REDUCTIONS)}"
        )
    kind = kind_of(objective)
    if kind in ("async generator", "generator"):
        raise UsageError("wrap_n_times() takes an objective that returns its value, not one that yields estimates")

    if kind == "coroutine":

        @functools.wraps(objective, updated=())
        async def repeated_async(params: Any, **kwargs: Any) -> AsyncIterator[float]:
            values: list[float] = []
            for i in range(n):
                result = objective(params, i, **kwargs) if pass_index_arg else objective(params, **kwargs)
                values.append(to_number(await finish(result, None)))  # type: ignore[arg-type]  # it yields nothing to report
                if i >= yield_after:
                    yield reduce(values)

        return _unwrapped(repeated_async)

    @functools.wraps(objective, updated=())
    def repeated(params: Any, **kwargs: Any) -> Any:
        values: list[float] = []
        for i in range(n):
            values.append(to_number(objective(params, i, **kwargs) if pass_index_arg else objective(params, **kwargs)))
            if i >= yield_after:
                yield reduce(values)

    return _unwrapped(repeated)


def _unwrapped(fn: Any) -> Objective:
    """Keeps the name, and shows its own signature."""
    del fn.__wrapped__
    return fn  # type: ignore[no-any-return]  # it is a function
