"""The consumer: drains what has arrived, folds it, proposes for the slots this frees, commits, starts, tells.

The only file that starts tasks. There is one consumer, so there are no locks: whatever changes the state happens between
two awaits of `_consume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import logging
import math
import time
from collections import deque
from typing import TypeAlias

from asynchopper.callbacks import Watchers
from asynchopper.closing import uninterrupted
from asynchopper.errors import ObjectiveError, TrialPruned, TrialTimeout
from asynchopper.ledger import FLUSH_S, STILL_S, Ledger
from asynchopper.objective import Evaluation, RunningTrial, _current, finish, note, to_number, unwrapped
from asynchopper.objective import Interrupted as ThreadInterrupted
from asynchopper.policy import Policy
from asynchopper.trial import Completed, Failed, Interrupted, Outcome, Pruned

_log = logging.getLogger("asynchopper")

_BATCH = 256  # outcomes a round: keeps the loop responsive when thousands end at once
_BARE = 32  # the same where there is nothing to write, so that what was asked starts while the next is being proposed
_NEW = 64  # candidates a round where nothing has arrived, as when many begin at once
_ROUND_S = 0.002  # for so long at most, candidates are chosen before the loop has its turn
_TOGETHER = 64  # evaluations that never wait and follow each other, at most, before the loop has its turn
_TOGETHER_S = 0.001  # and for so long
_STUBBORN_S = 0.5  # what a cancelled evaluation gets to clean up before it is left behind
_STUBBORN = "trial %d ignores its cancellation; it is left behind"


_Asked: TypeAlias = "tuple[RunningTrial, Outcome | None]"
"""A trial that was asked, and its outcome where that is known already."""


class Phase(enum.Enum):
    RUNNING = "running"
    DRAINING = "draining"
    CANCELLED = "cancelled"


class Engine:
    """Evaluates what the ledger asks, `concurrency` at a time, until it is dry or told to stop."""

    def __init__(self, ledger: Ledger, evaluation: Evaluation, watchers: Watchers, policy: Policy) -> None:
        self.ledger, self.evaluation, self.watchers = ledger, evaluation, watchers
        self.concurrency, self.timeout_s, self.grace_s = policy.concurrency, policy.timeout_s, policy.grace_s
        self.raises, self.ignore_nans = policy.raises, policy.ignore_nans
        self.phase = Phase.RUNNING
        self.reason: str | None = None
        self.error: BaseException | None = None
        self._running: dict[int, RunningTrial] = {}
        self._arrived: deque[tuple[RunningTrial, Outcome]] = deque()
        self._expired: set[RunningTrial] = set()  # they have taken too long, and have not ended
        self._waiter: asyncio.Future[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._cancelled_at = math.inf  # when the grace ends, on the loop's clock
        self._event_loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # every evaluation has its own copy of what the caller had
        self._watched = watchers.wanted or ledger.pruner is not None
        self._bare, self._at_once = False, _BATCH
        self._together = 0  # how many evaluations the present task may have yet, in this turn of the loop
        self._turned = 0.0  # when that task began
        self.hurried = False
        """Whether somebody has asked for a stop, which the loop will say at its next turn."""
        self._aloft: list[_Asked] | None = None
        """What was asked by a round that the consumer has not seen, and is being made durable."""
        self._failed: BaseException | None = None

    def __repr__(self) -> str:
        return f"Engine({self.phase.value}, {len(self._running)} running, {len(self._arrived)} arrived)"

    @property
    def running(self) -> int:
        return len(self._running)

    # -- from outside

    async def run(self) -> str:
        """Why the run ended. Raises what the objective raised, or a `StorageError`, once nothing runs any more."""
        main = self._event_loop.create_task(self._main(), name="asynchopper")
        try:
            await asyncio.shield(main)
        except asyncio.CancelledError:
            self._hurry(self.grace_s)
            self.cancel("stopped")
            await uninterrupted(main)
            raise
        finally:
            for timer in self._timers:
                timer.cancel()
        if self.error is not None:  # raised here, since what ends a task like KeyboardInterrupt stops the loop at once
            raise self.error
        assert self.reason is not None
        return self.reason

    def stop(self, reason: str) -> None:
        """Nothing more is proposed; what runs gets the grace. Said again for the same reason, it is cancelled now."""
        if reason != "runtime":
            self._hurry(self._left_s(reason))
        if self.phase is Phase.RUNNING:
            self.phase, self.reason = Phase.DRAINING, reason
            for trial in self._running.values():
                trial.interrupted.set()
            self._timers.append(self._event_loop.call_later(self.grace_s, self.cancel, reason))
            self._cancelled_at = self._timers[-1].when()
            self._timers.append(self._event_loop.call_later(STILL_S, self.ledger.leave_thought))
            self._wake()
        elif self.phase is Phase.DRAINING:
            again, self.reason = reason == self.reason, reason
            if again:
                self.cancel(reason)
        else:
            self._timers.append(self._event_loop.call_later(_STUBBORN_S, self._leave_behind))

    def _left_s(self, reason: str) -> float:
        """Seconds that evaluations still have when a stop is said for this reason."""
        if self.phase is Phase.DRAINING and reason != self.reason:
            return max(self._cancelled_at - self._event_loop.time(), 0.0)
        return self.grace_s if self.phase is Phase.RUNNING else 0.0

    def _hurry(self, grace_s: float) -> None:
        """After the grace nobody waits for long: not for callbacks, nor for a server that does not answer."""
        self.watchers.give_up(grace_s + _STUBBORN_S)
        storage = self.ledger.journal.storage
        if storage is not None:
            storage.hurry(grace_s + FLUSH_S)

    def cancel(self, reason: str) -> None:
        """Cancels what runs. It is recorded as interrupted."""
        if self.phase is Phase.CANCELLED:
            return
        patience_s = _STUBBORN_S if self.phase is Phase.DRAINING else max(self.grace_s, _STUBBORN_S)
        self.phase, self.reason = Phase.CANCELLED, self.reason or reason
        for trial in self._running.values():
            trial._taken = True
            trial.interrupted.set()
            if trial._task is not None:
                trial._task.cancel()
            if not trial._begun:  # a task that is cancelled before its first step never says so itself
                self._arrived.append((trial, Interrupted()))
        self._timers.append(self._event_loop.call_later(patience_s, self._leave_behind))
        self._timers.append(self._event_loop.call_later(STILL_S, self.ledger.leave_thought))
        self._wake()

    def _leave_behind(self) -> None:
        """What does not end when cancelled is not waited for."""
        arrived = {trial.id for trial, _ in self._arrived}
        for trial in self._running.values():
            if trial.id not in arrived:
                _log.warning(_STUBBORN, trial.id)
                self._arrived.append((trial, Interrupted()))
        self._wake()

    # -- the line

    async def _main(self) -> None:
        remaining = self.ledger.remaining()
        if math.isfinite(remaining):
            self._timers.append(self._event_loop.call_later(max(remaining, 0.0), self.stop, "runtime"))
        me, cancels = asyncio.current_task(), 0
        assert me is not None
        try:
            while True:
                try:
                    await self._consume()
                    break
                except asyncio.CancelledError:  # a host that shuts down cancels every task there is, this one too
                    if me.cancelling() == cancels:
                        raise
                    cancels = me.cancelling()
                    self.cancel("stopped")
        except BaseException as e:
            self.cancel("error")
            self.error, self.reason = e, "error"
            while self._running:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._arrival()
                while self._arrived:
                    self._running.pop(self._arrived.popleft()[0].id, None)
        if cancels:
            raise asyncio.CancelledError
        self.reason = self.reason or self.ledger.dry or "stopped"

    async def _consume(self) -> None:
        ledger, journal, arrived = self.ledger, self.ledger.journal, self._arrived
        self._bare = journal.storage is None
        self._at_once = _BARE if self._bare else _BATCH
        while True:
            while self._aloft is not None:
                await journal.settle()
            if self._failed is not None:
                raise self._failed
            if ledger.still:
                await ledger.thought()
            asked: list[_Asked] = []
            free = self.concurrency - len(self._running)
            at_once = 1 if ledger.halting else self._at_once if arrived else max(self._at_once, _NEW)
            until = time.monotonic() + _ROUND_S
            while free > 0 and len(asked) < at_once and self.phase is Phase.RUNNING:
                new = ledger.ask()
                if new is None:
                    break
                asked.append(new)
                free -= 1
                if new[0].started > until:
                    break
            if not ledger.still:
                self._drain(asked, free <= 0, until)
            await journal.commit()
            self._proceed(asked)
            going = self.phase is Phase.RUNNING
            again = going and len(self._running) < self.concurrency and ledger.may_ask()
            if arrived or (free > 0 and asked) or again:
                await asyncio.sleep(0)
            elif self._running or (going and (ledger.waits or ledger.thinking)):
                ledger.watch(self._wake)
                await self._arrival()
                ledger.unwatch()
            else:
                return

    def _drain(self, asked: list[_Asked], replaced: bool, until: float = math.inf) -> None:
        """Tells what has arrived, and asks for as much anew where it is to be `replaced` at once, but not for long."""
        ledger, arrived = self.ledger, self._arrived
        told = 0
        for _ in range(min(len(arrived), self._at_once)):
            trial, outcome = arrived.popleft()
            if self._running.pop(trial.id, None) is None:
                continue
            if type(outcome) is not Completed or outcome.value != outcome.value:
                outcome = self._judged(trial, outcome)
            ledger.tell(trial, outcome)
            told += 1
        while replaced and told > 0 and self.phase is Phase.RUNNING and (new := ledger.ask()) is not None:
            asked.append(new)
            told -= 1
            if new[0].started > until:
                return

    def _proceed(self, asked: list[_Asked]) -> None:
        """After a commit: starts what was asked, and says what was told."""
        ledger = self.ledger
        news = ledger.news() if self._watched else ()  # seen by the pruner before an eager task can ask it
        for new in ledger.granted(asked):
            self._start(*new)
        for told in news:
            self.watchers.told(told)

    def _go_on(self, here: asyncio.Task[None] | None) -> RunningTrial | None:
        """Where nothing else runs: the next round, at once, in the task that has ended. It spares the consumer's task, which
        is half of what such a round costs.

        Where it may go on `here`, in the same task, the next trial is given back, and needs none of its own either.
        """
        waiter, bare, ledger = self._waiter, self._bare, self.ledger
        if (
            len(self._running) != 1
            or waiter is None
            or waiter.done()
            or self._failed is not None
            or self.phase is not Phase.RUNNING
            or not (bare or (self.concurrency == 1 and ledger.journal.prompt))
            or ledger.still
            or self.hurried  # by a stop that was said in the evaluation, and is to be heard before the next one
        ):
            self._wake()
            return None
        asked: list[_Asked] = []
        try:
            self._drain(asked, True)
            if not bare:
                self._aloft = asked
                ledger.journal.commit_soon(self._land)
                return None
            if here is not None and self._together and len(asked) == 1:
                new, known = asked[0]
                if known is None and new.started - self._turned < _TOGETHER_S:
                    new._task, self._running[new.id] = here, new
                    self._together -= 1
                    return new  # nobody watches, and nothing is made ahead for one at a time
            self._proceed(asked)
        except BaseException as e:
            self._failed = e
        if not self._goes_on():
            self._wake()
        return None

    def _turn(self) -> None:
        """The loop has had its turn: whatever waited for it goes on in a task of its own."""
        self._together = 0

    def _land(self) -> None:
        """What `_go_on` began is durable, or has failed."""
        asked, self._aloft = self._aloft, None
        try:
            self.ledger.journal.check()
            self._proceed(asked or [])
        except BaseException as e:
            self._failed = e
        if not self._goes_on():
            self._wake()

    def _goes_on(self) -> bool:
        """Whether there is nothing for the consumer to look at."""
        return self._failed is None and not self._arrived and len(self._running) >= self.concurrency

    async def _arrival(self) -> None:
        """Returns when something has arrived, or when the phase has changed."""
        if not self._arrived:
            self._waiter = self._event_loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _judged(self, trial: RunningTrial, outcome: Outcome) -> Outcome:
        """What to tell of a trial; ends the run when that is called for."""
        error: BaseException | None = None
        if isinstance(outcome, Failed):
            error = outcome.error
            if self.phase is Phase.CANCELLED and isinstance(error.__cause__, asyncio.CancelledError):
                return Interrupted()  # the host cancelled every task there is
            if isinstance(error, KeyboardInterrupt):
                outcome = Interrupted()  # it meant the program, and fell on this candidate
            elif (not self.raises and isinstance(error, Exception)) or isinstance(error, TrialTimeout):
                return outcome
        elif isinstance(outcome, Completed) and math.isnan(outcome.value) and not self.ignore_nans and self.raises:
            error = ObjectiveError(
                "the objective returned NaN; find out why, or run with ignore_nans=True to record such trials and go on"
            )
        if error is not None and self.error is None:
            note(error, trial)
            self.error = error
            self.cancel("error")
            self.reason = "error"
        return outcome

    # -- one evaluation

    def _start(self, trial: RunningTrial, known: Outcome | None) -> None:
        if known is None and self.phase is not Phase.RUNNING:
            known = Interrupted()  # stopped while it was being made durable
        self._running[trial.id] = trial
        if known is not None:
            trial._begun = True
            self._arrived.append((trial, known))
        else:
            trial._task = self._event_loop.create_task(self._evaluate(trial), context=self._context.copy())

    async def _evaluate(self, trial: RunningTrial) -> None:
        evaluation = self.evaluation
        task: asyncio.Task[None] | None = None  # where the next one may follow
        if self._bare and self.concurrency == 1 and evaluation.plain and not self._watched:
            self._together, self._turned = _TOGETHER - 1, trial.started
            self._event_loop.call_soon(self._turn)
            task = trial._task
        new: RunningTrial | None = trial
        while new is not None:
            trial, here = new, None
            trial._begun = True
            outcome: Outcome
            try:
                if evaluation.executor is not None:
                    await evaluation.executor.ready(evaluation, trial)
                    trial.started = time.monotonic()
                if self.timeout_s is not None:
                    outcome = await self._evaluate_timed(trial, self.timeout_s)
                    if trial.id not in self._running:
                        return  # it was left behind
                elif evaluation.plain:
                    _current.set(trial)
                    context = None if task is None else contextvars.copy_context()
                    value = await evaluation.objective(trial.params)
                    if not isinstance(value, (float, int)):
                        value = await finish(value, trial)
                    outcome = Completed(to_number(value))
                    if task is not None and contextvars.copy_context() == context and not task.cancelling():
                        here = task
                else:
                    outcome = Completed(await evaluation(trial))
            except BaseException as raised:
                outcome = self._outcome_of(trial, raised)
            self._arrived.append((trial, outcome))
            new = self._go_on(here)

    async def _evaluate_timed(self, trial: RunningTrial, timeout_s: float) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        timer = self._event_loop.call_later(timeout_s, self._expire, trial, task)
        value = math.nan
        try:
            value = await self.evaluation(trial)
        except BaseException:
            if trial not in self._expired:
                raise
        finally:
            timer.cancel()
        held_up = self.evaluation.executor is None and self._event_loop.time() >= timer.when()  # the loop, by itself
        if trial not in self._expired and not held_up:
            return Completed(value)
        self._expired.discard(trial)
        return self._late(trial)

    def _expire(self, trial: RunningTrial, task: asyncio.Task[None]) -> None:
        """An evaluation has taken too long."""
        self._expired.add(trial)
        task.cancel()
        self._event_loop.call_later(_STUBBORN_S, self._lose_patience, trial)

    def _lose_patience(self, trial: RunningTrial) -> None:
        """An evaluation that took too long, and has not ended since, is not waited for: another one gets its slot."""
        if trial in self._expired and trial.id in self._running:
            _log.warning(_STUBBORN, trial.id)
            self._arrived.append((trial, self._late(trial)))
            self._wake()

    def _late(self, trial: RunningTrial) -> Failed:
        trial._taken = True  # what goes on, as a thread does, is not listened to
        return Failed(TrialTimeout(f"the evaluation took longer than {self.timeout_s:g} s"))

    def _outcome_of(self, trial: RunningTrial, raised: BaseException) -> Outcome:
        error = unwrapped(raised)
        if isinstance(error, TrialPruned):
            return Pruned()
        if isinstance(error, ThreadInterrupted):
            return Interrupted()
        if trial._taken and not isinstance(error, (SystemExit, KeyboardInterrupt)):
            if not isinstance(error, asyncio.CancelledError):
                _log.warning("trial %d was cancelled, and raised %r", trial.id, error)
            return Interrupted()
        if isinstance(error, asyncio.CancelledError):
            cancelled = ObjectiveError("the evaluation was cancelled, and not by the search")
            cancelled.__cause__ = error
            return Failed(cancelled)
        return Failed(error)
