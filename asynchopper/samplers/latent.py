"""Coordinates for a space: numbers lie in [0, 1], one each; options have none and are moved by name.

A number that is drawn on a logarithmic scale is equally spaced on it; integers and ordinal options sit at the centres of
equal cells; a number without bounds lies at 1/2 + x/6, and may leave [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from asynchopper.space import MISSING, Array, Choice, Generator, Scalar, Space
from asynchopper.space.numbers import reflect
from asynchopper.space.scalars import Grid, IntGrid, Normal, SignificantFloat
from asynchopper.trial import Values

Vector = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["Coordinate", "Flags", "Latent", "Vector", "mirror", "option", "reflect"]

_NARROW = 48  # coordinates; up to here a list of floats is faster than an array
_FINEST = 2**62  # above, no array holds the integers, and their cells are nothing beside the range
_FARTHEST = 1e50  # where there are no bounds: the sixth power of a distance is a float still


class Latent:
    """The coordinates of a space, and the way there and back."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.scalars: list[int] = []
        """Leaves with one coordinate each, in the order of the coordinates."""
        self.arrays: list[tuple[int, int, int]] = []
        """Leaves with many: (leaf, first coordinate, one past the last). They follow the scalars."""
        self.options: list[int] = []
        """Leaves that are moved by name: options without an order, or with parameters of their own, and what has moves of its
        own."""
        self.still: set[int] = set()
        """Leaves that have one value, and neither a coordinate nor a name to move by."""
        owned, owners = False, {leaf.parent[0] for leaf in space.leaves if leaf.parent is not None}
        for leaf in space.leaves:
            param = leaf.param
            own = param.user_sample is not None or param.user_mutate is not None
            owned = owned or own
            if isinstance(param, Array) and not own:
                self.arrays.append((leaf.index, 0, 0))
            elif not own and (
                isinstance(param, Scalar) or (isinstance(param, Choice) and param.ordinal and leaf.index not in owners)
            ):
                self.scalars.append(leaf.index)
            elif param.cardinality > 1:
                self.options.append(leaf.index)
            else:
                self.still.add(leaf.index)
        d = len(self.scalars)
        for k, (i, _, _) in enumerate(self.arrays):
            size = space.leaves[i].param.size
            self.arrays[k] = (i, d, d + size)
            d += size
        self.d = d
        self.n = d + len(self.options)
        """How many things can move."""
        self.usual = self._usual()
        """How many of them a candidate has, where its options are drawn."""
        self.narrow = not self.arrays and d <= _NARROW
        self.simple = self.narrow and space.packed and not owned
        """Whether candidates are columns of numbers and options, all of which the moves here can move."""
        self.plain = all(isinstance(leaf.param, (Scalar, Choice)) for leaf in space.leaves)
        """Whether candidates can be compared with `==`."""
        params = [space.leaves[i].param for i in self.scalars]
        self.at: list[Callable[[float], Any]] = [_at(p) for p in params]
        self.unit: list[Callable[[Any], float]] = [_unit(p) for p in params]
        self.cells: list[float] = [_cell(p) for p in params]
        """The width of a coordinate's cell; 0 where it is continuous."""
        free = [isinstance(p, Normal) for p in params]
        self.free: list[bool] = free if any(free) else []
        """Which coordinates have no bounds; empty where all have some."""
        fixed = not self.arrays and all(leaf.param.init is not MISSING for leaf in space.leaves)
        self.guess: list[float] = [u(p.init) for u, p in zip(self.unit, params, strict=True)] if fixed else []
        """The coordinates of the first guess, where it is the same each time, also of what that guess does not have."""
        self.widths = self._widths()
        self._uneven = self._found_uneven()
        self._even = self.widths.copy()
        """The widths of cells, where they are all the same."""
        for columns, _ in self._uneven:
            self._even[columns] = 0.0
        self.bounded = self._bounds()
        """Which coordinates have bounds; `None` where all have."""

    def _usual(self) -> float:
        leaves, odds = self.space.leaves, list[float]()
        for leaf in leaves:  # owners come before what they own
            owner = leaf.parent[0] if leaf.parent is not None else None
            odds.append(1.0 if owner is None else odds[owner] / leaves[owner].param.cardinality)
        movable = [(i, 1) for i in (*self.scalars, *self.options)] + [(i, end - at) for i, at, end in self.arrays]
        return sum(odds[i] * numbers for i, numbers in movable)

    def columns(self, leaf: int) -> range:
        """The coordinates of a leaf; none for an option."""
        if leaf in self.scalars:
            k = self.scalars.index(leaf)
            return range(k, k + 1)
        return next((range(start, end) for i, start, end in self.arrays if i == leaf), range(0))

    def owner(self, column: int) -> int:
        """The leaf of a coordinate."""
        if column < len(self.scalars):
            return self.scalars[column]
        return next(i for i, start, end in self.arrays if start <= column < end)

    def encode(self, values: Values) -> list[float]:
        """The coordinates of a candidate of a narrow space; 1/2 for a parameter that does not exist in it."""
        return [0.5 if (v := values[i]) is None else unit(v) for i, unit in zip(self.scalars, self.unit, strict=True)]

    def vector(self, values: Values) -> Vector:
        """The same for any space."""
        if not self.arrays:
            return np.array(self.encode(values), np.float64)
        z = np.full(self.d, 0.5)
        z[: len(self.scalars)] = self.encode(values)
        for i, start, end in self.arrays:
            if values[i] is not None:
                z[start:end] = array_unit(self.space.leaves[i].param, values[i]).ravel()
        return z

    def fill(
        self,
        values: list[Any],
        z: Vector,
        moved: np.ndarray[Any, np.dtype[np.bool_]] | None,
        new: frozenset[int] = frozenset(),
    ) -> None:
        """Writes the coordinates `z` (all, or those that `moved`) into the leaves that the candidate has or that are `new`."""
        few = z[: len(self.scalars)].tolist()
        for k, i in enumerate(self.scalars):
            if i in new or (values[i] is not None and (moved is None or moved[k])):
                values[i] = self.at[k](few[k])
        for i, start, end in self.arrays:
            old, param = values[i], self.space.leaves[i].param
            assert isinstance(param, Array)
            if i in new:
                values[i] = array_at(param, z[start:end]).reshape(param.shape)
            elif old is not None and (moved is None or moved[start:end].any()):
                fresh = array_at(param, z[start:end]).reshape(param.shape)
                values[i] = fresh if moved is None else np.where(moved[start:end].reshape(param.shape), fresh, old)

    def reflect(self, z: Vector) -> Vector:
        """`z` mirrored at 0 and 1, in place, where there are bounds."""
        if self.bounded is None:
            return mirror(z)
        if self.bounded.any():
            z[..., self.bounded] = mirror(z[..., self.bounded])
        return z

    def snap(self, z: Vector) -> Vector:
        """Coordinates of cells where the values in these cells lie, in place."""
        cells = self._even > 0.0
        if cells.any():
            w = self._even[cells]
            z[..., cells] = (np.floor(np.minimum(z[..., cells], 1 - 1e-12) / w) + 0.5) * w
        for columns, coordinate in self._uneven:
            z[..., columns] = coordinate.unit(coordinate.at(z[..., columns]))
        return z

    def _found_uneven(self) -> list[tuple[slice, Coordinate]]:
        """Coordinates whose cells are not equally wide, as those of integers on a logarithmic scale."""
        leaves = self.space.leaves
        places = [(i, k, k + 1) for k, i in enumerate(self.scalars)] + self.arrays
        found = []
        for i, start, end in places:
            param: Any = leaves[i].param
            scalar = param.scalar if isinstance(param, Array) else param
            if isinstance(scalar, SignificantFloat) or (
                isinstance(scalar, IntGrid) and scalar.log and scalar.high < _FINEST
            ):
                found.append((slice(start, end), Coordinate(scalar)))
        return found

    def _widths(self) -> Vector:
        widths = np.zeros(self.d)
        widths[: len(self.scalars)] = self.cells
        for i, start, end in self.arrays:
            param = self.space.leaves[i].param
            assert isinstance(param, Array)
            widths[start:end] = _cell(param.scalar)
        return widths

    def _bounds(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        bounded = np.ones(self.d, np.bool_)
        if self.free:
            bounded[: len(self.scalars)] = np.logical_not(self.free)
        for i, start, end in self.arrays:
            param = self.space.leaves[i].param
            assert isinstance(param, Array)
            if isinstance(param.scalar, Normal):
                bounded[start:end] = False
        return None if bounded.all() else bounded


class Coordinate:
    """Many values of a number, or of an ordinal choice, at a time."""

    def __init__(self, param: Any) -> None:
        self.n, self.array = 0, None if isinstance(param, Choice) else Array(param, (1,), param.init)
        if isinstance(param, Choice):
            self.n = param.n

    def at(self, z: Vector) -> np.ndarray[Any, Any]:
        """The values at coordinates from 0 to 1."""
        return option(z, self.n) if self.array is None else array_at(self.array, z)

    def unit(self, values: np.ndarray[Any, Any]) -> Vector:
        """The coordinates of values."""
        return (values + 0.5) / self.n if self.array is None else array_unit(self.array, values)

    def draw(self, size: int, rng: Generator) -> np.ndarray[Any, Any]:
        """Values from anywhere."""
        if self.array is not None and isinstance(self.array.scalar, Normal):
            return self.at(rng.standard_normal(size) / 6.0 + 0.5)
        return self.at(rng.random(size))


def mirror(z: Vector) -> Vector:
    """Reflection at 0 and 1, in place: a triangle wave of period 2."""
    np.abs(z, out=z)
    if z.size and z.max() >= 1.0:
        np.mod(z, 2.0, out=z)
        np.subtract(2.0, z, out=z, where=z > 1.0)
        np.minimum(z, 1.0 - 2**-53, out=z)
    return z


def array_at(param: Any, z: Vector) -> np.ndarray[Any, Any]:
    s = param.scalar
    if isinstance(s, Normal):
        return np.asarray(param._rounded(np.clip((z - 0.5) * 6.0, -_FARTHEST, _FARTHEST)))
    return np.asarray(param.at(z))


def array_unit(param: Any, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if isinstance(param.scalar, Normal):
        return np.asarray(np.clip(value, -_FARTHEST, _FARTHEST) / 6.0 + 0.5)
    return np.asarray(param.unit(value))


def _at(param: Any) -> Callable[[float], Any]:
    if isinstance(param, Choice):
        n = param.n
        return lambda z: min(int(z * n), n - 1)
    if isinstance(param, Normal):
        return lambda z: param._round(min(max((z - 0.5) * 6.0, -_FARTHEST), _FARTHEST))
    at: Callable[[float], Any] = param.at
    return at


def _unit(param: Any) -> Callable[[Any], float]:
    if isinstance(param, Choice):
        n = param.n
        return lambda v: (v + 0.5) / n
    if isinstance(param, Normal):
        return lambda v: min(max(v, -_FARTHEST), _FARTHEST) / 6.0 + 0.5
    unit: Callable[[Any], float] = param.unit
    return unit


def _cell(param: Any) -> float:
    if isinstance(param, (Grid, Choice)):
        return 1.0 / param.n
    return 0.0


def option(u: Vector, n: int) -> np.ndarray[Any, Any]:
    """One of `n` for each number from 0 to 1."""
    return np.minimum((u * n).astype(np.int64), n - 1)
