"""What an objective may change without changing what the search knows."""

from __future__ import annotations

from typing import Any

import numpy as np


def own(value: Any, arrays: bool = False) -> Any:
    """A copy of a list, dict or set, and of those in it, also of arrays if wanted; any other object is itself."""
    kind = type(value)
    if kind is list:
        return [own(v, arrays) for v in value]
    if kind is dict:
        return {k: own(v, arrays) for k, v in value.items()}
    if kind is tuple:
        items = [own(v, arrays) for v in value]
        return tuple(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if kind is set or (arrays and kind is np.ndarray):
        return value.copy()
    return value
