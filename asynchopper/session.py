"""Ask and tell, for those who evaluate elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from asynchopper.closing import closed
from asynchopper.errors import StorageError, UsageError
from asynchopper.ledger import FLUSH_S, Ledger
from asynchopper.objective import RunningTrial, to_cost, to_number
from asynchopper.trial import Completed, Failed, Interrupted, Outcome, Pruned

if TYPE_CHECKING:
    from asynchopper.opening import Opening
    from asynchopper.search import Search


class TrialFailed(Exception):
    """Stands for what went wrong elsewhere."""


class Session:
    """`trial = await session.ask()`, evaluate `trial.params` wherever you like, `await session.tell(trial, value)`.

    Any number of trials may be out, and any number of tasks may ask and tell at once; their writes are grouped. Trials
    that are out when the session ends run again, with the same parameters, when the search is continued.
    """

    def __init__(self, search: Search, opening: Opening) -> None:
        self._search, self._opening = search, opening
        self._ledger: Ledger | None = None
        self._out: dict[int, RunningTrial] = {}
        self._told: set[int] = set()
        self._given_up: set[asyncio.Task[None]] = set()
        """What goes on of asking where nobody waits for it any more."""
        self._thinking = asyncio.Lock()
        """Held by whoever asks, since a candidate may take a while."""

    async def __aenter__(self) -> Self:
        self._ledger = await self._search._begin(self._opening)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ledger = self._open()
        ledger.stopping.set()
        for trial in list(self._out.values()):
            ledger.tell(trial, Interrupted())
        self._out.clear()
        storage = ledger.journal.storage
        if storage is not None and (isinstance(error, asyncio.CancelledError) or self._search._stopping):
            storage.hurry(FLUSH_S)
        reason = "error" if error is not None and isinstance(error, Exception) else self._reason(ledger)
        self._ledger = None
        try:
            cancelled = await closed(self._ended(ledger, reason))
        except StorageError:
            if error is None:  # otherwise it has reached the caller already, or something worse has
                raise
            return
        if cancelled:
            raise asyncio.CancelledError

    async def _ended(self, ledger: Ledger, reason: str) -> None:
        if self._given_up:
            await asyncio.wait(self._given_up)
        await self._search._end(ledger, reason)

    def __repr__(self) -> str:
        state = "closed" if self._ledger is None else f"{len(self._out)} out"
        return f"Session({state}, {len(self._told)} told)"

    @staticmethod
    def _reason(ledger: Ledger) -> str:
        spent = ledger.budget.spent(ledger.state, ledger.elapsed())
        if spent is None and (ledger.dry == "runtime" or (ledger.dry == "exhausted" and not ledger.state.pending)):
            return ledger.dry  # there is no time for another evaluation, or nothing to evaluate
        return spent or "stopped"

    async def ask(self) -> RunningTrial | None:
        """The next candidate; `None` when the budget is given out, the space is used up, or after `search.stop()`. Never waits
        for a result.

        With `duplicates="reuse"` also `None` while all that is left is out: the next result may answer what comes then.
        Durable when it returns. Raises `StorageError` when it cannot be made so.
        """
        ledger = self._open()
        while self._given_up:
            await asyncio.wait(self._given_up)
        ledger.stir()
        while not self._search._stopping and (new := await self._next(ledger)) is not None:
            try:
                await ledger.journal.commit()
            except asyncio.CancelledError:  # the caller never had it
                task = asyncio.create_task(self._given_back(ledger, new), name="asynchopper-given-up")
                self._given_up.add(task)
                task.add_done_callback(self._given_up.discard)
                raise
            for trial, known in ledger.granted([new]):
                if known is None:
                    trial._interrupted = ledger.stopping
                    self._out[trial.id] = trial
                    return trial
                await self._quiet(ledger)
                ledger.tell(trial, known)
                await self._commit(ledger)
        return None

    async def _given_back(self, ledger: Ledger, new: tuple[RunningTrial, Outcome | None]) -> None:
        """Waits for what becomes of a candidate, and gives it back."""
        with contextlib.suppress(StorageError):  # the next call will say so
            await ledger.journal.commit()
            for trial, known in ledger.granted([new]):
                if known is None:
                    ledger.take_back(trial)
                else:
                    await self._quiet(ledger)
                    ledger.tell(trial, known)

    async def _next(self, ledger: Ledger) -> tuple[RunningTrial, Outcome | None] | None:
        async with self._thinking:
            await ledger.thought()
            while (new := ledger.ask()) is None and ledger.thinking:
                await ledger.thought()
            return new

    async def _quiet(self, ledger: Ledger) -> None:
        """Returns when something may be told."""
        while ledger.still:
            await ledger.thought()

    async def tell(
        self,
        trial: RunningTrial,
        value: Any = None,
        *,
        state: Literal["completed", "pruned", "failed"] = "completed",
        cost: float = 0.0,
    ) -> None:
        """The outcome of a trial; durable when it returns. Telling the same trial again changes nothing.

        `value` is the number that was reached; `state` says otherwise: `"pruned"`, `"failed"`. Raises `UsageError` for a
        trial that this session did not give out, `ObjectiveError` for a value that is not a number and a cost that is
        none of 0 or more; `StorageError` when it cannot be made durable, also when it is told again.
        """
        await self._quiet(self._open())
        ledger = self._open()
        if not isinstance(trial, RunningTrial):
            raise UsageError(f"tell takes a trial that `ask` has given, got {trial!r:.80}")
        if trial._host is not ledger or trial.id not in self._told:
            if self._out.get(trial.id) is not trial:
                raise UsageError(f"trial {trial.id} was not asked in this session, so it cannot be told here")
            outcome = _outcome(value, state)
            trial.cost += to_cost(cost, "tell(cost=…)")
            del self._out[trial.id]
            self._told.add(trial.id)
            ledger.tell(trial, outcome)
        await self._commit(ledger)

    async def _commit(self, ledger: Ledger) -> None:
        await ledger.journal.commit()
        ledger.news()

    def _open(self) -> Ledger:
        if self._ledger is None:
            raise UsageError("the session is not open; use it inside `async with search.session(...) as session:`")
        return self._ledger


def _outcome(value: Any, state: str) -> Outcome:
    if state == "completed":
        return Completed(to_number(value, "tell"))
    if state == "pruned":
        return Pruned()
    if state == "failed":
        return Failed(value if isinstance(value, BaseException) else TrialFailed(str(value or "told as failed")))
    raise UsageError(f"state={state!r}: must be 'completed', 'pruned' or 'failed'")
