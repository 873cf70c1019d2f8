"""A parameter, and the kinds that are one number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from decimal import Decimal
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np
import orjson

from asynchopper.errors import SpaceError
from asynchopper.space.numbers import as_float, as_int, number_from_json, reflect
from asynchopper.space.sharing import own
from asynchopper.values import Json, from_json, to_json

Generator: TypeAlias = np.random.Generator
Draw: TypeAlias = Callable[..., Any]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
_NORMAL = NormalDist()


class Parameter(ABC):
    """A dimension of the search space. Subclass it for kinds of your own.

    A subclass defines `sample(rng)` and, where a local step makes sense, `mutate(value, rng, strength)` with strength in
    (0, 1]; `init` is the first guess (drawn when missing). Values that JSON cannot hold need `encode` and `decode`.
    """

    init: Any = MISSING
    size: int = 1
    cardinality: float = math.inf
    """How many different values there are; `inf` when that is unknown or unbounded."""

    user_sample: Draw | None = None
    user_mutate: Draw | None = None

    def __repr__(self) -> str:
        said = dict(self.describe())
        kind = said.pop("kind", type(self).__name__)
        return f"{kind}({', '.join(f'{word}={value!r:.80}' for word, value in said.items())})"

    @abstractmethod
    def sample(self, rng: Generator) -> Any:
        """A value from anywhere in the parameter's range."""

    def mutate(self, value: Any, rng: Generator, strength: float) -> Any:
        """A value near `value`; the default draws a new one."""
        return self.sample(rng)

    def encode(self, value: Any) -> Json:
        """The value as JSON; raises `TypeError` when JSON cannot hold it."""
        return to_json(value)

    def decode(self, data: Json) -> Any:
        """The inverse of `encode`; raises `ValueError` for what does not belong here."""
        return from_json(data)

    def describe(self) -> dict[str, Json]:
        """What a person needs to recognise the parameter in a checkpoint."""
        return {"kind": type(self).__name__.lower()}

    # What the tree calls: `u` is one uniform draw, for kinds that need no more than that.
    def draw(self, u: float, rng: Generator) -> Any:
        return self.sample(rng)

    def move(self, value: Any, u: float, rng: Generator, strength: float) -> Any:
        return self.mutate(self.show(value), rng, strength)

    def first(self, rng: Generator) -> Any:
        return self.draw(float(rng.random()), rng) if self.init is MISSING else self.init

    def accept(self, given: Any) -> Any:
        """A value from outside, as the parameter holds it; raises `SpaceError` when it does not belong."""
        return given

    def admit(self, given: Any) -> Any:
        """As `accept`, but an integer that is not one of the values is refused, and not rounded."""
        return self.accept(given)

    def clip(self, value: Any) -> Any:
        """The nearest value that the parameter has, for one that was stored when its range was another."""
        return value

    def show(self, value: Any) -> Any:
        """The value as an objective gets it, which may change it."""
        return own(value, arrays=True)

    def key(self, value: Any) -> bytes:
        """Bytes that two values share exactly when they are the same point; what JSON cannot hold is so as the same object."""
        try:
            return orjson.dumps(self.encode(value))
        except (TypeError, ValueError):
            return b"%d, an object" % id(value)


class Scalar(Parameter):
    """A number on a range, with a unit coordinate: `at(u)` and `unit(value)` are inverse up to rounding."""

    low: float | int
    high: float | int

    @abstractmethod
    def at(self, u: float) -> Any:
        """The value at `u` in [0, 1)."""

    @abstractmethod
    def unit(self, value: Any) -> float:
        """Where the value lies in [0, 1]; values outside the bounds are clipped to them."""

    def show(self, value: Any) -> Any:
        return value

    def sample(self, rng: Generator) -> Any:
        return self.at(float(rng.random()))

    def draw(self, u: float, rng: Generator) -> Any:
        return self.at(u)

    def mutate(self, value: Any, rng: Generator, strength: float) -> Any:
        return self.move(value, float(rng.random()), rng, strength)

    def move(self, value: Any, u: float, rng: Generator, strength: float) -> Any:
        return self.at(reflect(self.unit(value) + (u - 0.5) * strength))


class Float(Scalar):
    """A float between two bounds, on a linear or a logarithmic scale."""

    def __init__(self, low: float, high: float, log: bool, init: Any) -> None:
        self.low, self.high, self.log = low, high, log
        self._a, self._b = (math.log(low), math.log(high)) if log else (low, high)
        self.cardinality = 1 if low == high else math.inf
        self.init = self.at(0.5) if init is MISSING else self.accept(init)

    def at(self, u: float) -> float:
        x = self._a * (1.0 - u) + self._b * u
        if self.log:
            x = math.exp(x)
        return self.low if x < self.low else self.high if x > self.high else x

    def unit(self, value: float) -> float:
        x = min(max(value, self.low), self.high)
        if self._a == self._b:
            return 0.5
        z = (math.log(x) if self.log else x) / 2 - self._a / 2
        return z / max(self._b / 2 - self._a / 2, 5e-324)

    def accept(self, given: Any) -> float:
        x = as_float(given)
        if not self.low <= x <= self.high:
            raise SpaceError(f"{x!r} is outside [{self.low!r}, {self.high!r}]")
        return x + 0.0

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def decode(self, data: Json) -> float:
        return number_from_json(data)

    def key(self, value: Any) -> bytes:
        return np.float64(value + 0.0).tobytes()

    def describe(self) -> dict[str, Json]:
        return {"kind": "float", "low": self.low, "high": self.high, "log": self.log}


class Normal(Scalar):
    """A float without bounds: standard normal draws, and steps of `strength` standard deviations."""

    def __init__(self, precision: int | None, init: Any) -> None:
        self.low, self.high, self.precision = -math.inf, math.inf, precision
        self.init = 0.0 if init is MISSING else self.accept(init)

    def at(self, u: float) -> float:
        return self._round(_NORMAL.inv_cdf(min(max(u, 2**-53), 1 - 2**-53)))

    def unit(self, value: float) -> float:
        return _NORMAL.cdf(value)

    def move(self, value: float, u: float, rng: Generator, strength: float) -> float:
        step = _NORMAL.inv_cdf(min(max(u, 2**-53), 1 - 2**-53)) * strength
        moved = self._round(value + step)
        if moved == value and self.precision is not None:
            moved = self._round(value + math.copysign(10.0**-self.precision, step))
        return moved

    def accept(self, given: Any) -> float:
        x = as_float(given)
        if not math.isfinite(x):
            raise SpaceError(f"{x!r} is not a finite number")
        return self._round(x) + 0.0

    def clip(self, value: float) -> float:
        return self._round(value)

    def decode(self, data: Json) -> float:
        return number_from_json(data)

    def key(self, value: Any) -> bytes:
        return np.float64(value + 0.0).tobytes()

    def describe(self) -> dict[str, Json]:
        return {"kind": "float", "low": None, "high": None, "precision": self.precision}

    def _round(self, x: float) -> float:
        return x if self.precision is None else round(x, self.precision) + 0.0


class Grid(Scalar):
    """A number on evenly weighted cells: integers, multiples, powers, rounded floats. Cell i sits at (i + 1/2) / n."""

    def __init__(self, cells: int, kind: str) -> None:
        self.n, self.kind, self.cardinality = cells, kind, cells

    @abstractmethod
    def cell(self, i: int) -> Any:
        """The value of cell `i`."""

    @abstractmethod
    def index(self, value: Any) -> int:
        """The nearest cell, whatever the value."""

    def at(self, u: float) -> Any:
        return self.cell(min(int(u * self.n), self.n - 1))

    def unit(self, value: Any) -> float:
        return (self.index(value) + 0.5) / self.n

    def move(self, value: Any, u: float, rng: Generator, strength: float) -> Any:
        n, i = self.n, self.index(value)
        if n == 1:
            return self.cell(0)
        j = min(int(reflect((i + 0.5) / n + (u - 0.5) * strength) * n), n - 1)
        if j == i:
            j = i + (1 if u >= 0.5 else -1)
            if not 0 <= j < n:
                j = 2 * i - j
        return self.cell(j)

    def decode(self, data: Json) -> Any:
        value = number_from_json(data) if self.kind == "float" else from_json(data)
        if self.kind == "int" and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"not an integer: {data!r:.80}")
        return value

    def accept(self, given: Any) -> Any:
        x = as_int(given) if self.kind == "int" else as_float(given)
        if not self.low <= x <= self.high:
            raise SpaceError(f"{x!r} is outside [{self.low!r}, {self.high!r}]")
        return self.cell(self.index(x))

    def admit(self, given: Any) -> Any:
        value = self.accept(given)
        if self.kind == "int" and value != given:
            raise SpaceError(f"{given!r} is not one of the values; the nearest is {value!r}")
        return value

    def clip(self, value: Any) -> Any:
        return self.cell(self.index(value))

    def _set_init(self, init: Any) -> None:
        self.init = self.cell((self.n - 1) // 2) if init is MISSING else self.admit(init)


class IntGrid(Grid):
    """Integers `first + i * step`, evenly or logarithmically weighted."""

    def __init__(self, low: int, high: int, step: int, log: bool, init: Any) -> None:
        first, last = -(-low // step), high // step
        if first > last:
            raise SpaceError(f"int({low}, {high}, multiple_of={step}): there is no multiple of {step} in the range")
        super().__init__(last - first + 1, "int")
        log = log and math.log(low - 0.5) < math.log(high + 0.5)  # a float does not tell such large ones apart
        self.low, self.high, self.step, self.log, self._first = low, high, step, log, first
        self._a, self._b = (math.log(low - 0.5), math.log(high + 0.5)) if log else (0.0, 0.0)
        if log and init is MISSING:
            init = self.at(0.5)
        self._set_init(init)

    def cell(self, i: int) -> int:
        return (self._first + i) * self.step

    def index(self, value: int) -> int:
        return min(max((2 * int(value) + self.step) // (2 * self.step) - self._first, 0), self.n - 1)

    def at(self, u: float) -> int:
        if self.log:
            return self.cell(self.index(round(math.exp(self._a + (self._b - self._a) * u))))
        return (self._first + min(int(u * self.n), self.n - 1)) * self.step

    def unit(self, value: int) -> float:
        if self.log:
            return (math.log(min(max(value, self.low), self.high)) - self._a) / (self._b - self._a)
        return super().unit(value)

    def move(self, value: int, u: float, rng: Generator, strength: float) -> int:
        if not self.log or self.n == 1:
            return int(super().move(value, u, rng, strength))
        i = self.index(value)
        moved = self.at(reflect(self.unit(value) + (u - 0.5) * strength))
        if self.index(moved) == i:
            j = i + (1 if u >= 0.5 else -1)
            moved = self.cell(j if 0 <= j < self.n else 2 * i - j)
        return moved

    def key(self, value: Any) -> bytes:
        return b"%d" % value

    def describe(self) -> dict[str, Json]:
        return {
            "kind": "int",
            "low": to_json(self.low),
            "high": to_json(self.high),
            "log": self.log,
            "multiple_of": to_json(self.step),
        }


class PowerGrid(Grid):
    """Integer powers of a base."""

    def __init__(self, low: int, high: int, base: int, init: Any) -> None:
        powers, x = [], 1
        while x <= high:
            if x >= low:
                powers.append(x)
            x *= base
        if not powers:
            raise SpaceError(f"int({low}, {high}, power_of={base}): there is no power of {base} in the range")
        super().__init__(len(powers), "int")
        self.low, self.high, self.base, self._powers = low, high, base, powers
        self._set_init(init)

    def cell(self, i: int) -> int:
        return self._powers[i]

    def index(self, value: int) -> int:
        i = bisect_left(self._powers, value)
        if i == 0 or i == self.n:
            return min(i, self.n - 1)
        below, above = self._powers[i - 1], self._powers[i]
        return i if value * value > below * above else i - 1

    def key(self, value: Any) -> bytes:
        return b"%d" % value

    def describe(self) -> dict[str, Json]:
        return {"kind": "int", "low": to_json(self.low), "high": to_json(self.high), "power_of": to_json(self.base)}


class RoundedFloat(Grid):
    """Floats with `precision` digits after the point."""

    def __init__(self, low: float, high: float, precision: int, init: Any) -> None:
        # in decimals, since 1.1 * 10 is more than 11
        first, last = (
            math.ceil(Decimal(repr(low)).scaleb(precision)),
            math.floor(Decimal(repr(high)).scaleb(precision)),
        )
        said = f"float({low}, {high}, precision={precision})"
        if first > last:
            raise SpaceError(f"{said}: no value with {precision} decimals in it")
        if max(abs(first), abs(last)) > 2**51:  # above, a value times the scale may be a neighbour
            raise SpaceError(f"{said}: more digits than a float holds; take a lower precision, or none")
        super().__init__(last - first + 1, "float")
        self.low, self.high, self.precision, self._first, self._scale = low, high, precision, first, 10.0**precision
        self._set_init(init)

    def cell(self, i: int) -> float:
        return round((self._first + i) / self._scale, self.precision)

    def index(self, value: float) -> int:
        return min(max(round(min(max(value, self.low), self.high) * self._scale) - self._first, 0), self.n - 1)

    def key(self, value: Any) -> bytes:
        return np.float64(value + 0.0).tobytes()

    def describe(self) -> dict[str, Json]:
        return {"kind": "float", "low": self.low, "high": self.high, "log": False, "precision": self.precision}


class SignificantFloat(Grid):
    """Floats with `precision` significant digits, drawn on a logarithmic scale."""

    def __init__(self, low: float, high: float, precision: int, init: Any) -> None:
        self.low, self.high, self.precision = low, high, precision
        self._per_decade: int = 9 * 10 ** (precision - 1)
        self._first = self._ordinal(low, up=True)
        n = self._ordinal(high, up=False) - self._first + 1
        if n < 1:
            raise SpaceError(
                f"float({low}, {high}, log=True, precision={precision}): no value with that many digits in it"
            )
        super().__init__(n, "float")
        self._a, self._b = math.log(self.cell(0)), math.log(self.cell(n - 1))
        self._set_init(self.at(0.5) if init is MISSING else init)

    def cell(self, i: int) -> float:
        decade, digits = divmod(self._first + i, self._per_decade)
        return float(f"{digits + 10 ** (self.precision - 1)}e{decade - self.precision + 1}")

    def index(self, value: float) -> int:
        return min(max(self._ordinal(min(max(value, self.low), self.high)) - self._first, 0), self.n - 1)

    def at(self, u: float) -> float:
        return self.cell(self.index(math.exp(self._a + (self._b - self._a) * u)))

    def unit(self, value: float) -> float:
        if self.n == 1:
            return 0.5
        return (math.log(min(max(value, self.cell(0)), self.cell(self.n - 1))) - self._a) / (self._b - self._a)

    def move(self, value: float, u: float, rng: Generator, strength: float) -> float:
        if self.n == 1:
            return self.cell(0)
        i = self.index(value)
        j = self.index(self.at(reflect(self.unit(value) + (u - 0.5) * strength)))
        if i == j:
            j = i + (1 if u >= 0.5 else -1)
            j = j if 0 <= j < self.n else 2 * i - j
        return self.cell(j)

    def key(self, value: Any) -> bytes:
        return np.float64(value).tobytes()

    def describe(self) -> dict[str, Json]:
        return {"kind": "float", "low": self.low, "high": self.high, "log": True, "precision": self.precision}

    def _ordinal(self, x: float, up: bool | None = None) -> int:
        """The running number of the value with `precision` digits that is nearest, or the first not below or above."""
        mantissa, exponent = f"{x:.{self.precision - 1}e}".split("e")
        number: int = int(exponent) * self._per_decade + int(mantissa.replace(".", "")) - 10 ** (self.precision - 1)
        rounded = float(f"{mantissa}e{exponent}")
        if up is True and rounded < x:
            return number + 1
        if up is False and rounded > x:
            return number - 1
        return number
