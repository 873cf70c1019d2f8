"""What may be asked and what was told: decided at once, staged in the journal, made durable by whoever commits."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_never

from asynchopper.budget import Budget
from asynchopper.closing import uninterrupted
from asynchopper.errors import ObjectiveError, UsageError
from asynchopper.history import PRUNED
from asynchopper.journal import Journal
from asynchopper.objective import Event, Host, RunningTrial, printed
from asynchopper.pruners import Pruner
from asynchopper.samplers import Proposer
from asynchopper.samplers.base import Next, View
from asynchopper.samplers.proposer import answering
from asynchopper.state import Asked, Ended, Saved, State, Told
from asynchopper.thread import OwnThread
from asynchopper.trial import Completed, Failed, Interrupted, Outcome, Pruned, Trial
from asynchopper.trial import State as TrialState
from asynchopper.values import from_json, to_json

_log = logging.getLogger("asynchopper")

STILL_S = 0.1  # what a sampler that has the state stand still gets to end, once nobody wants its candidate
FLUSH_S = 4.0  # what writing the last records may take where the storage does not answer
_LAST, _FEW = 32, 4  # evaluations that tell how long the next one takes, and how many are needed for that
_SAVED_LIMIT = 2**20  # bytes of JSON that one `trial.save` may hold


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How the last run ended. `reason` is `steps`, `runtime`, `exhausted`, `stopped`, `sigint`, `sigterm` or `error`."""

    reason: str
    trials: int
    """Trials that finished in this run, those of other workers included."""
    seconds: float


class Thought(NamedTuple):
    """A candidate that is being made, ahead or because it is wanted: how many trials had finished when it was begun, how often
    some were taken back, and what comes of it."""

    ahead: bool
    told: int
    rewound: int
    made: asyncio.Future[Next | None]


class Ledger(Host):
    """One run's view of a search: its budget, its clock, the trials that are out."""

    def __init__(self, journal: Journal, proposer: Proposer, budget: Budget, pruner: Pruner | None) -> None:
        self.journal, self.proposer, self.budget, self.pruner = journal, proposer, budget, pruner
        self.state = journal.state
        self.redo = deque(sorted(journal.state.pending))
        """Trials of an earlier run that were in flight, to be run again first."""
        self.dry: str | None = None
        """Why nothing more can be asked: `steps`, `runtime` or `exhausted`."""
        self._resting = False
        """Whether there was nothing to be had, so that asking again is of no use before something has happened."""
        self._thought: Thought | None = None
        """What comes next, where it takes milliseconds: made in a thread, ahead where that is possible."""
        self._thinker: OwnThread | None = None
        self._looked_ahead = -1  # for this trial
        self._wake: Callable[[], None] | None = None
        self.before = journal.state.elapsed
        self._began = time.monotonic()
        self._event_loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.observed = journal.head.rows
        """How many finished trials the pruner has seen."""
        self.stopping = Event()
        """Set when the search is being stopped, or a session ends; the trials of a session have it for their own."""

    def elapsed(self) -> float:
        """Seconds that the search's runs have taken, this one included."""
        return self.before + time.monotonic() - self._began

    def remaining(self) -> float:
        """Seconds until a budget in time is spent."""
        base = self.state.run.base_elapsed if self.state.run else 0.0
        return math.inf if self.budget.seconds is None else base + self.budget.seconds - self.elapsed()

    def ask(self) -> tuple[RunningTrial, Outcome | None] | None:
        """The next trial, with its outcome where that is known already; `None` once the ledger is `dry`, while it `waits`, and
        while it is `thinking`. Takes next to no time."""
        if self.redo and self.dry is None:
            state = self.state
            if self._too_late():
                self.dry = "runtime"
                return None
            if self.budget.steps is None or state.spent_steps + len(state.pending) - len(self.redo) < self.budget.steps:
                return self._again(self.redo.popleft())
            self.dry = "steps"
        chosen = self.choose()
        return None if chosen is None else self.take(chosen)

    def may_ask(self) -> bool:
        """Whether it is of any use to choose a candidate now."""
        return self.dry is None and not self._resting and not self.thinking

    @property
    def waits(self) -> bool:
        """Whether something to run may still come of what is being evaluated, here or by other workers."""
        return self.dry is None and self._resting

    def choose(self) -> Next | None:
        """What to evaluate next. `None` where there is nothing, and where it is being thought about."""
        thought = self._thought
        if self.dry is not None or self._resting or (thought is not None and not thought.made.done()):
            return None
        elapsed = self.before + time.monotonic() - self._began
        progress = self.budget.progress(self.state, elapsed)
        if progress >= 1.0 or self._too_late():
            self.dry = "steps" if self.budget.steps is not None else "runtime"
            return None
        chosen: Next | View | None
        if thought is not None:
            self.journal.check()  # whoever thought beside a failed write may have failed, too
            self._thought = None
        if thought is None or not self._fits(thought, chosen := thought.made.result()):
            chosen = self.proposer.prompt(self.state, elapsed, progress)
        if isinstance(chosen, View):
            self._think(chosen)
            return None
        if chosen is None:
            if self.state.trial_of is not None and self.state.pending:
                self._resting = True  # the result of what is being evaluated is the answer to what comes next
            else:
                self.dry = "exhausted"
        return chosen

    # -- candidates that take milliseconds

    @property
    def thinking(self) -> bool:
        """Whether a candidate is being made."""
        return self._thought is not None and not self._thought.made.done()

    @property
    def still(self) -> bool:
        """Whether nothing may be told now, since a sampler looks at the whole state."""
        thought = self._thought
        return thought is not None and not self.proposer.beside and not thought.made.done()

    @property
    def halting(self) -> bool:
        """Whether the sampler is one that has the state stand still, again and again."""
        return self.proposer.slow and not self.proposer.beside

    async def thought(self) -> None:
        """Returns when no candidate is being made, or when nobody waits for it any more."""
        if self._thought is not None and not self._thought.made.done():
            await asyncio.wait([self._thought.made])

    def leave_thought(self) -> None:
        """Waits no longer for a sampler that has the state stand still, and heeds nothing that it may say yet."""
        if self._thought is not None and self.still:
            _log.warning(
                "the sampler is still at work on a candidate; it is left behind, and not to be used again meanwhile"
            )
            self._thought.made.cancel()
            self._thought = None

    def _think(self, view: View) -> None:
        made = self._begin_thinking(view)
        table = self.state.table
        self._thought = Thought(not view.then.alone, len(table.ids), len(table.rewound), made)
        made.add_done_callback(self._thought_through)

    def _begin_thinking(self, view: View) -> asyncio.Future[Next | None]:
        if self._thinker is None:
            self._thinker = OwnThread("asynchopper-thinker", patience_s=1.0)
        view.running  # noqa: B018 - is fixed by looking at it
        return self._event_loop.run_in_executor(self._thinker, self.proposer.think, view)

    def _thought_through(self, _: asyncio.Future[Next | None]) -> None:
        if self._wake is not None:
            self._wake()

    def _fits(self, thought: Thought, chosen: Next | None) -> bool:
        """Whether what was thought of is still what comes next: what the log has by now decides."""
        ahead = thought.ahead and self.proposer.beside and chosen is not None
        return (ahead or thought.told == self.state.told) and not self.proposer.guesses_wait

    def _look_ahead(self) -> None:
        """Begins to make the candidate that follows those that have been asked, where it will take milliseconds."""
        state = self.state
        if self._looked_ahead == state.next_id or self._thought is not None or self.redo or not self.may_ask():
            return
        self._looked_ahead = state.next_id
        elapsed = self.elapsed()
        progress = self.budget.progress(state, elapsed)
        view = self.proposer.expects(state, elapsed, progress) if progress < 1.0 else None
        if view is not None:
            self._think(view)

    async def _stop_thinking(self) -> None:
        if self._thought is not None and self.still:
            await asyncio.wait([self._thought.made], timeout=STILL_S)
            self.leave_thought()
        if self._thought is not None:
            await uninterrupted(self._thought.made)
            self._thought = None
        if self._thinker is not None:
            self._thinker.shutdown(wait=False)

    def _too_late(self) -> bool:
        """Whether another evaluation would hardly finish: what remains is less than three in four of the last ones took,
        where this budget has seen a few."""
        if self.budget.seconds is None:
            return False
        base, table, left = self.state.run.base_elapsed if self.state.run else 0.0, self.state.table, self.remaining()
        last = zip(table.seconds[-_LAST:], table.elapsed[-_LAST:], strict=True)
        seconds = sorted(s for s, at in last if at > base)
        return left <= 0.0 or (len(seconds) >= _FEW and left < seconds[len(seconds) // 4])

    def take(self, chosen: Next) -> tuple[RunningTrial, Outcome | None]:
        """The trial of a candidate that was just chosen."""
        (values, origin, note), key, row = chosen
        state = self.state
        id = state.next_id
        trial = RunningTrial(id, 1, state.space.build(values), None, self)
        trial.started = time.monotonic()
        self.journal.stage(Asked(id, 1, values, origin, note, None, key), trial)
        return trial, None if row is None else self._answer(trial, row)

    def _known(self, trial: RunningTrial, asked: Asked) -> Outcome | None:
        """The outcome of a trial that was out, where the history answers."""
        row = None if asked.foreign else answering(self.state, asked.values)
        return None if row is None else self._answer(trial, row)

    def _answer(self, trial: RunningTrial, row: int) -> Outcome:
        table = self.state.table
        trial.estimates = list(table.estimates.get(row, ()))
        return Pruned() if table.states[row] == PRUNED else Completed(table.values[row])

    def _again(self, id: int) -> tuple[RunningTrial, Outcome | None]:
        before = self.state.pending[id]
        attempt = before.attempt + 1
        # as what the space makes of it now
        self.journal.stage(Asked(id, attempt, before.values, before.origin, before.note))
        saved = None if self.state.space.made_up(before.foreign) else before.saved
        trial = RunningTrial(id, attempt, self.state.space.build(before.values), saved, self)
        trial.started = time.monotonic()
        return trial, self._known(trial, before)

    def tell(self, trial: RunningTrial, outcome: Outcome) -> None:
        """Stages the outcome of a trial that is out; of any other it changes nothing."""
        self._resting = False
        value, error = math.nan, None
        state: TrialState
        if type(outcome) is Completed:
            value = outcome.value
            state = "completed" if value == value else "nan"
        else:
            state, error = _end(outcome)
        now = time.monotonic()
        self.journal.stage(
            Told(
                trial.id,
                trial.attempt,
                state,
                value,
                tuple(trial.estimates) if trial.estimates else (),
                trial._cost,
                _written(now - trial.started),
                _written(self.before + now - self._began),
                error,
            ),
            trial,
        )

    def granted(self, asked: list[tuple[RunningTrial, Outcome | None]]) -> list[tuple[RunningTrial, Outcome | None]]:
        """Those of the trials asked before the last commit that may start."""
        if self.proposer.slow:
            self._look_ahead()
        return asked

    def stir(self) -> None:
        """Forgets that there was nothing to be had."""
        self._resting = False

    def watch(self, wake: Callable[[], None]) -> None:
        """Has `wake` called when a candidate has been made, or other workers have changed something."""
        self._wake = wake

    def unwatch(self) -> None:
        """Ends what `watch` began."""
        self._wake = None

    async def end(self, reason: str) -> None:
        """Says in the log that the run has ended. A log that broke is left as it is."""
        await self._stop_thinking()
        await self.journal.settle()
        if not self.journal.broken:
            self.journal.stage(Ended(reason, self.elapsed()))
            await self.journal.commit()

    def take_back(self, trial: RunningTrial) -> None:
        """A trial that nobody will evaluate now: it is the next to be asked."""
        self.tell(trial, Interrupted())
        self.redo.append(trial.id)
        self.dry = None if self.dry in ("steps", "exhausted") else self.dry  # there is one to be asked again

    def news(self) -> list[Trial]:
        """The trials that have become durable since the last call; the pruner has seen them."""
        rows = range(self.observed, self.journal.head.rows)
        self.observed = self.journal.head.rows
        trials = [self.state.table.trial(row) for row in rows]
        if self.pruner is not None:
            for trial in trials:
                self.pruner.observe(trial)
        return trials

    # -- what a running trial needs

    def elsewhere(self) -> asyncio.AbstractEventLoop | None:
        return None if threading.get_ident() == self._thread else self._event_loop

    def prunes(self, trial: RunningTrial, value: float) -> bool:
        trial.estimates.append(value)
        return self.pruner is not None and bool(self.pruner.should_prune(trial.estimates))

    def is_out(self, trial: RunningTrial) -> bool:
        """Whether this attempt is the one that the log knows to be running."""
        pending = self.state.pending.get(trial.id)
        return pending is not None and pending.attempt == trial.attempt

    async def save(self, trial: RunningTrial, state: Any) -> None:
        if trial._taken or not self.is_out(trial):
            raise UsageError(f"trial {trial.id} is not running any more; its state cannot be saved")
        self.journal.stage(Saved(trial.id, trial.attempt, _small(state), _written(self.elapsed())), trial)
        await self.journal.commit()


def _written(seconds: float) -> float:
    """As the log will have it: to the microsecond."""
    return int(seconds * 1e6 + 0.5) / 1e6


def _end(outcome: Outcome) -> tuple[TrialState, str | None]:
    """How a trial ended that did not complete, and by which error."""
    match outcome:
        case Pruned():
            return "pruned", None
        case Failed(raised):
            return "failed", printed(raised)
        case Interrupted():
            return "interrupted", None
        case Completed(value):
            return ("nan" if math.isnan(value) else "completed"), None
        case _:
            assert_never(outcome)


def _small(state: Any) -> Any:
    """A copy, as the next attempt will get it."""
    import orjson

    try:
        form = to_json(state)
        size = len(orjson.dumps(form))
    except TypeError as e:
        raise TypeError(f"trial.save takes a JSON value, and this holds {e}") from None
    except ValueError as e:
        raise TypeError(f"trial.save takes a JSON value, and this is {e}") from None
    if size > _SAVED_LIMIT:
        raise ObjectiveError(
            f"trial.save is for small values; this one has {size} bytes, and {_SAVED_LIMIT} are allowed"
        )
    return from_json(form)


def restore_pruner(pruner: Pruner, state: State) -> None:
    """Brings a pruner to where the history is: from its own saved state where that fits, the rest by replay."""
    start = 0
    forget = getattr(pruner, "reset", None) or (lambda: None)  # what it has seen of another search
    forget()
    if state.pruner is not None and state.pruner.name == type(pruner).__name__:
        try:
            pruner.load_state_dict(state.pruner.data)
            start = state.pruner_row
        except (ValueError, KeyError, TypeError):  # of other settings, or of another version
            forget()
    for row in range(start, state.told):
        pruner.observe(state.table.trial(row))
