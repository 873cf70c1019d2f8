"""`Search`: the face of the engine, and the checks of what it is asked to do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

from asynchopper.budget import Budget, Schedule
from asynchopper.callbacks import Watchers
from asynchopper.callbacks.base import Watcher
from asynchopper.closing import closed
from asynchopper.engine import Engine
from asynchopper.errors import SpaceError, StorageError, UsageError
from asynchopper.executors import Executor, executor_for
from asynchopper.history import History
from asynchopper.iteration import Trials
from asynchopper.joining import joined
from asynchopper.journal import Journal, replay
from asynchopper.ledger import Ledger, RunOutcome, restore_pruner
from asynchopper.objective import Evaluation, Objective
from asynchopper.opening import Direction, Opening, RunWords, begun, check_pruner, new_header, opened, say_changes
from asynchopper.policy import Policy, check_direction
from asynchopper.progress import Progress
from asynchopper.pruners import Pruner
from asynchopper.samplers import Sampler
from asynchopper.samplers.proposer import Duplicates
from asynchopper.session import Session
from asynchopper.signals import Signals
from asynchopper.space import Given, Space, merge
from asynchopper.state import PrunerSaw, State
from asynchopper.storage import Location, Resume, SharedStorage, Storage, aside, expanded, open_storage
from asynchopper.trial import Trial
from asynchopper.values import whole


class Search:
    """A search space and all that is known of it.

    The space is one dict, several (merged), or keyword arguments; `seed` makes the search repeatable (without one it is
    drawn, and logged). Raises `SpaceError` for a space that contradicts itself.
    """

    def __init__(self, *spaces: Mapping[Any, Any], seed: int | None = None, **parameters: Any) -> None:
        number = whole(seed, 0)
        if seed is not None and number is None:
            raise UsageError(f"seed={seed!r:.80}: must be an integer of 0 or more")
        self.space = Space(merge(spaces, parameters))
        self._seed = number
        self._journal = Journal(State(self.space), None)
        self._guesses: deque[Given] = deque()
        self._engines: list[Engine] = []
        """That of the run, and of earlier ones that still wait for their callbacks."""
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._ledger: Ledger | None = None
        self._leaving: asyncio.Task[object] | None = None
        self._busy = self._stopping = self._stopped_early = False
        self._began_with = 0
        self._outcome: RunOutcome | None = None
        self._checkpoint_path: str | None = None

    def __repr__(self) -> str:
        state = "running" if self._busy else self._outcome.reason if self._outcome else "new"
        return f"Search({', '.join(self.space.paths)}; {len(self.history)} trials, best {self.best_value}, {state})"

    # -- what is known

    @property
    def best(self) -> dict[Any, Any] | None:
        """The parameters of the best trial, or `None` before one has completed."""
        row = self._journal.head.best_row
        return self._journal.state.table.params(row) if row >= 0 else None

    @property
    def best_value(self) -> float | None:
        """The value of the best trial."""
        row = self._journal.head.best_row
        return self._journal.state.table.values[row] if row >= 0 else None

    @property
    def best_trial(self) -> Trial | None:
        """The best trial."""
        row = self._journal.head.best_row
        return self._journal.state.table.trial(row) if row >= 0 else None

    @property
    def history(self) -> History:
        """The finished trials whose results are durable."""
        state = self._journal.state
        return History(state.table, self._journal.head.rows, state.sign)

    @property
    def outcome(self) -> RunOutcome | None:
        """How the last run ended; `None` before the first has."""
        return self._outcome

    @property
    def checkpoint_path(self) -> str | None:
        """Where the last run kept its log: for a directory, the file in it."""
        return self._checkpoint_path

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("a Search is neither copied nor pickled: save it, and load it into another one")

    # -- guesses

    def enqueue(self, guess: Mapping[Any, Any]) -> None:
        """A guess that runs before anything else. Parameters that it leaves out take their best known values.

        Raises `SpaceError` for names and values that the space does not have.
        """
        if not isinstance(guess, Mapping):
            raise SpaceError(f"a guess is a dict of parameters, got {guess!r:.80}")
        self._guesses.append(self.space.given(guess))

    def __iadd__(self, guess: Mapping[Any, Any]) -> Self:
        self.enqueue(guess)
        return self

    # -- running

    async def run(
        self,
        objective: Objective,
        direction: Direction = "maximize",
        runtime: float | str | None = None,
        *,
        steps: int | None = None,
        endless: bool = False,
        concurrency: int = 1,
        executor: Literal["thread", "process"] | None = None,
        timeout: float | None = None,
        kwargs: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
        pruner: Pruner | None = None,
        seeding_ratio: float | None = 0.25,
        seeding_steps: int | None = None,
        seeding_runtime: float | str | None = None,
        start_temperature: float = 1.0,
        end_temperature: float = 0.2,
        duplicates: Duplicates = "reject",
        ignore_nans: bool = False,
        on_error: Literal["raise", "record"] = "raise",
        checkpoint_path: Location | None = None,
        storage: Storage | None = None,
        resume: Resume = "auto",
        overwrite_checkpoint: bool = False,
        grace: float = 20.0,
        handle_signals: bool = True,
        callbacks: Watcher | Iterable[Watcher | None] | None = (),
        quiet: bool = False,
    ) -> dict[Any, Any] | None:
        """Evaluates candidates until the budget is spent; gives the best parameters.

        The objective takes `params`, or `params, trial`; it is a coroutine function, an async generator yielding estimates,
        a plain function or a plain generator. The budget is exactly one of `runtime` (seconds, or `"2h 30min"`), `steps`,
        `endless`.

        How many at once: `concurrency` evaluations; plain functions run in an `executor` (threads unless `"process"`);
        `timeout` (seconds) cancels one evaluation, which counts as failed; `kwargs` are passed to the objective.

        How it searches: `sampler` (by default a portfolio of moves, see the page on how it searches: a few draws from
        the whole space, at first for at most `seeding_ratio` of the budget, or for just that long if it is not the usual
        0.25, or `seeding_steps`, or `seeding_runtime`; then moves of good candidates, wider ones under a temperature that
        falls from `start_temperature` to `end_temperature`); `pruner`; `duplicates` (`"reject"` never evaluates a candidate
        twice, `"reuse"` answers from the history, `"allow"` evaluates again); `ignore_nans` records NaNs instead of
        raising; `on_error="record"` goes on when the objective raises.

        Where it lives: `checkpoint_path` (a path, a directory, a URL) or a `storage` instance. `resume="auto"` continues
        what is there, `"never"` refuses to, `"must"` insists; `overwrite_checkpoint` replaces it.

        How it ends: running evaluations get `grace` seconds when the run is stopped or its time is up;
        `handle_signals` lets SIGTERM and SIGINT stop it. Who watches: `callbacks` (functions of a trial, or `Callback`
        objects); `quiet` shows nothing.

        Raises `UsageError` or `SpaceError` before anything runs; `StorageError` and its kinds when the checkpoint cannot
        be used; what the objective raised, as itself, with a note.
        """
        check_direction(direction)
        policy = Policy.of(
            concurrency=concurrency, timeout=timeout, grace=grace, on_error=on_error, ignore_nans=ignore_nans
        )
        opening = Opening.of(
            self.space,
            direction,
            Budget.of(runtime, steps, endless),
            Schedule.of(seeding_ratio, seeding_steps, seeding_runtime, start_temperature, end_temperature),
            sampler=sampler,
            pruner=pruner,
            duplicates=duplicates,
            checkpoint_path=checkpoint_path,
            storage=storage,
            resume=resume,
            overwrite_checkpoint=overwrite_checkpoint,
        )
        evaluation = Evaluation(objective, kwargs, executor_for(objective, executor, self.space))
        watchers = Watchers(callbacks)
        engine = Engine(await self._begin(opening, evaluation), evaluation, watchers, policy)
        signals = Signals(lambda number: engine.stop(signal.Signals(number).name.lower()))
        self._engines.append(engine)
        try:
            await self._evaluate(engine, quiet, signals.enter if handle_signals else None)
        finally:
            self._engines.remove(engine)
            for hand_over in signals.leave():
                hand_over()
        return self.best

    async def _evaluate(self, engine: Engine, quiet: bool, listen: Callable[[], None] | None) -> None:
        """A run whose log is open. However it ends, the log is closed, and everyone who watches is told."""
        ledger, watchers = engine.ledger, engine.watchers
        progress: Progress | None = None
        reason, cancelled = "error", False
        try:
            if listen is not None:
                listen()
            watchers.follow(ledger.state.sign, ledger.state.best_value)
            if self._stopped_early:
                engine.stop("stopped")
            if not quiet:
                progress = Progress(ledger, engine)
                progress.start()
            watchers.started(self)
            reason = await engine.run()
        except asyncio.CancelledError:
            reason = "stopped"
            raise
        finally:
            try:
                cancelled = await closed(self._end(ledger, reason, engine.evaluation.executor))
            finally:
                try:
                    if progress is not None:
                        cancelled |= await closed(progress.finish(reason))
                    watchers.ended(self)
                finally:
                    if cancelled:
                        watchers.give_up(engine.grace_s)
                    await watchers.settle()
        if cancelled:
            raise asyncio.CancelledError

    def iterate(
        self,
        objective: Objective,
        direction: Direction = "maximize",
        runtime: float | str | None = None,
        **words: Unpack[RunWords],
    ) -> Trials:
        """`run`, handing out each finished trial as it becomes durable. Takes the same words.

        Leaving the loop early cancels what runs, which the next run does again; where a variable holds what this gives, once
        that is dropped or closed (`contextlib.aclosing`), which is also for whoever wants to open the log next.
        """
        callbacks = words.pop("callbacks", ())
        mine = [callbacks] if callable(callbacks) or not isinstance(callbacks, Iterable) else list(callbacks)

        def begin(put: Callable[[Trial], None]) -> Coroutine[Any, Any, object]:
            words["callbacks"] = [*mine, put]
            return self.run(objective, direction, runtime, **words)

        return Trials(begin, self._left)

    def _left(self, run: asyncio.Task[object]) -> None:
        """Nobody iterates over this run any more; it is being cancelled."""
        self._leaving = run

    def session(
        self,
        direction: Direction = "maximize",
        runtime: float | str | None = None,
        *,
        steps: int | None = None,
        endless: bool = False,
        sampler: Sampler | None = None,
        pruner: Pruner | None = None,
        seeding_ratio: float | None = 0.25,
        seeding_steps: int | None = None,
        seeding_runtime: float | str | None = None,
        start_temperature: float = 1.0,
        end_temperature: float = 0.2,
        duplicates: Duplicates = "reject",
        checkpoint_path: Location | None = None,
        storage: Storage | None = None,
        resume: Resume = "auto",
        overwrite_checkpoint: bool = False,
    ) -> Session:
        """Ask and tell: `async with search.session("minimize", steps=100) as session:`. The words are those of `run`."""
        check_direction(direction)
        return Session(
            self,
            Opening.of(
                self.space,
                direction,
                Budget.of(runtime, steps, endless),
                Schedule.of(seeding_ratio, seeding_steps, seeding_runtime, start_temperature, end_temperature),
                sampler=sampler,
                pruner=pruner,
                duplicates=duplicates,
                checkpoint_path=checkpoint_path,
                storage=storage,
                resume=resume,
                overwrite_checkpoint=overwrite_checkpoint,
            ),
        )

    def stop(self) -> None:
        """Ends the run as SIGINT would, from any thread: nothing more is proposed or asked, what runs gets the grace."""
        loop = self._event_loop
        if loop is not None and (self._busy or self._engines):
            self._stopping = True
            for engine in tuple(self._engines):
                engine.hurried = True
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        for engine in self._engines:
            engine.stop("stopped")
        if self._ledger is not None:
            self._ledger.stopping.set()
        self._stopped_early = self._busy and self._ledger is None

    # -- saving and loading

    @overload
    async def save(self, path: PathLike[str], pruner: Pruner | None = None) -> Path: ...
    @overload
    async def save(self, path: str, pruner: Pruner | None = None) -> Path | str: ...
    async def save(self, path: Location, pruner: Pruner | None = None) -> Path | str:
        """Writes everything that is known into a file of its own, also in the middle of a run; gives its path (or the URL).

        An existing file is replaced as a whole. A directory gets the next free number. With a pruner (by default that of
        the run under way) its state is written too. Raises `StorageError` when it cannot be written.
        """
        check_pruner(pruner)
        self.space.check_storable()
        storage = open_storage(path)
        state = self._journal.state
        if state.header is None:
            state.fold(new_header(self.space, "maximize", self._seed))
        seen = state.told
        if self._ledger is not None and pruner in (None, self._ledger.pruner):
            pruner, seen = self._ledger.pruner, self._ledger.observed
        saw = None if pruner is None else PrunerSaw(type(pruner).__name__, pruner.state_dict())
        elapsed = None if self._ledger is None else self._ledger.elapsed()
        try:
            records = await self._journal.records(saw, seen, elapsed)
        except (TypeError, ValueError) as e:
            raise StorageError(
                f"{storage.location}: JSON cannot hold a value of this search, or of its pruner: {e}"
            ) from e
        await storage.open(resume="never", overwrite=True)
        try:
            async for _ in storage.read():
                pass
            await storage.append(records)
        finally:
            await storage.close()
        return str(path) if "://" in storage.location else expanded(storage.location)

    async def load(self, path: Location, pruner: Pruner | None = None) -> None:
        """Takes over everything that a checkpoint knows, in place of what this search knew.

        The search space stays this one's. A pruner gets its state from the checkpoint, by replay where the saving run did
        not have it. Raises `UsageError` while this search runs, `StorageError` and its kinds; then nothing has changed.
        """
        check_pruner(pruner)
        await self._idle("load into another one, or wait for the run to end")
        storage, state = open_storage(path), State(self.space, remember=False)
        self._busy = True  # so that no run begins meanwhile
        try:
            await storage.open(readonly=True)
            try:
                await replay(storage, state)
            finally:
                await storage.close()
            if state.header is None:
                raise StorageError(f"{storage.location} holds no search yet")
            say_changes(state, storage.location)
            if pruner is not None:
                pruner.direction = state.header.direction
                await aside(restore_pruner, pruner, state)
            self._journal, self._seed = Journal(state, None), state.header.seed
        finally:
            self._busy = False

    # -- opening and closing a run

    async def _begin(self, opening: Opening, evaluation: Evaluation | None = None) -> Ledger:
        """Opens the log, folds it, and says in it that a run begins."""
        await self._idle("make another Search to run beside it")
        self._busy, self._stopping, self._stopped_early = True, False, False
        self._event_loop = asyncio.get_running_loop()
        storage, executor = opening.storage, evaluation.executor if evaluation is not None else None
        held: Storage | None = None  # one that is refused may be another search's, and is not this run's to close
        try:
            if executor is not None and evaluation is not None:
                await executor.open(evaluation)
            if isinstance(storage, SharedStorage) and storage.shared:
                ledger = await joined(storage, opening, self._journal.state, self._seed, self._guesses)
            else:
                if storage is not None:
                    await storage.open(resume=opening.resume, overwrite=opening.overwrite)
                    held = storage
                journal = await opened(opening, self._journal.state)
                ledger = await begun(journal, opening, self._seed, self._guesses)
        except BaseException:
            self._busy = False
            if executor is not None:
                await closed(executor.close())
            if held is not None:
                await closed(held.close())
            raise
        self._journal, self._ledger = ledger.journal, ledger
        self._checkpoint_path = None if storage is None else storage.location
        self._began_with = ledger.journal.head.rows
        return ledger

    async def _idle(self, instead: str) -> None:
        """Returns when a run whose iteration was left has ended. Raises `UsageError` while any other goes on."""
        loop = asyncio.get_running_loop()
        while self._busy and (left := self._leaving) is not None and left.get_loop() is loop and not left.done():
            await asyncio.wait([left])
        if self._busy:
            raise UsageError(f"this search is running already; {instead}")

    async def _end(self, ledger: Ledger, reason: str, executor: Executor | None = None) -> None:
        """Says in the log that the run has ended, and lets go of it. A log that broke is left as it is."""
        journal = ledger.journal
        try:
            if executor is not None:
                await executor.close()
            await ledger.end(reason)
        finally:
            if journal.storage is not None:
                await journal.storage.close()
            self._outcome = RunOutcome(reason, journal.head.rows - self._began_with, ledger.elapsed() - ledger.before)
            for _ in range(0 if journal.broken else ledger.proposer.guesses_used):
                self._guesses.popleft()
            self._journal, self._ledger = Journal(journal.state, None), None
            self._busy = False
