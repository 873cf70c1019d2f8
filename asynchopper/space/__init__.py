"""Parameter kinds, and the tree that holds them. Pure: no clock, no loop, no I/O; every draw is handed in.

Laws: `decode(encode(v)) == v`; what `sample` and `mutate` return lies in the space; `mutate` changes something wherever
the space has another point to go to. A candidate is a tuple of values (see `trial.Values`); only `build` turns it into
the dict that an objective gets.
"""

from __future__ import annotations

from asynchopper.space.arrays import Array
from asynchopper.space.kinds import Choice, Custom
from asynchopper.space.nodes import Leaf, merge
from asynchopper.space.scalars import MISSING, Generator, Parameter, Scalar
from asynchopper.space.tree import Given, Space

__all__ = [
    "MISSING",
    "Array",
    "Choice",
    "Custom",
    "Generator",
    "Given",
    "Leaf",
    "Parameter",
    "Scalar",
    "Space",
    "merge",
]
