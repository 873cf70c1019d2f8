"""The laws of every parameter kind: values lie in range and on the grid, moves stay legal, encoding is exact."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.errors import SpaceError
from asynchopper.space import Parameter, Space

seeds = st.integers(0, 2**32 - 1)
strengths = st.floats(0.001, 1.0)
finite = st.floats(-1e6, 1e6)
positive = st.floats(1e-8, 1e8)


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def bounds(numbers: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(numbers, numbers).map(sorted)


FLOATS, INTS = ("float", "rounded", "log", "digits", "normal"), ("int", "step", "logint", "power")
shapes = st.none() | st.just(3) | st.just((2, 2))


@st.composite
def parameters(draw: Any, kinds: tuple[str, ...] = (*FLOATS, *INTS, "choice"), shapes: Any = shapes) -> Parameter:
    """Any scalar, array or choice that can be made."""
    shape = draw(shapes)
    kind = draw(st.sampled_from(kinds))
    try:
        match kind:
            case "float":
                return ah.float(*draw(bounds(finite)), shape=shape)
            case "rounded":
                return ah.float(*draw(bounds(finite)), precision=draw(st.integers(0, 6)), shape=shape)
            case "log":
                return ah.float(*draw(bounds(positive)), log=True, shape=shape)
            case "digits":
                return ah.float(*draw(bounds(positive)), f"0.{draw(st.integers(1, 5))}g", shape=shape)
            case "normal":
                return ah.float(precision=draw(st.none() | st.integers(0, 4)), shape=shape)
            case "int":
                return ah.int(
                    *draw(bounds(st.integers(-(2**70), 2**70) if shape is None else st.integers(-99, 2**40))),
                    shape=shape,
                )
            case "step":
                return ah.int(*draw(bounds(st.integers(-999, 999))), multiple_of=draw(st.integers(1, 40)), shape=shape)
            case "logint":
                return ah.int(*draw(bounds(st.integers(1, 2**40))), log=True, shape=shape)
            case "power":
                return ah.int(*draw(bounds(st.integers(1, 2**40))), power_of=draw(st.integers(2, 10)), shape=shape)
            case _:
                return ah.choice(
                    *draw(st.lists(st.integers() | st.text(max_size=3), min_size=1, unique=True)),
                    ordinal=draw(st.booleans()),
                )
    except SpaceError:  # no such value between these bounds
        assume(False)
        raise


def entries(value: Any) -> list[Any]:
    return value.ravel().tolist() if isinstance(value, np.ndarray) else [value]


def legal(param: Parameter, value: Any) -> bool:
    """In range, of the declared type, and on the grid. Says it in decimals, independently of how it is computed."""
    d = param.describe()
    if d["kind"] == "choice":
        return isinstance(value, int) and 0 <= value < len(d["options"])
    return all(_legal_number(d, x) for x in entries(value))


def _legal_number(d: dict[str, Any], x: Any) -> bool:
    low, high = (b if not isinstance(b, dict) else int(b["$int"]) for b in (d["low"], d["high"]))
    if type(x) is not (int if d["kind"] == "int" else float) or (low is not None and not low <= x <= high):
        return False
    if d["kind"] == "int":
        step, base = d.get("multiple_of"), d.get("power_of")
        return x % step == 0 if step else x in [base**i for i in range(60)]
    precision = d.get("precision")
    if precision is None:
        return math.isfinite(x)
    return x == (float(f"{x:.{precision - 1}e}") if d.get("log") else round(x, precision))


@given(parameters(), seeds)
def test_samples_lie_in_range_and_on_the_grid(param: Parameter, seed: int) -> None:
    assert legal(param, param.sample(rng(seed)))


@given(parameters())
def test_the_first_guess_lies_in_range(param: Parameter) -> None:
    assert legal(param, param.first(rng(0)))


@given(parameters(), seeds, strengths)
def test_moves_stay_legal_and_go_somewhere(param: Parameter, seed: int, strength: float) -> None:
    g = rng(seed)
    value = param.sample(g)
    moved = param.mutate(value, g, strength)
    assert legal(param, moved)
    if param.cardinality > 1 and param.describe().get("low") != param.describe().get("high", 0):
        grid = param.describe()["kind"] in ("int", "choice") or param.describe().get("precision") is not None
        assert not grid or param.key(moved) != param.key(value)


@given(parameters(), seeds)
def test_encode_and_decode_are_inverse(param: Parameter, seed: int) -> None:
    value = param.sample(rng(seed))
    back = param.decode(orjson.loads(orjson.dumps(param.encode(value))))
    assert type(back) is type(value)
    assert entries(back) == entries(value)
    assert param.key(back) == param.key(value)


@given(parameters(), seeds, seeds)
def test_two_values_share_a_key_exactly_when_they_are_equal(param: Parameter, one: int, other: int) -> None:
    a, b = param.sample(rng(one)), param.sample(rng(other))
    assert (param.key(a) == param.key(b)) == (entries(a) == entries(b))
    space = Space({"p": param})
    assert (space.key((a,)) == space.key((b,))) == (entries(a) == entries(b))


@st.composite
def two_ranges(draw: Any) -> tuple[Parameter, Parameter]:
    """Two parameters of one type and shape."""
    kinds, shape = draw(st.sampled_from([FLOATS, INTS])), st.just(draw(shapes))
    return draw(parameters(kinds, shape)), draw(parameters(kinds, shape))


@given(two_ranges(), seeds)
def test_a_value_of_another_range_is_brought_into_this_one(ranges: tuple[Parameter, Parameter], seed: int) -> None:
    param, before = ranges
    value = param.clip(before.sample(rng(seed)))
    assert legal(param, value)
    assert entries(param.clip(value)) == entries(value)


@given(parameters())
def test_a_description_is_json(param: Parameter) -> None:
    described = param.describe()
    assert orjson.loads(orjson.dumps(described)) == described


@given(
    parameters(),
    st.none() | st.just(math.nan) | st.just(math.inf) | st.text(max_size=3) | st.just(object()) | st.just([]),
)
def test_nonsense_is_refused_as_a_value(param: Parameter, nonsense: object) -> None:
    assume(param.describe()["kind"] != "choice")
    with pytest.raises(SpaceError):
        param.accept(nonsense)


@pytest.mark.parametrize(
    ("param", "grid"),
    [
        (ah.float(0, 1, precision=1), [i / 10 for i in range(11)]),
        (ah.float(0, 1, "0.1f"), [i / 10 for i in range(11)]),
        (ah.float(-0.3, 0.3, precision=1), [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        (ah.float(1.1, 1.3, precision=1), [1.1, 1.2, 1.3]),
        (ah.float(0.04, 0.26, precision=1), [0.1, 0.2]),
        (ah.float(0.1, 10, log=True, precision=1), [i / 10 for i in range(1, 10)] + [*range(1, 11)]),
        (ah.float(0.1, 10, "0.1g"), [i / 10 for i in range(1, 10)] + [*range(1, 11)]),
        (ah.float(1e-5, 3e-5, "0.1g"), [1e-5, 2e-5, 3e-5]),
        (ah.int(3, 6), [3, 4, 5, 6]),
        (ah.int(3), [0, 1, 2, 3]),
        (ah.int(-3, 3, multiple_of=2), [-2, 0, 2]),
        (ah.int(30, 130, multiple_of=32), [32, 64, 96, 128]),
        (ah.int(1, 9, log=True), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (ah.int(16, 512, power_of=2), [16, 32, 64, 128, 256, 512]),
        (ah.int(1, 100, power_of=10), [1, 10, 100]),
        (ah.bool(), [False, True]),
        (ah.choice("a", "b", "c"), ["a", "b", "c"]),
    ],
    ids=lambda p: str(p.describe()) if isinstance(p, Parameter) else "",
)
def test_every_value_of_the_grid_is_drawn_and_none_beside(param: Parameter, grid: list[Any]) -> None:
    g = rng(1)
    assert sorted({param.show(param.sample(g)) for _ in range(2000)}) == sorted(grid)
    assert param.cardinality == len(grid)


@pytest.mark.parametrize(
    "make", [lambda s: ah.float(0.1, 10, "0.2g", shape=s), lambda s: ah.float(0, 1, precision=2, shape=s)]
)
def test_array_entries_are_the_very_floats_of_the_scalar(make: Any) -> None:
    drawn = set(make(5000).sample(rng(0)).tolist())
    assert drawn <= {make(None).cell(i) for i in range(make(None).n)}
    assert len(drawn) > 90


@pytest.mark.parametrize(
    ("param", "init"),
    [
        (ah.float(0, 1), 0.5),
        (ah.float(1e-4, 1, log=True), 0.01),
        (ah.float(), 0.0),
        (ah.int(1, 9), 5),
        (ah.int(1, 9, init=3), 3),
        (ah.int(1, 10_000, log=True), 71),
        (ah.bool(), 0),
        (ah.bool(init=True), 1),
        (ah.choice("x", "y"), 0),
        (ah.choice("x", "y", init="y"), 1),
        (ah.float(-1, 1, init=0.25), 0.25),
    ],
    ids=lambda p: str(p.describe()) if isinstance(p, Parameter) else str(p),
)
def test_the_first_guess_is_the_middle_or_the_first_option_or_what_was_said(param: Parameter, init: Any) -> None:
    assert param.first(rng(0)) == pytest.approx(init)


def test_arrays_have_dtype_and_shape_and_an_init() -> None:
    floats, ints = ah.float(-1, 1, shape=(20, 20)), ah.int(0, 9, shape=5, init=[1, 2, 3, 4, 5])
    a, b = floats.sample(rng(0)), ints.sample(rng(0))
    assert (a.dtype, a.shape, b.dtype, b.shape) == (np.float64, (20, 20), np.int64, (5,))
    assert ints.first(rng(0)).tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(ah.float(0, 1, shape=(2, 2), init=0.25).first(rng(0)), np.full((2, 2), 0.25))


def test_a_float_without_bounds_is_standard_normal() -> None:
    g, param = rng(0), ah.float()
    drawn = np.array([param.sample(g) for _ in range(4000)])
    assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 1) < 0.1
    array = ah.float(shape=4000).sample(g)
    assert abs(array.mean()) < 0.1 and abs(array.std() - 1) < 0.1


def test_a_log_scale_is_even_in_the_logarithm() -> None:
    g = rng(0)
    for param in (ah.float(1e-4, 1, log=True), ah.float(1e-4, 1, "0.3g"), ah.int(1, 10_000, log=True)):
        high = float(param.describe()["high"])
        below = np.mean([param.sample(g) / high < 1e-2 for _ in range(4000)])
        assert 0.45 < below < 0.56


def test_a_weak_move_is_a_near_one_and_an_ordinal_goes_to_a_neighbour() -> None:
    g = rng(0)
    near = [abs(ah.float(0, 100).mutate(50.0, g, 0.1) - 50) for _ in range(500)]
    assert max(near) <= 5 and max(near) > 3
    ordinal = ah.choice(list(range(10)), ordinal=True)
    assert {ordinal.mutate(5, g, 1.0) for _ in range(100)} == {4, 6}
    assert {ordinal.mutate(0, g, 1.0) for _ in range(10)} == {1}
    plain = ah.choice(list(range(10)))
    assert {plain.mutate(5, g, 0.01) for _ in range(500)} == set(range(10)) - {5}


def test_own_moves_replace_the_parameters_own() -> None:
    space = Space(
        {
            "a": ah.int(0, 100, sample=lambda: 42),
            "b": ah.float(0, 1, mutate=lambda value: value / 2),
            "c": ah.choice("x", "y", sample=lambda rng: "y", mutate=lambda value, rng, strength: "x"),
            "d": ah.float(0, 1, shape=2, sample=lambda rng: [0.25, 0.75]),
            "e": ah.int(0, 9, mutate=lambda value, rng, temperature: 9),
        }
    )
    drawn = space.sample(rng(0))
    assert space.build(drawn)["a"] == 42 and space.build(drawn)["c"] == "y"
    assert space.build(drawn)["d"].tolist() == [0.25, 0.75]
    start = space.initial(rng(0))
    moved = space.build(space.mutate(start, rng(0), 1.0))
    assert (moved["b"], moved["c"], moved["e"]) == (0.25, "x", 9)


@pytest.mark.parametrize(
    "mutate",
    [
        lambda value, rng, strength: value + strength / 8,
        lambda value, *, strength: value + strength / 8,
        lambda v, strength: v + strength / 8,
        lambda strength, v: v + strength / 8,
        lambda v, r, s: v + s / 8,
        lambda value, part=8, strength=1.0: value + strength / part,
        functools.partial(lambda value, rng, strength: value + strength, strength=0.125),
        functools.wraps(lambda v, r, s: None)(lambda *given: given[0] + given[2] / 8),
    ],
    ids=["all", "by keyword", "by name and by place", "in another order", "by place", "default", "partial", "wrapped"],
)
def test_a_move_of_ones_own_gets_what_it_names(mutate: Any) -> None:
    space = Space({"x": ah.float(0, 1, mutate=mutate)})
    assert space.build(space.mutate(space.initial(rng(0)), rng(0), 1.0)) == {"x": 0.625}


def test_a_parameter_shows_what_it_is() -> None:
    assert repr(ah.float(0, 1)) == "float(low=0.0, high=1.0, log=False)"
    assert repr(ah.choice("a", {"b": ah.int(3)})) == "choice(options=['a', {'b': '*'}], ordinal=False)"


@pytest.mark.parametrize("param", [ah.float(0, 1e-305), ah.float(0, 1e-305, shape=1)], ids=repr)
def test_the_smallest_ranges_have_coordinates(param: Any) -> None:
    high = param.accept(param.scalar.high if hasattr(param, "scalar") else param.high)
    assert param.unit(high) in (0.5, 1.0) and param.at(param.unit(high)) == high


@pytest.mark.parametrize("bounds", [(10**15, 10**15), (10**17, 10**17 + 3)])
def test_a_logarithmic_range_may_be_narrower_than_a_float_tells(bounds: tuple[int, int]) -> None:
    param: Any = ah.int(*bounds, log=True)
    every = range(bounds[0], bounds[1] + 1)
    assert {param.at(u) for u in np.arange(0.01, 1, 0.01).tolist()} == set(every)
    assert all(param.at(param.unit(value)) == value for value in every)


def test_own_moves_that_leave_the_range_are_named() -> None:
    space = Space({"deep": {"lr": ah.float(0, 1, sample=lambda: 7.0)}})
    with pytest.raises(SpaceError, match=r"deep\.lr: .*7\.0 is outside \[0\.0, 1\.0\]"):
        space.sample(rng(0))


@settings(max_examples=30)
@given(seeds)
def test_a_custom_parameter_goes_its_own_way(seed: int) -> None:
    param = ah.custom(
        sample=lambda rng: complex(rng.random(), 1),
        mutate=lambda value, rng, strength: value + strength,
        init=1j,
        encode=lambda z: [z.real, z.imag],
        decode=lambda pair: complex(*pair),
    )
    space = Space({"z": param})
    assert space.build(space.initial(rng(0))) == {"z": 1j}
    drawn = space.sample(rng(seed))
    assert drawn[0].imag == 1
    assert space.mutate(drawn, rng(seed), 0.5) == (drawn[0] + 0.5,)
    assert space.decode(orjson.loads(orjson.dumps(space.encode(drawn))), lambda: rng(0)) == (drawn, {})


class Angle(ah.Parameter):
    """A kind of a user's own."""

    init = 0.0

    def sample(self, rng: np.random.Generator) -> float:
        return float(rng.random() * 360)

    def mutate(self, value: float, rng: np.random.Generator, strength: float) -> float:
        return (value + 360 * strength * (float(rng.random()) - 0.5)) % 360


def test_a_subclass_of_parameter_is_a_kind_of_its_own() -> None:
    space = Space({"turn": Angle()})
    assert space.build(space.initial(rng(0))) == {"turn": 0.0}
    moved = space.build(space.mutate((10.0,), rng(0), 0.1))["turn"]
    assert 0 <= moved < 28 or moved > 352
    assert space.describe() == {"turn": {"kind": "angle"}}
    assert space.cardinality == math.inf


class Die(ah.Parameter):
    """One of which only its author knows the values."""

    cardinality = 6

    def sample(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1, 7))


async def test_a_subclass_that_says_how_many_values_it_has_gives_only_its_own() -> None:
    search = ah.Search(face=Die(), seed=1)
    await search.run(lambda p: float(p["face"]), steps=20, quiet=True)
    assert sorted(t.params["face"] for t in search.history) == [1, 2, 3, 4, 5, 6]
    assert search.outcome is not None and search.outcome.reason == "exhausted"


def test_a_subclass_without_sample_cannot_be_made() -> None:
    class Empty(ah.Parameter):
        pass

    with pytest.raises(TypeError, match="sample"):
        Empty()  # type: ignore[abstract]  # that is the point


def test_none_is_a_value_like_any_other() -> None:
    space = Space({"limit": ah.custom(sample=lambda rng: None, init=3), "x": ah.choice({"y": ah.custom(init=None)}, 1)})
    values = space.sample(rng(0))
    stored = orjson.loads(orjson.dumps(space.encode(values)))
    assert stored["limit"] is None
    assert space.decode(stored, lambda: rng(1))[0] == values
    inside = space.fit({"x": {}, "limit": None}, None, rng(0))
    assert space.build(inside) == {"limit": None, "x": {"y": None}}
    assert space.encode(inside)["x.y"] is None


def test_what_a_sample_of_ones_own_raises_says_of_which_parameter() -> None:
    space = Space({"in": {"x": ah.float(0, 1, sample=lambda: 1 / 0)}, "y": ah.bool()})
    with pytest.raises(ZeroDivisionError) as raised:
        space.sample(rng(0))
    assert raised.value.__notes__ == ["in the sample or mutate of the parameter in.x"]
