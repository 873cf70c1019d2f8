"""The tree: nesting, names, guesses from outside, spaces that contradict themselves, spaces that are large."""

from __future__ import annotations

import dataclasses
import enum
import gc
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper.errors import SpaceError, UsageError
from asynchopper.space import Space

seeds = st.integers(0, 2**32 - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def nested() -> dict[str, Any]:
    return {
        "lr": ah.float(1e-5, 1e-1, log=True, precision=2),
        "model": ah.choice(
            {"name": "svm", "C": ah.float(1e-3, 1e3, log=True), "kernel": ah.choice("rbf", "poly")},
            {"name": "forest", "trees": ah.int(10, 500), "depth": ah.int(2, 30)},
            "constant",
            ah.int(1, 5),
        ),
        "layers": [{"units": ah.int(16, 512, power_of=2)}, {"units": ah.int(16, 512, power_of=2)}],
        "pair": (ah.bool(), 3),
        "optimizer": {"name": "sgd", "momentum": ah.float(0, 1)},
        "note": "a constant",
    }


# -- building


def test_a_candidate_is_built_in_the_shape_of_the_space() -> None:
    space = Space(nested())
    built = space.build(space.initial(rng()))
    assert built == {
        "lr": pytest.approx(1e-3),
        "model": {"name": "svm", "C": pytest.approx(1.0), "kernel": "rbf"},
        "layers": [{"units": 64}, {"units": 64}],
        "pair": (False, 3),
        "optimizer": {"name": "sgd", "momentum": 0.5},
        "note": "a constant",
    }


def test_parameters_are_named_by_their_path() -> None:
    assert Space(nested()).paths == (
        "lr",
        "model",
        "model.C",
        "model.kernel",
        "model.trees",
        "model.depth",
        "model.value",
        "layers.0.units",
        "layers.1.units",
        "pair.0",
        "optimizer.momentum",
    )


def test_every_branch_of_a_nested_choice_is_drawn_with_its_own_parameters() -> None:
    space, g = Space(nested()), rng()
    drawn = [space.build(space.sample(g))["model"] for _ in range(200)]
    kinds = Counter(m["name"] if isinstance(m, dict) else type(m).__name__ for m in drawn)
    assert set(kinds) == {"svm", "forest", "str", "int"}
    assert all(set(m) == {"name", "C", "kernel"} for m in drawn if isinstance(m, dict) and m["name"] == "svm")
    assert {m for m in drawn if isinstance(m, int)} == {1, 2, 3, 4, 5}


@given(seeds, st.floats(0.01, 1.0))
def test_a_mutated_candidate_has_exactly_the_parameters_of_its_branches(seed: int, strength: float) -> None:
    space, g = Space(nested()), rng(seed)
    values = space.sample(g)
    for _ in range(5):
        values = space.mutate(values, g, strength)
        assert space.fit(space.build(values), None, g) == values


@given(seeds)
def test_a_candidate_survives_a_checkpoint(seed: int) -> None:
    space = Space(nested())
    values = space.sample(rng(seed))
    assert space.decode(orjson.loads(orjson.dumps(space.encode(values))), rng) == (values, {})


@given(seeds, st.floats(0.001, 1.0))
def test_a_local_step_moves_a_part_of_the_parameters(seed: int, strength: float) -> None:
    space = Space({f"x{i}": ah.int(0, 1000) for i in range(20)})
    parent = space.sample(rng(seed))
    moved = sum(a != b for a, b in zip(parent, space.mutate(parent, rng(seed + 1), strength), strict=True))
    assert moved == max(1, round(strength * 20))


def test_options_may_be_any_objects() -> None:
    class Thing:
        pass

    thing, function = Thing(), lambda x: x
    space = Space(
        {"x": ah.choice(thing, function, None, [1, 2], {"a": 1}, np.arange(3), Thing, labels=list("abcdefg"))}
    )
    g = rng()
    drawn = [space.build(space.sample(g))["x"] for _ in range(100)]
    assert any(d is thing for d in drawn) and any(d is function for d in drawn) and any(d is None for d in drawn)
    assert space.build(space.fit({"x": thing}, None, g))["x"] is thing
    assert space.build(space.fit({"x": "b"}, None, g))["x"] is function
    assert space.encode(space.fit({"x": Thing}, None, g)) == {"x": {"$label": "g"}}


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def test_options_are_stored_by_value_or_by_name() -> None:
    space = Space({"x": ah.choice(1, 1.0, "1", True, None, (3, 3), {"b": 1, "a": 2}, Colour.RED, math.sqrt, len)})
    stored = [space.encode((i,))["x"] for i in range(10)]
    assert stored[:7] == [1, 1.0, "1", True, None, [3, 3], {"b": 1, "a": 2}]
    assert stored[7:] == [{"$label": f"{__name__}.Colour.RED"}, {"$label": "math.sqrt"}, {"$label": "builtins.len"}]
    for i, data in enumerate(stored):
        assert space.decode({"x": orjson.loads(orjson.dumps(data))}, rng)[0] == (i,)
    assert space.decode({"x": {"a": 2, "b": 1}}, rng)[0] == (6,)


def test_lists_tuples_and_ranges_are_options() -> None:
    assert Space({"x": ah.choice([1, 2, 3])}).cardinality == 3
    assert Space({"x": ah.choice((1, 2))}).cardinality == 2
    assert Space({"x": ah.choice(range(10))}).cardinality == 10
    assert Space({"x": ah.choice([1, 2], [3])}).cardinality == 2
    assert Space({"x": ah.choice("ab")}).cardinality == 1


def test_params_are_fresh_for_every_evaluation() -> None:
    space = Space({"w": ah.float(0, 1, shape=3), "deep": {"x": ah.int(0, 9)}})
    values = space.initial(rng())
    first, second = space.build(values), space.build(values)
    first["w"][0] = 99
    first["deep"]["x"] = 99
    assert second["w"][0] == 0.5 and space.build(values)["deep"]["x"] == 4


class Layer:
    """A thing of a user's own."""

    def __init__(self) -> None:
        self.sizes = [1, 2]


def test_containers_belong_to_the_objective_and_other_objects_are_handed_out_as_they_are() -> None:
    layer, table = Layer(), np.arange(3)
    space = Space(
        {
            "constant": {"tags": ["a", {"b"}], "layer": layer},
            "tuple": ("a", ["b"]),
            "table": table,
            "layer": layer,
            "option": ah.choice(["a", ["b"]]),
            "branch": ah.choice({"name": "adam"}, {"name": "sgd", "m": ah.float(0, 1), "betas": [0.9, 0.99]}),
            "own": ah.custom(sample=lambda rng: [rng.permutation(3), 0], init=[np.arange(3), 0]),
        }
    )
    flat = Space({k: v for k, v in space.tree.items() if k != "branch"})
    for one, values in ((space, space.initial(rng())), (space, space.sample(rng(3))), (flat, flat.initial(rng()))):
        before = repr(one.build(values))
        params = one.build(values)
        assert params["layer"] is params["constant"]["layer"] is layer and params["table"] is table
        params["constant"]["tags"][1].clear()
        params["constant"].clear()
        params["tuple"][1].clear()
        params["option"] += "c"
        params["own"][0][0] = 99
        params["own"].clear()
        params.get("branch", {}).clear()
        assert repr(one.build(values)) == before


async def test_what_an_objective_changes_is_its_own_affair() -> None:
    given: list[tuple[str, list[int], int]] = []

    def objective(params: dict[str, Any]) -> float:
        given.append((params["o"].pop("name"), list(params["order"]), params["constant"]["n"]))
        params["constant"]["n"] += 1
        params["order"].reverse()
        return float(given[-1][1][0])

    search = ah.Search(
        o=ah.choice({"name": "adam"}, {"name": "sgd", "m": ah.float(0, 1)}),
        order=ah.custom(sample=lambda rng: rng.permutation(9).tolist(), mutate=lambda v, rng: v.reverse() or v),
        constant={"n": 1},
        seed=1,
    )
    await search.run(objective, steps=60, quiet=True)
    assert {name for name, _, _ in given} == {"adam", "sgd"}
    assert [(t.params["o"]["name"], t.params["order"], t.params["constant"]["n"]) for t in search.history] == given
    assert {n for _, _, n in given} == {1}


# -- counting


def test_the_number_of_candidates_is_known_where_it_is_finite() -> None:
    assert Space({"a": ah.int(1, 3), "b": ah.bool()}).cardinality == 6
    assert Space({"a": ah.choice({"b": ah.int(1, 3)}, {"c": ah.bool()}, "d")}).cardinality == 6
    assert Space({"a": ah.int(0, 1, shape=3)}).cardinality == 8
    assert Space({"a": ah.float(0, 1), "b": ah.bool()}).cardinality == math.inf
    assert Space({"a": ah.custom(init=1)}).cardinality == math.inf


def test_the_points_of_a_finite_space_are_all_different_and_legal() -> None:
    space = Space({"a": ah.choice({"b": ah.int(1, 3)}, ah.bool(), "d"), "c": ah.int(0, 1, shape=2)})
    built = [space.build(space.point(i)) for i in range(int(space.cardinality))]
    assert len({str(b) for b in built}) == len(built) == 24


def test_a_space_larger_than_any_float_can_be_made() -> None:
    space = Space(
        {**{f"x{i}": ah.int(0, 10**9) for i in range(60)}, "y": ah.float(0, 1), "z": ah.choice({"w": ah.float()}, 1)}
    )
    assert space.cardinality == math.inf
    assert Space({f"x{i}": ah.int(0, 10**9) for i in range(60)}).cardinality == math.inf


# -- guesses from outside


def test_a_partial_guess_is_filled_from_the_base_or_with_first_guesses() -> None:
    space, g = Space(nested()), rng()
    base = space.fit({"lr": 0.01, "model": {"name": "forest", "trees": 77, "depth": 5}}, None, g)
    built = space.build(space.fit({"optimizer": {"momentum": 0.25}}, base, g))
    assert (built["lr"], built["model"]["trees"], built["optimizer"]["momentum"]) == (0.01, 77, 0.25)
    built = space.build(space.fit({"model": {"name": "svm", "C": 3.0}}, base, g))
    assert built["model"] == {"name": "svm", "C": 3.0, "kernel": "rbf"}
    assert space.build(space.fit({"model": 3}, base, g))["model"] == 3
    assert space.build(space.fit({"model": "constant"}, base, g))["model"] == "constant"


def test_guesses_may_be_numpy_numbers_and_whole_floats() -> None:
    space = Space(
        {"a": ah.int(0, 9), "b": ah.float(0, 1), "c": ah.choice(8, 16), "d": ah.int(0, 9, shape=2), "e": ah.bool()}
    )
    guess = {"a": np.int64(3), "b": np.float32(0.5), "c": np.int32(16), "d": [1.0, 2.0], "e": np.bool_(True)}
    built = space.build(space.fit(guess, None, rng()))
    assert (built["a"], built["b"], built["c"], built["d"].tolist(), built["e"]) == (3, 0.5, 16, [1, 2], True)
    assert type(built["a"]) is int and type(built["b"]) is float and built["d"].dtype == np.int64


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        ({"lrr": 1}, "unknown parameter 'lrr'; the space has 'lr', 'model', 'layers', 'pair', 'optimizer', 'note'"),
        ({"optimizer": {"moment": 1}}, "unknown parameter 'optimizer.moment'"),
        ({"lr": 5.0}, r"lr: 5\.0 is outside"),
        ({"lr": "fast"}, "lr: 'fast' is not a number"),
        ({"lr": math.nan}, "lr: nan is outside"),
        ({"model": {"name": "mlp"}}, r"model: \{'name': 'mlp'\} fits none of the 4 options"),
        ({"model": 9}, "model: 9 fits none"),
        ({"layers": [{"units": 16}]}, "layers: a list of 2 is expected"),
        ({"layers": [{"units": 16}, {"units": 2000}]}, r"layers\.1\.units: 2000 is outside \[16, 512\]"),
        ({"optimizer": 3}, "optimizer: a dict is expected"),
        ({"note": "another"}, "note: is the constant 'a constant' in this space, not 'another'"),
        ({"pair": (True, 4)}, r"pair\.1: is the constant 3"),
    ],
    ids=str,
)
def test_a_guess_that_does_not_belong_is_refused_by_name(guess: dict[str, Any], said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        Space(nested()).fit(guess, None, rng())


@pytest.mark.parametrize(
    "value",
    [[1, 2], [1, 2, 10], [1, 2, math.nan], [0.5, 1, 2], "abc", [[1], [2, 3]], [True, False, True], None],
    ids=str,
)
def test_an_array_guess_that_does_not_belong_is_refused(value: Any) -> None:
    with pytest.raises(SpaceError, match=r"^w: "):
        Space({"w": ah.int(0, 9, shape=3)}).fit({"w": value}, None, rng())


# -- spaces that contradict themselves


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ah.choice(), r"choice\(\) needs at least one option"),
        (lambda: ah.choice([]), r"choice\(\) needs at least one option"),
        (lambda: ah.choice("a", "a"), "two options read the same"),
        (lambda: ah.choice({"a", "b"}), "got one set, which has no options in it"),
        (lambda: ah.choice(x for x in "ab"), "got one generator, which has no options in it"),
        (lambda: ah.choice(np.arange(3)), "got one ndarray, which has no options in it"),
        (lambda: Space({"x": {"y": {ah.bool()}}}), r"x\.y: a parameter in a set is none"),
        (lambda: ah.choice({"a": 1}.keys()), "got one dict_keys, which has no options in it"),
        (lambda: ah.choice({"a": 1}.values()), "got one dict_values, which has no options in it"),
        (lambda: Space({"x": ah.float}), "x: .* is not called"),
        (lambda: ah.choice(ah.float, ah.int), r"choice\(\)'s option 0: .* is not called"),
        (lambda: ah.choice({"m": ah.float, "n": ah.int(3)}, "b"), r"choice\(\)'s option 0\.m: .* is not called"),
        (lambda: ah.choice("a", "b", init="c"), "'c' is not one of the 2 options"),
        (lambda: ah.choice("a", "b", labels=["x"]), "2 options need 2 different labels"),
        (lambda: ah.choice("a", "b", labels=["x", "x"]), "2 options need 2 different labels"),
        (lambda: ah.choice("a", "b", labels=["x", ["y"]]), "labels are texts that UTF-8 can write"),
        (lambda: ah.choice("a", "b", labels=["x", "\ud800"]), "labels are texts that UTF-8 can write"),
        (lambda: ah.choice("a", "b", labels=3), "labels are texts"),
        (lambda: ah.float(1, 0), r"float\(1, 0\): low 1 is above high 0"),
        (lambda: ah.float(-1), r"float\(-1, None\): low 0 is above high -1"),
        (lambda: ah.int(5, 2), r"int\(5, 2\): low 5 is above high 2"),
        (
            lambda: ah.float(0, 1, log=True),
            r"float\(0, 1\): a logarithmic scale needs positive bounds, and low is 0\.0",
        ),
        (lambda: ah.float(-1, 1, "0.2g"), "logarithmic scale needs positive bounds"),
        (lambda: ah.float(1, log=True), "logarithmic scale needs positive bounds"),
        (lambda: ah.float(log=True), "logarithmic scale needs two bounds"),
        (lambda: ah.int(0, 9, log=True), "logarithmic scale needs positive bounds"),
        (lambda: ah.float(math.nan, 1), r"float\(nan, 1\): a bound must be a finite number"),
        (lambda: ah.float(0, math.inf), "must be a finite number"),
        (lambda: ah.int(0, math.nan), "must be a finite number"),
        (lambda: ah.int(0, 10**400), "must be within 1e300"),
        (lambda: ah.float("0", 1), "a bound must be a number, got '0'"),
        (lambda: ah.float(True, 2), "a bound must be a number, got True"),
        (lambda: ah.float(np.zeros(1), 2), r"a bound must be a number, got array\(\[0.\]\)"),
        (lambda: ah.int(), "an int needs at least an upper bound"),
        (lambda: ah.int(0.5, 3), "0.5 is not an integer"),
        (lambda: ah.float(0, 1, init=2), r"float\(0, 1\): init 2\.0 is outside \[0\.0, 1\.0\]"),
        (lambda: ah.float(0, 1, init=math.nan), "init nan is outside"),
        (lambda: ah.float(init=math.inf), "inf is not a finite number"),
        (lambda: ah.float(0, 1, init="mid"), "'mid' is not a number"),
        (lambda: ah.int(0, 9, init=10), r"int\(0, 9\): init 10 is outside"),
        (lambda: ah.int(0, 9, init=1.5), "1.5 is not an integer"),
        (lambda: ah.int(0, 90, multiple_of=32, init=33), "init 33 is not one of the values; the nearest is 32"),
        (lambda: ah.int(16, 512, power_of=2, init=100), "init 100 is not one of the values; the nearest is 128"),
        (lambda: ah.float(0, 1, shape=()), r"shape=\(\) must hold positive integers; for one number, leave it out"),
        (lambda: ah.int(33, 63, power_of=2), r"int\(33, 63, power_of=2\): there is no power of 2 in the range"),
        (lambda: ah.int(-9, 0, power_of=2), "no power of 2 in the range"),
        (lambda: ah.int(33, 63, multiple_of=32), "no multiple of 32 in the range"),
        (lambda: ah.int(0, 9, multiple_of=0), "multiple_of=0 must be a positive integer"),
        (lambda: ah.int(0, 9, power_of=1), "power_of=1 must be an integer of 2 or more"),
        (lambda: ah.int(0, 9, power_of=2, multiple_of=2), "exclude each other"),
        (lambda: ah.float(0.11, 0.19, precision=1), "no value with 1 decimals in it"),
        (lambda: ah.float(1.01e-3, 1.09e-3, "0.1g"), "no value with that many digits in it"),
        (lambda: ah.float(0, 1e300, precision=2), "more digits than a float holds"),
        (lambda: ah.float(0, 50, precision=14), "more digits than a float holds"),
        (lambda: ah.float(0, 1, precision=-1), "precision=-1 must be an integer from 0 to 15"),
        (lambda: ah.float(1, 2, log=True, precision=0), "precision=0 must be an integer from 1 to 15"),
        (lambda: ah.float(0, 1, precision=1.5), "precision=1.5 must be an integer"),
        (lambda: ah.float(0, 1, "0.2x"), "cannot read the format '0.2x'"),
        (lambda: ah.float(0, 1, "two"), "cannot read the format 'two'"),
        (lambda: ah.float(0, 1, ""), "cannot read the format ''"),
        (lambda: ah.float(0, 1, "0.2f", log=True), "already says the scale and the precision"),
        (lambda: ah.float(0, 1, shape=0), "shape=0 must hold positive integers"),
        (lambda: ah.float(0, 1, shape=(2, -1)), "must hold positive integers"),
        (lambda: ah.float(0, 1, shape=1.5), "must hold positive integers"),
        (lambda: ah.float(0, 1, shape="ab"), "must hold positive integers"),
        (lambda: ah.float(0, 1, shape=2, init=[0.5, 2]), r"float\(0, 1\): init: an entry is outside"),
        (lambda: ah.float(0, 1, shape=2, init=[1, 1, 1]), "cannot make an array of shape"),
        (lambda: ah.int(0, 9, shape=2, init=1.5), "cannot hold the entries of 1.5"),
        (lambda: ah.int(0, 9, multiple_of=2, shape=2, init=[2, 3]), "an entry is not one of the values"),
        (lambda: ah.float(shape=2, init=math.inf), "an entry is outside"),
        (lambda: ah.int(0, 2**64, shape=2), "holds 64-bit integers"),
        (lambda: ah.bool(init="yes"), "init is True or False"),
        (lambda: ah.custom(), r"custom\(\) needs sample= or init="),
        (lambda: ah.custom(init=1, encode=str), "encode= and decode= come together"),
        (lambda: ah.float(0, 1, sample=3), "take functions, got 3"),
        (lambda: ah.float(0, 1, mutate=lambda a, b, c, d: a), "wants d, too"),
        (lambda: ah.float(0, 1, mutate=lambda value, *, far: value), "wants far, too"),
        (lambda: ah.float(0, 1, shape=2**70), r"float\(0, 1\): shape=1180591620717411303424: "),
        (lambda: ah.float(0, 1, shape=10**15), r"float\(0, 1\): shape=1000000000000000: "),
        (lambda: ah.float(5e-324, 1, "0.2g"), "keeps significant digits from 1e-290 on"),
        (lambda: ah.Search(), "needs at least one parameter"),
        (lambda: ah.Search({}), "needs at least one parameter"),
        (lambda: ah.Search([1]), "a search space is a dict"),
        (lambda: ah.Search({"x": ah.bool()}, {"x": ah.bool()}), "two of the dicts define 'x'"),
        (lambda: ah.Search({"x": ah.bool()}, x=ah.bool()), "two of the dicts define 'x'"),
        (lambda: ah.Search({"a": {"b": ah.bool()}, "a.b": ah.bool()}), r"two parameters are called 'a\.b'"),
        (lambda: ah.Search({"a": ah.choice({"b": ah.bool()}), "a.b": ah.bool()}), r"two parameters are called 'a\.b'"),
        (lambda: ah.Search({"a": {(1, 2): ah.bool()}}), "a key must be a string or a number"),
    ],
)
def test_a_bad_space_is_refused_when_it_is_made(make: Any, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        make()


def test_numbers_of_a_parameter_may_be_numpys() -> None:
    two = np.int64(2)
    space = Space(
        {
            "s": ah.float(0, 1, shape=two),
            "t": ah.float(0, 1, shape=(two, two), precision=two),
            "p": ah.int(1, 64, power_of=two),
            "m": ah.int(1, 64, multiple_of=two),
            "g": ah.float(1e-3, 1, log=True, precision=two),
        }
    )
    built = space.build(space.sample(rng()))
    assert built["s"].shape == (2,) and built["t"].shape == (2, 2)
    assert orjson.loads(orjson.dumps(space.describe()))["g"]["precision"] == 2


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True])
def test_a_bad_seed_is_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed="):
        ah.Search({"x": ah.bool()}, seed=seed)


def test_several_dicts_and_keywords_are_one_space() -> None:
    search = ah.Search({"a": ah.bool(), "c": 1}, {"b": ah.int(3)}, d=ah.float())
    assert search.space.paths == ("a", "b", "d")
    assert set(search.space.build(search.space.initial(rng()))) == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("param", "said"),
    [
        (ah.choice(object(), 1), r"p: a checkpoint cannot hold the option <object.*; name the options with labels="),
        (ah.choice(lambda x: x, 1), "p: a checkpoint cannot hold the option <function"),
        (ah.choice("\ud800", 1), r"p: a checkpoint cannot hold the option '\\ud800'; name the options with labels="),
        (
            ah.custom(init=1j),
            r"p: a checkpoint cannot hold its values \(builtins.complex\); give it encode= and decode=",
        ),
        (ah.custom(init=(1, 2)), r"p: a checkpoint would give \(1, 2\) back as \[1, 2\]; give it encode= and decode="),
        (ah.custom(init=1, encode=lambda x: {1}, decode=int), "p: a checkpoint cannot hold its values"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(param: Any, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        Space({"p": param}).check_storable()


@pytest.mark.parametrize("key", [0, 1])
async def test_a_value_that_a_checkpoint_cannot_hold_is_named_before_the_run(key: int, tmp_path: Path) -> None:
    only_later = ah.custom(init=1, sample=lambda rng: {1})
    only_moved = ah.custom(init=1, mutate=lambda v: {1})
    search = ah.Search({"deep": {"p": (only_later, only_moved)[key]}})
    with pytest.raises(SpaceError, match=r"deep\.p: a checkpoint cannot hold its values \(builtins\.set\); give it"):
        await search.run(lambda p: 1.0, steps=5, quiet=True, checkpoint_path=tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["{}/a.ckpt", "memory://late"])
async def test_a_value_that_a_checkpoint_cannot_hold_is_named_also_when_it_comes_late(url: str, tmp_path: Path) -> None:
    search = ah.Search({"deep": {"p": ah.custom(sample=lambda rng: 1, mutate=lambda v, rng: {v})}, "x": ah.float(0, 1)})
    with pytest.raises(SpaceError, match=r"deep\.p: a checkpoint cannot hold \{1\} \(builtins\.set\); give it encode="):
        await search.run(lambda p: p["x"], steps=50, quiet=True, checkpoint_path=url.format(tmp_path))
    assert 0 < len(search.history) < 50
    await search.run(lambda p: 1.0, steps=5, quiet=True)  # what is known in memory can be gone on with


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


class Points(ah.Parameter):
    def sample(self, rng: np.random.Generator) -> Point:
        return Point(int(rng.integers(100)))


@pytest.mark.parametrize("duplicates", ["reject", "reuse", "allow"])
@pytest.mark.parametrize(
    "param", [ah.custom(sample=lambda rng: Point(int(rng.integers(100)))), Points()], ids=["custom", "subclass"]
)
async def test_a_search_in_memory_takes_values_that_no_checkpoint_can_hold(param: Any, duplicates: Any) -> None:
    search = ah.Search({"p": param, "o": ah.bool()}, seed=1)
    await search.run(lambda p: p["p"].x, steps=60, quiet=True, duplicates=duplicates)
    assert len(search.history) == 60
    assert search.best is not None and isinstance(search.best["p"], Point)
    assert len(search.history.to_pandas()) == 60
    search.enqueue(search.best)
    with pytest.raises(SpaceError, match="p: a checkpoint cannot hold its values"):
        await search.run(lambda p: 1.0, steps=5, quiet=True, checkpoint_path="memory://never")
    with pytest.raises(SpaceError, match="p: a checkpoint cannot hold its values"):
        await search.save("memory://never")


async def test_the_same_object_is_not_evaluated_twice_where_nothing_else_tells_values_apart() -> None:
    points = [Point(x) for x in range(5)]
    search = ah.Search({"p": ah.custom(sample=lambda rng: points[int(rng.integers(5))])}, seed=1)
    await search.run(lambda p: p["p"].x, steps=60, quiet=True)
    assert sorted(t.params["p"].x for t in search.history) == [0, 1, 2, 3, 4]
    assert search.outcome is not None and search.outcome.reason == "exhausted"


def test_what_a_checkpoint_can_hold_is_let_through() -> None:
    Space(
        {
            "a": ah.choice(object(), 1, labels=["x", "y"]),
            "b": ah.custom(init=1j, encode=lambda z: [z.real, z.imag], decode=lambda p: complex(*p)),
            "c": ah.custom(init=(1, 2), encode=list, decode=tuple),
            "d": ah.custom(init=np.arange(3)),
            "e": ah.custom(init=math.nan),
            **nested(),
        }
    ).check_storable()


# -- large spaces


def calls_during(work: Any) -> int:
    """How many Python functions are called while `work` runs."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def lines_during(work: Any) -> int:
    """How many lines of Python run while `work` does: a loop over entries shows, whatever it calls."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "param",
    [
        lambda shape: ah.float(-1, 1, shape=shape),
        lambda shape: ah.float(1e-5, 1, log=True, shape=shape),
        lambda shape: ah.float(0, 1, "0.3f", shape=shape),
        lambda shape: ah.float(1e-5, 1, "0.3g", shape=shape),
        lambda shape: ah.float(shape=shape),
        lambda shape: ah.int(0, 9, shape=shape),
        lambda shape: ah.int(1, 10**6, log=True, shape=shape),
        lambda shape: ah.int(0, 512, multiple_of=32, shape=shape),
        lambda shape: ah.int(16, 512, power_of=2, shape=shape),
    ],
    ids=["float", "log", "rounded", "digits", "normal", "int", "logint", "step", "power"],
)
def test_a_million_entries_take_no_more_python_than_a_hundred(param: Any) -> None:
    def work(shape: Any) -> Any:
        space = Space({"w": param(shape)})

        def proposals() -> None:
            g = rng()
            values = space.mutate(space.mutate(space.sample(g), g, 0.1), g, 1.0)
            space.key(values)
            space.build(values)
            space.encode(values)

        return proposals

    small, large = work((10, 10)), work((1000, 1000))
    small(), large()
    gc.collect()
    gc.disable()  # what other tests have left is taken away in Python, too
    try:
        assert calls_during(large) <= calls_during(small) + 20
        assert lines_during(large) <= lines_during(small) + 100
    finally:
        gc.enable()


@pytest.mark.parametrize(("high", "precision"), [(2.25, 15), (22.5, 14), (2.25e15, 0), (2.25e8, 7)])
def test_numbers_of_many_digits_are_in_their_own_cells(high: float, precision: int) -> None:
    """Or what a log says would be another value than the one that was evaluated."""
    scalar, array = ah.float(0, high, precision=precision), ah.float(0, high, precision=precision, shape=2000)
    rng = np.random.default_rng(1)
    drawn = [scalar.sample(rng) for _ in range(2000)]
    assert [scalar.clip(value) for value in drawn] == drawn
    many = array.sample(rng)
    assert np.array_equal(array.clip(many), many)
