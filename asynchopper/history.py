"""Finished trials as columns, and the view of them that users get."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np

from asynchopper.columns import Column, NoteColumns, Notes, Partial, listed
from asynchopper.space import Array, Choice, Leaf, Space
from asynchopper.space.outlines import found, outlined, overlaid
from asynchopper.trial import STATES, State, Trial, Values, same

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

T = TypeVar("T")

CODES = {state: i for i, state in enumerate(STATES)}
COMPLETED, PRUNED, NAN, FAILED = (CODES[s] for s in ("completed", "pruned", "nan", "failed"))
ORIGINS = 2**15
"""As many as a column can tell apart."""
_OWN = ("id", "state", "origin", "value", "cost", "seconds")
"""The columns of a frame that are no parameters."""
_OF_NUMPY = (np.number, np.bool_, np.str_)  # what Python has the same of


class Rows(NamedTuple):
    """Many finished trials, a column each; `columns` has one for each parameter."""

    ids: Column
    attempts: Column
    states: Column
    origins: Column
    """As `Table.origin` numbers them."""
    values: Column
    seconds: Column
    elapsed: Column
    columns: Sequence[Column | list[Any]]
    """Lists where no type holds the values."""
    notes: NoteColumns
    estimates: dict[int, tuple[float, ...]]
    """By place among these rows, as are costs and errors."""
    costs: dict[int, float]
    errors: dict[int, str]


class Table:
    """Append-only columns, one row a finished trial. What few trials have (estimates, costs, errors) is kept sparse."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.ids = array("q")
        self.attempts = array("i")
        self.states = array("b")
        self.origins = array("h")
        self.values = array("d")
        self.seconds = array("d")
        self.elapsed = array("d")
        self.columns: list[Any] = [_column(leaf) for leaf in space.leaves]
        self.estimates: dict[int, tuple[float, ...]] = {}
        self.costs: dict[int, float] = {}
        self.errors: dict[int, str] = {}
        self.notes = Notes()
        self.foreign: dict[int, Mapping[str, Any]] = {}
        self.origin_names: list[str] = []
        self._origin_code: dict[str, int] = {}
        self.rewound: list[int] = []
        """For each time that rows were taken back, the first of them; see `altered`."""
        self._taken: tuple[int, Any] | None = None
        """The end of those of the last time, and what they were, until it is known whether they have come again."""

    def __len__(self) -> int:
        return len(self.ids)

    def append(
        self,
        id: int,
        attempt: int,
        values: Values,
        origin: str,
        state: State,
        value: float,
        seconds: float,
        elapsed: float,
    ) -> int:
        """The new row's number. `value` is NaN where the trial has none."""
        row = len(self.ids)
        code = self._origin_code.get(origin)
        if code is None:
            code = self.origin(origin)
        for column, v in zip(self.columns, values, strict=True):
            try:
                column.append(v)
            except (TypeError, OverflowError):  # a branch not taken, or an integer beyond 64 bits
                self._widen(row, values)
                break
        self.ids.append(id)
        self.attempts.append(attempt)
        self.states.append(CODES[state])
        self.origins.append(code)
        self.values.append(value)
        self.seconds.append(seconds)
        self.elapsed.append(elapsed)
        return row

    def origin(self, name: str) -> int:
        """The number of an origin, as the column holds it."""
        code = self._origin_code.get(name)
        if code is None:
            code = self._origin_code[name] = len(self.origin_names)
            self.origin_names.append(name)
        return code

    def extend(self, rows: Rows) -> None:
        """Appends many rows at once. What they hold fits the columns."""
        start = len(self.ids)
        for i, new in enumerate(rows.columns):
            column = self.columns[i]
            if isinstance(new, list):
                self.columns[i] = [*column, *new]
            elif isinstance(column, list):
                column.extend(listed(new))
            else:
                column.frombytes(_bytes(new))
        self.ids.frombytes(_bytes(rows.ids))
        self.attempts.frombytes(_bytes(rows.attempts))
        self.states.frombytes(_bytes(rows.states))
        self.origins.frombytes(_bytes(rows.origins))
        self.values.frombytes(_bytes(rows.values))
        self.seconds.frombytes(_bytes(rows.seconds))
        self.elapsed.frombytes(_bytes(rows.elapsed))
        self.notes.extend(start, rows.notes)
        self.estimates |= {start + i: x for i, x in rows.estimates.items()}
        self.costs |= {start + i: x for i, x in rows.costs.items()}
        self.errors |= {start + i: x for i, x in rows.errors.items()}

    @property
    def plain(self) -> bool:
        """Whether all that it holds is in columns of numbers."""
        return not self.foreign and self.notes.common and not any(isinstance(c, list) for c in self.columns)

    def part(self, start: int, end: int) -> Rows:
        """A copy of some rows. Slices are taken as a whole, also beside another thread that appends."""
        return Rows(
            np.frombuffer(self.ids[start:end], np.int64),
            np.frombuffer(self.attempts[start:end], np.int32),
            np.frombuffer(self.states[start:end], np.int8),
            np.frombuffer(self.origins[start:end], np.int16),
            np.frombuffer(self.values[start:end]),
            np.frombuffer(self.seconds[start:end]),
            np.frombuffer(self.elapsed[start:end]),
            [_part(column, start, end) for column in self.columns],
            self.notes.part(start, end),
            _placed(self.estimates, start, end),
            _placed(self.costs, start, end),
            _placed(self.errors, start, end),
        )

    def _widen(self, row: int, values: Values) -> None:
        """Makes lists of the columns whose type cannot hold these values."""
        for i, v in enumerate(values):
            column = self.columns[i]
            if len(column) == row:
                try:
                    column.append(v)
                except (TypeError, OverflowError):
                    self.columns[i] = [*column, v]

    def altered(self, since: int) -> int:
        """The first row that may be another than when rows had been taken back so many times: what was learnt from there on
        is not so. Those that have come again just as they were are not meant."""
        if self._taken is not None:
            (end, before), self._taken = self._taken, None
            if same(before, self._known(self.rewound[-1], end)):
                self.rewound[-1] = end
        return min(self.rewound[since:], default=len(self.ids))

    def _known(self, start: int, end: int) -> Any:
        """All that is known of some rows, to be compared. Numbers as bytes, for which NaN is itself."""
        sparse = (self.notes, self.estimates, self.costs, self.errors, self.foreign)
        return (
            [column[start:end].tobytes() for column in self._numbers],
            [list(column[start:end]) for column in self.columns],
            [there.get(row) for there in sparse for row in range(start, end)],
        )

    @property
    def _numbers(self) -> tuple[array[Any], ...]:
        return self.ids, self.attempts, self.states, self.origins, self.values, self.seconds, self.elapsed

    def truncate(self, n: int) -> None:
        """Takes the rows from `n` on back."""
        self.altered(len(self.rewound))  # those of the last time are judged before these take their place
        self._taken = len(self.ids), self._known(n, len(self.ids))
        self.rewound.append(n)
        for column in (*self._numbers, *self.columns):
            del column[n:]
        self.notes.truncate(n)
        sparse: dict[int, Any]
        for sparse in (self.estimates, self.costs, self.errors, self.foreign):
            while sparse and next(reversed(sparse)) >= n:  # they are filled in the order of rows
                sparse.popitem()

    def row(self, i: int) -> Values:
        """The candidate of row `i`."""
        return tuple([c[i] for c in self.columns])

    def params(self, i: int) -> dict[Any, Any]:
        """The parameters of row `i` as they were evaluated, also those that the space has lost since."""
        foreign = self.foreign.get(i)
        built = self.space.build(self.row(i))
        return built if foreign is None else overlaid(built, foreign, self.space.paths)

    def foreign_at(self, i: int, path: str) -> Any:
        """What the present space could not take at a path, as it was evaluated; `None` where there is nothing."""
        known = self.foreign.get(i, {})
        return found(self.params(i), path) if outlined(known.get(path)) else known.get(path)

    def trial(self, i: int) -> Trial:
        state = STATES[self.states[i]]
        return Trial(
            id=self.ids[i],
            attempt=self.attempts[i],
            params=self.params(i),
            value=self.values[i] if state in ("completed", "nan") else None,
            state=state,
            origin=self.origin_names[self.origins[i]],
            estimates=self.estimates.get(i, ()),
            cost=self.costs.get(i, 0.0),
            seconds=self.seconds[i],
            error=self.errors.get(i),
        )


def _bytes(column: Column) -> memoryview:
    return np.ascontiguousarray(column).view(np.uint8).data


def _part(column: Any, start: int, end: int) -> Column | list[Any]:
    if isinstance(column, list):
        return column[start:end]
    numbers = column.numbers(start, end) if isinstance(column, Partial) else column[start:end]
    return np.frombuffer(numbers, np.dtype(numbers.typecode))


def _placed(sparse: Mapping[int, T], start: int, end: int) -> dict[int, T]:
    if len(sparse) > end - start:
        return {row - start: sparse[row] for row in range(start, end) if row in sparse}
    return {row - start: x for row, x in list(sparse.items()) if start <= row < end}


def _column(leaf: Leaf) -> Any:
    param = leaf.param
    kind = "int" if isinstance(param, Choice) else None if isinstance(param, Array) else param.describe().get("kind")
    code = {"float": "d", "int": "q"}.get(kind or "")
    return [] if code is None else array(code) if leaf.parent is None else Partial(code)


def _copied(a: Any, n: int) -> np.ndarray[Any, Any]:
    """The first `n` entries; of a slice, since an array that lends its buffer cannot grow, in whichever thread."""
    if not n:
        return np.empty(0, np.dtype(a.typecode))
    return np.frombuffer(a[:n], np.dtype(a.typecode))


class History(Sequence[Trial]):
    """The finished trials in the order they were told, by row or by column: what was durable when `search.history` was read.

    `history[i]` is a `Trial`, `history["lr"]` the column of a parameter (nested ones by path, such as `"model.depth"`).
    The columns have one entry a trial: `values` and `best_values` are NaN where there is none, `pruned` and `failed` are
    masks.
    """

    def __init__(self, table: Table, length: int, sign: float) -> None:
        self._table, self._n, self._sign = table, length, sign

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"History({self._n} trials, best {self.best_values[-1] if self._n else None})"

    @overload
    def __getitem__(self, key: int) -> Trial: ...
    @overload
    def __getitem__(self, key: slice) -> list[Trial]: ...
    @overload
    def __getitem__(self, key: str) -> np.ndarray[Any, Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return self._column(key)
        if isinstance(key, slice):
            return [self._table.trial(i) for i in range(*key.indices(self._n))]
        i = key + self._n if key < 0 else key
        if not 0 <= i < self._n:
            raise IndexError(f"trial {key} of {self._n}")
        return self._table.trial(i)

    def __iter__(self) -> Iterator[Trial]:
        for i in range(self._n):
            yield self._table.trial(i)

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """What the objective returned."""
        return _copied(self._table.values, self._n)

    @property
    def best_values(self) -> np.ndarray[Any, Any]:
        """The best value up to and including each trial; NaN before the first completed one."""
        completed = self._states() == COMPLETED
        if not self._n:
            return self.values
        signed = np.where(completed, self._sign * self.values, np.nan)
        best: np.ndarray[Any, Any] = self._sign * np.fmax.accumulate(signed)
        return best

    @property
    def seconds(self) -> np.ndarray[Any, Any]:
        """Wall time of each evaluation, in seconds."""
        return _copied(self._table.seconds, self._n)

    @property
    def pruned(self) -> np.ndarray[Any, Any]:
        """Which trials were pruned."""
        return np.asarray(self._states() == PRUNED)

    @property
    def failed(self) -> np.ndarray[Any, Any]:
        """Which trials failed."""
        return np.asarray(self._states() == FAILED)

    @property
    def states(self) -> np.ndarray[Any, Any]:
        """Each trial's state, by name."""
        return np.asarray(np.array(STATES, object)[self._states()])

    @property
    def origins(self) -> np.ndarray[Any, Any]:
        """Where each candidate came from, by name."""
        return np.asarray(np.array(self._table.origin_names, object)[_copied(self._table.origins, self._n)])

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row a trial; needs pandas."""
        import pandas as pd

        return pd.DataFrame(self._frame())

    def to_polars(self) -> polars.DataFrame:
        """A data frame with a row a trial; needs polars."""
        import polars as pl

        return pl.DataFrame(self._plain_frame(), strict=False)

    def to_arrow(self) -> pyarrow.Table:
        """A table with a row a trial; needs pyarrow."""
        import pyarrow as pa

        return pa.table(self._plain_frame())

    def _states(self) -> np.ndarray[Any, Any]:
        return _copied(self._table.states, self._n)

    def _frame(self) -> dict[str, Any]:
        t, n = self._table, self._n
        frame: dict[str, Any] = {
            "id": _copied(t.ids, n),
            "state": self.states.tolist(),
            "origin": self.origins.tolist(),
        }
        frame["value"] = self.values
        gone = [path for i, foreign in t.foreign.items() if i < n for path in foreign]
        for path in dict.fromkeys((*t.space.paths, *gone)):
            column = self._column(path)
            frame[f"params.{path}" if path in _OWN else path] = column if column.ndim == 1 else list(column)
        frame["cost"] = np.array([t.costs.get(i, 0.0) for i in range(n)])
        frame["seconds"] = self.seconds
        return frame

    def _plain_frame(self) -> dict[str, Any]:
        """For frames whose columns hold one type each."""
        return {name: _plain(c) if _is_mixed(c) else c for name, c in self._frame().items()}

    def _column(self, path: str) -> np.ndarray[Any, Any]:
        t, n = self._table, self._n
        leaves = [leaf for leaf in t.space.leaves if leaf.path == path]
        if not leaves:
            if not any(path in known for i, known in t.foreign.items() if i < n):
                raise KeyError(f"{path!r} is not a parameter; there are {', '.join(dict.fromkeys(t.space.paths))}")
            stored = [t.foreign_at(i, path) for i in range(n)]
            return _objects(stored, missing_is_nan={type(v) for v in stored} <= {float, type(None)})
        out: list[Any] | None = None
        for leaf in leaves:
            column = t.columns[leaf.index]
            if isinstance(column, array) and len(leaves) == 1 and not isinstance(leaf.param, Choice) and not t.foreign:
                return _copied(column, n)
            if isinstance(leaf.param, Choice) and leaf.param.nested:
                shown = [None if v is None else t.space.shown(leaf, t.row(i)) for i, v in enumerate(column[:n])]
            else:
                shown = [None if v is None else leaf.param.show(v) for v in column[:n]]
            out = shown if out is None else [a if b is None else b for a, b in zip(out, shown, strict=True)]
        assert out is not None
        for i, known in t.foreign.items():
            if path in known and i < n:
                out[i] = t.foreign_at(i, path)
        return _objects(out, missing_is_nan=not any(isinstance(leaf.param, Choice) for leaf in leaves))


def _is_mixed(column: Any) -> bool:
    return not isinstance(column, np.ndarray) or column.dtype == object


def _plain(column: Any) -> list[Any]:
    """Texts and numbers of one type, and arrays of one depth, as they are; a mixture, or anything else, as text."""
    values = [v.tolist() if isinstance(v, np.ndarray) else v for v in column]
    kinds = {type(v) for v in column if v is not None}
    depths = {v.ndim for v in column if isinstance(v, np.ndarray)}
    if (kinds <= {np.ndarray} and len(depths) <= 1) or (len(kinds) == 1 and kinds <= {str, bool, float}):
        return values
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return values
    return [None if v is None else str(v) for v in values]


def _objects(values: list[Any], missing_is_nan: bool = False) -> np.ndarray[Any, Any]:
    """The narrowest array that holds the values: numbers, equal-shaped arrays, else objects."""
    values = [v.item() if isinstance(v, _OF_NUMPY) and not isinstance(v, np.timedelta64) else v for v in values]
    kinds, missing = {type(v) for v in values}, {type(None)} if missing_is_nan else set()
    exact = missing_is_nan or not any(type(v) is int and abs(v) > 2**53 for v in values)
    if kinds - missing and kinds - missing <= {float, int} and kinds != {int} and exact:
        return np.array([np.nan if v is None else v for v in values], np.float64)
    if kinds == {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    elif kinds == {bool}:
        return np.array(values, np.bool_)
    elif kinds == {np.ndarray} and len({v.shape for v in values}) == 1:
        return np.stack(values)
    out = np.empty(len(values), object)
    for i, v in enumerate(values):
        out[i] = v
    return out
