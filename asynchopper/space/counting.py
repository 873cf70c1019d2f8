"""How many candidates a tree of parameters has, and which one has a given number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from asynchopper.space.arrays import Array
from asynchopper.space.kinds import Choice
from asynchopper.space.nodes import Branch, Leaf, Node
from asynchopper.space.scalars import Grid, Parameter


def cardinality(node: Node) -> float:
    """How many different candidates there are; infinite beyond 64 bits, and where only its author can count a parameter."""
    if isinstance(node, Leaf):
        param = node.param
        if param.user_sample is not None:  # it may give some of the options only
            return math.inf
        return param.cardinality if param.cardinality <= 1 or isinstance(param, (Grid, Array, Choice)) else math.inf
    if isinstance(node, Branch):
        if node.leaf.param.user_sample is not None:
            return math.inf
        return _finite_or_inf(sum, [cardinality(o) for o in node.options])
    if isinstance(node, dict):
        return _finite_or_inf(math.prod, [cardinality(v) for v in node.values()])
    if isinstance(node, (list, tuple)):
        return _finite_or_inf(math.prod, [cardinality(v) for v in node])
    return 1


def fill(node: Node, number: int, values: list[Any]) -> int:
    """Puts the candidate with a running number into `values`; gives what is left of the number."""
    if isinstance(node, Leaf):
        number, i = divmod(number, int(node.param.cardinality))
        values[node.index] = _nth(node.param, i)
        return number
    if isinstance(node, Branch):
        number, i = divmod(number, int(cardinality(node)))
        for option, inside in enumerate(node.options):
            n = int(cardinality(inside))
            if i < n:
                values[node.leaf.index] = option
                fill(inside, i, values)
                break
            i -= n
        return number
    children: Any = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    for child in children:
        number = fill(child, number, values)
    return number


def _nth(param: Parameter, i: int) -> Any:
    if isinstance(param, Grid):
        return param.cell(i)
    if isinstance(param, Array):
        n = int(param.scalar.cardinality)
        flat = []
        for _ in range(param.size):
            i, digit = divmod(i, n)
            flat.append(_nth(param.scalar, digit))
        return np.array(flat, param.dtype).reshape(param.shape)
    return i if isinstance(param, Choice) else param.init


def _finite_or_inf(combined: Callable[[list[float]], float], counts: list[float]) -> float:
    """Counts beyond 64 bits are as good as infinite, and an int that no float holds cannot meet an infinity."""
    total = math.inf if math.inf in counts else combined(counts)
    return total if total < 2**63 else math.inf
