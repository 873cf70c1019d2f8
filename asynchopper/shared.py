"""The journal and the ledger of one worker among many: what it stages is a wish until the shared log has granted it.

A trial that is asked has a provisional number until the turn comes back; then it is a new trial, or one that somebody
else had given up, or it was refused. The state is always the fold of the shared log, with the wishes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from typing import Any

import orjson

from asynchopper.budget import Budget
from asynchopper.errors import AsynchopperError, StorageError
from asynchopper.journal import Head, Journal, fold_portion
from asynchopper.ledger import Ledger
from asynchopper.objective import RunningTrial
from asynchopper.pruners import Pruner
from asynchopper.records import encode
from asynchopper.samplers import Proposer
from asynchopper.samplers.proposer import Next
from asynchopper.space import Space
from asynchopper.state import FINISHED, Asked, Ended, Fact, Mark, Saved, State, Told
from asynchopper.storage import Ask, Grant, Joined, Reply, SharedStorage, Tell
from asynchopper.trial import Interrupted, Outcome

_FOLLOW_S = 0.2  # a worker that is busy with long evaluations looks after others' results this long after its last turn
_LOOK_S = 10.0  # and at least so often while it waits
_MARGIN_S = 0.02  # a lease is over only after its end

_NO_ASK = Ask("", b"")


class SharedJournal(Journal):
    """A state that follows a log which others write too."""

    def __init__(self, state: State, storage: SharedStorage, dedupe: bool, others: bool = False) -> None:
        super().__init__(state, storage)
        self.shared, self._dedupe = storage, dedupe
        self._crowded = others
        """Whether others may write before us. Then a result gets its row once the log says which, so that rows never move:
        what a sampler has learnt of them stays true."""
        self.turns = 0
        self.refused: dict[RunningTrial, str] = {}
        """Asked in vain, and why, until the ledger has taken note."""
        self.heard: Callable[[Reply], None] = lambda reply: None
        self._staged: list[tuple[Fact | None, RunningTrial | None]] = []

    def stage(self, fact: Fact, trial: RunningTrial | None = None) -> None:
        if not self._waits_for_its_row(fact):
            self.state.fold(fact)
        self._put(fact, trial)

    def _waits_for_its_row(self, fact: Fact) -> bool:
        return self._crowded and isinstance(fact, Told)

    def stage_old(self, trial: RunningTrial) -> None:
        """Asks for a trial that somebody else has begun and given up, if there is one."""
        self._put(None, trial)

    def poke(self) -> None:
        """The next commit takes a turn even if there is nothing to say."""
        self._put(None, None)

    def _put(self, fact: Fact | None, trial: RunningTrial | None) -> None:
        self._staged.append((fact, trial))
        if not self._batch.facts:
            self._batch.facts.append(_SOMETHING)

    async def _write(self) -> None:
        batch, self._batch = self._batch, type(self._batch)()
        staged, self._staged = self._staged, []
        upto = self.state.mark()
        try:
            tells, asks, later = self._sorted(staged)
            reply = await self.shared.turn(
                [_tell(fact, trial, self.state.space) for fact, trial in tells],
                [self._ask(fact) for fact, _ in asks],
            )
            self.turns += 1
            if later:
                self._staged[:0] = later
                if not self._batch.facts:
                    self._batch.facts.append(_SOMETHING)
            self._crowded = self._crowded or bool(reply.news)
            if not later and not self._crowded and _as_wished(reply, asks):
                self.state.forget_undo(upto.undo)
                self._durable = _undone(upto)
            else:
                async with self.still:
                    self._rebuild(reply, tells, asks)
        except BaseException as e:
            error = e if isinstance(e, AsynchopperError) else StorageError(f"{self.shared.location}: {e!r}")
            error.__cause__ = error.__cause__ or (None if error is e else e)
            batch.error = self._broken = error
            self.state.rollback(self._durable)
            if not isinstance(e, Exception):  # the loop is being torn down
                raise
        else:
            self._head = Head(self._durable.rows, self._durable.best_row)
            self.commits += 1
            self.heard(reply)
        finally:
            self._over(batch)

    @staticmethod
    def _sorted(staged: list[tuple[Fact | None, RunningTrial | None]]) -> tuple[_Tells, _Asks, list[Any]]:
        """What is told, what is asked, and what is told of a trial that is only now being asked, for the next turn."""
        tells: _Tells = []
        asks: _Asks = []
        later: list[Any] = []
        asked: set[int] = set()
        for fact, trial in staged:
            if isinstance(fact, (Told, Saved)):
                if id(trial) in asked:
                    later.append((fact, trial))
                else:
                    tells.append((fact, trial))
            elif trial is not None:
                assert fact is None or isinstance(fact, Asked)
                asks.append((fact, trial))
                asked.add(id(trial))
        return tells, asks, later

    def _ask(self, fact: Asked | None) -> Ask:
        if fact is None:
            return _NO_ASK
        data = encode(fact, self.state.space)
        data = data[data.index(b'"params":') :]
        if not self._dedupe or fact.foreign:
            return Ask("", data)
        rest = {"origin": fact.origin} if fact.note is None else {"origin": fact.origin, "note": fact.note}
        params = data[: -len(orjson.dumps(rest))]
        return Ask(hashlib.blake2b(params, digest_size=9).hexdigest(), data)

    def _rebuild(self, reply: Reply, tells: _Tells, asks: _Asks) -> None:
        """Takes the wishes back, folds what is in the log, and puts on top what was staged meanwhile."""
        state = self.state
        state.rollback(self._durable)
        fold_portion(reply.news, state, self.shared.location)
        if not reply.whole:
            for (told, trial), kept in zip(tells, reply.kept, strict=True):
                if kept:
                    state.fold(_numbered(told, trial))
        for (asked, mine), grant in zip(asks, reply.grants, strict=True):
            if not isinstance(grant, Grant):
                self.refused[mine] = grant
                continue
            if not reply.whole:
                state.fold(_granted(asked, grant, state))
            _patch(mine, grant, asked, state)
        firm = state.mark()
        state.forget_undo(firm.undo)
        self._durable = _undone(firm)
        self._staged = [one for one in self._staged if one[1] not in self.refused]
        for i, (fact, trial) in enumerate(self._staged):
            if isinstance(fact, Asked) and trial is not None:
                trial.id = state.next_id
                fact = fact._replace(id=trial.id)
                self._staged[i] = fact, trial
            if fact is not None and not self._waits_for_its_row(fact):
                state.fold(_numbered(fact, trial))


_Tells = list[tuple[Told | Saved, RunningTrial | None]]
_Asks = list[tuple[Asked | None, RunningTrial]]
_SOMETHING: Any = object()  # in a batch's facts: the journal only asks whether there are any


def _as_wished(reply: Reply, asks: _Asks) -> bool:
    """Whether the log is now what the state expected it to be."""
    if reply.news or reply.whole or not all(reply.kept):
        return False
    return all(
        isinstance(grant, Grant) and fact is not None and grant.id == trial.id and grant.attempt == 1
        for (fact, trial), grant in zip(asks, reply.grants, strict=True)
    )


def _undone(mark: Mark) -> Mark:
    """A mark whose steps will not be taken back any more."""
    return Mark._make((mark.rows, 0, *mark[2:]))


def _numbered(fact: Fact, trial: RunningTrial | None) -> Fact:
    """A fact under the number that its trial has now."""
    if trial is not None and isinstance(fact, (Told, Saved)) and (fact.id, fact.attempt) != (trial.id, trial.attempt):
        return fact._replace(id=trial.id, attempt=trial.attempt)
    return fact


def _tell(fact: Told | Saved, trial: RunningTrial | None, space: Space) -> Tell:
    told = _numbered(fact, trial)
    assert isinstance(told, (Told, Saved))
    kind: Any = "saved" if isinstance(told, Saved) else "back" if told.state == "interrupted" else "told"
    return Tell(kind, told.id, told.attempt, encode(told, space))


def _granted(fact: Asked | None, grant: Grant, state: State) -> Asked:
    if grant.attempt == 1 and fact is not None:
        return fact._replace(id=grant.id)
    before = state.pending[grant.id]
    return Asked(grant.id, grant.attempt, before.values, before.origin, before.note, before.foreign)


def _patch(trial: RunningTrial, grant: Grant, fact: Asked | None, state: State) -> None:
    """Makes a trial that was asked the one that was granted."""
    trial.id, trial.attempt = grant
    pending = state.pending.get(grant.id)
    if pending is not None and (grant.attempt > 1 or fact is None):
        trial.params, trial.restored = state.space.build(pending.values), pending.saved


class SharedLedger(Ledger):
    """One worker's view of a search that it shares."""

    def __init__(
        self, journal: SharedJournal, proposer: Proposer, budget: Budget, pruner: Pruner | None, joined: Joined
    ) -> None:
        super().__init__(journal, proposer, budget, pruner)
        self.redo.clear()  # the log hands out what others have given up
        self._shared_journal = journal
        self._resting = False
        """Whether there was nothing to be had, so that asking again is of no use before something has happened."""
        self._asked_old = self._stale = False
        self._kept: list[Next] = []
        self._chosen: dict[RunningTrial, Next] = {}
        self._lease_ends = math.inf
        self._timers: list[asyncio.TimerHandle] = []
        self._wake: Callable[[], None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heard_at = -math.inf
        self._watching: asyncio.Task[None] | None = None
        self.before = joined.elapsed
        journal.heard = self._heard

    def _heard(self, reply: Reply) -> None:
        self._heard_at = now = time.monotonic()
        self._began = now - (reply.elapsed - self.before)
        self._lease_ends = now + reply.lease_ends + _MARGIN_S
        self._stale = bool(reply.news)  # what was asked was asked without knowing these
        if reply.kept or reply.news:
            self._resting = False

    @property
    def waits(self) -> bool:  # type: ignore[override]  # a constant where nobody else is
        """Whether others are at work on what is left of the budget, so that something may still come back."""
        return self.dry is None and self._resting

    @property
    def willing(self) -> bool:  # type: ignore[override]  # as above
        return self.dry is None and not self._resting

    # -- asking

    def ask(self) -> tuple[RunningTrial, Outcome | None] | None:
        if self.dry is None and self.budget.steps is not None and self.state.spent_steps >= self.budget.steps:
            self.dry = "steps"
        return self.offer(self.choose()) if self.willing else None

    def may_ask(self) -> bool:
        return self.willing

    def offer(self, chosen: Next | None) -> tuple[RunningTrial, Outcome | None] | None:
        if chosen is not None:
            return self.take(chosen)
        if self.dry is not None or self._asked_old:
            return None
        self._asked_old = True  # one a turn: when it is refused, so would be the next
        return self._old(), None

    def choose(self) -> Next | None:
        if self._kept:
            return self._kept.pop()
        chosen = super().choose()
        if chosen is None and self.dry in ("steps", "exhausted") and self.state.pending:
            self.dry = None  # somebody is at work on the last ones, and may give them up
        return chosen

    def take(self, chosen: Next) -> tuple[RunningTrial, Outcome | None]:
        taken = super().take(chosen)
        self._chosen[taken[0]] = chosen
        return taken

    def _old(self) -> RunningTrial:
        trial = RunningTrial(-1, 0, {}, None, self)
        trial.started = time.monotonic()
        self._shared_journal.stage_old(trial)
        return trial

    def granted(self, asked: list[tuple[RunningTrial, Outcome | None]]) -> list[tuple[RunningTrial, Outcome | None]]:
        refused, granted = self._shared_journal.refused, []
        self._asked_old = False
        for trial, known in asked:
            chosen = self._chosen.pop(trial, None)
            why = refused.pop(trial, None)
            if why is None:
                if trial.attempt > 1:
                    known = None
                    self._keep(chosen)
                granted.append((trial, known))
            elif why != "known":
                self._resting = not self._stale
                self._keep(chosen)
        return granted

    def _keep(self, chosen: Next | None) -> None:
        """A guess that was not tried is tried later."""
        if chosen is not None and chosen.proposal.origin == "enqueued":
            self._kept.append(chosen)

    def take_back(self, trial: RunningTrial) -> None:
        self.tell(trial, Interrupted())

    # -- following

    def stir(self) -> None:
        """Asks again at the next turn, whatever was answered before."""
        if self._resting:
            self._resting = False
            self._shared_journal.poke()

    def watch(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when others have said something, or when a lease has ended."""
        loop = asyncio.get_running_loop()
        if self._resting and self._lease_ends < math.inf:
            left = max(self._lease_ends - time.monotonic(), 0.0)
            self._timers.append(loop.call_later(left, self._awake, wake))
        if self._watching is not None:
            return
        if self._resting:
            self._timers.append(loop.call_later(0.0, self._follow, wake))
            return
        self._wake = wake
        if self._patience is None:
            self._patience = loop.call_later(_FOLLOW_S, self._lose_patience)

    def unwatch(self) -> None:
        self._wake = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _lose_patience(self) -> None:
        """Follows, if the last turn was long ago; a timer that is set anew when it goes off costs a quick turn nothing."""
        self._patience, wake = None, self._wake
        if wake is None or self._watching is not None:
            return
        left = self._heard_at + _FOLLOW_S - time.monotonic()
        if left > 0.0:
            self._patience = asyncio.get_running_loop().call_later(left, self._lose_patience)
        else:
            self._follow(wake)

    def _follow(self, wake: Callable[[], None]) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._news_come(wake), name="asynchopper-follow")

    async def _news_come(self, wake: Callable[[], None]) -> None:
        journal = self._shared_journal
        turns = -1
        while turns != journal.turns:  # what came before a turn's reply was in it
            turns = journal.turns
            with contextlib.suppress(StorageError):  # the next turn says what is wrong
                await journal.shared.wait(_LOOK_S)
        self._watching = None
        self._awake(wake)

    def _awake(self, wake: Callable[[], None]) -> None:
        self._resting = False
        self._shared_journal.poke()
        wake()

    # -- ending

    async def end(self, reason: str) -> None:
        self.unwatch()
        if self._patience is not None:
            self._patience.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        journal = self._shared_journal
        await journal.settle()
        if not journal.broken:
            await journal.commit()
            ended = Ended(reason, self.elapsed())
            final = reason in FINISHED and (reason != "exhausted" or not self.state.pending)
            await journal.shared.leave(encode(ended, self.state.space), final)
            self.state.fold(ended)
