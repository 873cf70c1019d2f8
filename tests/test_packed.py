"""Trials that are told many at a time are the trials that they were, in any space, and nothing else gets in with them."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asynchopper as ah
from asynchopper import packed
from asynchopper.errors import CheckpointCorrupted, StorageError
from asynchopper.journal import Replay, fold_portion
from asynchopper.packed import can_pack
from asynchopper.records import decode, encode
from asynchopper.space import Space
from asynchopper.state import Asked, Fact, Finished, Header, State
from asynchopper.storage import Entry
from asynchopper.transfer import copy
from asynchopper.verify import repair, verify
from tests.test_bulk import FLAT, ODD_VALUES, OTHERS, SPACES, asked, everything, logs, told


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short histories are packed, too."""
    monkeypatch.setattr("asynchopper.state._MANY", 1)


def reread(records: list[bytes], space: Space, bulk: bool = False) -> State:
    entries, state = [Entry(i, r) for i, r in enumerate(records)], State(space, remember=False)
    if not bulk:
        fold_portion(entries, state, "a log")
        return state
    replay = Replay(state, "a log")
    replay.fold(entries)
    replay.end()
    return state


def known(state: State) -> dict[str, Any]:
    """All but the order in which origins were met, and how the log was written."""
    found = everything(state)
    assert state.header is not None
    return found | {"origins": None, "said": (state.header._replace(packed=False), *found["said"][1:])}


@pytest.mark.parametrize("space", SPACES, ids=["flat", "nested"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_packed_is_what_it_was(space: Space, data: st.DataObject) -> None:
    state = reread([encode(fact, space) for fact in data.draw(logs(space))], Space(space.tree))
    each = data.draw(st.integers(1, 9)) if can_pack(state.table) else 0
    records = [encode(fact, space) for fact in state.facts(each=each)]
    single = [encode(fact, space) for fact in state.facts()]
    ids = state.table.ids.tolist()
    told = state.next_id - 1 in ids
    last = ids.index(state.next_id - 1) if told else state.told
    asked_at = min(state.asked_at, last)
    together = state.told if told and asked_at == last else asked_at
    assert (b'"kind":"trials"' in b"".join(records)) == (each > 0 and together > 0)
    tree = data.draw(st.sampled_from([space, space, *SPACES, *OTHERS])).tree
    found = known(reread(records, Space(tree), data.draw(st.booleans())))
    assert found == known(reread(single, Space(tree)))


def test_both_ways_of_reading_a_column_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for space in SPACES:
        state = long_state(space)
        records = [encode(fact, space) for fact in state.facts(each=16)]
        at_once = known(reread(records, Space(space.tree)))
        with monkeypatch.context() as patch:
            patch.setattr(packed, "_typed", lambda space: None)
            assert known(reread(records, Space(space.tree))) == at_once == known(state)


def long_state(space: Space, trials: int = 50) -> State:
    facts: list[Fact] = [Header("id", "maximize", 7, space.describe())]
    for i in range(trials):
        facts.append(
            asked(space, i, 1 + i % 2, i, "local" if i else "initial", [i % 5, 0.25, i] if i % 3 else None, None)
        )
        if i % 7:
            more: Any = (
                (0.5, math.inf) if i % 4 == 0 else (),
                float(i % 2),
                0.1,
                0.1 * i,
                "an error" if i % 6 == 0 else None,
            )
            facts.append(told(i, 1 + i % 2, ("completed", "pruned", "nan", "failed")[i % 4], 1.0 * i, more))
    state = State(space, remember=False)
    for fact in facts:
        state.fold(fact)
    return state


def trials_record(space: Space = FLAT, trials: int = 50) -> dict[str, Any]:
    state = long_state(space, trials)
    return json.loads(encode(Finished(state.table, 0, state.told), space))


def test_other_spaces_keep_records_of_their_own() -> None:
    for tree in ({"w": ah.float(0, 1, shape=3)}, {"n": ah.int(0, 2**70)}):
        state = State(Space(tree))
        state.fold(Asked(0, 1, state.space.sample(np.random.Generator(np.random.Philox(1))), "local"))
        state.fold(told(0, 1, "completed", 1.0, ((), 0.0, 0.1, 0.1, None)))
        assert not can_pack(state.table)


def test_trials_that_are_known_are_not_told_again() -> None:
    record = json.dumps(trials_record()).encode()
    head = [encode(Header("id", "maximize", 7, FLAT.describe(), True), FLAT)]
    out = encode(asked(FLAT, 9, 1, 9, "local", None, None), FLAT)
    for records in ([*head, record, record], [*head, out, record]):
        for bulk in (False, True):
            with pytest.raises(CheckpointCorrupted, match=r"record [12]: a trial that has been told or asked before"):
                reread(records, Space(FLAT.tree), bulk)


def test_trials_that_were_out_can_be_asked_once() -> None:
    state = long_state(FLAT)
    left_out = [i for i in range(50) if i % 7 == 0]
    assert sorted(state.pending) == left_out
    state.pending.clear()
    head = Header("id", "maximize", 7, FLAT.describe(), True)
    read = State(Space(FLAT.tree))
    for fact in (head, Finished(state.table, 0, state.told)):
        read.fold(fact)
    assert read.next_id == 49 and read.skipped == {i for i in left_out if i < 49}
    read.keep_undo(True)
    mark = read.mark()
    read.fold(asked(FLAT, 7, 1, 7, "local", None, None))
    assert 7 in read.pending and 7 not in read.skipped
    read.fold(told(7, 1, "completed", 1.0, ((), 0.0, 0.1, 0.1, None)))
    read.fold(asked(FLAT, 7, 2, 7, "local", None, None))
    assert not read.pending
    read.rollback(mark)
    assert not read.pending and 7 in read.skipped and read.told == state.told


def test_a_fold_of_many_can_be_taken_back() -> None:
    state = long_state(FLAT)
    read = State(Space(FLAT.tree))
    read.fold(Header("id", "maximize", 7, FLAT.describe(), True))
    read.fold(Finished(state.table, 0, 20))
    read.keep_undo(True)
    before, seen, skipped, mark = everything(read), set(read.seen or ()), set(read.skipped), read.mark()
    read.fold(Finished(state.table, 20, state.told))
    assert read.told == state.told and len(read.seen or ()) == read.told
    read.rollback(mark)
    assert everything(read) == before and read.seen == seen and read.skipped == skipped


def array_of(numbers: list[Any], dtype: str) -> dict[str, Any]:
    data = np.array(numbers, dtype)
    return {"$array": [dtype, [len(numbers)], base64.b64encode(data.tobytes()).decode()]}


N = 20
LONG = array_of([0] * 65_537, "<i4")
ODD_COLUMNS: list[Any] = [
    *ODD_VALUES, {}, {"options": ["a"]}, {"options": "a", "of": array_of([0] * N, "|i1")},
    array_of([0] * N, "|i1"), array_of([0] * (N - 1), "|i1"), array_of([-1] * N, "|i1"), array_of([2] * N, "|i1"),
    array_of([0.5] * N, "<f8"), array_of([0.5] * N, "<f4"), array_of([math.nan] * N, "<f8"), array_of([2**40] * N, "<i8"),
    array_of(list(range(N)), "<u8"), array_of([True] * N, "|b1"), array_of([-(2**63)] * N, "<i8"), LONG,
    {"options": ["a", "b"], "of": array_of([0] * N, "|i1")}, {"options": ["a", "a"], "of": array_of([1] * N, "|i1")},
    {"options": [], "of": array_of([-1] * N, "|i1")}, {"options": ["interrupted"], "of": array_of([0] * N, "|i1")},
    {"options": [1, None, [2]], "of": array_of([2] * N, "|i1")}, {"count": array_of([1] * N, "|i1"), "of": array_of([], "<f8")},
    {"count": array_of([2**30] * N, "<i8"), "of": array_of([1.0] * N, "<f8")}, {"0": 1}, {"0": "x"}, {str(N): 1}, {"-1": 1},
    {"x": 1}, {"9" * 5000: 1}, [1, 2, 3], [array_of([1] * N, "|i1"), array_of([0.5] * N, "<f8"), array_of([-1] * N, "|i1")],
    [array_of([-1] * N, "|i1"), array_of([math.nan] * N, "<f8"), array_of([0] * N, "|i1")],
]  # fmt: skip
PLACES = ["id", "attempt", "state", "origin", "params", "value", "seconds", "elapsed", "note", "estimates", "cost", "error",
          "more", *(f"params.{path}" for path in (*FLAT.paths, "more"))]  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), st.sampled_from(ODD_COLUMNS), st.booleans())
def test_columns_that_are_not_as_they_should_be(place: str, value: Any, gone: bool) -> None:
    """They are refused as damage, or are trials like any other that can be written again."""
    body = trials_record(trials=24)
    assert body["id"]["$array"][1] == [N]
    inside, _, name = place.rpartition(".")
    of = body[inside] if inside else body
    if gone:
        of.pop(name, None)
    else:
        of[name] = value
    records = [encode(Header("id", "maximize", 7, FLAT.describe(), True), FLAT), json.dumps(body).encode()]
    said, states = [], []
    for bulk in (False, True):
        try:
            states.append(reread(records, Space(FLAT.tree), bulk))
        except StorageError as e:
            said.append(f"{type(e).__name__} {e}")
    if said:
        assert len(said) == 2 and said[0] == said[1] and said[0].startswith("CheckpointCorrupted a log: record 1: ")
        return
    assert known(states[0]) == known(states[1])
    if can_pack(states[0].table):
        again = [encode(fact, states[0].space) for fact in states[0].facts(each=7)]
        assert known(reread(again, Space(FLAT.tree))) == known(states[0])


def test_a_record_that_would_become_too_large_is_refused() -> None:
    """Each parameter is a byte a trial here, and would be an entry of a dict."""
    n, column = 2**16, array_of([0] * 2**16, "|i1")
    body = trials_record() | {"params": {str(i): {"options": ["a"], "of": column} for i in range(80)}}
    body |= {name: array_of([0] * n, "|i1") for name in ("attempt",)} | {"id": array_of(list(range(n)), "<i4")}
    with pytest.raises(ValueError, match="65536 trials in a record"):
        decode(json.dumps(body).encode(), FLAT)


# -- what users see


async def objective(params: dict[str, Any], trial: ah.RunningTrial) -> float:
    if trial.id % 11 == 3:
        raise ValueError("no such thing")
    for step in range(trial.id % 3):
        await trial.report(step + params["x"])
    return float(params["x"])


def new_search() -> ah.Search:
    return ah.Search({"x": ah.float(0, 1), "n": ah.int(1, 100), "c": ah.choice("a", "b", 3)}, seed=3)


def seen_by(search: ah.Search) -> list[str]:
    return [repr(t) for t in search.history]


async def test_a_saved_search_is_packed_and_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, cut = new_search(), new_search()
    sampler = ah.TwoStageSampler()  # it does not think, so that some are always out
    words: dict[str, Any] = {"on_error": "record", "quiet": True, "concurrency": 4, "sampler": sampler}
    pruner = ah.pruners.QuantilePruner(0.9)
    path = tmp_path / "saved.ckpt"

    async def saving(trial: ah.Trial) -> None:
        if trial.id == 60:
            await cut.save(path)

    await cut.run(objective, steps=100, pruner=pruner, callbacks=saving, **words)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [r["kind"] for r in records]
    assert (
        records[0]["format"] == "2.0" and kinds[:2] == ["header", "trials"] and {"asked", "run", "pruner"} <= {*kinds}
    )
    assert kinds.count("told") <= 4, "all but those that were told since the last one was asked are told together"
    await whole.load(path, pruner=ah.pruners.QuantilePruner(0.9))
    n = len(whole.history)
    assert seen_by(whole) == seen_by(cut)[:n] and n >= 60
    report = await verify(path)
    assert not report.damage and report.state.told == n
    await repair(path, tmp_path / "again.ckpt")
    await copy(path, tmp_path / "copied.ckpt")
    for name in ("again.ckpt", "copied.ckpt"):
        other = new_search()
        await other.load(tmp_path / name)
        assert seen_by(other) == seen_by(whole)
    asked = [t.id for t in whole._journal.state.pending.values()]
    again = new_search()
    await again.run(objective, steps=100, checkpoint_path=path, pruner=ah.pruners.QuantilePruner(0.9), **words)
    assert len(again.history) == 100 and seen_by(again)[:n] == seen_by(whole)
    assert asked and {t.id: t.attempt for t in again.history if t.id in asked} == dict.fromkeys(asked, 2)
    final = new_search()
    await final.load(path)
    assert seen_by(final) == seen_by(again)
    assert not (await verify(path)).damage


async def test_short_histories_can_be_read_by_any_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    search = new_search()
    await search.run(objective, steps=50, on_error="record", quiet=True)
    await search.save(tmp_path / "short.ckpt")
    first, second, *_ = (tmp_path / "short.ckpt").read_text().splitlines()
    assert json.loads(first)["format"] == "1.0" and json.loads(second)["kind"] == "asked"


async def test_saving_beside_a_run_does_not_disturb_it(tmp_path: Path) -> None:
    """The columns grow while another thread copies them."""
    search = new_search()
    saves: list[asyncio.Task[Path]] = []

    def save(trial: ah.Trial) -> None:
        if trial.id % 100 == 0:
            saves.append(asyncio.ensure_future(search.save(tmp_path / f"{trial.id}.ckpt")))

    await search.run(lambda params: params["x"], steps=3_000, quiet=True, callbacks=save, duplicates="allow")
    for path in await asyncio.gather(*saves):
        other = new_search()
        await other.load(path)
        assert seen_by(other) == seen_by(search)[: len(other.history)]
