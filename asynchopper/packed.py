"""Finished trials as columns in one record: a quarter of the bytes, and of the time a small part, of two records a trial.

A column is an array (see `asynchopper.values`) with an entry a trial; what few trials have is by place. Where a parameter was
not there, its column has the hole of its type, or the option -1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from asynchopper.columns import Column, NoteColumns, listed
from asynchopper.history import CODES, COMPLETED, ORIGINS, Rows, Table
from asynchopper.space import Generator, Space
from asynchopper.trial import STATES
from asynchopper.values import COUNT_LIMIT, Json, as_text, from_json, spell, to_json, unspell

ROWS = 4096
"""Trials in a record, at most, of those that are written."""
_MOST_ROWS = 2**16
_MOST_VALUES = 2**22  # in a record, as in any other
_WIDTHS = (np.int8, np.int16, np.int32)


def rows_each(space: Space) -> int:
    """How many trials of a space a record has."""
    return max(1, min(ROWS, _MOST_VALUES // (4 * (space.n + 12))))


def can_pack(table: Table) -> bool:
    """Whether all that a table holds has a form in columns."""
    return table.plain and _typed(table.space) is not None


def pack(table: Table, start: int, end: int) -> dict[str, Json]:
    """The members of a record with some rows of a table for which `can_pack` says yes."""
    rows, typed = table.part(start, end), _typed(table.space)
    assert typed is not None
    body: dict[str, Json] = {
        "id": _written(rows.ids),
        "attempt": _written(rows.attempts),
        "state": {"options": list(STATES), "of": _written(rows.states)},
        "origin": {"options": table.origin_names, "of": _written(rows.origins)},
        "params": {
            path: _written(column) if options is None else {"options": options, "of": _written(column)}
            for path, options, column in typed.stored(rows.columns)
        },
        "value": _written(rows.values),
        "seconds": _written(rows.seconds),
        "elapsed": _written(rows.elapsed),
    }
    if (rows.notes.moves >= 0).any():
        body["note"] = [_written(column) for column in rows.notes]
    if rows.estimates:
        counts = np.zeros(end - start, np.int32)
        for place, estimates in rows.estimates.items():
            counts[place] = len(estimates)
        flat = np.fromiter((x for place in sorted(rows.estimates) for x in rows.estimates[place]), np.float64)
        body["estimates"] = {"count": _written(counts), "of": _written(flat)}
    if rows.costs:
        body["cost"] = {str(place): spell(cost) for place, cost in rows.costs.items()}
    if rows.errors:
        body["error"] = {str(place): error for place, error in rows.errors.items()}
    return body


def unpack(body: Mapping[str, Json], space: Space, rng: Callable[[], Generator]) -> Table:
    """The inverse, for any space. Raises `ValueError`, or what goes wrong with what no version writes."""
    ids = _counts(body["id"], None)
    n, params = len(ids), body["params"]
    if not 0 < n <= _MOST_ROWS or not isinstance(params, dict) or n * (len(params) + 1) > _MOST_VALUES:
        raise ValueError(f"{n} trials in a record")
    states, names = _options(body["state"], n)
    codes = np.array([CODES[name] for name in names], np.int8)[states]
    if (codes == CODES["interrupted"]).any():
        raise ValueError("a trial that has not ended")
    origins, known = _options(body["origin"], n)
    table = Table(space)
    if [table.origin(as_text(name)) for name in known] != list(range(min(len(known), ORIGINS))):
        raise ValueError("origins that are not different names")
    values, completed = _floats(body["value"], n), codes == COMPLETED
    if np.isnan(values[completed]).any():
        raise ValueError("a trial that completed without a value")
    values[~completed] = math.nan
    rows = Rows(
        ids,
        _counts(body["attempt"], n).astype(np.int32),
        codes,
        origins.astype(np.int16),
        values,
        _floats(body["seconds"], n),
        _floats(body["elapsed"], n),
        [],
        _notes(body.get("note"), n),
        _estimates(body["estimates"], n) if "estimates" in body else {},
        {place: cost for place, x in _by_place(body.get("cost", {}), n) if (cost := unspell(x))},
        {place: as_text(x) for place, x in _by_place(body.get("error", {}), n)},
    )
    stored: dict[str, tuple[list[Json] | None, Column]] = {}
    for path, column in params.items():
        if isinstance(column, dict) and "options" in column:
            of, options = _options(column, n, least=-1)
            stored[path] = options, of
        else:
            stored[path] = None, _numbers(column, n)
    typed = _typed(space)
    columns = None if typed is None else typed.taken(stored, n)
    if columns is None:
        _one_by_one(table, rows, stored, rng)
    else:
        table.extend(rows._replace(columns=columns))
    return table


@functools.lru_cache(16)  # what it is made of is compiled
def _typed(space: Space) -> Any:
    from asynchopper.space.typed import Typed  # takes msgspec, which not every search needs

    try:
        return Typed(space)
    except TypeError:
        return None


def _one_by_one(table: Table, rows: Rows, stored: dict[str, Any], rng: Callable[[], Generator]) -> None:
    """Appends the rows as any space decodes them."""
    columns = {path: _listed(options, column) for path, (options, column) in stored.items()}
    for i, id in enumerate(rows.ids.tolist()):
        flat = {path: column[i] for path, column in columns.items() if column[i] is not _ABSENT}
        values, foreign = table.space.decode(flat, rng)
        table.append(
            id,
            int(rows.attempts[i]),
            values,
            table.origin_names[rows.origins[i]],
            STATES[rows.states[i]],
            float(rows.values[i]),
            float(rows.seconds[i]),
            float(rows.elapsed[i]),
        )
        if foreign:
            table.foreign[i] = foreign
    table.notes.extend(0, rows.notes)
    table.estimates, table.costs, table.errors = rows.estimates, rows.costs, rows.errors


_ABSENT = object()


def _listed(options: list[Json] | None, column: Column) -> list[Any]:
    """What a record of its own would say of each trial."""
    if options is not None:
        return [_ABSENT if at < 0 else options[at] for at in column.tolist()]
    return [_ABSENT if x is None else x for x in listed(column)]


# -- single columns


def _written(column: Column) -> Json:
    """Integers in as few bytes as hold them all."""
    if column.dtype.kind == "i" and len(column):
        least, most = int(column.min()), int(column.max())
        for width in _WIDTHS:
            if np.iinfo(width).min <= least and most <= np.iinfo(width).max:
                return to_json(column.astype(width))
    return to_json(column)


def _numbers(data: Json, n: int | None) -> Column:
    column = from_json(data)
    if not isinstance(column, np.ndarray) or column.ndim != 1 or len(column) != (len(column) if n is None else n):
        raise ValueError("a column of another length")
    if column.dtype.kind == "i":
        return column.astype(np.int64)
    if column.dtype != np.float64:
        raise ValueError(f"a column of {column.dtype}")
    return column


def _floats(data: Json, n: int | None) -> Column:
    column = _numbers(data, n)
    if column.dtype != np.float64:
        raise ValueError("integers where there should be floats")
    return column


def _integers(data: Json, n: int | None, least: int, limit: int) -> Column:
    column = _numbers(data, n)
    if column.dtype != np.int64 or (len(column) and not least <= column.min() <= column.max() < limit):
        raise ValueError(f"a column that is not of integers from {least} to {limit - 1}")
    return column


def _counts(data: Json, n: int | None) -> Column:
    return _integers(data, n, 0, COUNT_LIMIT)


def _options(data: Json, n: int, least: int = 0) -> tuple[Column, list[Json]]:
    options = data["options"]
    if not isinstance(options, list):
        raise ValueError("options that are no list")
    return _integers(data["of"], n, least, len(options)), options


def _notes(data: Json, n: int) -> NoteColumns:
    if data is None:
        return NoteColumns.nothing(n)
    moves, steps, parents = data
    notes = NoteColumns(
        _integers(moves, n, -1, 2**7).astype(np.int8), _floats(steps, n), _counts(parents, n).astype(np.int32)
    )
    if np.isnan(notes.steps).any():
        raise ValueError("a step that is no number")
    return notes


def _estimates(data: Json, n: int) -> dict[int, tuple[float, ...]]:
    counts, of = _counts(data["count"], n), _floats(data["of"], None).tolist()
    ends = np.cumsum(counts).tolist()
    if ends[-1] != len(of):
        raise ValueError("estimates of no trial")
    return {i: tuple(of[a:b]) for i, (a, b) in enumerate(pairwise([0, *ends])) if a < b}


def _by_place(data: Json, n: int) -> Iterator[tuple[int, Json]]:
    if not isinstance(data, dict):
        raise ValueError("something that is not by place")
    for place, value in data.items():
        if len(place) > len(str(n)) or not place.isdecimal() or int(place) >= n:
            raise ValueError(f"something of trial {place:.20} among {n}")
        yield int(place), value
