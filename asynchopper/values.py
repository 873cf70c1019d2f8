"""Python values to JSON values and back, exactly.

What JSON has no word for is an object with one key that starts with `$`: `{"$float": "NaN"}`, `{"$int": "…"}` beyond
64 bits, `{"$array": [dtype, shape, data]}`, `{"$bytes": base64}`, and `{"$dict": [[key, value], …]}` for a dict
whose own keys start with `$`. Tuples become lists. Nothing here imports, evaluates or unpickles.
"""

from __future__ import annotations

import base64
import enum
import math
import operator
import re
from typing import Any, TypeAlias

import numpy as np

from asynchopper.errors import UsageError

Json: TypeAlias = Any
"""What orjson reads and writes: None, bool, int, float, str, list, dict with string keys."""

MAX_DEPTH = 64
COUNT_LIMIT = 2**31
"""Of trials, attempts and steps; what a hostile file says beyond it fits no column."""
_INLINE_ENTRIES = 16  # arrays up to this size are spelled out, for people; larger ones are base64 of their bytes
_DTYPE = re.compile(r"[<|][fiub][0-9]{1,2}")
_SPELLED: dict[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def spell(x: float) -> float | str:
    """A number as itself, or `"NaN"`, `"Infinity"`, `"-Infinity"`, which JSON numbers cannot say."""
    if math.isfinite(x):
        return x
    if math.isnan(x):
        return "NaN"
    return "Infinity" if x > 0 else "-Infinity"


def as_text(x: Json) -> str:
    """Raises `ValueError` for anything else."""
    if not isinstance(x, str):
        raise ValueError(f"a text is expected, got {x!r:.40}")
    return x


def unspell(x: object) -> float:
    """The inverse of `spell`; raises `ValueError` for anything else."""
    if isinstance(x, str) and x in _SPELLED:
        return _SPELLED[x]
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return float(x)
    raise ValueError(f"not a number: {x!r:.80}")


def to_json(value: object, depth: int = 0) -> Json:
    """Raises `TypeError` when JSON cannot hold the value, `ValueError` when it is nested too deeply."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return int(value) if -(2**63) <= value < 2**63 else {"$int": str(int(value))}
    if isinstance(value, float) and not isinstance(value, enum.Enum):
        return float(value) if math.isfinite(value) else {"$float": spell(value)}
    if depth > MAX_DEPTH:
        raise ValueError("nested more than 64 levels deep")
    if isinstance(value, (list, tuple)):
        return [to_json(v, depth + 1) for v in value]
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("a dict whose keys are not all strings")
        if any(k.startswith("$") for k in value):
            return {"$dict": [[k, to_json(v, depth + 1)] for k, v in value.items()]}
        return {k: to_json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _array_to_json(value)
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


def from_json(value: Json, depth: int = 0) -> Any:
    """The inverse of `to_json`; raises `ValueError` for what `to_json` never writes."""
    if depth > MAX_DEPTH:
        raise ValueError("nested more than 64 levels deep")
    if isinstance(value, list):
        return [from_json(v, depth + 1) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        if tag.startswith("$"):
            return _from_tag(tag, inner, depth)
    return {k: from_json(v, depth + 1) for k, v in value.items()}


def _from_tag(tag: str, inner: Json, depth: int) -> Any:
    if tag == "$float":
        return unspell(inner)
    if tag == "$int" and isinstance(inner, str) and len(inner) <= 4300 and inner.removeprefix("-").isdecimal():
        return int(inner)
    if tag == "$array" and isinstance(inner, list) and len(inner) == 3:
        return _array_from_json(*inner)
    if tag == "$bytes" and isinstance(inner, str):
        return base64.b64decode(inner, validate=True)
    if tag == "$dict" and isinstance(inner, list):
        if not all(isinstance(kv, list) and len(kv) == 2 and isinstance(kv[0], str) for kv in inner):
            raise ValueError("a $dict that is not a list of pairs")
        return {k: from_json(v, depth + 1) for k, v in inner}
    raise ValueError(f"unknown tag {tag!r:.40}")


def _array_to_json(a: np.ndarray[Any, Any]) -> Json:
    if a.dtype.kind not in "fiub":
        raise TypeError(f"an array of {a.dtype}")
    little = np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<"))
    plain = a.size <= _INLINE_ENTRIES and (
        a.dtype.kind != "f" or (a.dtype.itemsize <= 8 and bool(np.isfinite(a).all()))
    )
    data = little.ravel().tolist() if plain else base64.b64encode(little.data if a.size else b"").decode()
    return {"$array": [little.dtype.str, list(a.shape), data]}


def _array_from_json(dtype: Json, shape: Json, data: Json) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(data, (list, str)):
        raise ValueError("a malformed $array")
    if _DTYPE.fullmatch(dtype) is None:  # NumPy takes far more words, and compiles some of them
        raise ValueError(f"an $array of {dtype!r:.40}")
    try:
        kind = np.dtype(dtype)
    except TypeError as e:
        raise ValueError(f"an $array of {dtype!r:.40}") from e
    if kind.kind not in "fiub" or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an $array of {dtype!r:.40} and shape {shape!r:.80}")
    try:
        raw = base64.b64decode(data, validate=True) if isinstance(data, str) else None
        flat = np.frombuffer(raw, kind).copy() if raw is not None else np.array(data, dtype=kind)
    except (TypeError, OverflowError) as e:
        raise ValueError(f"an $array of {dtype!r:.40} with entries that it cannot hold: {e}") from None
    if flat.size != math.prod(shape):
        raise ValueError(f"an $array with {flat.size} entries for shape {shape!r:.80}")
    return flat.reshape(shape).astype(kind.newbyteorder("="), copy=False)


def check_flag(name: str, flag: object) -> None:
    """Raises `UsageError` for what is neither true nor false: a text such as "no" would count as true. 0, 1 and `None` are."""
    if flag is not None and not (isinstance(flag, (int, np.bool_, np.integer)) and flag in (0, 1)):
        raise UsageError(f"{name}={flag!r:.80}: must be True or False")


def whole(given: Any, least: float = -math.inf) -> int | None:
    """The `int` that an argument is, also as NumPy has it; `None` where it is none, or too small."""
    try:
        number = operator.index(given)
    except TypeError:
        return None
    return None if isinstance(given, bool) or number < least else number
