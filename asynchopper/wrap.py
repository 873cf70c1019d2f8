"""Averaging a noisy objective."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any, Literal

import numpy as np

from asynchopper.errors import UsageError
from asynchopper.objective import Objective, current_trial, finish, kind_of, to_number
from asynchopper.values import whole

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
    times, first = whole(n, 1), whole(yield_after, 0)
    if times is None:
        raise UsageError(f"wrap_n_times(n={n!r:.80}): must be a positive integer")
    if first is None or first >= times:
        raise UsageError(f"wrap_n_times(yield_after={yield_after!r:.80}): must be from 0 to n - 1 = {times - 1}")
    if not callable(reduction) and not (isinstance(reduction, str) and reduction in _REDUCTIONS):
        raise UsageError(
            f"wrap_n_times(reduction={reduction!r}): must be a function or one of {', '.join(_REDUCTIONS)}"
        )
    if not callable(objective):
        raise UsageError(f"wrap_n_times(): the objective must be callable, got {objective!r:.80}")
    if pass_index_arg:
        try:
            inspect.signature(objective).bind_partial(None, 0)
        except TypeError:
            raise UsageError(
                "wrap_n_times(pass_index_arg=True): the objective takes no second argument for the index"
            ) from None
        except ValueError:  # some builtins have no signature
            pass
    kind = kind_of(objective)
    if kind in ("async generator", "generator"):
        raise UsageError("wrap_n_times() takes an objective that returns its value, not one that yields estimates")
    repeated = _RepeatedAsync if kind == "coroutine" else _Repeated
    return repeated(objective, times, first, reduction, pass_index_arg)


class _Wrapped:
    """Instances, and not closures, so that they can be sent to other processes."""

    def __init__(self, objective: Objective, n: int, yield_after: int, reduction: Any, pass_index_arg: bool) -> None:
        self.objective, self.n, self.yield_after, self.reduction = objective, n, yield_after, reduction
        self.pass_index_arg = pass_index_arg
        self.__name__ = self.__qualname__ = str(getattr(objective, "__qualname__", type(objective).__qualname__))
        self.__doc__ = objective.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the objective, without the index: so this takes whatever the objective takes, and passes it on."""
        signature = inspect.signature(self.objective)
        parameters = list(signature.parameters.values())
        if self.pass_index_arg:
            del parameters[1:2]
        return signature.replace(parameters=parameters)

    def _calls(self, params: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """What calling the objective gives, each time that it is called."""
        for i in range(self.n):
            index = (i,) if self.pass_index_arg else ()
            yield self.objective(params, *index, *args, **kwargs)

    async def _awaited(self, calls: Iterable[Any]) -> AsyncGenerator[float, None]:
        """The estimates, by what calling the objective gives, each called when the one before is done."""
        values: list[float] = []
        for i, result in enumerate(calls):
            values.append(to_number(await finish(result, current_trial())))
            if i >= self.yield_after:
                yield self._reduced(values)

    def _reduced(self, values: Sequence[float]) -> float:
        if isinstance(self.reduction, str):
            return _REDUCTIONS[self.reduction](values)
        return to_number(self.reduction(values), "the reduction")


class _RepeatedAsync(_Wrapped):
    async def __call__(self, params: Any, /, *args: Any, **kwargs: Any) -> AsyncIterator[float]:
        async with aclosing(self._awaited(self._calls(params, args, kwargs))) as estimates:
            async for estimate in estimates:
                yield estimate


class _Repeated(_Wrapped):
    def __call__(self, params: Any, /, *args: Any, **kwargs: Any) -> Generator[float, None, Any]:
        values: list[float] = []
        calls = self._calls(params, args, kwargs)
        for i, result in enumerate(calls):
            if i == 0 and inspect.isawaitable(result):  # the rest goes on where it can be awaited
                return self._awaited(chain([result], calls))
            values.append(to_number(result))
            if i >= self.yield_after:
                yield self._reduced(values)
        return None
