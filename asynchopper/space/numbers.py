"""Numbers from outside, and one fold."""

from __future__ import annotations

import math
import operator
from typing import Any

from asynchopper.errors import SpaceError
from asynchopper.values import Json


def reflect(z: float) -> float:
    """`z` mirrored at 0 and 1 until it lies between them."""
    if 0.0 <= z < 1.0:
        return z
    z = math.fmod(abs(z), 2.0)
    return min(2.0 - z, 1.0 - 2**-53) if z >= 1.0 else z


def as_float(given: Any) -> float:
    if isinstance(given, (str, bytes, bool)) or not (hasattr(given, "__float__") or hasattr(given, "__index__")):
        raise SpaceError(f"{given!r:.80} is not a number")
    try:
        return float(given)
    except (TypeError, ValueError, OverflowError) as e:
        raise SpaceError(f"{given!r:.80} is not a number: {e}") from None


def as_int(given: Any) -> int:
    try:
        return operator.index(given) if not isinstance(given, bool) else int(as_float(given))
    except TypeError:
        x = as_float(given)
        if not x.is_integer():
            raise SpaceError(f"{given!r:.80} is not an integer") from None
        return int(x)


def number_from_json(data: Json) -> float:
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise ValueError(f"not a number: {data!r:.80}")
    return float(data) + 0.0
