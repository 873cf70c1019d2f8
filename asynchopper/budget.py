"""Steps and seconds, and what follows from how much of them is spent. Clocks are passed in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from asynchopper.errors import UsageError
from asynchopper.state import State
from asynchopper.values import check_flag, whole

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "sec": 1.0, "ms": 0.001, "w": 604800.0}
_WORDS = {"day": "d", "days": "d", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "mins": "min", "minute": "min"}
_WORDS |= {"minutes": "min", "second": "s", "seconds": "s", "secs": "s", "week": "w", "weeks": "w"}
_RATIO = 0.25
_ENDLESS_SCALE = 200  # an endless search behaves as if halfway after this many trials


def parse_runtime(text: float | str, name: str = "runtime") -> float:
    """Seconds, from a number or from `"2h 30min"`, `"3d 4h"`, `"1:30:00"` (h:m:s), `"5:00"` (m:s).

    Raises `UsageError` for anything else, and for what is not positive and finite.
    """
    if isinstance(text, str):
        seconds = _parse_text(text.strip().lower())
        if seconds is None:
            raise UsageError(f"{name}={text!r}: write seconds, or for instance '2h 30min', '3d 4h', '1:30:00'")
    elif isinstance(text, bool) or not hasattr(text, "__float__"):
        raise UsageError(f"{name}={text!r:.80}: write seconds, or a text such as '2h 30min'")
    else:
        try:
            seconds = float(text)
        except (TypeError, ValueError, OverflowError) as e:
            raise UsageError(f"{name}={text!r:.80}: is no number of seconds: {e}") from None
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"{name}={text!r:.80}: must be more than no time, and finite")
    return seconds


def _parse_text(text: str) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+:)?\d+:\d+(\.\d+)?", text):
        total = 0.0
        for part in text.split(":"):
            total = total * 60 + float(part)
        return total
    if not re.fullmatch(r"(\d+(\.\d+)?\s*[a-z]+[\s,]*)+", text):
        return None
    total = 0.0
    for number, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text):
        unit = _WORDS.get(unit, unit)
        if unit not in _UNITS:
            return None
        total += float(number) * _UNITS[unit]
    return total


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may spend: exactly one of steps, seconds, or no end."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, runtime: float | str | None, steps: int | None, endless: bool) -> Budget:
        """Raises `UsageError` unless exactly one is given."""
        check_flag("endless", endless)
        given = [
            name
            for name, on in (("runtime", runtime is not None), ("steps", steps is not None), ("endless", endless))
            if on
        ]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise UsageError(f"a budget is exactly one of runtime=, steps= and endless=True; got {said}")
        if steps is not None:
            number = whole(steps, 1)
            if number is None:
                raise UsageError(f"steps={steps!r:.80}: must be a positive integer")
            return cls(steps=number)
        return cls(seconds=parse_runtime(runtime)) if runtime is not None else cls()

    def describe(self) -> dict[str, Any]:
        if self.steps is not None:
            return {"steps": self.steps}
        return {"runtime": self.seconds} if self.seconds is not None else {"endless": True}

    def progress(self, state: State, elapsed: float) -> float:
        """The part that is spent or under way, from 0 to 1. `elapsed` is the search's clock, in seconds."""
        if self.seconds is not None:
            base = state.run.base_elapsed if state.run else 0.0
            return min(max((elapsed - base) / self.seconds, 0.0), 1.0)
        out = len(state.table.ids) + len(state.pending)  # as `spent_steps` has it, at each proposal
        if state.run is not None:
            out -= state.run.base_steps
        if self.steps is not None:
            return out / self.steps if out < self.steps else 1.0
        return out / (out + _ENDLESS_SCALE)

    def spent(self, state: State, elapsed: float) -> str | None:
        """Why nothing more may be asked, if so."""
        if self.steps is not None and state.spent_steps >= self.steps:
            return "steps"
        if self.seconds is not None and self.progress(state, elapsed) >= 1.0:
            return "runtime"
        return None


@dataclass(frozen=True, slots=True)
class Schedule:
    """When seeding ends, and how the temperature falls."""

    seeding_ratio: float = _RATIO
    seeding_steps: int | None = None
    seeding_seconds: float | None = None
    start_temperature: float = 1.0
    end_temperature: float = 0.2

    @property
    def fixed(self) -> bool:
        """Whether the length of the seeding was said; the usual ratio leaves it to the sampler."""
        return self.seeding_steps is not None or self.seeding_seconds is not None or self.seeding_ratio != _RATIO

    @classmethod
    def of(
        cls,
        seeding_ratio: float | None,
        seeding_steps: int | None,
        seeding_runtime: float | str | None,
        start_temperature: float,
        end_temperature: float,
    ) -> Schedule:
        """Raises `UsageError` for values that mean nothing."""
        if seeding_steps is not None and seeding_runtime is not None:
            raise UsageError("seeding_steps= and seeding_runtime= exclude each other")
        ratio = _RATIO if seeding_ratio is None else seeding_ratio
        if not isinstance(ratio, Real) or not 0 <= ratio <= 1:
            raise UsageError(f"seeding_ratio={seeding_ratio!r}: must be from 0 to 1")
        number = whole(seeding_steps, 0)
        if seeding_steps is not None and number is None:
            raise UsageError(f"seeding_steps={seeding_steps!r:.80}: must be an integer of 0 or more")
        for name, t in (("start_temperature", start_temperature), ("end_temperature", end_temperature)):
            if not isinstance(t, Real) or not 0 < t <= 1:
                raise UsageError(f"{name}={t!r}: must be above 0, and 1 at most")
        seconds = parse_runtime(seeding_runtime, "seeding_runtime") if seeding_runtime is not None else None
        return cls(float(ratio), number, seconds, float(start_temperature), float(end_temperature))

    def seeding(self, state: State, progress: float, elapsed: float) -> bool:
        """Whether to draw from the whole space still."""
        if self.seeding_steps is not None:
            return state.spent_steps + len(state.pending) < self.seeding_steps
        if self.seeding_seconds is not None:
            return elapsed - (state.run.base_elapsed if state.run else 0.0) < self.seeding_seconds
        return progress < self.seeding_ratio

    def temperature(self, progress: float) -> float:
        """Falls in a straight line from start to end."""
        return self.start_temperature + (self.end_temperature - self.start_temperature) * progress


def budget_words(budget: Mapping[str, Any]) -> str:
    """A budget as the log describes it, for people."""
    return ", ".join(f"{name}={value:g}" if name != "endless" else name for name, value in budget.items())
