"""A search space that every optimizer can be given: a flat list of parameters, some of which exist only under an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Param:
    """One parameter. `kind` is float, int, cat, ord or array; `under` is the (name, option) that it belongs to."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    options: tuple[Any, ...] = ()
    size: int = 1
    under: tuple[str, Any] | None = None


def number(name: str, low: float, high: float, log: bool = False, under: tuple[str, Any] | None = None) -> Param:
    return Param(name, "float", low, high, log, under=under)


def whole(name: str, low: int, high: int, log: bool = False, under: tuple[str, Any] | None = None) -> Param:
    return Param(name, "int", low, high, log, under=under)


def option(name: str, *options: Any, ordinal: bool = False, under: tuple[str, Any] | None = None) -> Param:
    return Param(name, "ord" if ordinal else "cat", options=options, under=under)


def vector(name: str, size: int, low: float, high: float) -> Param:
    return Param(name, "array", low, high, size=size)


def active(param: Param, given: dict[str, Any]) -> bool:
    """Whether the parameter exists, given the options chosen before it."""
    return param.under is None or given.get(param.under[0]) == param.under[1]
