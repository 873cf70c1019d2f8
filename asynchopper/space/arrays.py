"""Arrays of numbers, every entry on the range of one scalar. NumPy throughout: an entry never costs a step of Python."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from asynchopper.errors import SpaceError
from asynchopper.space.scalars import (
    MISSING,
    Float,
    Generator,
    Grid,
    IntGrid,
    Normal,
    Parameter,
    PowerGrid,
    RoundedFloat,
    Scalar,
    SignificantFloat,
)
from asynchopper.values import Json, from_json

Numbers: TypeAlias = np.ndarray[Any, Any]

_EXACT_POWER = 22  # 10.0**22 is the last power of ten that a float holds exactly


class Array(Parameter):
    """A NumPy array of floats (`float64`) or integers (`int64`)."""

    def __init__(self, scalar: Scalar, shape: tuple[int, ...], init: Any) -> None:
        self.scalar, self.shape, self.size = scalar, shape, math.prod(shape)
        self.dtype = np.dtype(np.int64 if getattr(scalar, "kind", "float") == "int" else np.float64)
        self.cardinality = (
            scalar.cardinality**self.size if self.size * math.log2(scalar.cardinality + 1) < 60 else math.inf
        )
        self.init = np.full(shape, scalar.init, self.dtype) if init is MISSING else self.admit(init)
        self.init.setflags(write=False)

    def sample(self, rng: Generator) -> Numbers:
        if isinstance(self.scalar, Normal):
            return self._rounded(rng.standard_normal(self.shape))
        return self.at(rng.random(self.shape))

    def mutate(self, value: Numbers, rng: Generator, strength: float) -> Numbers:
        """Moves max(1, round(strength * size)) of the entries."""
        k = max(1, round(strength * self.size))
        flat = value.ravel().copy()
        where = slice(None) if k >= self.size else rng.choice(self.size, k, replace=False, shuffle=False)
        old = flat[where]
        if isinstance(self.scalar, Normal):
            step = strength * rng.standard_normal(old.shape)
            moved = self._rounded(old + step)
            if self.scalar.precision is not None:
                least = np.copysign(10.0**-self.scalar.precision, step)
                moved = np.where(moved == old, self._rounded(old + least), moved)
            flat[where] = moved
        else:
            u = rng.random(old.shape)
            z = self.unit(old) + (u - 0.5) * strength
            np.abs(z, out=z)
            np.subtract(2.0, z, out=z, where=z > 1.0)
            flat[where] = self._stepped(old, self.at(z), u >= 0.5)
        return flat.reshape(self.shape)

    def at(self, u: Numbers) -> Numbers:
        """Entry by entry what the scalar's `at` does."""
        s = self.scalar
        if isinstance(s, Float):
            x = s._a * (1.0 - u) + s._b * u
            return np.clip(np.exp(x) if s.log else x, s.low, s.high)
        if isinstance(s, IntGrid) and s.log:
            x = np.rint(np.exp(s._a + (s._b - s._a) * u))
            return self._cells(self._index(np.minimum(x, np.nextafter(2.0**63, 0.0)).astype(np.int64)))
        if isinstance(s, SignificantFloat):
            return self._cells(self._index(np.exp(s._a + (s._b - s._a) * u)))
        assert isinstance(s, Grid)
        return self._cells(np.minimum((u * s.n).astype(np.int64), s.n - 1))

    def unit(self, value: Numbers) -> Numbers:
        """Entry by entry what the scalar's `unit` does."""
        s = self.scalar
        if isinstance(s, Normal):
            return 0.5 + 0.5 * np.tanh(value * 0.7978845608)  # a close stand-in for the normal's distribution function
        if isinstance(s, SignificantFloat) or (isinstance(s, (Float, IntGrid)) and s.log):
            x = np.log(np.clip(value, s.low, s.high))
            return np.asarray(np.clip((x - s._a) / max(s._b - s._a, 1e-300), 0.0, 1.0))
        if isinstance(s, Float):
            return np.asarray((np.clip(value, s.low, s.high) / 2 - s._a / 2) / max(s._b / 2 - s._a / 2, 5e-324))
        assert isinstance(s, Grid)
        return (self._index(value) + 0.5) / s.n

    def accept(self, given: Any) -> Numbers:
        a = self._taken(given)
        if not np.all((a >= self.scalar.low) & (a <= self.scalar.high) & np.isfinite(a)):
            raise SpaceError(f"an entry is outside [{self.scalar.low!r}, {self.scalar.high!r}]")
        return self.clip(a) + 0

    def admit(self, given: Any) -> Numbers:
        value = self.accept(given)
        if self.dtype.kind == "i" and not np.array_equal(value, self._taken(given)):
            raise SpaceError("an entry is not one of the values")
        return value

    def _taken(self, given: Any) -> Numbers:
        try:
            a = np.broadcast_to(np.asarray(given), self.shape)
        except (ValueError, TypeError, OverflowError) as e:
            raise SpaceError(f"cannot make an array of shape {self.shape} of {given!r:.80}: {e}") from None
        if a.dtype.kind not in "iuf":
            raise SpaceError(f"cannot make an array of {self.dtype} of {given!r:.80}, which holds {a.dtype}")
        with np.errstate(invalid="ignore"):
            taken = a.astype(self.dtype)
        if self.dtype.kind == "i" and not np.array_equal(taken, a):
            raise SpaceError(f"an array of {self.dtype} cannot hold the entries of {given!r:.80}")
        return taken

    def clip(self, value: Numbers) -> Numbers:
        s = self.scalar
        near = self._cells(self._index(value)) if isinstance(s, Grid) else self._rounded(np.clip(value, s.low, s.high))
        return value if np.array_equal(near, value) else near

    def decode(self, data: Json) -> Numbers:
        a = from_json(data)
        if not isinstance(a, np.ndarray) or a.shape != self.shape or a.dtype.kind not in "iuf":
            raise ValueError(f"not an array of shape {self.shape}")
        if self.dtype.kind == "i" and a.dtype.kind == "f":
            raise ValueError("floats, where integers are expected")
        return a.astype(self.dtype, copy=False)

    def show(self, value: Numbers) -> Numbers:
        return value.copy()  # an objective may write into it

    def key(self, value: Numbers) -> bytes:
        return (value + 0 if self.dtype.kind == "i" else value + 0.0).tobytes()

    def describe(self) -> dict[str, Json]:
        return {**self.scalar.describe(), "shape": list(self.shape)}

    def _stepped(self, old: Numbers, new: Numbers, up: Numbers) -> Numbers:
        s = self.scalar
        if not isinstance(s, Grid) or s.n == 1:
            return new
        i, j = self._index(old), self._index(new)
        beside = np.where(up, i + 1, i - 1)
        beside = np.where((beside < 0) | (beside >= s.n), 2 * i - beside, beside)
        return self._cells(np.where(i == j, beside, j))  # a cell of its own is no move: go to a neighbour

    def _index(self, x: Numbers) -> Numbers:
        """The number of the nearest cell, entry by entry."""
        s = self.scalar
        if isinstance(s, IntGrid):
            x = np.clip(x, s.low, s.high)
            i = x // s.step + (2 * (x % s.step) >= s.step) - s._first
        elif isinstance(s, RoundedFloat):
            i = np.rint(np.clip(x, s.low, s.high) * s._scale).astype(np.int64) - s._first
        elif isinstance(s, SignificantFloat):
            decade, digits = self._digits(np.clip(x, s.low, s.high))
            i = decade * s._per_decade + digits - 10 ** (s.precision - 1) - s._first
        else:
            assert isinstance(s, PowerGrid)
            logs = np.log(np.array(s._powers, np.float64))
            i = np.rint(np.interp(np.log(np.maximum(x, 1)), logs, np.arange(s.n))).astype(np.int64)
        return np.asarray(np.clip(i, 0, s.n - 1))

    def _cells(self, i: Numbers) -> Numbers:
        """The values of cells, entry by entry."""
        s = self.scalar
        if isinstance(s, IntGrid):
            return (s._first + i) * s.step
        if isinstance(s, RoundedFloat):
            return np.asarray((s._first + i) / s._scale)
        if isinstance(s, SignificantFloat):
            decade, digits = np.divmod(s._first + i, s._per_decade)
            return self._decimal(digits + 10 ** (s.precision - 1), decade - s.precision + 1)
        assert isinstance(s, PowerGrid)
        return np.asarray(np.array(s._powers, np.int64)[i])

    def _digits(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """Decimal exponent and the integer of the first `precision` digits."""
        s = self.scalar
        assert isinstance(s, SignificantFloat)
        decade = np.floor(np.log10(x))
        digits = np.rint(x / 10.0 ** (decade - s.precision + 1))
        over = digits >= 10**s.precision  # rounded up to the next power of ten
        decade, digits = decade + over, np.where(over, digits / 10, digits)
        return decade.astype(np.int64), digits.astype(np.int64)

    @staticmethod
    def _decimal(digits: Numbers, exponent: Numbers) -> Numbers:
        """The float nearest to digits * 10**exponent, as it would be read from text."""
        if exponent.size and np.abs(exponent).max() > _EXACT_POWER:
            text = np.char.add(digits.astype(str), np.char.add("e", exponent.astype(str)))
            return np.asarray(text.astype(np.float64))
        power = 10.0 ** np.abs(exponent)
        return np.asarray(np.where(exponent < 0, digits / power, digits * power))

    def _rounded(self, x: Numbers) -> Numbers:
        precision = self.scalar.precision if isinstance(self.scalar, Normal) else None
        return x if precision is None else np.round(x, precision) + 0.0
