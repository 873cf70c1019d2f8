"""A search is the fold of its facts. Pure: no clock, no loop, no file, no random draw.

Laws:
1. `State` is what you get by folding every fact in order; nothing else changes it. Folding a prefix, and then the rest,
   is folding the whole.
2. A trial is asked, then told. Told twice, or told without having been asked, changes nothing.
3. An interrupted trial is still asked: it comes back with the same parameters and the next attempt.
4. `rollback(mark())` undoes exactly the facts folded in between.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain, pairwise
from operator import attrgetter, itemgetter
from typing import NamedTuple

import numpy as np

from asynchopper.facts import (
    FINISHED,
    Asked,
    Ended,
    Fact,
    Finished,
    Header,
    PrunerSaw,
    Run,
    Saved,
    Told,
)
from asynchopper.history import COMPLETED, FAILED, ORIGINS, Rows, Table
from asynchopper.keys import Keys
from asynchopper.space import Space
from asynchopper.trial import STATES, Values
from asynchopper.values import Json

__all__ = [
    "FINISHED",
    "Asked",
    "Ended",
    "Fact",
    "Finished",
    "Header",
    "Mark",
    "PrunerSaw",
    "Run",
    "Saved",
    "State",
    "Told",
]

_MANY = 1_000  # trials that are worth being told together
_SKIPPED = 2**20  # trials that those told together may leave out


class Mark(NamedTuple):
    rows: int
    undo: int
    best_row: int
    next_id: int
    skipped: set[int]
    elapsed: float
    cost: float
    initial_asked: bool
    asked_at: int
    sign: float
    header: Header | None
    run: Run | None
    reason: str | None
    described: dict[str, Json] | None
    pruner: PrunerSaw | None
    pruner_row: int


_kept = attrgetter(*Mark._fields[2:])


class State:
    """What is known of a search: the finished trials, the ones that are out, the best, what was spent."""

    def __init__(self, space: Space, *, remember: bool = True) -> None:
        self.space = space
        self.header: Header | None = None
        self.run: Run | None = None
        self.reason: str | None = None
        self.described: dict[str, Json] | None = None
        self.table = Table(space)
        self.pending: dict[int, Asked] = {}
        """The trials that were asked and not yet told."""
        self.seen: Keys | None = Keys() if remember else None
        """Key of every candidate that was asked; `None` where nobody wants to know."""
        self.trial_of: dict[int, int | None] | None = None
        """The trial that answers for each of these, where somebody wants to know that, too; for what has failed, none."""
        self.next_id = 0
        self.skipped: set[int] = set()
        """Ids before it that a record of many trials has left out, and that are yet to be asked."""
        self.best_row = -1
        self.sign = 1.0
        self.elapsed = 0.0
        self.cost = 0.0
        self.initial_asked = False
        self.asked_at = 0
        """How many trials had finished when the last new one was asked."""
        self.pruner: PrunerSaw | None = None
        self.pruner_row = 0
        self._undo: list[tuple[Asked | None, int | None, int | None, tuple[int, int | None] | None]] | None = None

    def __repr__(self) -> str:
        return f"State({len(self.table)} told, {len(self.pending)} out, best {self.best_value})"

    # -- the fold

    def fold(self, fact: Fact) -> State:
        """Takes one fact in, in place, and returns itself."""
        if isinstance(fact, Asked):  # the two that are many, before a `match`, which is slower
            self._asked(fact)
            return self
        if isinstance(fact, Told):
            self._told(fact)
            return self
        match fact:
            case Finished():
                self._finished(fact)
            case Saved():
                self._saved(fact)
            case Header():
                self.header, self.described = fact, fact.space
                self.sign = -1.0 if fact.direction == "minimize" else 1.0
            case Run():
                self.run, self.reason = fact, None
                self.elapsed = max(self.elapsed, fact.elapsed, fact.base_elapsed)
                self.described = fact.space if fact.space is not None else self.described
            case PrunerSaw():
                self.pruner, self.pruner_row = fact, len(self.table)
            case Ended(reason=reason, elapsed=elapsed):
                self.reason = reason
                self.elapsed = max(self.elapsed, elapsed)
        return self

    def _asked(self, fact: Asked) -> None:
        id, _, values, origin, _, foreign, key, _ = fact
        before = None
        if id >= self.next_id:
            self.next_id = id + 1
            self.asked_at = len(self.table.ids)
        else:
            before = self.pending.get(id)
            if before is None:
                if id not in self.skipped:
                    return  # finished already
                self.skipped.discard(id)
        self.pending[id] = fact if before is None or before.saved is None else fact._replace(saved=before.saved)
        if origin == "initial":
            self.initial_asked = True
        seen = self.seen
        if seen is None or foreign:
            key = None
        else:
            if key is None:
                key = self.space.key(values)
            if self.trial_of is not None and self.trial_of.get(key) is None:
                self._answered_by(key, id)
            if not seen.insert(key):
                key = None
        if self._undo is not None:
            self._undo.append((before, id, key, None))

    def _answered_by(self, key: int, id: int | None) -> None:
        assert self.trial_of is not None
        if self._undo is not None:
            self._undo.append((None, None, None, (key, self.trial_of.get(key))))
        self.trial_of[key] = id

    def _saved(self, fact: Saved) -> None:
        self.elapsed = max(self.elapsed, fact.elapsed)
        before = self.pending.get(fact.id)
        if before is not None:
            self.pending[fact.id] = before._replace(saved=fact.data)
            if self._undo is not None:
                self._undo.append((before, None, None, None))

    def _told(self, fact: Told) -> None:
        id, attempt, state, value, estimates, cost, seconds, elapsed, error = fact
        if elapsed > self.elapsed:
            self.elapsed = elapsed
        asked = self.pending.get(id)
        if asked is None:
            return
        if state == "interrupted":
            self.cost += cost
            return
        del self.pending[id]
        table = self.table
        row = table.append(id, attempt, asked.values, asked.origin, state, value, seconds, elapsed)
        if estimates:
            table.estimates[row] = estimates
        if cost:
            table.costs[row] = cost
            self.cost += cost
        if error is not None:
            table.errors[row] = error
        if self.trial_of and state == "failed" and self.trial_of.get(key := self.space.key(asked.values)) == id:
            self._answered_by(key, None)
        if asked.note is not None:
            table.notes[row] = asked.note
        if asked.foreign:
            table.foreign[row] = asked.foreign
        if state == "completed" and (self.best_row < 0 or self.sign * value > self.sign * table.values[self.best_row]):
            self.best_row = row
        if self._undo is not None:
            self._undo.append((asked, None, None, None))

    def _finished(self, fact: Finished) -> None:
        """Raises `OverflowError` for trials that are told or out already, and for more than a state can hold."""
        other, start, end = fact
        if not start < end:
            return
        rows, at = other.part(start, end), len(self.table)
        ids = np.sort(rows.ids)
        late, new = ids[ids < self.next_id].tolist(), ids[ids >= self.next_id]
        if not self.skipped.issuperset(late) or (np.diff(ids) == 0).any():
            raise OverflowError("a trial that has been told or asked before is told among others")
        next_id = max(self.next_id, int(ids[-1]) + 1)
        gaps = next_id - self.next_id - len(new)
        if gaps + len(self.skipped) > _SKIPPED:
            raise OverflowError(f"more than {_SKIPPED} trials are left out")
        names, origins = other.origin_names, self.table.origin_names
        if len(names) + len(origins) > ORIGINS:
            raise OverflowError("more origins than any search has")
        numbers = np.zeros(len(names), np.int16)
        for place in dict.fromkeys(rows.origins.tolist()):
            numbers[place] = self.table.origin(names[place])
        if self._undo is not None:
            self.skipped = set(self.skipped)  # the one before is the mark's
        self.skipped.difference_update(late)
        if gaps:
            self.skipped.update(np.setdiff1d(np.arange(self.next_id, next_id), new, assume_unique=True).tolist())
        initial = "initial" in {names[place] for place in set(rows.origins.tolist())}
        self.asked_all(next_id - 1, initial, at + int(rows.ids.argmax()) if len(new) else self.asked_at)
        self.told_all(rows._replace(origins=numbers[rows.origins]))
        for row, note in other.notes.other(start, end).items():
            self.table.notes[at + row - start] = note
        for row in range(start, end) if other.foreign else ():
            if row in other.foreign:
                self.table.foreign[at + row - start] = other.foreign[row]
        for row in range(at, len(self.table)) if self.seen is not None else ():
            key = None if row in self.table.foreign else self.space.key(self.table.row(row))
            if key is None or self.seen is None:
                continue
            if self.trial_of is not None and self.trial_of.get(key) is None and self.table.states[row] != FAILED:
                self._answered_by(key, self.table.ids[row])
            if self.seen.insert(key) and self._undo is not None:
                self._undo.append((None, None, key, None))

    def asked_all(self, last: int, initial: bool, told: int) -> None:
        """Counts trials that somebody else keeps while they are out: the last one's id, whether one was the first guess, and
        how many had finished when the last one was asked."""
        self.next_id, self.asked_at = max(self.next_id, last + 1), told
        self.initial_asked = self.initial_asked or initial

    def told_all(self, rows: Rows) -> None:
        """Takes in finished trials, in the order in which they were told, as `fold` does one by one."""
        start = len(self.table)
        self.table.extend(rows)
        self.elapsed = max(self.elapsed, float(rows.elapsed.max()))
        for cost in rows.costs.values():
            self.cost += cost
        completed = np.flatnonzero(rows.states == COMPLETED)
        if len(completed):
            losses = -self.sign * rows.values[completed]
            i = int(completed[losses.argmin()])
            if self.best_row < 0 or self.sign * float(rows.values[i]) > self.sign * self.table.values[self.best_row]:
                self.best_row = start + i

    # -- taking back what could not be made durable

    def mark(self) -> Mark:
        """Where `rollback` can return to. Only the latest mark and those taken after `keep_undo` count."""
        return Mark(len(self.table.ids), len(self._undo) if self._undo is not None else 0, *_kept(self))

    def keep_undo(self, keep: bool) -> None:
        """Whether to remember how to take facts back; without it `rollback` is not possible."""
        self._undo = [] if keep else None

    def forget_undo(self, count: int) -> None:
        """The first `count` steps are durable now."""
        if self._undo is not None:
            del self._undo[:count]

    def rollback(self, mark: Mark) -> None:
        undo = self._undo
        assert undo is not None, "keep_undo(True) comes before mark()"
        rows, steps = mark.rows, mark.undo
        for name in Mark._fields[2:]:
            setattr(self, name, getattr(mark, name))
        if rows < len(self.table.ids):
            self.table.truncate(rows)
        again = set()
        while len(undo) > steps:
            before, asked_id, key, answer = undo.pop()
            if asked_id is not None:
                del self.pending[asked_id]
                if before is None and asked_id < self.next_id:
                    again.add(asked_id)
            if before is not None:
                self.pending[before.id] = before
            if key is not None and self.seen is not None:
                self.seen.discard(key)
            if answer is not None and self.trial_of is not None:
                self.trial_of[answer[0]] = answer[1]
        self.skipped |= again

    # -- what it says

    @property
    def told(self) -> int:
        """How many trials are finished."""
        return len(self.table)

    @property
    def best_value(self) -> float | None:
        return self.table.values[self.best_row] if self.best_row >= 0 else None

    @property
    def best_values(self) -> Values | None:
        """The best candidate, or `None` while nothing has completed."""
        return self.table.row(self.best_row) if self.best_row >= 0 else None

    @property
    def spent_steps(self) -> int:
        """Trials finished under the present budget."""
        return len(self.table.ids) - (self.run.base_steps if self.run else 0)

    @property
    def spent_seconds(self) -> float:
        """Seconds used of the present budget, up to the last fact."""
        return self.elapsed - (self.run.base_elapsed if self.run else 0.0)

    @property
    def spent_cost(self) -> float:
        return self.cost - (self.run.base_cost if self.run else 0.0)

    def remember_candidates(self, wanted: bool, trials: bool = False) -> None:
        """Whether `seen` is kept, and `trial_of`; what is switched on is filled from what is known."""
        if not wanted:
            self.seen = self.trial_of = None
            return
        if self.seen is not None and (self.trial_of is not None) == trials:
            return
        table, space = self.table, self.space
        columns = [c if isinstance(c, array) else None for c in table.columns]
        keys = space.keys(columns) if not table.foreign else None
        rows = [row for row in range(len(table)) if row not in table.foreign]
        if keys is None:
            keys = np.fromiter((space.key(table.row(row)) for row in rows), np.int64, len(rows))
        out = [p for p in self.pending.values() if not p.foreign]
        keys = np.concatenate((keys, np.fromiter((space.key(p.values) for p in out), np.int64, len(out))))
        self.seen, self.trial_of = Keys(keys), None
        if trials:
            ids = [*(-1 if table.states[row] == FAILED else table.ids[row] for row in rows), *(p.id for p in out)]
            pairs = zip(reversed(keys.tolist()), reversed(ids), strict=True)  # the first one's counts
            self.trial_of = {key: id for key, id in pairs if id >= 0}

    def facts(
        self, saw: PrunerSaw | None = None, seen: int = 0, each: int = 0, elapsed: float | None = None
    ) -> Iterator[Fact]:
        """A log that folds to this state as it is now: what `save` writes. Only the rows are read later.

        `saw` is the state of a pruner that has seen the first `seen` of the finished trials. Where so many trials have
        finished that it is worth it, they are told `each` at a time. `elapsed` is what the runs have taken, where that is
        more than has been told.
        """
        if saw is None and self.pruner is not None:
            saw, seen = self.pruner, self.pruner_row
        if self.header is None:
            return iter(())
        rows, pending = len(self.table), list(self.pending.values())
        behind: list[Fact] = []
        if self.run is not None:
            described = self.described if self.described != self.header.space else None
            behind.append(self.run._replace(space=described, elapsed=self.elapsed if elapsed is None else elapsed))
        behind += [Saved(asked.id, asked.attempt, asked.saved) for asked in pending if asked.saved is not None]
        if saw is not None and seen >= rows:
            behind.append(saw)
        if self.reason is not None:
            behind.append(Ended(self.reason, self.elapsed))
        asked_at = self.asked_at
        told_at = np.flatnonzero(np.frombuffer(self.table.ids[:rows], np.int64) == self.next_id - 1).tolist()
        if told_at:  # the last one that was asked: a record of many says no more than that it was asked by then
            asked_at = min(asked_at, told_at[0])
        together = rows if [asked_at] == told_at else asked_at
        packed = bool(each) and rows >= _MANY and together > 0 and self._left_out(together) <= _SKIPPED
        together = together if packed else 0
        return chain(
            [self.header._replace(packed=packed)],
            self._finished_trials(together, saw, seen, each),
            self._trials(together, rows, asked_at, pending, saw, seen),
            behind,
        )

    def _left_out(self, rows: int) -> int:
        """How many trials were at any time asked, and told later than those after them."""
        ids = np.frombuffer(self.table.ids[:rows], np.int64)
        return int((np.maximum.accumulate(ids) - np.arange(rows)).max())

    def _finished_trials(self, rows: int, saw: PrunerSaw | None, seen: int, each: int) -> Iterator[Fact]:
        cuts = {*range(0, rows, each or 1), rows, *([seen] if saw is not None and seen < rows else [])}
        for start, end in pairwise(sorted(cuts)):
            if saw is not None and start == seen:
                yield saw
            yield Finished(self.table, start, end)

    def _trials(
        self, start: int, rows: int, asked_at: int, pending: list[Asked], saw: PrunerSaw | None, seen: int
    ) -> Iterator[Fact]:
        t = self.table
        unasked: list[tuple[int, int | Asked]] = [(t.ids[row], row) for row in range(start, rows)]
        unasked += [(p.id, p) for p in pending]
        unasked.sort(key=itemgetter(0), reverse=True)
        for row in range(start, rows):
            if saw is not None and row == seen:
                yield saw
            id = t.ids[row]
            # trials are asked in the order of their ids, and told in any; the last one was asked when so many were told
            while unasked and (unasked[-1][0] <= id or row >= asked_at):
                yield self._asked_as(unasked.pop()[1])
            yield Told(
                id,
                t.attempts[row],
                STATES[t.states[row]],
                t.values[row],
                t.estimates.get(row, ()),
                t.costs.get(row, 0.0),
                t.seconds[row],
                t.elapsed[row],
                t.errors.get(row),
            )
        while unasked:
            yield self._asked_as(unasked.pop()[1])

    def _asked_as(self, trial: int | Asked) -> Asked:
        """The fact by which a trial was last asked; of a finished one by its row."""
        if isinstance(trial, Asked):
            return trial._replace(key=None, saved=None)
        t, row = self.table, trial
        origin = t.origin_names[t.origins[row]]
        return Asked(t.ids[row], t.attempts[row], t.row(row), origin, t.notes.get(row), t.foreign.get(row))
