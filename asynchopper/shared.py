"""The journal of one worker among many: what it stages is a wish until the shared log has granted it.

A trial that is asked has a provisional number until the turn comes back; then it is a new trial, or one that somebody
else had given up, or it was refused. The state is always the fold of the shared log, with the wishes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from asynchopper.errors import CheckpointCorrupted, StorageError
from asynchopper.journal import Head, Journal, _Batch, _beyond_reach, fold_portion
from asynchopper.objective import RunningTrial
from asynchopper.records import encode, encode_candidate
from asynchopper.space import Space
from asynchopper.state import Asked, Fact, Mark, Saved, State, Told
from asynchopper.storage import Ask, Entry, Grant, Reply, SharedStorage, Tell

if TYPE_CHECKING:
    from asynchopper.news import News

_NO_ASK = Ask("", b"")
_SOMETHING: Any = object()  # in a batch's facts: a journal only asks whether there are any


_Staged: TypeAlias = "tuple[Fact | None, RunningTrial | None]"


class _Turn(_Batch):
    """What is said to the log at once, and whether that is over."""

    __slots__ = ("asks", "later", "staged", "tells", "upto")

    def __init__(self) -> None:
        super().__init__()
        self.staged: list[_Staged] = []
        self.tells: list[tuple[Told | Saved, RunningTrial | None]] = []
        self.asks: list[tuple[Asked | None, RunningTrial]] = []
        self.later = False
        """Whether something was told of a trial that was only being asked, so that it waits for the next turn."""
        self.upto: Mark | None = None

    def put(self, fact: Fact | None, trial: RunningTrial | None) -> None:
        self.staged.append((fact, trial))
        if not self.facts:
            self.facts.append(_SOMETHING)


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
        self.answered: set[RunningTrial] = set()
        """Asked though the candidate is known, since that is its answer; until the ledger has taken note."""
        self.heard: Callable[[Reply], None] = lambda reply: None
        self._batch: _Turn = _Turn()
        self._news: News | None = None

    @property
    def prompt(self) -> bool:
        return not self.writing and self._broken is None

    def stage(self, fact: Fact, trial: RunningTrial | None = None) -> None:
        if self._broken is not None:
            return
        if not (self._crowded and isinstance(fact, Told)):
            self.state.fold(fact)
        self._batch.put(fact, trial)

    def stage_old(self, trial: RunningTrial) -> None:
        """Asks for a trial that somebody else has begun and given up, if there is one."""
        self._batch.put(None, trial)

    def poke(self) -> None:
        """The next commit takes a turn even if there is nothing to say."""
        self._batch.put(None, None)

    # -- a turn

    def _begin(self) -> None:
        turn, self._batch = self._batch, _Turn()
        self._prompt_write = True
        space = self.state.space
        try:
            self._sort(turn)
            tells = [_tell(fact, trial, space) for fact, trial in turn.tells]
            asks = [self._ask(fact) for fact, _ in turn.asks]
            begun = self.shared.say(tells, asks, partial(self._answered, turn))
        except Exception as e:
            self._heed(turn, e)
            return
        if not begun:
            _beyond_reach(self._said(turn, tells, asks))

    async def _said(self, turn: _Turn, tells: list[Tell], asks: list[Ask]) -> None:
        reply: Reply | BaseException
        try:
            reply = await self.shared.turn(tells, asks)
        except BaseException as e:
            reply = e
        await self._heed_still(turn, reply)
        if isinstance(reply, BaseException) and not isinstance(reply, Exception):
            raise reply  # the loop is being torn down

    def _answered(self, turn: _Turn, reply: Reply | StorageError) -> None:
        if self.still.locked():
            _beyond_reach(self._heed_still(turn, reply))
        else:
            self._heed(turn, reply)

    async def _heed_still(self, turn: _Turn, reply: Reply | BaseException) -> None:
        async with self.still:
            self._heed(turn, reply)

    def _heed(self, turn: _Turn, reply: Reply | BaseException) -> None:
        """The state is the fold of the log again."""
        try:
            if isinstance(reply, BaseException):
                raise reply
            self.turns += 1
            self._crowded = self._crowded or bool(reply.news)
            upto = turn.upto
            if upto is None or self._crowded or turn.later or not _as_wished(reply, turn.asks):
                self._rebuild(reply, turn)
            else:
                self.state.forget_undo(upto.undo)
                self._durable = upto._replace(undo=0)
            self._head = Head(self._durable.rows, self._durable.best_row)
            self.commits += 1
            self.heard(reply)
        except BaseException as e:
            self._break(turn, e)
        self._over(turn)

    def _sort(self, turn: _Turn) -> None:
        """What is told, what is asked, and what is told of a trial that is only now being asked, for the next turn."""
        tells, asks = turn.tells, turn.asks
        asked: set[RunningTrial | None] = set()
        for fact, trial in turn.staged:
            if isinstance(fact, (Told, Saved)):
                if trial in asked:
                    self._batch.put(fact, trial)
                    turn.later = True
                else:
                    tells.append((fact, trial))
            elif trial is not None:
                assert fact is None or isinstance(fact, Asked)
                asks.append((fact, trial))
                asked.add(trial)
        if not self._crowded:
            turn.upto = self.state.mark()

    def _ask(self, fact: Asked | None) -> Ask:
        if fact is None:
            return _NO_ASK
        params, data = encode_candidate(fact, self.state.space)
        if not self._dedupe or fact.foreign:
            return Ask("", data)
        return Ask(blake2b(params, digest_size=9).hexdigest(), data)

    def _rebuild(self, reply: Reply, turn: _Turn) -> None:
        """Takes the wishes back, folds what is in the log, and puts on top what was staged meanwhile."""
        state = self.state
        state.rollback(self._durable)
        if reply.news:
            self._fold_news(reply.news)
        if not reply.whole:
            for (told, trial), kept in zip(turn.tells, reply.kept, strict=True):
                if kept:
                    state.fold(_numbered(told, trial))
        for (asked, mine), grant in zip(turn.asks, reply.grants, strict=True):
            if not isinstance(grant, Grant):
                self.refused[mine] = grant
                continue
            if not reply.whole:
                state.fold(_granted(asked, grant, state))
            _patch(mine, grant, asked, state)
        state.keep_undo(True)  # from here on, and nothing before
        self._durable = state.mark()
        staged = self._batch.staged
        if staged:
            self._fold_again(staged)

    def _fold_news(self, news: Sequence[Entry]) -> None:
        """Raises as `fold_portion` does."""
        state, location = self.state, self.shared.location
        if self._news is None:
            from asynchopper.news import News  # takes longer to import than all of the rest

            self._news = News(state.space)
        for entry in news:
            fact = self._news.read(entry.data)
            if fact is None:
                fold_portion([entry], state, location)
                continue
            try:
                state.fold(fact)
            except OverflowError as e:
                raise CheckpointCorrupted(f"{location}: record {entry.seq}: {e}") from e

    def _fold_again(self, staged: list[_Staged]) -> None:
        state, seen = self.state, self.state.seen
        for fact, trial in staged:
            if seen is None or trial is None or trial in self.answered:
                continue
            if isinstance(fact, Asked) and fact.key in seen:  # somebody has asked for it meanwhile
                self.refused[trial] = "known"
        staged[:] = [one for one in staged if one[1] not in self.refused]
        for i, (fact, trial) in enumerate(staged):
            if isinstance(fact, Asked) and trial is not None:
                trial.id = state.next_id
                fact = fact._replace(id=trial.id)
                staged[i] = fact, trial
            if fact is not None and not (self._crowded and isinstance(fact, Told)):
                state.fold(_numbered(fact, trial))


def _as_wished(reply: Reply, asks: list[tuple[Asked | None, RunningTrial]]) -> bool:
    """Whether the log is now what the state expected it to be."""
    if reply.news or reply.whole or not all(reply.kept):
        return False
    return all(
        isinstance(grant, Grant) and fact is not None and grant.id == trial.id and grant.attempt == 1
        for (fact, trial), grant in zip(asks, reply.grants, strict=True)
    )


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
