"""Stored candidates in bulk: the types that the parameters have in JSON, and columns of what was read as these types.

It takes what every `decode` would take as it is. Whatever else there may be in a record, a value out of its range, a
parameter that is missing, is left to the tree, candidate by candidate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import orjson

from asynchopper.columns import HOLES, Column
from asynchopper.space.arrays import Array
from asynchopper.space.kinds import Choice
from asynchopper.space.nodes import Leaf
from asynchopper.space.scalars import (
    MISSING,
    Float,
    IntGrid,
    Normal,
    Parameter,
    PowerGrid,
    RoundedFloat,
    SignificantFloat,
)
from asynchopper.space.tree import Space
from asynchopper.trial import Values

_WIDEST = 2**62  # integers beyond it are read one by one


def params_struct(fields: Sequence[Any], paths: Iterable[str]) -> Any:
    """What the `params` of a record are read as, a field for each path. Raises `TypeError` for a name that it cannot have."""
    named = {field[0]: path for field, path in zip(fields, paths, strict=True)}
    try:
        return msgspec.defstruct("Params", fields, kw_only=True, gc=False, forbid_unknown_fields=True, rename=named)
    except ValueError as e:  # it takes no quotation mark in a name
        raise TypeError(str(e)) from None


class Typed:
    """How the candidates of a space are read in bulk."""

    def __init__(self, space: Space) -> None:
        """Raises `TypeError` for a space that has parameters which are more than one number or option, or odd names."""
        by_path: dict[str, list[Leaf]] = {}
        for leaf in space.leaves:
            by_path.setdefault(leaf.path, []).append(leaf)
        self._leaves = space.leaves
        self._paths = [_path(leaves) for leaves in by_path.values()]
        self._place = {path: i for i, path in enumerate(by_path)}
        self._checks = [self._paths[self._place[leaf.path]].check(leaf.param) for leaf in space.leaves]
        fields: list[Any] = []
        for i, path in enumerate(self._paths):
            kind = path.json
            fields.append((f"p{i}", kind | msgspec.UnsetType, msgspec.UNSET) if path.partial else (f"p{i}", kind))
        self.struct = params_struct(fields, by_path)
        """What the `params` of a record are read as."""

    @property
    def codes(self) -> list[str]:
        """The type of the numbers that `read` makes of each path."""
        return [path.code for path in self._paths]

    def read(self, params: Sequence[Any], into: Sequence[array[Any]]) -> None:
        """Appends what was read to an array a path. Raises what a conversion raises, for the other reader."""
        for path, numbers, values in zip(self._paths, into, zip(*map(msgspec.structs.astuple, params)), strict=True):  # noqa: B905 - a tuple each
            numbers.extend(path.numbers(values))

    def stored(self, columns: Sequence[Any]) -> Iterator[tuple[str, list[Any] | None, Column]]:
        """What stands at each path: its options where it has some, and a column of numbers, or of places among the options;
        there are holes, or -1, where nothing is. Takes a column a parameter."""
        by_path: dict[str, list[Leaf]] = {}
        for leaf in self._leaves:
            by_path.setdefault(leaf.path, []).append(leaf)
        for (name, leaves), path in zip(by_path.items(), self._paths, strict=True):
            hole = HOLES[path.code]
            if not isinstance(path, _Options):
                column = columns[leaves[0].index]
                for leaf in leaves[1:]:
                    more = columns[leaf.index]
                    column = np.where(_holes(column), more, column)
                yield name, None, column
                continue
            column = np.full(len(columns[0]), -1, np.int64)
            for leaf in leaves:
                own = columns[leaf.index]
                there = own != hole
                column[there] = path.places(leaf.param)[own[there]]
            yield name, path.options, column

    def taken(self, stored: Mapping[str, tuple[list[Any] | None, Column]], n: int) -> list[Column] | None:
        """A column a parameter of what `stored` has said, as `columns` does; `None` for what another space has said."""
        if len(stored) > len(self._paths):
            return None
        read: list[Column] = []
        for name, path in zip(self._place, self._paths, strict=True):
            column = path.taken(*stored[name]) if name in stored else path.nothing(n)
            if column is None:
                return None
            read.append(column)
        if not stored.keys() <= self._place.keys():
            return None
        return self.columns(read)

    def columns(self, read: Sequence[Any]) -> list[Column] | None:
        """A column a parameter, with holes where its branch was not taken. `None` when a candidate is not of this space."""
        stored = [np.frombuffer(numbers, path.dtype) for numbers, path in zip(read, self._paths, strict=True)]
        rest = {i: ~_holes(stored[i]) for i, path in enumerate(self._paths) if path.partial}
        columns: list[Column] = []
        for leaf, check in zip(self._leaves, self._checks, strict=True):
            i = self._place[leaf.path]
            active: Any = slice(None) if leaf.parent is None else columns[leaf.parent[0]] == leaf.parent[1]
            there = check(stored[i][active])
            if there is None:
                return None
            if leaf.parent is None:
                columns.append(there)
                continue
            if not rest[i][active].all():
                return None
            rest[i] &= ~active
            column = np.full(len(stored[i]), HOLES[self._paths[i].code], self._paths[i].dtype)
            column[active] = there
            columns.append(column)
        return None if any(left.any() for left in rest.values()) else columns

    def columns_of(self, candidates: Sequence[Values]) -> list[Column] | None:
        """The same, of candidates as the space holds them."""
        by_leaf = zip(*candidates, strict=True) if candidates else [()] * len(self._leaves)
        columns = []
        try:
            for leaf, values in zip(self._leaves, by_leaf, strict=True):
                code = self._paths[self._place[leaf.path]].code
                hole = HOLES[code]
                columns.append(np.frombuffer(array(code, [hole if v is None else v for v in values]), _DTYPES[code]))
        except (TypeError, OverflowError):
            return None
        return columns


Check: TypeAlias = Callable[[Column], Column | None]
_DTYPES: dict[str, Any] = {"d": np.float64, "q": np.int64}


def _holes(column: Column) -> Column:
    return np.isnan(column) if column.dtype.char == "d" else column == HOLES["q"]


class _Path(ABC):
    """What stands at one path: a parameter, or parameters of one kind that exclude each other."""

    json: Any
    code: str

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.partial = leaves[0].parent is not None
        self.dtype = _DTYPES[self.code]

    def numbers(self, values: Sequence[Any]) -> array[Any]:
        """Raises for what is not to be read in bulk."""
        if self.partial:
            hole = HOLES[self.code]
            values = [hole if v is msgspec.UNSET else v for v in values]
        return array(self.code, values)

    @abstractmethod
    def check(self, param: Any) -> Check:
        """What makes a parameter's own column, or `None` where a value does not belong."""

    def taken(self, options: Sequence[Any] | None, column: Column) -> Column | None:
        """The numbers of what was stored as `Typed.stored` says; `None` where it does not belong."""
        if options is not None or column.dtype != self.dtype or (not self.partial and _holes(column).any()):
            return None
        return column

    def nothing(self, n: int) -> Column | None:
        return np.full(n, HOLES[self.code], self.dtype) if self.partial else None


class _Floats(_Path):
    json, code = float, "d"

    def check(self, param: Any) -> Check:
        low, high = float(param.low), float(param.high)
        plain = isinstance(param, Float) or (isinstance(param, Normal) and param.precision is None)
        cells = None if plain else Array(param, (1,), MISSING)

        def checked(column: Column) -> Column | None:
            if not ((column >= low) & (column <= high)).all() or np.signbit(column[column == 0.0]).any():
                return None  # decoding may or may not keep the sign of a zero
            return column if cells is None or cells.clip(column) is column else None

        return checked


class _Ints(_Path):
    json, code = Annotated[int, msgspec.Meta(ge=-_WIDEST, le=_WIDEST)], "q"

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        super().__init__(leaves)
        for leaf in leaves:
            param = leaf.param
            assert isinstance(param, (IntGrid, PowerGrid))
            if not -_WIDEST < param.low <= param.high < _WIDEST:
                raise TypeError("integers beyond 63 bits")

    def check(self, param: Any) -> Check:
        low, high, step = param.low, param.high, getattr(param, "step", 1)
        powers = np.array(param._powers, np.int64) if isinstance(param, PowerGrid) else None

        def checked(column: Column) -> Column | None:
            if not ((column >= low) & (column <= high)).all() or (step != 1 and (column % step).any()):
                return None
            return column if powers is None or np.isin(column, powers).all() else None

        return checked


class _Options(_Path):
    """Options by the number that they have at this path."""

    code = "q"

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        super().__init__(leaves)
        forms: list[Any] = []
        for leaf in leaves:
            assert isinstance(leaf.param, Choice)
            forms += map(leaf.param.encode, range(leaf.param.n))
        self.words = all(type(form) is str for form in forms)
        names = [form if self.words else orjson.dumps(form) for form in forms]
        self.json = Literal[tuple(dict.fromkeys(names))] if self.words else msgspec.Raw
        self.number: dict[Any, int] = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.options = [name if self.words else orjson.loads(name) for name in self.number]

    def numbers(self, values: Sequence[Any]) -> array[Any]:
        number = self.number
        if not self.words:
            hole, unset = HOLES["q"], msgspec.UNSET
            return array("q", [hole if v is unset else number[bytes(v)] for v in values])
        if self.partial:
            number = number | {msgspec.UNSET: int(HOLES["q"])}
        return array("q", [number[v] for v in values])

    def places(self, param: Any) -> Column:
        """The number at this path of each option of a parameter."""
        forms = [param.encode(i) for i in range(param.n)]
        return np.array([self.number[form if self.words else orjson.dumps(form)] for form in forms], np.int64)

    def taken(self, options: Sequence[Any] | None, column: Column) -> Column | None:
        if options is None:
            return None
        try:
            known = [self.number.get(form if self.words else orjson.dumps(form)) for form in options]
        except TypeError:  # no word, or beyond JSON
            return None
        used = np.unique(column)
        if ((used < 0).any() and not self.partial) or any(known[i] is None for i in used[used >= 0].tolist()):
            return None
        numbers = np.array([*[-1 if i is None else i for i in known], HOLES["q"]], np.int64)  # -1 is the last
        return numbers[column]

    def check(self, param: Any) -> Check:
        place = np.full(len(self.number), -1, np.int64)
        for i in range(param.n):
            form = param.encode(i)
            place[self.number[form if self.words else orjson.dumps(form)]] = i
        if (place == np.arange(len(place))).all():
            return lambda column: column

        def checked(column: Column) -> Column | None:
            if (column < 0).any():  # a hole
                return None
            options = place[column]
            return options if (options >= 0).all() else None

        return checked


_KINDS: dict[type[Parameter], type[_Path]] = {
    Float: _Floats,
    Normal: _Floats,
    RoundedFloat: _Floats,
    SignificantFloat: _Floats,
    IntGrid: _Ints,
    PowerGrid: _Ints,
    Choice: _Options,
}


def _path(leaves: Sequence[Leaf]) -> _Path:
    kinds = {_KINDS.get(type(leaf.param)) for leaf in leaves}
    kind = kinds.pop()
    if kind is None or kinds:
        raise TypeError("parameters that are not read in bulk")
    return kind(leaves)
