"""Python values survive a checkpoint exactly."""

from __future__ import annotations

import contextlib
import enum
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asynchopper.values import from_json, spell, to_json, unspell

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("$float"), inner, max_size=4)
    ),
    max_leaves=20,
)
arrays = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(endianness="<"),
        hnp.integer_dtypes(endianness="<"),
        hnp.unsigned_integer_dtypes(endianness="<"),
    )
    | st.just(np.dtype(bool)),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$float", "$int", "$array", "$bytes", "$dict", "$x", "a"]), inner, max_size=2
        )
    ),
    max_leaves=12,
)


def through(value: object) -> object:
    """What a checkpoint gives back."""
    return from_json(orjson.loads(orjson.dumps(to_json(value))))


def alike(a: object, b: object) -> bool:
    """Equal, of one type, and NaN equal to NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(plain)
def test_values_round_trip_exactly(value: object) -> None:
    assert alike(through(value), value)


@given(arrays)
def test_arrays_keep_dtype_shape_and_every_bit(a: np.ndarray) -> None:
    back = through(a)
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape, back.tobytes()) == (a.dtype, a.shape, a.tobytes())


@given(st.floats())
def test_floats_are_spelled_and_read_back(x: float) -> None:
    assert alike(unspell(orjson.loads(orjson.dumps(spell(x)))), x)


def test_what_json_cannot_say_is_spelled_out() -> None:
    assert to_json(math.nan) == {"$float": "NaN"}
    assert to_json(-math.inf) == {"$float": "-Infinity"}
    assert to_json(2**64) == {"$int": "18446744073709551616"}
    assert to_json(b"\x00\xff") == {"$bytes": "AP8="}
    assert to_json({"$a": 1}) == {"$dict": [["$a", 1]]}
    assert to_json(np.array([1.5, 2.0])) == {"$array": ["<f8", [2], [1.5, 2.0]]}


def test_large_arrays_are_base64_of_their_bytes() -> None:
    a = np.arange(1000, dtype=np.float32).reshape(10, 100)
    dtype, shape, data = to_json(a)["$array"]
    assert (dtype, shape) == ("<f4", [10, 100]) and isinstance(data, str)
    assert np.array_equal(through(a), a)


def test_big_endian_arrays_come_back_with_the_same_numbers() -> None:
    a = np.array([1.5, -2.25], ">f8")
    back = through(a)
    assert back.tolist() == a.tolist() and back.dtype == np.float64


def test_numpy_scalars_become_python_numbers() -> None:
    assert alike(through([np.float64(0.1), np.int32(7), np.bool_(True)]), [0.1, 7, True])


def test_tuples_become_lists() -> None:
    assert through((1, (2, 3))) == [1, [2, 3]]


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {1, 2}, Colour.RED, Level.LOW, 1j, np.array([object()]), np.array(["a"])], ids=repr
)
def test_what_a_checkpoint_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        to_json(value)


def test_deep_nesting_is_refused_in_both_directions() -> None:
    deep: object = 1
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueError, match="64 levels"):
        to_json(deep)
    with pytest.raises(ValueError, match="64 levels"):
        from_json(deep)


@given(any_json)
def test_reading_foreign_json_gives_a_value_or_a_value_error(data: object) -> None:
    with contextlib.suppress(ValueError):
        from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        {"$nothing": 1},
        {"$float": "nan"},
        {"$int": "1" * 5000},
        {"$int": "0x10"},
        {"$array": ["O", [1], [1]]},
        {"$array": ["<f8", [3], [1.0]]},
        {"$array": ["<f8", [-1], []]},
        {"$array": ["<i8", [1], [None]]},
        {"$array": ["<i1", [1], [1000]]},
        {"$array": ["no such type", [1], [1]]},
        {"$bytes": "not base64!"},
        {"$dict": [[1, 2]]},
    ],
    ids=str,
)
def test_malformed_tags_are_refused(data: object) -> None:
    with pytest.raises(ValueError):
        from_json(data)


@pytest.mark.parametrize("given", [None, "1", True, [1.0], "nan"])
def test_unspell_refuses_what_is_not_a_number(given: object) -> None:
    with pytest.raises(ValueError, match="not a number"):
        unspell(given)
