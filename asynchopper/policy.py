"""How evaluations are run, by the words of `run`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from asynchopper.errors import UsageError
from asynchopper.values import check_flag, whole

DIRECTIONS = {
    "max": "maximize",
    "maximize": "maximize",
    "maximise": "maximize",
    "min": "minimize",
    "minimize": "minimize",
    "minimise": "minimize",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How evaluations are run: how many at once, how long, and what an error does."""

    concurrency: int
    timeout_s: float | None
    grace_s: float
    raises: bool
    ignore_nans: bool

    @classmethod
    def of(cls, *, concurrency: int, timeout: float | None, grace: float, on_error: str, ignore_nans: bool) -> Policy:
        """Checks the words of `run`; raises `UsageError`."""
        slots = whole(concurrency, 1)
        if slots is None:
            raise UsageError(f"concurrency={concurrency!r:.80}: must be a positive integer")
        timeout_s, grace_s = None if timeout is None else _number(timeout), _number(grace)
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise UsageError(f"timeout={timeout!r:.80}: must be a positive number of seconds")
        if not 0 <= grace_s < math.inf:
            raise UsageError(f"grace={grace!r:.80}: must be seconds, 0 or more")
        check_word("on_error", on_error, ("raise", "record"))
        check_flag("ignore_nans", ignore_nans)
        return cls(slots, timeout_s, grace_s, on_error == "raise", ignore_nans)


def check_direction(direction: object) -> None:
    """Raises `UsageError` for what is no direction; before all else, since what is meant for a runtime may be in its place."""
    check_word("direction", direction, tuple(DIRECTIONS))


def check_word(name: str, word: object, words: tuple[str, ...]) -> None:
    """Raises `UsageError` for what is none of the words."""
    if not isinstance(word, str) or word not in words:
        raise UsageError(f"{name}={word!r:.80}: must be one of {', '.join(map(repr, words))}")


def _number(x: object) -> float:
    """NaN for what is no number, and infinity for an integer that no float holds."""
    if not isinstance(x, Real) or isinstance(x, bool):
        return math.nan
    try:
        return float(x)
    except OverflowError:
        return math.inf
