"""Records one by one, for who follows a log: what `asynchopper.records.decode` makes of the common ones, in a third of the time.

Whatever is out of the ordinary is left to that.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from asynchopper.space import Space
from asynchopper.space.typed import params_struct
from asynchopper.state import Asked, Told

_PLAIN: dict[str, Any] = {"tag_field": "kind", "gc": False, "forbid_unknown_fields": True}
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Note(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    move: _Count
    step: _Count | float
    parent: _Count


class _Told(msgspec.Struct, tag="told", **_PLAIN):
    id: _Count
    attempt: _Count
    state: Literal["completed"]
    value: float
    seconds: float
    elapsed: float


class News:
    """Reads records of candidates that are numbers and words within their bounds, and of evaluations that completed."""

    def __init__(self, space: Space) -> None:
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._words: list[tuple[int, dict[str, int]]] = []
        """Of each parameter that is a word in JSON, its place and the number of each word."""
        fields: list[Any] = []
        for i, (path, kind, low, high) in enumerate(space.plain or ()):
            if kind is str:
                self._words.append((i, low))
                fields.append((f"p{i}", Literal[tuple(low)], path))
            elif kind is int and not -(2**62) < low <= high < 2**62:
                return
            else:
                fields.append((f"p{i}", Annotated[kind, msgspec.Meta(ge=low, le=high)], path))
        if not fields:
            return
        try:
            params = params_struct([(name, kind) for name, kind, _ in fields], [path for _, _, path in fields])
        except TypeError:
            return
        asked = msgspec.defstruct(
            "Asked",
            [("id", _Count), ("attempt", _Count), ("params", params), ("origin", str), ("note", _Note | None, None)],
            tag="asked",
            **_PLAIN,
        )
        self._decoder = msgspec.json.Decoder(asked | _Told)

    def read(self, record: bytes) -> Asked | Told | None:
        """The fact, or `None` where `decode` is to be asked."""
        if self._decoder is None:
            return None
        try:
            found = self._decoder.decode(record)
        except msgspec.MsgspecError:
            return None
        if type(found) is _Told:
            return Told(found.id, found.attempt, found.state, found.value, (), 0.0, found.seconds, found.elapsed)
        values = msgspec.structs.astuple(found.params)
        if self._words:
            numbered = list(values)
            for i, numbers in self._words:
                numbered[i] = numbers[values[i]]
            values = tuple(numbered)
        note = found.note
        if note is None:
            return Asked(found.id, found.attempt, values, found.origin)
        return Asked(found.id, found.attempt, values, found.origin, [note.move, note.step, note.parent])
