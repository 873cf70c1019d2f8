"""What one evaluation is called at each stage: `Proposal` before it starts, `Outcome` when it ends, `Trial` for good."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

State: TypeAlias = Literal["completed", "pruned", "nan", "failed", "interrupted"]

STATES: tuple[State, ...] = ("completed", "pruned", "nan", "failed", "interrupted")
"""How an evaluation can end. All but `interrupted` finish a trial and spend a step."""

Values: TypeAlias = tuple[Any, ...]
"""A candidate as the space sees it: one entry a parameter, in the space's order; the option's index for a choice,
`None` for a parameter whose branch is not taken."""


class Proposal(NamedTuple):
    """A candidate that a sampler wants evaluated. `note` is JSON that the sampler wants to find again when it is told."""

    values: Values
    origin: str
    note: Any = None


class Completed(NamedTuple):
    """The objective returned a number. It may be infinite, and it may be NaN."""

    value: float


class Pruned(NamedTuple):
    """The pruner, or the objective itself, gave the evaluation up."""


class Failed(NamedTuple):
    """The objective raised, timed out, or returned something that is not a number."""

    error: BaseException


class Interrupted(NamedTuple):
    """The evaluation was taken away. It spends nothing and runs again when the search resumes."""


Outcome: TypeAlias = Completed | Pruned | Failed | Interrupted


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A finished evaluation.

    `value` is `None` unless the trial completed (NaN in state `nan`); `estimates` are the intermediate values in the
    order they were reported; `cost` is in the objective's own unit, `seconds` is wall time.
    """

    id: int
    attempt: int
    params: dict[str, Any]
    value: float | None
    state: str
    origin: str
    estimates: tuple[float, ...] = ()
    cost: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trial):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, also where there are arrays in them, whose == gives no single answer; NaNs are."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def overlaid(params: dict[Any, Any], foreign: Mapping[str, Any], paths: Collection[str]) -> dict[Any, Any]:
    """`params` with the stored values that the present space, of which these are the `paths`, could not take, at their own."""
    for path, value in foreign.items():  # owners come before what they own
        parents, last = _parted(params, path)
        node: Any = params
        for at, key in enumerate(parents, 1):
            above, node = node, node.setdefault(key, {}) if isinstance(node, dict) else _item(node, key)
            if _stands_for_one(node) and {*parents[at:], last} == {"value"}:  # an option that is a parameter itself
                node, last = above, key
                break
        if isinstance(node, dict):
            inside = isinstance(value, (dict, list))
            node[last] = _filled(value, node.get(last), path, paths) if inside else value
        elif isinstance(node, list) and _item(node, last) is not None:
            node[int(last)] = value
        else:  # inside of something that is no dict any more
            params[path] = value
    return params


def found(params: dict[Any, Any], path: str) -> Any:
    """What stands at a path of `overlaid` parameters; `None` where nothing does."""
    parents, last = _parted(params, path)
    node: Any = params
    for key in (*parents, last):
        node = node.get(key) if isinstance(node, dict) else _item(node, key)
    return node


def outlined(value: Any) -> bool:
    """Whether a stored option holds what stands for a parameter."""
    if isinstance(value, dict):
        return any(map(outlined, value.values()))
    return any(map(outlined, value)) if isinstance(value, list) else _stands_for_one(value)


def _stands_for_one(value: Any) -> bool:
    """Whether it stands for a parameter, where an option that holds some is stored; of several alike, for a later one."""
    return isinstance(value, str) and (value == "*" or value.startswith('"*" #'))


def _parted(params: dict[Any, Any], path: str) -> tuple[list[str], str]:
    *parents, last = path.split(".") if path not in params else [path]
    return parents, last


def _item(node: Any, key: str) -> Any:
    return node[int(key)] if isinstance(node, list) and key.isdecimal() and int(key) < len(node) else None


def _filled(outline: Any, built: Any, path: str, paths: Collection[str]) -> Any:
    """A copy of a stored option with what is built of the parameters in it that the space has; the others come later, at
    paths of their own."""
    if isinstance(outline, dict):
        by_name = {str(k): v for k, v in built.items()} if isinstance(built, dict) else {}
        return {k: _filled(v, by_name.get(k, v), f"{path}.{k}", paths) for k, v in outline.items()}
    if isinstance(outline, list):
        alike = built if isinstance(built, (list, tuple)) and len(built) == len(outline) else outline
        pairs = enumerate(zip(outline, alike, strict=True))
        return [_filled(v, now, f"{path}.{i}", paths) for i, (v, now) in pairs]
    return built if _stands_for_one(outline) and path in paths else outline
