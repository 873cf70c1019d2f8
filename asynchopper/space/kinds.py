"""The kinds that are no numbers: options, and what users make themselves."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from asynchopper.errors import SpaceError
from asynchopper.space.arrays import Array
from asynchopper.space.outlines import STAND_IN
from asynchopper.space.scalars import MISSING, Draw, Generator, Parameter, Scalar
from asynchopper.space.sharing import own
from asynchopper.values import Json, from_json, to_json

_AWAY = 8  # moves that lead from the first guess to a draw, at most


class Choice(Parameter):
    """One of several options. A value is the option's index; a checkpoint holds the option itself, or its label."""

    def __init__(
        self,
        options: Sequence[Any],
        ordinal: bool,
        init: Any,
        labels: Sequence[str] | None,
    ) -> None:
        if not len(options):
            raise SpaceError("choice() needs at least one option")
        self.options, self.ordinal, self.n = tuple(options), ordinal, len(options)
        if labels is not None and not (isinstance(labels, Sequence) and all(map(_is_text, labels))):
            raise SpaceError(f"choice(labels=...): labels are texts that UTF-8 can write, got {labels!r:.200}")
        if labels is not None and (len(labels) != self.n or len(set(labels)) != self.n):
            raise SpaceError(
                f"choice(labels=...): {self.n} options need {self.n} different labels, got {list(labels)!r}"
            )
        self.labels = tuple(labels) if labels is not None else None
        self.shared = all(own(o) is o for o in self.options)
        self.nested = any(has_parameter(o) for o in self.options)
        self.cardinality = self.n
        self._stored, self.unstorable = self._stored_forms()
        self._by_key = {_name(s): i for i, s in enumerate(self._stored)}
        if len(self._by_key) < self.n:
            raise SpaceError(
                f"choice(): two options read the same in a checkpoint ({self._first_double()}); give labels="
            )
        self.init = 0 if init is MISSING else self.accept(init)

    def _stored_forms(self) -> tuple[list[Json], str | None]:
        """How each option is written, and the name of the first that has no stable name, if any."""
        if self.labels is not None:
            return [{"$label": label} for label in self.labels], None
        stored: list[Json] = []
        unstorable = None
        seen: dict[bytes, int] = {}
        for i, option in enumerate(self.options):
            form = _stored_option(option)
            if form is MISSING:
                unstorable = unstorable or repr(option)[:80]
                form = {"$label": f"option {i}"}
            if has_parameter(option):  # nested spaces of one shape are told apart by their order among themselves
                twin = seen[_name(form)] = seen.get(_name(form), 0) + 1
                form = form if twin == 1 else {"$label": f"{_name(form).decode()} #{twin}"}
            stored.append(form)
        return stored, unstorable

    def _first_double(self) -> str:
        forms = [_name(s) for s in self._stored]
        return next(repr(o)[:80] for o, f in zip(self.options, forms, strict=True) if forms.count(f) > 1)

    def sample(self, rng: Generator) -> int:
        return int(rng.integers(self.n))

    def draw(self, u: float, rng: Generator) -> int:
        return min(int(u * self.n), self.n - 1)

    def mutate(self, value: int, rng: Generator, strength: float) -> int:
        return self.move(value, float(rng.random()), rng, strength)

    def move(self, value: int, u: float, rng: Generator, strength: float) -> int:
        if self.n == 1:
            return 0
        if self.ordinal:
            j = value + (1 if u >= 0.5 else -1)
            return j if 0 <= j < self.n else 2 * value - j
        j = min(int(u * (self.n - 1)), self.n - 2)
        return j if j < value else j + 1

    def accept(self, given: Any) -> int:
        for i, option in enumerate(self.options):
            if option is given:
                return i
        try:
            wanted = _name(to_json(given))
        except (TypeError, ValueError):
            wanted = None
        if wanted in self._by_key:
            return self._by_key[wanted]
        if isinstance(given, str) and self.labels is not None and given in self.labels:
            return self.labels.index(given)
        for i, option in enumerate(self.options):
            if not has_parameter(option) and same(option, given):
                return i
        raise SpaceError(f"{given!r:.80} is not one of the {self.n} options {list(self.options)!r:.200}")

    def encode(self, value: int) -> Json:
        return self._stored[value]

    def decode(self, data: Json) -> int:
        i = self._by_key.get(_name(data))
        if i is None and isinstance(data, str):
            i = self._by_key.get(_name({"$label": data}))
        if i is None:
            i = self._closest(data)
        if i is None:
            raise ValueError(f"not one of the options: {data!r:.80}")
        return i

    def _closest(self, data: Json) -> int | None:
        """The option that was `data` before it gained or lost an entry: nothing contradicts, and most agrees."""
        if not isinstance(data, dict):
            return None
        agreeing = [0] * self.n
        for i, form in enumerate(self._stored):
            if isinstance(form, dict) and self.nested:
                shared = form.keys() & data.keys()
                agreeing[i] = len(shared) if all(_name(form[k]) == _name(data[k]) for k in shared) else 0
        most = max(agreeing)
        return agreeing.index(most) if most and agreeing.count(most) == 1 else None

    def show(self, value: int) -> Any:
        option = self.options[value]
        return option if self.shared else own(option)

    def key(self, value: int) -> bytes:
        return b"%d" % value

    def describe(self) -> dict[str, Json]:
        return {"kind": "choice", "options": list(self._stored), "ordinal": self.ordinal}


class Custom(Parameter):
    """A parameter made of the user's own functions."""

    def __init__(self, init: Any, encode: Draw | None, decode: Draw | None) -> None:
        self.init, self._encode, self._decode = init, encode, decode
        self.plain = encode is None

    def sample(self, rng: Generator) -> Any:
        """A draw; without a way to draw, some moves away from the first guess."""
        if self.user_sample is not None:
            return self.user_sample(rng)
        value, mutate = self.init, self.user_mutate
        if mutate is not None:
            for _ in range(int(rng.integers(1, _AWAY + 1))):
                value = mutate(self.show(value), rng, 1.0)
        return value

    def mutate(self, value: Any, rng: Generator, strength: float) -> Any:
        return self.sample(rng) if self.user_mutate is None else self.user_mutate(value, rng, strength)

    def encode(self, value: Any) -> Json:
        return to_json(value if self._encode is None else self._encode(value))

    def decode(self, data: Json) -> Any:
        plain = from_json(data)
        return plain if self._decode is None else self._decode(plain)

    def describe(self) -> dict[str, Json]:
        return {"kind": "custom"}


def _name(form: Json) -> bytes:
    """JSON as a key; the order of an object's members does not matter."""
    return orjson.dumps(form, option=orjson.OPT_SORT_KEYS)


def has_parameter(node: Any) -> bool:
    if isinstance(node, Parameter):
        return True
    if isinstance(node, Mapping):
        return any(has_parameter(v) for v in node.values())
    return isinstance(node, (list, tuple)) and any(has_parameter(v) for v in node)


def _stored_option(option: Any) -> Json:
    """The option as JSON: its value, else its qualified name, else `MISSING`. Nested parameters are place holders."""
    try:
        form = to_json(_outline(option) if has_parameter(option) else option)
        orjson.dumps(form)  # it has no word for a text that UTF-8 cannot write
        return form
    except (TypeError, ValueError):
        pass
    module = getattr(option, "__module__", None)
    name = getattr(option, "__qualname__", None)
    if name is None and isinstance(option, enum.Enum):
        module, name = type(option).__module__, f"{type(option).__qualname__}.{option.name}"
    if isinstance(module, str) and isinstance(name, str) and "<" not in name:
        return {"$label": f"{module}.{name}"}
    return MISSING


def _outline(node: Any) -> Any:
    if isinstance(node, Parameter):
        return STAND_IN
    if isinstance(node, Mapping):
        return {str(k): _outline(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [_outline(v) for v in node]
    form = _stored_option(node)
    if form is MISSING:
        return "?"
    return form["$label"] if isinstance(form, dict) and "$label" in form else from_json(form)


def _is_text(given: object) -> bool:
    """Whether it is a `str` that UTF-8 can write, which it cannot where it holds half of a pair of surrogates."""
    return isinstance(given, str) and not any("\ud800" <= c <= "\udfff" for c in given)


def same(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except (TypeError, ValueError):
        return False


def why_unstorable(param: Parameter) -> str | None:
    """What a checkpoint cannot do for the parameter's values, and the remedy; `None` when it can hold them."""
    if isinstance(param, Choice):
        if param.unstorable is None:
            return None
        return f"cannot hold the option {param.unstorable}; name the options with labels="
    if isinstance(param, (Scalar, Array)):
        return None
    plain = param.plain if isinstance(param, Custom) else type(param).encode is Parameter.encode
    rng = np.random.Generator(np.random.Philox(0))
    for probe in (param.first(rng), param.sample(rng)):
        try:
            back = param.decode(orjson.loads(orjson.dumps(param.encode(probe))))
        except Exception as e:  # encode and decode are the user's, and may raise anything
            return f"cannot hold its values ({str(e) or type(e).__name__}); give it encode= and decode="
        if plain and _differs(back, probe):
            return f"would give {probe!r:.80} back as {back!r:.80}; give it encode= and decode="
    return None


def _differs(a: Any, b: Any) -> bool:
    """Whether two values are told apart by `==`; arrays and NaNs are taken for equal."""
    try:
        return not bool(a == b) and bool(b == b)
    except (TypeError, ValueError):
        return False
