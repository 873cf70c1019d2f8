"""The kinds that are more than one number: options, arrays, and what users make themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from asynchopper.errors import SpaceError
from asynchopper.space.scalars import (
    MISSING,
    Draw,
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
from asynchopper.values import Json, from_json, to_json


class Choice(Parameter):
    """One of several options. A value is the option's index; a checkpoint holds the option itself, or its label."""

    def __init__(
        self,
        options: Sequence[Any],
        ordinal: bool,
        init: Any,
        labels: Sequence[str] | None,
    ) -> None:
        if not len(options):
            raise SpaceError("choice() needs at least one option")
        self.options, self.ordinal, self.n = tuple(options), ordinal, len(options)
        if labels is not None and (len(labels) != self.n or len(set(labels)) != self.n):
            raise SpaceError(
                f"choice(labels=...): {self.n} options need {self.n} different labels, got {list(labels)!r}"
            )
        if labels is not None and not all(isinstance(label, str) for label in labels):
            raise SpaceError(f"choice(labels=...): labels are strings, got {list(labels)!r}")
        self.labels = tuple(labels) if labels is not None else None
        self.nested = any(has_parameter(o) for o in self.options)
        self.cardinality = self.n
        self._stored, self.unstorable = self._stored_forms()
        self._by_key = {orjson.dumps(s): i for i, s in enumerate(self._stored)}
        if len(self._by_key) < self.n:
            raise SpaceError(
                f"choice(): two options read the same in a checkpoint ({self._first_double()}); give labels="
            )
        self.init = 0 if init is MISSING else self.accept(init)

    def _stored_forms(self) -> tuple[list[Json], str | None]:
        """How each option is written, and the name of the first that has no stable name, if any."""
        if self.labels is not None:
            return [{"$label": label} for label in self.labels], None
        stored: list[Json] = []
        unstorable = None
        seen: dict[bytes, int] = {}
        for i, option in enumerate(self.options):
            form = _stored_option(option)
            if form is None:
                unstorable = unstorable or repr(option)[:80]
                form = {"$label": f"option {i}"}
            if has_parameter(option):  # nested spaces of one shape are told apart by their order among themselves
                twin = seen[orjson.dumps(form)] = seen.get(orjson.dumps(form), 0) + 1
                form = form if twin == 1 else {"$label": f"{orjson.dumps(form).decode()} #{twin}"}
            stored.append(form)
        return stored, unstorable

    def _first_double(self) -> str:
        forms = [orjson.dumps(s) for s in self._stored]
        return next(repr(o)[:80] for o, f in zip(self.options, forms, strict=True) if forms.count(f) > 1)

    def sample(self, rng: Generator) -> int:
        return int(rng.integers(self.n))

    def draw(self, u: float, rng: Generator) -> int:
        return min(int(u * self.n), self.n - 1)

    def mutate(self, value: int, rng: Generator, strength: float) -> int:
        return self.move(value, float(rng.random()), rng, strength)

    def move(self, value: int, u: float, rng: Generator, strength: float) -> int:
        if self.n == 1:
            return 0
        if self.ordinal:
            j = value + (1 if u >= 0.5 else -1)
            return j if 0 <= j < self.n else 2 * value - j
        j = min(int(u * (self.n - 1)), self.n - 2)
        return j if j < value else j + 1

    def accept(self, given: Any) -> int:
        for i, option in enumerate(self.options):
            if option is given:
                return i
        try:
            wanted = orjson.dumps(to_json(given))
        except (TypeError, ValueError):
            wanted = None
        if wanted in self._by_key:
            return self._by_key[wanted]
        if isinstance(given, str) and self.labels is not None and given in self.labels:
            return self.labels.index(given)
        for i, option in enumerate(self.options):
            if not has_parameter(option) and same(option, given):
                return i
        raise SpaceError(f"{given!r:.80} is not one of the {self.n} options {list(self.options)!r:.200}")

    def encode(self, value: int) -> Json:
        return self._stored[value]

    def decode(self, data: Json) -> int:
        i = self._by_key.get(orjson.dumps(data))
        if i is None:
            raise ValueError(f"not one of the options: {data!r:.80}")
        return i

    def show(self, value: int) -> Any:
        return self.options[value]

    def key(self, value: int) -> bytes:
        return b"%d" % value

    def describe(self) -> dict[str, Json]:
        return {"kind": "choice", "options": list(self._stored), "ordinal": self.ordinal}


class Array(Parameter):
    """A NumPy array of floats or integers, every entry on the range of one scalar."""

    def __init__(self, scalar: Scalar, shape: tuple[int, ...], init: Any) -> None:
        self.scalar, self.shape, self.size = scalar, shape, math.prod(shape)
        self.dtype = np.dtype(np.int64 if getattr(scalar, "kind", "float") == "int" else np.float64)
        self.cardinality = (
            scalar.cardinality**self.size if self.size * math.log2(scalar.cardinality + 1) < 60 else math.inf
        )
        self.init = np.full(shape, scalar.init, self.dtype) if init is MISSING else self.accept(init)
        self.init.setflags(write=False)

    def sample(self, rng: Generator) -> np.ndarray[Any, Any]:
        if isinstance(self.scalar, Normal):
            return self._rounded(rng.standard_normal(self.shape))
        return self.at(rng.random(self.shape))

    def mutate(self, value: np.ndarray[Any, Any], rng: Generator, strength: float) -> np.ndarray[Any, Any]:
        """Moves max(1, round(strength * size)) of the entries."""
        k = max(1, round(strength * self.size))
        flat = value.ravel().copy()
        where = slice(None) if k >= self.size else rng.choice(self.size, k, replace=False, shuffle=False)
        old = flat[where]
        if isinstance(self.scalar, Normal):
            flat[where] = self._rounded(old + strength * rng.standard_normal(old.shape))
        else:
            z = self.unit(old) + (rng.random(old.shape) - 0.5) * strength
            np.abs(z, out=z)
            np.subtract(2.0, z, out=z, where=z > 1.0)
            flat[where] = self._stepped(old, self.at(z))
        return flat.reshape(self.shape)

    def at(self, u: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Entry by entry what the scalar's `at` does."""
        s = self.scalar
        if isinstance(s, Float):
            x = s._a + (s._b - s._a) * u
            return np.clip(np.exp(x) if s.log else x, s.low, s.high)
        if isinstance(s, IntGrid) and s.log:
            return self._cells(self._index(np.rint(np.exp(s._a + (s._b - s._a) * u))))
        if isinstance(s, SignificantFloat):
            return self._significant(np.exp(s._a + (s._b - s._a) * u))
        assert isinstance(s, Grid)
        return self._cells(np.minimum((u * s.n).astype(np.int64), s.n - 1))

    def unit(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Entry by entry what the scalar's `unit` does."""
        s = self.scalar
        if isinstance(s, Normal):
            return 0.5 + 0.5 * np.tanh(value * 0.7978845608)  # a close stand-in for the normal's distribution function
        x = np.clip(value, s.low, s.high).astype(np.float64)
        if isinstance(s, SignificantFloat) or (isinstance(s, (Float, IntGrid)) and s.log):
            return np.asarray(np.clip((np.log(x) - s._a) / max(s._b - s._a, 1e-300), 0.0, 1.0))
        if isinstance(s, Float):
            return np.asarray((x - s._a) / max(s._b - s._a, 1e-300))
        assert isinstance(s, Grid)
        return (self._index(x) + 0.5) / s.n

    def accept(self, given: Any) -> np.ndarray[Any, Any]:
        try:
            a = np.broadcast_to(np.asarray(given, self.dtype), self.shape).copy()
        except (ValueError, TypeError, OverflowError) as e:
            raise SpaceError(
                f"cannot make an array of {self.dtype} and shape {self.shape} of {given!r:.80}: {e}"
            ) from e
        if not np.all((a >= self.scalar.low) & (a <= self.scalar.high)):
            raise SpaceError(f"an entry is outside [{self.scalar.low!r}, {self.scalar.high!r}]")
        return a

    def decode(self, data: Json) -> np.ndarray[Any, Any]:
        a = from_json(data)
        if not isinstance(a, np.ndarray) or a.shape != self.shape or a.dtype.kind not in "iuf":
            raise ValueError(f"not an array of shape {self.shape}")
        return a.astype(self.dtype, copy=False)

    def show(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return value.copy()  # an objective may write into it

    def key(self, value: np.ndarray[Any, Any]) -> bytes:
        return (value + 0 if self.dtype.kind == "i" else value + 0.0).tobytes()

    def describe(self) -> dict[str, Json]:
        return {**self.scalar.describe(), "shape": list(self.shape)}

    def _stepped(self, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        s = self.scalar
        if not isinstance(s, (IntGrid, PowerGrid, RoundedFloat)) or s.n == 1:
            return new
        i, j = self._index(old.astype(np.float64)), self._index(new.astype(np.float64))
        stuck = i == j  # a cell of its own is no move: go to a neighbour
        j = np.where(stuck, np.where(i + 1 < s.n, i + 1, i - 1), j)
        return self._cells(j)

    def _index(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        s = self.scalar
        if isinstance(s, IntGrid):
            i = np.floor(x / s.step + 0.5) - s._first
        elif isinstance(s, RoundedFloat):
            i = np.rint(x * s._scale) - s._first
        else:
            assert isinstance(s, PowerGrid)
            logs = np.log(np.array(s._powers, np.float64))
            i = np.rint(np.interp(np.log(np.maximum(x, 1.0)), logs, np.arange(s.n)))
        return np.asarray(np.clip(i, 0, s.n - 1).astype(np.int64))

    def _cells(self, i: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        s = self.scalar
        if isinstance(s, IntGrid):
            return (s._first + i) * s.step
        if isinstance(s, RoundedFloat):
            return np.round((s._first + i) / s._scale, s.precision)
        assert isinstance(s, PowerGrid)
        powers = np.array(s._powers, np.int64)[i]
        assert isinstance(powers, np.ndarray)
        return powers

    def _significant(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        s = self.scalar
        assert isinstance(s, SignificantFloat)
        scale = 10.0 ** (np.floor(np.log10(x)) - (s.precision - 1))
        return np.asarray(np.clip(np.rint(x / scale) * scale, s.cell(0), s.cell(s.n - 1)))

    def _rounded(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        precision = self.scalar.precision if isinstance(self.scalar, Normal) else None
        return x if precision is None else np.round(x, precision) + 0.0


class Custom(Parameter):
    """A parameter made of the user's own functions."""

    def __init__(self, init: Any, encode: Draw | None, decode: Draw | None) -> None:
        self.init, self._encode, self._decode = init, encode, decode

    def sample(self, rng: Generator) -> Any:
        return self.init if self.user_sample is None else self.user_sample(rng)

    def mutate(self, value: Any, rng: Generator, strength: float) -> Any:
        return self.sample(rng) if self.user_mutate is None else self.user_mutate(value, rng, strength)

    def encode(self, value: Any) -> Json:
        return to_json(value if self._encode is None else self._encode(value))

    def decode(self, data: Json) -> Any:
        plain = from_json(data)
        return plain if self._decode is None else self._decode(plain)

    def describe(self) -> dict[str, Json]:
        return {"kind": "custom"}


def has_parameter(node: Any) -> bool:
    if isinstance(node, Parameter):
        return True
    if isinstance(node, Mapping):
        return any(has_parameter(v) for v in node.values())
    return isinstance(node, (list, tuple)) and any(has_parameter(v) for v in node)


def _stored_option(option: Any) -> Json | None:
    """The option as JSON: its value, else its qualified name, else `None`. Nested parameters are place holders."""
    try:
        return to_json(_outline(option) if has_parameter(option) else option)
    except (TypeError, ValueError):
        pass
    module = getattr(option, "__module__", None)
    name = getattr(option, "__qualname__", None)
    if name is None and type(option).__mro__[-2].__name__ == "Enum":
        module, name = type(option).__module__, f"{type(option).__qualname__}.{option.name}"
    if isinstance(module, str) and isinstance(name, str) and "<" not in name:
        return {"$label": f"{module}.{name}"}
    return None


def _outline(node: Any) -> Any:
    if isinstance(node, Parameter):
        return "*"
    if isinstance(node, Mapping):
        return {str(k): _outline(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [_outline(v) for v in node]
    form = _stored_option(node)
    return (
        "?"
        if form is None
        else from_json(form)
        if not (isinstance(form, dict) and "$label" in form)
        else form["$label"]
    )


def same(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except (TypeError, ValueError):
        return False
