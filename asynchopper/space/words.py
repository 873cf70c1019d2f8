"""The words that users write a search space in."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Sequence, ValuesView
from typing import Any, TypeAlias

import numpy as np

from asynchopper.errors import SpaceError
from asynchopper.space.arrays import Array
from asynchopper.space.kinds import Choice, Custom
from asynchopper.space.nodes import check_constant
from asynchopper.space.numbers import as_int
from asynchopper.space.scalars import (
    MISSING,
    Draw,
    Float,
    IntGrid,
    Normal,
    Parameter,
    PowerGrid,
    RoundedFloat,
    Scalar,
    SignificantFloat,
)
from asynchopper.values import whole

Shape: TypeAlias = int | tuple[int, ...]

_LEAST = 1e-290  # below, a float has not all its digits any more

_NO_LISTS = (set, frozenset, Iterator, KeysView, ValuesView, ItemsView, np.ndarray)


def float_(
    low: float | None = None,
    high: float | None = None,
    fmt: str | None = None,
    *,
    log: bool = False,
    precision: int | None = None,
    shape: Shape | None = None,
    init: Any = MISSING,
    sample: Draw | None = None,
    mutate: Draw | None = None,
) -> Parameter:
    """A float in [low, high], both inclusive; one bound is the upper one, from 0; none is a standard normal.

    `log` draws on a logarithmic scale. `precision` is digits after the point on a linear scale, significant digits on a
    logarithmic one; `fmt` says both: `"0.2f"` is linear with 2 decimals, `"0.2g"` logarithmic with 2 digits. `shape`
    makes it a `float64` array. `init` is the first guess, by default the middle (of the scale). `sample` and `mutate`
    replace the parameter's own moves. Raises `SpaceError` for bounds that contradict each other.
    """
    said = f"float({low}, {high})"
    if fmt is not None:
        if log or precision is not None:
            raise SpaceError(f"{said}: {fmt!r} already says the scale and the precision; leave out log= and precision=")
        log, precision = _parse_format(fmt)
    low, high = _bounds(low, high, said)
    precision = _checked_precision(precision, log, said)
    scalar_init = MISSING if shape is not None else init
    param: Scalar
    if low is None or high is None:
        if log:
            raise SpaceError(f"{said}: a logarithmic scale needs two bounds")
        param = _made(said, lambda: Normal(precision, scalar_init))
    else:
        a, b = float(low), float(high)
        if log and a <= 0:
            raise SpaceError(f"{said}: a logarithmic scale needs positive bounds, and low is {a!r}")
        if precision is None:
            param = _made(said, lambda: Float(a, b, log, scalar_init))
        elif log:
            if a < _LEAST:
                raise SpaceError(
                    f"{said}: a float keeps significant digits from {_LEAST} on; take a higher bound, or no precision"
                )
            param = _made(said, lambda: SignificantFloat(a, b, precision, scalar_init))
        else:
            param = _made(said, lambda: RoundedFloat(a, b, precision, scalar_init))
    return _finished(param, shape, init, sample, mutate, said)


def int_(
    low: int | None = None,
    high: int | None = None,
    *,
    log: bool = False,
    multiple_of: int | None = None,
    power_of: int | None = None,
    shape: Shape | None = None,
    init: Any = MISSING,
    sample: Draw | None = None,
    mutate: Draw | None = None,
) -> Parameter:
    """An integer in [low, high], both inclusive; one bound is the upper one, from 0.

    `multiple_of` and `power_of` keep to multiples or powers; `log` draws on a logarithmic scale. The rest as for `float`,
    with `int64` arrays. Raises `SpaceError` for bounds that contradict each other or leave no value.
    """
    said = f"int({low}, {high})"
    bounds = _bounds(low, high, said)
    if bounds[0] is None or bounds[1] is None:
        raise SpaceError(f"{said}: an int needs at least an upper bound")
    try:
        a, b = operator.index(low if high is not None else 0), operator.index(high if high is not None else low)  # type: ignore[arg-type]  # checked by _bounds
    except TypeError:
        a, b = as_int(bounds[0]), as_int(bounds[1])
    if multiple_of is not None and power_of is not None:
        raise SpaceError(f"{said}: multiple_of= and power_of= exclude each other")
    scalar_init = MISSING if shape is not None else init
    param: Scalar
    if power_of is not None:
        base = whole(power_of)
        if base is None or base < 2:
            raise SpaceError(f"{said}: power_of={power_of!r} must be an integer of 2 or more")
        param = _made(said, lambda: PowerGrid(a, b, base, scalar_init))
    else:
        step = 1 if multiple_of is None else whole(multiple_of)
        if step is None or step < 1:
            raise SpaceError(f"{said}: multiple_of={multiple_of!r} must be a positive integer")
        if log and a <= 0:
            raise SpaceError(f"{said}: a logarithmic scale needs positive bounds, and low is {a!r}")
        param = _made(said, lambda: IntGrid(a, b, step, log, scalar_init))
    if shape is not None and not (a >= -(2**63) and b < 2**63 and b - a < 2**63 - 1):
        raise SpaceError(f"{said}: an int array holds 64-bit integers, and the bounds, or their distance, go beyond")
    return _finished(param, shape, init, sample, mutate, said)


def choice(
    *options: Any,
    ordinal: bool = False,
    init: Any = MISSING,
    labels: Sequence[str] | None = None,
    sample: Draw | None = None,
    mutate: Draw | None = None,
) -> Parameter:
    """One of the options, which may be any objects and may contain parameters of their own.

    A single list, tuple or range is taken as the options. With `ordinal`, local steps go to neighbours. `labels` name the
    options in checkpoints; without them an option is written by value where JSON can hold it, otherwise by its
    qualified name. Raises `SpaceError` when there is no option or `init` is not one.
    """
    if len(options) == 1 and isinstance(options[0], (list, tuple, range)):
        options = tuple(options[0])
    elif len(options) == 1 and isinstance(options[0], _NO_LISTS):
        kind = type(options[0]).__name__
        raise SpaceError(f"choice() got one {kind}, which has no options in it; give choice(*options), or a list")
    for i, option in enumerate(options):
        check_constant(option, f"choice()'s option {i}")
    return _finished(Choice(options, ordinal, init, labels), None, init, sample, mutate, "choice()")


def bool_(*, init: Any = MISSING, sample: Draw | None = None, mutate: Draw | None = None) -> Parameter:
    """False or True."""
    if init is not MISSING and not isinstance(init, (bool, np.bool_)):
        raise SpaceError(f"bool(init={init!r}): init is True or False")
    init = init if init is MISSING else bool(init)
    return _finished(Choice((False, True), False, init, None), None, init, sample, mutate, "bool()")


def custom(
    *,
    sample: Draw | None = None,
    mutate: Draw | None = None,
    init: Any = MISSING,
    encode: Draw | None = None,
    decode: Draw | None = None,
) -> Parameter:
    """A parameter of your own functions: `sample(rng)`, `mutate(value, rng, strength)`; trailing arguments may be left out.

    At least `sample` or `init` is needed; without `sample`, draws are a few moves away from `init`. Values that JSON cannot
    hold need `encode` and `decode`, which go both ways between a value and JSON; without them a search that has a checkpoint
    refuses to start.
    """
    if sample is None and init is MISSING:
        raise SpaceError("custom() needs sample= or init=")
    if (encode is None) != (decode is None):
        raise SpaceError("custom(): encode= and decode= come together")
    return _finished(Custom(init, encode, decode), None, init, sample, mutate, "custom()")


def _made(said: str, make: Callable[[], Scalar]) -> Scalar:
    try:
        return make()
    except SpaceError as e:
        message = str(e)
        raise SpaceError(message if message.startswith(("int(", "float(")) else f"{said}: init {message}") from None


def _finished(
    param: Parameter, shape: Shape | None, init: Any, sample: Draw | None, mutate: Draw | None, said: str
) -> Parameter:
    if shape is not None:
        assert isinstance(param, Scalar)
        dims = tuple(whole(n) or 0 for n in (shape if isinstance(shape, Iterable) else (shape,)))
        if min(dims, default=0) < 1:
            raise SpaceError(f"{said}: shape={shape!r:.80} must hold positive integers; for one number, leave it out")
        try:
            param = Array(param, dims, init)
        except SpaceError as e:
            raise SpaceError(f"{said}: init: {e}") from None
        except (ValueError, MemoryError) as e:
            raise SpaceError(f"{said}: shape={shape!r:.80}: {e}") from None
    param.user_sample = None if sample is None else _bound(sample, ("rng",))
    param.user_mutate = None if mutate is None else _bound(mutate, ("value", "rng", "strength"))
    if param.user_sample is not None or param.user_mutate is not None:
        param.cardinality = param.cardinality if isinstance(param, Choice) else math.inf
    return param


def _bound(fn: Draw, names: tuple[str, ...]) -> Draw:
    """`fn` as a function of all of `names`, whichever of them it wants: those that it names as we do, and for the others what
    is left, in our order."""
    if not callable(fn):
        raise SpaceError(f"sample= and mutate= take functions, got {fn!r:.80}")
    given_already: set[str] = set()
    inner = fn
    while isinstance(inner, functools.partial):
        given_already |= inner.keywords.keys()
        inner = inner.func
    try:
        own = [p for p in inspect.signature(fn).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    except (TypeError, ValueError):  # some builtins have no signature
        return lambda *given: fn(*given[: len(names) - 1])
    called = {p.name: "strength" if p.name == "temperature" else p.name for p in own if p.name not in given_already}
    left = iter([n for n in names if n not in called.values()])
    places: list[int] = []
    by_name: dict[str, int] = {}
    for i, p in enumerate(own):
        ours: str | None = called.get(p.name)
        if ours not in names:
            if p.default is not p.empty:
                continue
            ours = None if p.kind is p.KEYWORD_ONLY else next(left, None)
        if ours is None:
            raise SpaceError(f"{fn!r:.80} wants {p.name}, too; there are {names}")
        if p.kind is not p.KEYWORD_ONLY and len(places) == i:  # as a decorator with *args wants it
            places.append(names.index(ours))
        else:
            by_name[p.name] = names.index(ours)
    return lambda *given: fn(*[given[at] for at in places], **{name: given[at] for name, at in by_name.items()})


def _bounds(low: Any, high: Any, said: str) -> tuple[float | int | None, float | int | None]:
    if low is None and high is not None:
        low, high = 0, high
    elif high is None and low is not None:
        low, high = 0, low
    if low is None or high is None:
        return None, None
    for bound in (low, high):
        number = hasattr(bound, "__float__") or hasattr(bound, "__index__")
        if not number or isinstance(bound, (bool, str)) or getattr(bound, "ndim", 0) > 0:
            raise SpaceError(f"{said}: a bound must be a number, got {bound!r:.80}")
        if not isinstance(bound, int) and not math.isfinite(float(bound)):
            raise SpaceError(f"{said}: a bound must be a finite number, got {bound!r}")
        if isinstance(bound, int) and abs(bound) > 10**300:
            raise SpaceError(f"a bound must be within 1e300, got one of {bound.bit_length()} bits")
    if low > high:
        raise SpaceError(f"{said}: low {low!r} is above high {high!r}")
    return low, high


def _checked_precision(precision: int | None, log: bool, said: str) -> int | None:
    digits = whole(precision)
    if precision is not None and (digits is None or not (1 if log else 0) <= digits <= 15):
        raise SpaceError(f"{said}: precision={precision!r} must be an integer from {1 if log else 0} to 15")
    return digits


def _parse_format(fmt: str) -> tuple[bool, int]:
    digits = fmt.lstrip(":")[:-1].rpartition(".")[2] if isinstance(fmt, str) else ""
    if not digits.isdecimal() or fmt[-1] not in "fg":
        raise SpaceError(f"cannot read the format {fmt!r}; write for instance '0.2f' (linear) or '0.2g' (logarithmic)")
    return fmt[-1] == "g", int(digits)
