"""What every sampler has to keep, as tests. See `asynchopper.samplers.Sampler`."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import orjson
import pytest

from asynchopper.records import encode
from asynchopper.samplers import Sampler
from asynchopper.samplers.base import View
from asynchopper.space import Generator, Space
from asynchopper.space.words import bool_, choice, custom, float_, int_
from asynchopper.state import Asked, Header, State, Told
from asynchopper.trial import Proposal

_SPACES: dict[str, dict[str, Any]] = {
    "one float": {"x": float_(0, 1)},
    "scalars": {"lr": float_(1e-5, 1e-1, log=True, precision=2), "n": int_(1, 8), "p": int_(16, 512, power_of=2),
                "m": int_(32, 512, multiple_of=32), "w": int_(1, 4096, log=True)},
    "categorical": {"a": choice("x", "y", "z"), "b": bool_(), "c": choice([0, 1e-5, 1e-4], ordinal=True)},
    "arrays": {"w": float_(-1, 1, shape=(4, 3)), "k": int_(0, 9, shape=5)},
    "unbounded": {"x": float_(), "y": float_(-1, 1)},
    "nested": {"model": choice({"kind": "svm", "c": float_(0.1, 10, log=True)},
                               {"kind": "tree", "depth": int_(1, 20), "leaf": {"n": int_(1, 9)}}), "seed": int_(0, 3)},
    "nested in order": {"size": choice([{"a": float_(0, 1)}, {"b": float_(0, 1), "only": choice({"c": int_(0, 9)})}, {"d": 1}],
                                       ordinal=True), "g": float_(0, 1, init=0.9)},
    "own moves": {"x": custom(sample=lambda rng: float(rng.random())), "y": float_(0, 1)},
    "one point": {"x": choice("only"), "y": int_(3, 3)},
    "wide": {f"x{i}": float_(-5, 5) for i in range(60)},
}  # fmt: skip

History = Literal["empty", "pending", "failed", "nan", "infinite", "equal", "few", "many", "foreign", "reused"]
_HISTORIES: tuple[History, ...] = (
    "empty", "pending", "failed", "nan", "infinite", "equal", "few", "many", "foreign", "reused",
)  # fmt: skip


class SamplerContract:
    """Derive from it, and give the fixture `sampler`: a fresh one. Every test meets every space and every history."""

    @pytest.fixture
    def sampler(self) -> Sampler:
        """A fresh sampler."""
        pytest.fail(f"{type(self).__name__} has to give the fixture `sampler`")

    @pytest.fixture(params=_SPACES, ids=lambda name: name.replace(" ", "-"))
    def space(self, request: pytest.FixtureRequest) -> Space:
        return Space(_SPACES[request.param])

    def test_proposals_are_legal(self, sampler: Sampler, space: Space) -> None:
        for view, number in _views(space):
            for draw in range(4):
                proposal = sampler.propose(view, _rng(number, draw))
                assert isinstance(proposal, Proposal)
                assert proposal.origin
                assert isinstance(proposal.origin, str)
                orjson.dumps(proposal.note)
                check_legal(space, proposal)

    def test_proposing_is_pure(self, sampler: Sampler, space: Space) -> None:
        for view, number in _views(space):
            before, noise, numpy_noise = _said(view.state), random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]  # a tuple
            first = sampler.propose(view, _rng(number))
            sampler.propose(view, _rng(number + 1))
            second = sampler.propose(view, _rng(number))
            assert _same(space, first, second), "the same view and the same generator gave another candidate"
            assert _said(view.state) == before, "proposing changed the state"
            assert random.getstate() == noise, "the sampler draws from `random`, not from its generator"
            after = np.random.get_state()[1].tobytes()  # type: ignore[index]  # a tuple
            assert after == numpy_noise, "the sampler draws from NumPy's global generator, not from its own"

    def test_a_restart_changes_no_proposal(self, sampler: Sampler, space: Space) -> None:
        """What a sampler remembers must be in the history: a state that was folded anew gives the same candidates."""
        for (view, number), (again, _) in zip(_views(space), _views(space), strict=True):
            assert _same(space, sampler.propose(view, _rng(number)), sampler.propose(again, _rng(number)))

    def test_different_draws_differ(self, sampler: Sampler, space: Space) -> None:
        if space.cardinality < 100:
            return
        for view, number in _views(space):
            keys = {space.key(sampler.propose(view, _rng(number, draw)).values) for draw in range(12)}
            assert len(keys) > 1, "every generator gives the same candidate"


def check_legal(space: Space, proposal: Proposal) -> None:
    """Raises unless the candidate lies in the space, and survives the way to the objective and to the log."""
    values = proposal.values
    assert isinstance(values, tuple)
    back = space.fit(space.build(values), None, _rng(0)) if space.cardinality < math.inf or _plain(space) else values
    assert space.key(back) == space.key(values), "the candidate is not what the space makes of it"
    stored = orjson.loads(orjson.dumps(space.encode(values))) if _plain(space) else None
    if stored is not None:
        decoded, foreign = space.decode(stored, lambda: _rng(0))
        assert not foreign
        assert space.key(decoded) == space.key(values), "the candidate does not survive the log"


def _plain(space: Space) -> bool:
    return all(leaf.param.user_sample is None for leaf in space.leaves)


def _rng(*key: int) -> Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _views(space: Space) -> Iterator[tuple[View, int]]:
    for i, history in enumerate(_HISTORIES):
        for direction in ("maximize", "minimize"):
            state = _state(space, history, direction)
            for progress, temperature in ((0.0, 1.0), (0.5, 0.6), (0.99, 0.2)):
                yield View(state, progress, progress == 0.0, temperature), i


def _state(space: Space, history: History, direction: str) -> State:
    state = State(space)
    state.fold(Header("0123456789abcdef", direction, 7, space.describe()))
    size = {"empty": 0, "many": 120}.get(history, 9)
    rng = _rng(99)
    for id in range(size):
        values = space.initial(rng) if id == 0 or history == "reused" else space.sample(rng)
        foreign = {"gone": id} if history == "foreign" else None
        state.fold(Asked(id, 1, values, "initial" if id == 0 else "seeding", None, foreign))
    for id in range(size):
        value, ended = float(rng.normal()), "completed"
        if history == "pending" or (history == "many" and id % 5 == 0):
            continue
        if history == "failed":
            value, ended = math.nan, ("failed", "pruned", "interrupted")[id % 3]
        elif history == "nan":
            value, ended = math.nan, "nan"
        elif history == "infinite":
            value = (math.inf, -math.inf, 1e308)[id % 3]
        elif history == "equal":
            value = 1.0
        elif history == "many" and id % 7 == 0:
            value, ended = math.nan, "pruned"
        state.fold(Told(id, 1, ended, value, (), 0.0, 0.1, 0.1 * id))  # type: ignore[arg-type]  # one of the states
    return state


def _said(state: State) -> tuple[object, ...]:
    facts = [encode(fact, state.space) if _plain(state.space) else repr(fact) for fact in state.facts()]
    return (facts, set(state.seen or ()), state.next_id, state.best_row, state.elapsed, state.initial_asked)


def _same(space: Space, a: Proposal, b: Proposal) -> bool:
    return space.key(a.values) == space.key(b.values) and a.origin == b.origin and repr(a.note) == repr(b.note)
