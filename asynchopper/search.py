"""`Search`: the face of the engine, and the checks of what it is asked to do."""

from __future__ import annotations

import asyncio
import datetime
import logging
import math
import os
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from asynchopper.budget import Budget, Schedule
from asynchopper.callbacks import Watchers
from asynchopper.callbacks.base import Watcher
from asynchopper.engine import Engine, uninterrupted
from asynchopper.errors import SpaceError, StorageError, StudyMismatch, UsageError
from asynchopper.executors import Executor, ThreadExecutor
from asynchopper.history import History
from asynchopper.journal import Journal, replay
from asynchopper.ledger import Ledger, restore_pruner
from asynchopper.objective import Evaluation, Objective
from asynchopper.progress import Progress
from asynchopper.pruners import Pruner
from asynchopper.records import encode
from asynchopper.samplers import Proposer, Sampler, TwoStageSampler
from asynchopper.samplers.proposer import Duplicates
from asynchopper.session import Session
from asynchopper.signals import Signals
from asynchopper.space import Space, merge
from asynchopper.state import FINISHED, Ended, Header, PrunerSaw, Run, State
from asynchopper.storage import Location, Resume, Storage, open_storage
from asynchopper.trial import Trial

_log = logging.getLogger("asynchopper")

Direction = Literal["max", "maximize", "maximise", "min", "minimize", "minimise"]
_DIRECTIONS = {
    "max": "maximize",
    "maximize": "maximize",
    "maximise": "maximize",
    "min": "minimize",
    "minimize": "minimize",
    "minimise": "minimize",
}


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How the last run ended. `reason` is `steps`, `runtime`, `cost`, `exhausted`, `stopped`, `sigint`, `sigterm` or `error`."""

    reason: str
    trials: int
    """Trials that finished in this run."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a run's log is, how it is continued, and how it searches: what `run` and `session` share."""

    direction: str
    budget: Budget
    schedule: Schedule
    sampler: Sampler
    pruner: Pruner | None
    duplicates: Duplicates
    storage: Storage | None
    resume: Resume
    overwrite: bool


class Search:
    """A search space and all that is known of it.

    The space is one dict, several (merged), or keyword arguments; `seed` makes the search repeatable (without one it is
    drawn, and logged). Raises `SpaceError` for a space that contradicts itself.
    """

    def __init__(self, *spaces: Mapping[Any, Any], seed: int | None = None, **parameters: Any) -> None:
        if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0):
            raise UsageError(f"seed={seed!r}: must be an integer of 0 or more")
        self.space = Space(merge(spaces, parameters))
        self._seed = None if seed is None else int(seed)
        self._journal = Journal(State(self.space), None)
        self._guesses: deque[Mapping[Any, Any]] = deque()
        self._engine: Engine | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._busy = False
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

    # -- guesses

    def enqueue(self, guess: Mapping[Any, Any]) -> None:
        """A guess that runs before anything else. Parameters that it leaves out take their best known values.

        Raises `SpaceError` for names and values that the space does not have.
        """
        if not isinstance(guess, Mapping):
            raise SpaceError(f"a guess is a dict of parameters, got {guess!r:.80}")
        self.space.fit(guess, None, np.random.Generator(np.random.Philox(0)))
        self._guesses.append(dict(guess))

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
        callbacks: Watcher | Iterable[Watcher] = (),
        quiet: bool = False,
    ) -> dict[Any, Any] | None:
        """Evaluates candidates until the budget is spent; gives the best parameters.

        The objective takes `params`, or `params, trial`; it is a coroutine function, an async generator yielding estimates,
        a plain function or a plain generator. The budget is exactly one of `runtime` (seconds, or `"2h 30min"`), `steps`,
        `endless`.

        How many at once: `concurrency` evaluations; plain functions run in an `executor` (threads unless `"process"`);
        `timeout` (seconds) cancels one evaluation, which counts as failed; `kwargs` are passed to the objective.

        How it searches: `sampler` (two stages by default: seeding, for `seeding_ratio` of the budget or `seeding_steps` or
        `seeding_runtime`, then local search under a temperature that falls from `start_temperature` to
        `end_temperature`); `pruner`; `duplicates` (`"reject"` never evaluates a candidate twice, `"reuse"` answers from the
        history, `"allow"` evaluates again); `ignore_nans` records NaNs instead of raising; `on_error="record"` goes on
        when the objective raises.

        Where it lives: `checkpoint_path` (a path, a directory, a URL) or a `storage` instance. `resume="auto"` continues
        what is there, `"never"` refuses to, `"must"` insists; `overwrite_checkpoint` replaces it.

        How it ends: running evaluations get `grace` seconds when the run is stopped or its time is up;
        `handle_signals` lets SIGTERM and SIGINT stop it. Who watches: `callbacks` (functions of a trial, or `Callback`
        objects); `quiet` shows nothing.

        Raises `UsageError` or `SpaceError` before anything runs; `StorageError` and its kinds when the checkpoint cannot
        be used; what the objective raised, as itself, with a note.
        """
        budget = Budget.of(runtime, steps, endless)
        schedule = Schedule.of(seeding_ratio, seeding_steps, seeding_runtime, start_temperature, end_temperature)
        _check_positive("concurrency", concurrency, whole=True)
        if timeout is not None:
            _check_positive("timeout", timeout)
        if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace < math.inf:
            raise UsageError(f"grace={grace!r}: must be seconds, 0 or more")
        _check_word("on_error", on_error, ("raise", "record"))
        _check_word("executor", executor, (None, "thread", "process"))
        opening = self._opening(
            direction,
            budget,
            schedule,
            sampler,
            pruner,
            duplicates,
            checkpoint_path,
            storage,
            resume,
            overwrite_checkpoint,
        )
        workers = _executor(objective, executor)
        evaluation = Evaluation(objective, kwargs, workers)
        if executor == "process":
            evaluation.executor.check(evaluation)  # type: ignore[union-attr]  # it was just made
        Watchers(callbacks, 1.0, None)  # so that a wrong callback is refused before anything is opened
        signals = Signals(self._on_signal)
        ledger = await self._begin(opening)
        hand_over: list[Callable[[], None]] = []
        try:
            state = ledger.state
            watchers = Watchers(callbacks, state.sign, state.best_value)
            engine = self._engine = Engine(
                ledger,
                evaluation,
                watchers,
                concurrency=int(concurrency),
                timeout_s=timeout,
                grace_s=float(grace),
                on_error=on_error,
                ignore_nans=ignore_nans,
            )
            if handle_signals:
                signals.enter()
            progress = None if quiet else Progress(ledger, engine)
            if progress is not None:
                progress.start()
            watchers.started(self)
            reason = "error"
            try:
                reason = await engine.run()
            except asyncio.CancelledError:
                reason = "stopped"
                raise
            finally:
                self._engine = None
                if workers is not None:
                    await workers.close()
                await self._finally(self._end(ledger, reason))
                if progress is not None:
                    await progress.finish(reason)
                watchers.ended(self)
                await watchers.settle()
        finally:
            hand_over = signals.leave()
            for do in hand_over:
                do()
            interrupts, self._interrupts = self._interrupts, 0
        if interrupts > 1:
            raise KeyboardInterrupt
        return self.best

    _interrupts = 0

    async def iterate(
        self, objective: Objective, direction: Direction = "maximize", runtime: float | str | None = None, **words: Any
    ) -> AsyncIterator[Trial]:
        """`run`, handing out each finished trial as it becomes durable. Takes the same words.

        Leaving the loop early cancels what runs, which the next run does again.
        """
        queue: asyncio.Queue[Trial | None] = asyncio.Queue()
        callbacks = words.pop("callbacks", ())
        mine = [callbacks] if callable(callbacks) or not isinstance(callbacks, Iterable) else list(callbacks)
        run = asyncio.ensure_future(
            self.run(objective, direction, runtime, callbacks=[*mine, queue.put_nowait], **words)
        )
        run.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (trial := await queue.get()) is not None:
                yield trial
            await run
        finally:
            if not run.done():
                run.cancel()
                await asyncio.wait([run])

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
        return Session(
            self,
            self._opening(
                direction,
                Budget.of(runtime, steps, endless),
                Schedule.of(seeding_ratio, seeding_steps, seeding_runtime, start_temperature, end_temperature),
                sampler,
                pruner,
                duplicates,
                checkpoint_path,
                storage,
                resume,
                overwrite_checkpoint,
            ),
        )

    def stop(self) -> None:
        """Ends the run as SIGINT would: nothing more is proposed, and what runs gets the grace. From any thread."""
        loop = self._event_loop
        if self._engine is not None and loop is not None:
            loop.call_soon_threadsafe(self._stop, "stopped")

    def _stop(self, reason: str) -> None:
        if self._engine is not None:
            self._engine.stop(reason)

    def _on_signal(self, number: int) -> None:
        import signal

        self._interrupts += number == signal.SIGINT
        self._stop("sigint" if number == signal.SIGINT else "sigterm")

    # -- saving and loading

    async def save(self, path: Location, pruner: Pruner | None = None) -> Path:
        """Writes everything that is known into a file of its own, also in the middle of a run; gives its path.

        An existing file is replaced as a whole. A directory gets the next free number. With a pruner (by default that of
        the run under way) its state is written too. Raises `StorageError` when it cannot be written.
        """
        self.space.check_storable()
        storage = open_storage(path)
        state = self._journal.state
        if state.header is None:
            state.fold(self._header("maximize"))
        if pruner is None and self._ledger is not None:
            pruner = self._ledger.pruner
        facts = state.facts()
        first = next(facts)  # taken now, with the trials that are out
        saw = [] if pruner is None else [PrunerSaw(type(pruner).__name__, pruner.state_dict())]

        def written() -> list[bytes]:
            all_facts = [first, *facts]
            end = [all_facts.pop()] if isinstance(all_facts[-1], Ended) else []
            return [encode(f, self.space) for f in (*all_facts, *saw, *end)]

        records = await asyncio.to_thread(written)
        await storage.open(resume="never", overwrite=True)
        try:
            async for _ in storage.read():
                pass
            await storage.append(records)
        finally:
            await storage.close()
        return Path(storage.location)

    async def load(self, path: Location, pruner: Pruner | None = None) -> None:
        """Takes over everything that a checkpoint knows, in place of what this search knew.

        The search space stays this one's. A pruner gets its state from the checkpoint, by replay where the saving run did
        not have it. Raises `StorageError` and its kinds, and then nothing has changed.
        """
        if self._busy:
            raise UsageError("this search is running; load into another one, or wait for the run to end")
        storage = open_storage(path)
        state = State(self.space)
        await storage.open(readonly=True)
        try:
            await replay(storage.read(), state, storage.location)
        finally:
            await storage.close()
        if state.header is None:
            raise StorageError(f"{storage.location} holds no search yet")
        self._say_changes(state, storage.location)
        if pruner is not None:
            pruner.direction = state.header.direction
            restore_pruner(pruner, state)
        self._journal = Journal(state, None)
        self._seed = state.header.seed

    # -- opening and closing a run

    _ledger: Ledger | None = None

    def _opening(
        self,
        direction: str,
        budget: Budget,
        schedule: Schedule,
        sampler: Sampler | None,
        pruner: Pruner | None,
        duplicates: Duplicates,
        checkpoint_path: Location | None,
        storage: Storage | None,
        resume: Resume,
        overwrite: bool,
    ) -> Opening:
        """Checks the words that `run` and `session` share; raises `UsageError`, opens nothing."""
        _check_word("direction", direction, tuple(_DIRECTIONS))
        _check_word("duplicates", duplicates, ("reject", "reuse", "allow"))
        _check_word("resume", resume, ("auto", "never", "must"))
        if checkpoint_path is not None and storage is not None:
            raise UsageError("checkpoint_path= and storage= exclude each other")
        if storage is not None and not isinstance(storage, Storage):
            raise UsageError(f"storage= takes a Storage, got {storage!r:.80}; for a path or a URL use checkpoint_path=")
        if sampler is not None and not isinstance(sampler, Sampler):
            raise UsageError(f"sampler= takes an object with propose(view, rng), got {sampler!r:.80}")
        if pruner is not None and not callable(getattr(pruner, "should_prune", None)):
            raise UsageError(f"pruner= takes a Pruner, got {pruner!r:.80}")
        if resume == "must" and overwrite:
            raise UsageError("resume='must' and overwrite_checkpoint=True contradict each other")
        where = open_storage(checkpoint_path) if checkpoint_path is not None else storage
        if where is None and resume == "must":
            raise UsageError("resume='must' needs a checkpoint_path or a storage")
        if where is not None:
            self.space.check_storable()
        return Opening(
            _DIRECTIONS[direction],
            budget,
            schedule,
            sampler or TwoStageSampler(),
            pruner,
            duplicates,
            where,
            resume,
            overwrite,
        )

    async def _begin(self, opening: Opening) -> Ledger:
        """Opens the log, folds it, and says in it that a run begins."""
        if self._busy:
            raise UsageError("this search is running already; make another Search to run beside it")
        self._busy = True
        storage = opening.storage
        try:
            if storage is None:
                journal = Journal(self._journal.state, None)
            else:
                await storage.open(resume=opening.resume, overwrite=opening.overwrite)
                self._checkpoint_path = storage.location
                journal = await self._continued(storage)
            ledger = await self._started(journal, opening)
        except BaseException:
            self._busy = False
            if storage is not None:
                await self._finally(storage.close())
            raise
        self._journal, self._ledger = journal, ledger
        self._event_loop = asyncio.get_running_loop()
        self._interrupts = 0
        self._began_with = journal.head.rows
        return ledger

    async def _continued(self, storage: Storage) -> Journal:
        """The journal of a log that was just opened: its own history, or, where it is empty, what this search knows."""
        state = State(self.space)
        await replay(storage.read(), state, storage.location)
        mine = self._journal.state
        if state.header is None:
            journal = Journal(mine, storage)
            if mine.header is not None:
                journal.stage_log(await asyncio.to_thread(lambda: list(mine.facts())))
            return journal
        if mine.told and mine.header is not None:
            ahead = _ahead(mine, state)
            if mine.header.search_id != state.header.search_id or ahead is None:
                raise StudyMismatch(
                    f"{storage.location} holds another search ({state.told} trials) than this object ({mine.told}); use a "
                    "fresh Search to continue it, or another path, or overwrite_checkpoint=True to replace it"
                )
            if ahead:
                journal = Journal(mine, storage)
                journal.stage_log(ahead)
                return journal
        self._say_changes(state, storage.location)
        return Journal(state, storage)

    async def _started(self, journal: Journal, opening: Opening) -> Ledger:
        state = journal.state
        if state.header is None:
            journal.stage(self._header(opening.direction))
        header = state.header
        assert header is not None
        if header.direction != opening.direction:
            if state.told or state.pending:
                raise StudyMismatch(
                    f"this search was started to {header.direction}, and now it is asked to {opening.direction}; "
                    "use the same direction, or start a new search"
                )
            state.fold(header._replace(direction=opening.direction))
        if self._seed is not None and self._seed != header.seed and journal.storage is not None:
            _log.warning("%s goes on with its own seed %d, not %d", journal.storage.location, header.seed, self._seed)
        state.remember_candidates(opening.duplicates != "allow")
        if opening.pruner is not None:
            opening.pruner.direction = opening.direction
            restore_pruner(opening.pruner, state)
        fresh = state.run is None or state.reason in FINISHED
        old = None if fresh else state.run
        base = (old.base_steps, old.base_elapsed, old.base_cost) if old else (state.told, state.elapsed, state.cost)
        described = self.space.describe()
        journal.stage(
            Run(
                opening.budget.describe(),
                base[0],
                base[1],
                base[2],
                None if described == state.described else described,
                datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                socket.gethostname(),
                os.getpid(),
            )
        )
        await journal.commit()
        proposer = Proposer(
            opening.sampler, opening.budget, opening.schedule, opening.duplicates, self._guesses, header.seed
        )
        return Ledger(journal, proposer, opening.budget, opening.pruner)

    async def _end(self, ledger: Ledger, reason: str) -> None:
        """Says in the log that the run has ended, and lets go of it. A log that broke is left as it is."""
        journal = ledger.journal
        try:
            await journal.settle()
            if not journal.broken:
                journal.stage(Ended(reason, ledger.elapsed()))
                await journal.commit()
        finally:
            if journal.storage is not None:
                await journal.storage.close()
            self._outcome = RunOutcome(reason, journal.head.rows - self._began_with, ledger.elapsed() - ledger.before)
            self._journal, self._ledger = Journal(journal.state, None), None
            self._busy = False

    @staticmethod
    async def _finally(what: Any) -> None:
        """Carries a closing step through, however often the caller is cancelled; raises what it raised."""
        task = asyncio.ensure_future(what)
        await uninterrupted(task)
        task.result()

    def _header(self, direction: str) -> Header:
        if self._seed is None:
            self._seed = secrets.randbits(63)
        return Header(secrets.token_hex(8), direction, self._seed, self.space.describe())

    def _say_changes(self, state: State, location: str) -> None:
        """The space may change between runs; what did is said once."""
        before, now = state.described or {}, self.space.describe()
        changes = [f"{path} is new (old trials count with its initial value)" for path in now if path not in before]
        changes += [f"{path} is gone (its values stay in the history)" for path in before if path not in now]
        changes += [f"{path} is different" for path in now if path in before and before[path] != now[path]]
        if changes:
            _log.warning("%s: the search space has changed: %s", location, "; ".join(changes))


def _ahead(mine: State, stored: State) -> list[Any] | None:
    """The facts by which `mine` is ahead of what is stored; `None` when it does not continue it."""
    a, b = mine.table, stored.table
    if len(b) > len(a) or a.ids[: len(b)] != b.ids or a.values[: len(b)].tobytes() != b.values.tobytes():
        return None if len(b) <= len(a) else []
    if len(a) == len(b):
        return []
    known = set(b.ids)
    return [f for f in mine.facts() if not isinstance(f, Header) and getattr(f, "id", -1) not in known]


def _executor(objective: Objective, word: str | None) -> Executor | None:
    from asynchopper.objective import kind_of

    if word == "process":
        from asynchopper.executors.process import ProcessExecutor

        return ProcessExecutor()
    if word == "thread" or (callable(objective) and kind_of(objective) in ("function", "generator")):
        return ThreadExecutor()
    return None


def _check_word(name: str, word: object, words: tuple[object, ...]) -> None:
    if word not in words:
        raise UsageError(f"{name}={word!r}: must be one of {', '.join(map(repr, words))}")


def _check_positive(name: str, x: Any, whole: bool = False) -> None:
    fine = not isinstance(x, bool) and (hasattr(x, "__index__") if whole else isinstance(x, (int, float)))
    if not fine or not 0 < x < math.inf:
        raise UsageError(f"{name}={x!r}: must be a positive {'integer' if whole else 'number'}")
