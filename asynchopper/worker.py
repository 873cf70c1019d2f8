"""The ledger of one worker among many: it asks for what the shared log grants, and follows what the others write there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from asynchopper.budget import Budget, budget_words
from asynchopper.errors import StorageError
from asynchopper.journal import _beyond_reach
from asynchopper.ledger import Ledger, Thought
from asynchopper.objective import RunningTrial
from asynchopper.pruners import Pruner
from asynchopper.records import encode
from asynchopper.samplers import Proposer
from asynchopper.samplers.base import Next, View
from asynchopper.shared import SharedJournal
from asynchopper.state import Ended
from asynchopper.storage import Reply
from asynchopper.trial import Interrupted, Outcome, Pruned

_log = logging.getLogger("asynchopper")

_FOLLOW_S = 0.2  # a worker that is busy with long evaluations looks after others' results this long after its last turn
_LOOK_S = 10.0  # and at least so often while it waits
_MARGIN_S = 0.02  # a lease is over only after its end


class SharedLedger(Ledger):
    """One worker's view of a search that it shares."""

    def __init__(
        self, journal: SharedJournal, proposer: Proposer, budget: Budget, pruner: Pruner | None, elapsed: float
    ) -> None:
        """`elapsed` is what the log's clock says."""
        super().__init__(journal, proposer, budget, pruner)
        self.redo.clear()  # the log hands out what others have given up
        self._shared_journal = journal
        self._asked_old = self._stale = False
        self._kept: list[Next] = []
        self._chosen: dict[RunningTrial, Next] = {}
        self._lease_ends = math.inf
        self._timers: list[asyncio.TimerHandle] = []
        self._patience: asyncio.TimerHandle | None = None
        self._heard_at = -math.inf
        self._watching: asyncio.Task[None] | None = None
        self.before = elapsed
        journal.heard = self._heard

    def _heard(self, reply: Reply) -> None:
        self._heard_at = now = time.monotonic()
        self._began = now - (reply.elapsed - self.before)
        self._lease_ends = now + reply.lease_ends + _MARGIN_S
        self._stale = bool(reply.news)  # what was asked was asked without knowing these
        if reply.kept or reply.news:
            self._resting = False

    # -- asking

    def ask(self) -> tuple[RunningTrial, Outcome | None] | None:
        if self.dry is None and self.budget.steps is not None and self.state.spent_steps >= self.budget.steps:
            self.dry = "steps"
        return self.offer(self.choose()) if self.may_ask() else None

    def offer(self, chosen: Next | None) -> tuple[RunningTrial, Outcome | None] | None:
        if chosen is not None:
            return self.take(chosen)
        if self.dry is not None or self._asked_old or self.thinking:
            return None
        self._asked_old = True  # one a turn: when it is refused, so would be the next
        return self._old(), None

    def choose(self) -> Next | None:
        while self._kept:
            kept, seen = self._kept.pop(), self.state.seen
            if seen is None or kept.key not in seen:
                return kept
        chosen = super().choose()
        if chosen is None and self.dry != "runtime" and self.state.pending:
            self.dry, self._resting = None, False  # somebody is at work on the last ones, and may give them up
        return chosen

    def take(self, chosen: Next) -> tuple[RunningTrial, Outcome | None]:
        taken = super().take(chosen)
        self._chosen[taken[0]] = chosen
        if chosen.answered is not None:
            self._shared_journal.answered.add(taken[0])
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
            self._shared_journal.answered.discard(trial)
            if why is None:
                if trial.attempt > 1:
                    known = self._given_up(trial)
                    self._keep(chosen)
                granted.append((trial, known))
            elif why != "known":
                self._resting = not self._stale and bool(self.state.pending)  # of which somebody may give one up
                if why == "full" and not self._stale and not self.state.pending:
                    self._replaced()
                self._keep(chosen)
        return super().granted(granted)

    def _replaced(self) -> None:
        """The budget that is spent is another one than this worker's."""
        if self.dry is None:
            self.dry = "steps"
            budget = self.state.run.budget if self.state.run is not None else {}
            if budget == self.budget.describe():
                return
            _log.warning(
                "%s: while this worker was not heard of, others began another budget (%s), which is spent; this run ends with it",
                self._shared_journal.shared.location, budget_words(budget),
            )  # fmt: skip

    def _begin_thinking(self, view: View) -> asyncio.Future[Next | None]:
        return _beyond_reach(self._think_still())

    async def _think_still(self) -> Next | None:
        """What others say is heard before, or after."""
        async with self.journal.still:
            elapsed = self.elapsed()
            view = self.proposer.view(self.state, elapsed, self.budget.progress(self.state, elapsed))
            return await super()._begin_thinking(view)

    def _fits(self, thought: Thought, chosen: Next | None) -> bool:
        """Others tell and ask meanwhile, so that it may be their candidate by now, and rows may have moved."""
        if chosen is None:
            return super()._fits(thought, chosen)
        if thought.rewound != len(self.state.table.rewound) or self.proposer.guesses_wait:
            return False
        seen = self.state.seen
        return seen is None or chosen.key is None or chosen.answered is not None or chosen.key not in seen

    def _keep(self, chosen: Next | None) -> None:
        """A guess that was not tried is tried later."""
        if chosen is not None and chosen.proposal.origin == "enqueued":
            self._kept.append(chosen)

    def _given_up(self, trial: RunningTrial) -> Outcome | None:
        """What becomes of a trial that somebody else has begun, where the history answers, or where it cannot be evaluated here
        as what it was."""
        pending = self.state.pending.get(trial.id)
        if pending is None or not self.state.space.made_up(pending.foreign):
            return None if pending is None else self._known(trial, pending)
        _log.warning(
            "%s: trial %d, which another worker had begun, has values that this one's space does not have: it counts as pruned",
            self._shared_journal.shared.location, trial.id,
        )  # fmt: skip
        return Pruned()

    def tell(self, trial: RunningTrial, outcome: Outcome) -> None:
        super().tell(trial, outcome)
        trial._taken = True

    async def save(self, trial: RunningTrial, state: Any) -> None:
        if not trial._taken and not self.is_out(trial):
            return  # somebody else took it for lost, and needs nothing of this attempt any more
        await super().save(trial, state)

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
        self._wake = wake
        if self._resting and self._lease_ends < math.inf:
            left = max(self._lease_ends - time.monotonic(), 0.0)
            self._timers.append(loop.call_later(left, self._awake, wake))
        if self._watching is not None:
            return
        if self._resting:
            self._timers.append(loop.call_later(0.0, self._follow, wake))
            return
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
        await self._stop_thinking()
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
            # steps are counted for all; another space may have more, and another's evaluations more time
            await journal.shared.leave(encode(ended, self.state.space), reason == "steps")
            self.state.fold(ended)
