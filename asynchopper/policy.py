"""How evaluations are run, by the words of `run`."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise UsageError(f"timeout={timeout!r}: must be a positive number of seconds")
        if not (_is_number(grace) and 0 <= grace < math.inf):
            raise UsageError(f"grace={grace!r}: must be seconds, 0 or more")
        if on_error not in ("raise", "record"):
            raise UsageError(f"on_error={on_error!r}: must be 'raise' or 'record'")
        return cls(int(concurrency), timeout, float(grace), on_error == "raise", ignore_nans)


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)
