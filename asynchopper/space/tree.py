"""The tree that holds the parameters, compiled into a flat list of leaves."""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from asynchopper.columns import Column
from asynchopper.errors import SpaceError
from asynchopper.space.arrays import Array
from asynchopper.space.counting import cardinality, fill
from asynchopper.space.kinds import Choice, has_parameter, why_unstorable
from asynchopper.space.nodes import Branch, Constant, Leaf, alike, check_constant, constants
from asynchopper.space.scalars import Float, Generator, IntGrid, Parameter, PowerGrid, Scalar
from asynchopper.space.sharing import own
from asynchopper.trial import Values
from asynchopper.values import Json, from_json

Given: TypeAlias = "dict[int, Any]"
"""Some values of a candidate, by leaf."""


class Fits(NamedTuple):
    """The options that a guess may mean, and what it says of each: it is the best known one of them, or the first."""

    options: dict[int, Given]


class Space:
    """A tree of dicts, lists, constants and parameters, compiled into a flat list of leaves.

    Raises `SpaceError` for an empty space and for two parameters of one name.
    """

    def __init__(self, tree: Mapping[Any, Any]) -> None:
        if not isinstance(tree, Mapping) or not tree:
            raise SpaceError("a search space needs at least one parameter")
        self.tree = tree
        self.leaves: list[Leaf] = []
        self._branches: dict[int, Branch] = {}
        self._root = self._compile(tree, "", None, set())
        self.n = len(self.leaves)
        self.paths = tuple(leaf.path for leaf in self.leaves)
        self.conditional = any(leaf.parent is not None for leaf in self.leaves)
        self.strays: set[int] = set()  # parameters of which a stored value lies outside of the present range
        self.size = sum(leaf.param.size for leaf in self.leaves)
        """How many numbers a candidate has; proposals of large ones are made off the event loop."""
        self.cardinality = cardinality(self._root)
        self._flat = self._flat_template()
        self._pack = self._packer()
        self.packed = self._pack is not None
        """Whether a candidate is nothing but scalars of at most 64 bits, all of them there every time."""
        self._direct = self._direct_forms()
        self.plain = None if self.conditional else self._plain_forms()

    def __repr__(self) -> str:
        return f"Space({', '.join(self.paths)})"

    # compiling: a node is a Leaf, a constant, or a container of nodes

    def _compile(self, node: Any, path: str, parent: tuple[int, int] | None, used: set[str]) -> Any:
        if isinstance(node, Parameter):
            if path in used:
                raise SpaceError(f"two parameters are called {path!r}; rename one")
            used.add(path)
            leaf = Leaf(len(self.leaves), path, node, parent)
            self.leaves.append(leaf)
            if not isinstance(node, Choice) or not node.nested:
                return leaf
            options = []
            before = frozenset(used)
            for i, option in enumerate(node.options):  # branches exclude each other, so they may share names
                inside = f"{path}.value" if isinstance(option, Parameter) else path
                names = set(before)
                options.append(self._compile(option, inside, (leaf.index, i), names))
                used |= names
            branch = self._branches[leaf.index] = Branch(leaf, options)
            return branch
        if isinstance(node, Mapping) and has_parameter(node):
            for k in node:
                if not isinstance(k, (str, int, float, bool)):
                    raise SpaceError(f"{path or 'the space'}: a key must be a string or a number, got {k!r:.80}")
            return {k: self._compile(v, f"{path}.{k}" if path else str(k), parent, used) for k, v in node.items()}
        if isinstance(node, (list, tuple)) and has_parameter(node):
            items = [self._compile(v, f"{path}.{i}" if path else str(i), parent, used) for i, v in enumerate(node)]
            return items if isinstance(node, list) else tuple(items)
        check_constant(node, path)
        return Constant(node)

    def _flat_template(
        self,
    ) -> (
        tuple[dict[Any, Any], list[tuple[Any, Constant]], list[Any], list[tuple[Any, int, Callable[[Any], Any]]]] | None
    ):
        """For the common space, one dict of scalars: what to copy, the constants to copy deeply, the keys to fill, and the keys
        whose value is shown, with what shows it."""
        root = self._root
        if not isinstance(root, dict) or not all(isinstance(v, (Leaf, Constant)) for v in root.values()):
            return None
        template = {k: v.value if isinstance(v, Constant) else None for k, v in root.items()}
        copied = [(k, v) for k, v in root.items() if isinstance(v, Constant) and not v.shared]
        keys = [k for k, v in root.items() if isinstance(v, Leaf)]
        shown = [
            (k, v.index, _show_of(v.param))
            for k, v in root.items()
            if isinstance(v, Leaf) and type(v.param).show is not Scalar.show
        ]
        return template, copied, keys, shown

    def _packer(self) -> Callable[..., bytes] | None:
        """For the common space, all scalars that fit 64 bits, one call that makes a candidate's bytes."""
        codes = []
        for leaf in self.leaves:
            param = leaf.param
            small = isinstance(param, (IntGrid, PowerGrid)) and -(2**62) < param.low <= param.high < 2**62
            if leaf.parent is not None or not (small or isinstance(param, (Scalar, Choice))):
                return None
            if isinstance(param, (IntGrid, PowerGrid)) and not small:
                return None
            codes.append("q" if small or isinstance(param, Choice) else "d")
        return struct.Struct("<" + "".join(codes)).pack if codes else None

    def _direct_forms(self) -> list[tuple[str, Sequence[Json] | None]] | None:
        """Path of each parameter, and what its options are in JSON, where numbers are themselves there."""
        forms: list[tuple[str, Sequence[Json] | None]] = []
        for leaf in self.leaves if self.packed else ():
            p = leaf.param
            if isinstance(p, Choice):
                forms.append((leaf.path, [p.encode(i) for i in range(p.n)]))
            elif type(p).encode is Parameter.encode:
                forms.append((leaf.path, None))
            else:
                return None
        return forms or None

    def _plain_forms(self) -> list[tuple[str, type, Any, Any]] | None:
        """Path, JSON type and bounds (or options) of each parameter, where that is all there is to reading it."""
        forms: list[tuple[str, type, Any, Any]] = []
        for leaf in self.leaves:
            p = leaf.param
            if type(p) is Float:
                forms.append((leaf.path, float, p.low, p.high))
            elif type(p) is IntGrid and p.step == 1:
                forms.append((leaf.path, int, p.low, p.high))
            elif type(p) is Choice and all(type(p.encode(i)) is str for i in range(p.n)):
                forms.append((leaf.path, str, {p.encode(i): i for i in range(p.n)}, None))
            else:
                return None
        return forms

    # candidates

    def initial(self, rng: Generator) -> Values:
        """The first guess: every parameter's `init`."""
        values: list[Any] = [None] * self.n
        for leaf in self.leaves:
            if self._active(leaf, values):
                values[leaf.index] = leaf.param.first(rng)
        return tuple(values)

    def sample(self, rng: Generator) -> Values:
        """A candidate from anywhere in the space."""
        us = rng.random(self.n).tolist()
        if not self.conditional:
            return tuple([leaf.draw(u, rng) for leaf, u in zip(self.leaves, us, strict=True)])
        values: list[Any] = [None] * self.n
        for leaf, u in zip(self.leaves, us, strict=True):
            if self._active(leaf, values):
                values[leaf.index] = leaf.draw(u, rng)
        return tuple(values)

    def mutate(self, parent: Values, rng: Generator, strength: float) -> Values:
        """A candidate near `parent`: max(1, round(strength * n)) of its n parameters move, each within `strength`."""
        us = rng.random(2 * self.n).tolist()
        n = self.n
        active: Sequence[int] = range(n)
        if self.conditional:
            active = [i for i in active if self._active(self.leaves[i], parent)]
        k = max(1, min(len(active), round(strength * len(active))))
        chosen = active if k >= len(active) else sorted(active, key=us.__getitem__)[:k]
        values = self.legal(parent)
        for i in chosen:
            values[i] = self.leaves[i].move(values[i], us[n + i], rng, strength)
        return tuple(values) if not self.conditional else self.settle(values, parent, us[n:], rng)

    def settle(self, values: list[Any], parent: Values, us: Sequence[float], rng: Generator) -> Values:
        """`values` with the branches that `parent` had not taken filled in, and those that it left emptied."""
        for leaf in self.leaves:
            if not self._active(leaf, values):
                values[leaf.index] = None
            elif not self._active(leaf, parent):
                values[leaf.index] = leaf.draw(us[leaf.index], rng)
        return tuple(values)

    def legal(self, values: Values) -> list[Any]:
        """A copy with what a change of the space has left outside of its range moved to the nearest end."""
        legal = list(values)
        for i in self.strays:
            if legal[i] is not None:
                legal[i] = self.leaves[i].param.clip(legal[i])
        return legal

    def sizes(self, leaf: int) -> list[float]:
        """How many candidates the parameters of each of a choice's options make; empty where none has any."""
        return [cardinality(option) for option in self._branches[leaf].options] if leaf in self._branches else []

    def constants(self) -> Iterator[tuple[str, Any]]:
        """What candidates have that is no parameter: (its path, it)."""
        return constants(self._root)

    def _active(self, leaf: Leaf, values: Sequence[Any]) -> bool:
        return leaf.parent is None or values[leaf.parent[0]] == leaf.parent[1]

    def point(self, number: int) -> Values:
        """The candidate with a running number below `cardinality`, which must be finite."""
        values: list[Any] = [None] * self.n
        rest = fill(self._root, number, values)
        assert rest == 0
        return tuple(values)

    def key(self, values: Values) -> int:
        """A 64-bit number that two candidates share when they are the same point (and otherwise once in 10^19)."""
        if self._pack is not None:
            try:
                return hash(self._pack(*values))
            except struct.error:  # an integer beyond 64 bits, from before the range was narrowed
                pass
        parts = [b"" if v is None else leaf.param.key(v) for leaf, v in zip(self.leaves, values, strict=True)]
        return hash(b"".join([b"%d:" % len(p) + p for p in parts]))

    def keys(self, columns: Sequence[array[Any] | Column | None]) -> Column | None:
        """The `key` of each of many candidates, by columns; `None` where that takes them one by one."""
        if self._pack is None or not columns or any(c is None for c in columns):
            return None
        known = [np.frombuffer(c, np.uint64) for c in columns if c is not None and len(c)]
        if not known:
            return np.empty(0, np.int64)
        rows = np.stack(known, axis=1).astype("<u8", copy=False).view(f"V{8 * self.n}").ravel()
        return np.fromiter(map(hash, rows.tolist()), np.int64, len(rows))

    # to and from the outside

    def build(self, values: Values) -> dict[Any, Any]:
        """The dict that an objective gets; fresh each time, with its lists, dicts, sets, and arrays of parameters."""
        if self._flat is not None:
            template, copied, keys, shown = self._flat
            params = template.copy()
            for k, constant in copied:
                params[k] = constant.show()
            params.update(zip(keys, values, strict=True))
            for k, i, show in shown:
                params[k] = show(values[i])
            return params
        built = self._build(self._root, values)
        assert isinstance(built, dict)
        return built

    def shown(self, leaf: Leaf, values: Values) -> Any:
        """What an objective gets in the place of a leaf: for a choice between spaces, the space that was taken, built."""
        return self._build(self._branches.get(leaf.index, leaf), values)

    def _build(self, node: Any, values: Values) -> Any:
        if isinstance(node, Leaf):
            return node.param.show(values[node.index])
        if isinstance(node, Branch):
            return self._build(node.options[values[node.leaf.index]], values)
        if isinstance(node, dict):
            return {k: self._build(v, values) for k, v in node.items()}
        if isinstance(node, list):
            return [self._build(v, values) for v in node]
        if isinstance(node, tuple):
            return tuple([self._build(v, values) for v in node])
        return node.show()

    def encode(self, values: Values) -> dict[str, Json]:
        """Path to JSON, for the parameters that exist in this candidate. Raises `SpaceError` where JSON cannot hold one."""
        if self._direct is not None and not self.strays:
            return {
                path: v if forms is None else forms[v] for (path, forms), v in zip(self._direct, values, strict=True)
            }
        flat: dict[str, Json] = {}
        for leaf, v in zip(self.leaves, values, strict=True):
            if not self.conditional or self._active(leaf, values):
                try:
                    flat[leaf.path] = leaf.param.encode(v)
                except (TypeError, ValueError) as e:
                    raise SpaceError(
                        f"{leaf.path}: a checkpoint cannot hold {v!r:.80} ({e}); give it encode= and decode="
                    ) from e
        return flat

    def decode(self, flat: Mapping[str, Json], rng: Callable[[], Generator]) -> tuple[Values, dict[str, Any]]:
        """A stored candidate in this space, and what of it this space does not know. What is missing is initial."""
        plain = self._decode_plain(flat)
        if plain is not None:
            return plain, {}
        values: list[Any] = [None] * self.n
        known: set[str] = set()
        for leaf in self.leaves:
            if not self._active(leaf, values):
                continue
            try:
                value = values[leaf.index] = leaf.param.decode(flat[leaf.path])
                known.add(leaf.path)
            except Exception:  # a user's decode may raise anything; the value is kept as foreign
                values[leaf.index] = leaf.param.first(rng())
                continue
            if leaf.index not in self.strays and _strayed(leaf.param, value):
                self.strays.add(leaf.index)
        if len(known) == len(flat):
            return tuple(values), {}
        return tuple(values), {path: _foreign(data) for path, data in flat.items() if path not in known}

    def made_up(self, foreign: Mapping[str, Any] | None) -> bool:
        """Whether a stored candidate had something else, which this space could not take, in the place of a parameter."""
        return foreign is not None and not foreign.keys().isdisjoint(self.paths)

    def _decode_plain(self, flat: Mapping[str, Json]) -> Values | None:
        """The common case, at a fraction of the cost: exactly the scalars of this space, each in its range."""
        if self.plain is None or len(flat) != self.n:
            return None
        values = []
        for path, kind, low, high in self.plain:
            value = flat.get(path)
            if type(value) is not kind:
                return None
            if kind is str:
                value = low.get(value)
                if value is None:
                    return None
            elif not low <= value <= high:
                return None
            values.append(value)
        return tuple(values)

    def fit(self, guess: Mapping[Any, Any], base: Values | None, rng: Generator) -> Values:
        """A partial candidate from outside, filled up from `base`; raises `SpaceError` naming what does not belong."""
        return self.filled(self.given(guess), base, rng)

    def given(self, guess: Mapping[Any, Any]) -> Given:
        """What a partial candidate from outside says, as it is now; raises `SpaceError` naming what does not belong."""
        given: Given = {}
        self._fit(self._root, guess, "", given)
        return given

    def filled(self, given: Given, base: Values | None, rng: Generator) -> Values:
        """A candidate with what was given, and the rest from `base`, or first guesses."""
        values: list[Any] = [None] * self.n
        known = None if base is None else self.legal(base)
        for leaf in self.leaves:
            if not self._active(leaf, values):
                continue
            i = leaf.index
            if i in given:
                values[i] = given[i]
                if isinstance(fits := given[i], Fits):
                    best = known[i] if known is not None and base is not None and self._active(leaf, base) else None
                    values[i] = best if best in fits.options else min(fits.options)
                    given = {**given, **fits.options[values[i]]}
            elif known is not None and base is not None and self._active(leaf, base):
                values[i] = known[i]
            else:
                values[i] = leaf.param.first(rng)
        return tuple(values)

    def _fit(self, node: Any, guess: Any, path: str, given: Given) -> None:
        if isinstance(node, Leaf):
            try:
                given[node.index] = own(node.param.admit(guess), arrays=True)
            except SpaceError as e:
                raise SpaceError(f"{node.path}: {e}") from None
        elif isinstance(node, Branch):
            self._fit_branch(node, guess, given)
        elif isinstance(node, dict):
            if not isinstance(guess, Mapping):
                raise SpaceError(f"{path or 'a guess'}: a dict is expected, got {guess!r:.80}")
            unknown = [k for k in guess if k not in node]
            if unknown:
                names = ", ".join(repr(f"{path}.{k}" if path else k) for k in unknown)
                raise SpaceError(f"unknown parameter {names}; the space has {', '.join(map(repr, node))}")
            for k, v in guess.items():
                self._fit(node[k], v, f"{path}.{k}" if path else str(k), given)
        elif isinstance(node, (list, tuple)):
            if not isinstance(guess, (list, tuple)) or len(guess) != len(node):
                raise SpaceError(f"{path}: a list of {len(node)} is expected, got {guess!r:.80}")
            for i, (inner, v) in enumerate(zip(node, guess, strict=True)):
                self._fit(inner, v, f"{path}.{i}", given)
        elif not (node.value is guess or alike(node.value, guess)):
            raise SpaceError(f"{path}: is the constant {node.value!r:.80} in this space, not {guess!r:.80}")

    def _fit_branch(self, node: Branch, guess: Any, given: Given) -> None:
        try:
            given[node.leaf.index] = node.leaf.param.accept(guess)
            return
        except SpaceError:
            pass
        fits: dict[int, Given] = {}
        for i, option in enumerate(node.options):
            with contextlib.suppress(SpaceError):
                inner: Given = {}
                self._fit(option, guess, node.leaf.path, inner)
                fits[i] = inner
        if not fits:
            raise SpaceError(f"{node.leaf.path}: {guess!r:.80} fits none of the {len(node.options)} options")
        given[node.leaf.index] = Fits(fits)

    def describe(self) -> dict[str, Json]:
        """Path to description, for the header of a checkpoint."""
        out: dict[str, Json] = {}
        for leaf in self.leaves:
            text = leaf.param.describe()
            if leaf.parent is not None:
                owner = self.leaves[leaf.parent[0]]
                text["if"] = [owner.path, owner.param.encode(leaf.parent[1])]
            out.setdefault(leaf.path, []).append(text)
        return {path: texts[0] if len(texts) == 1 else texts for path, texts in out.items()}

    def check_storable(self) -> None:
        """Raises `SpaceError`, naming the parameter, when a checkpoint could not hold its values."""
        for leaf in self.leaves:
            problem = why_unstorable(leaf.param)
            if problem is not None:
                raise SpaceError(f"{leaf.path}: a checkpoint {problem}")


def _show_of(param: Parameter) -> Callable[[Any], Any]:
    """What shows a value, without a call of ours where the options are shown as they are."""
    return param.options.__getitem__ if type(param) is Choice and param.shared else param.show


def _strayed(param: Parameter, value: Any) -> bool:
    near = param.clip(value)
    return near is not value and (isinstance(param, Array) or bool(near != value))


def _foreign(data: Json) -> Any:
    if isinstance(data, dict) and len(data) == 1 and "$label" in data:
        return data["$label"]
    try:
        return from_json(data)
    except ValueError:
        return data
