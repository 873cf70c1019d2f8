"""What a space is compiled into: a node is a `Leaf`, a `Branch`, a `Constant`, or a dict, list or tuple of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from asynchopper.errors import SpaceError
from asynchopper.space.scalars import Draw, Generator, Parameter, Scalar
from asynchopper.space.sharing import own
from asynchopper.trial import same

Node: TypeAlias = Any


class Leaf:
    """A parameter at its place: `path` names it, `parent` is the (leaf, option) that must be taken for it to exist."""

    __slots__ = ("index", "param", "parent", "path")

    def __init__(self, index: int, path: str, param: Parameter, parent: tuple[int, int] | None) -> None:
        self.index, self.path, self.param, self.parent = index, path, param, parent

    def draw(self, u: float, rng: Generator) -> Any:
        p = self.param
        return p.draw(u, rng) if p.user_sample is None else self._taken(p.user_sample, rng)

    def move(self, value: Any, u: float, rng: Generator, strength: float) -> Any:
        p = self.param
        if p.user_mutate is not None:
            return self._taken(p.user_mutate, p.show(value), rng, strength)
        if p.user_sample is not None and not isinstance(p, Scalar):
            return self.draw(u, rng)
        return p.move(value, u, rng, strength)

    def same(self, a: Any, b: Any) -> bool:
        """Whether two values are one point. They may be arrays; where the leaf does not exist they are `None`."""
        if a is b:
            return True
        return a is not None and b is not None and self.param.key(a) == self.param.key(b)

    def _taken(self, fn: Draw, *args: Any) -> Any:
        try:
            given = fn(*args)
        except Exception as e:
            e.add_note(f"in the sample or mutate of the parameter {self.path}")
            raise
        try:
            return self.param.accept(given)
        except SpaceError as e:
            raise SpaceError(f"{self.path}: its own sample or mutate gave a value that does not belong: {e}") from None


class Constant:
    """What every candidate has alike."""

    __slots__ = ("shared", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shared = own(value) is value

    def show(self) -> Any:
        return self.value if self.shared else own(self.value)


class Branch:
    """A choice whose options hold parameters: a node for each option."""

    __slots__ = ("leaf", "options")

    def __init__(self, leaf: Leaf, options: list[Any]) -> None:
        self.leaf, self.options = leaf, options


def constants(node: Node, path: str = "") -> Iterator[tuple[str, Any]]:
    """What candidates have that is no parameter: (its path, it)."""
    if isinstance(node, Constant):
        yield path, node.value
    elif isinstance(node, Branch):
        for option in node.options:
            yield from constants(option, node.leaf.path)
    elif isinstance(node, (dict, list, tuple)):
        for k, v in node.items() if isinstance(node, dict) else enumerate(node):
            yield from constants(v, f"{path}.{k}" if path else str(k))


def check_constant(node: Any, path: str) -> None:
    """Raises `SpaceError` for what looks as if it was meant to be a parameter."""
    if isinstance(node, (set, frozenset)) and any(isinstance(v, Parameter) for v in node):
        raise SpaceError(f"{path}: a parameter in a set is none; put it into a list, a tuple or a dict")
    if isinstance(node, (dict, list, tuple)):
        for k, v in node.items() if isinstance(node, dict) else enumerate(node):
            check_constant(v, f"{path}.{k}" if path else str(k))
    elif callable(node) and getattr(node, "__module__", None) == "asynchopper.space.words":
        raise SpaceError(f"{path}: {node!r:.80} is not called; write for instance ah.float(0, 1)")


def alike(a: Any, b: Any) -> bool:
    """Whether two constants are the same, as far as they can be compared."""
    try:
        return type(a) is type(b) and same(a, b)
    except (TypeError, ValueError):
        return False


def merge(spaces: Sequence[Mapping[Any, Any]], named: Mapping[str, Any]) -> dict[Any, Any]:
    """Several dicts as one space; a name that two of them define differently is refused, not overwritten."""
    merged: dict[Any, Any] = {}
    for space in (*spaces, named):
        if not isinstance(space, Mapping):
            raise SpaceError(f"a search space is a dict, got {space!r:.80}")
        for k, v in space.items():
            if k in merged and merged[k] is not v:
                raise SpaceError(f"two of the dicts define {k!r}; leave it in one")
            merged[k] = v
    return merged
