"""How evaluations are run, by the words of `run`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from asynchopper.errors import UsageError


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
        if isinstance(concurrency, bool) or not hasattr(concurrency, "__index__") or concurrency < 1:
            raise UsageError(f"concurrency={concurrency!r}: must be a positive integer")
        timeout_s, grace_s = None if timeout is None else _number(timeout), _number(grace)
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise UsageError(f"timeout={timeout!r:.80}: must be a positive number of seconds")
        if not 0 <= grace_s < math.inf:
            raise UsageError(f"grace={grace!r:.80}: must be seconds, 0 or more")
        if on_error not in ("raise", "record"):
            raise UsageError(f"on_error={on_error!r}: must be 'raise' or 'record'")
        return cls(int(concurrency), timeout_s, grace_s, on_error == "raise", ignore_nans)


def _number(x: object) -> float:
    """NaN for what is no number, and infinity for an integer that no float holds."""
    if not isinstance(x, Real) or isinstance(x, bool):
        return math.nan
    try:
        return float(x)
    except OverflowError:
        return math.inf
