"""Any callable as one awaitable evaluation, and the handle that an objective holds while it runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from asynchopper.errors import ObjectiveError, TrialPruned, UsageError

if TYPE_CHECKING:
    from asynchopper.executors import Executor

Kind: TypeAlias = Literal["coroutine", "async generator", "generator", "function"]
Objective: TypeAlias = Callable[..., Any]

_current: ContextVar[RunningTrial] = ContextVar("asynchopper_trial")


class Interrupted(BaseException):
    """Ends a plain function whose evaluation was taken away, at its next word to its trial."""


class _Done:
    """What `report` returns: awaiting it lets other tasks run once; not awaiting it is fine too."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


_DONE = _Done()


class Event:
    """Set once. `is_set` from anywhere, `wait` from any event loop."""

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        return self._flag.is_set()

    def set(self) -> None:
        self._flag.set()
        for waiter in tuple(self._waiters):
            with contextlib.suppress(RuntimeError):  # its loop has closed
                waiter.get_loop().call_soon_threadsafe(_release, waiter)

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            if not self.is_set():  # asked after the waiter can be seen, so that nothing falls in between
                await waiter
        finally:
            self._waiters.remove(waiter)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class RunningTrial:
    """An evaluation under way: what an objective gets as its second argument, and what `session.ask` returns."""

    __slots__ = (
        "_begun",
        "_cost",
        "_host",
        "_interrupted",
        "_taken",
        "_task",
        "attempt",
        "estimates",
        "id",
        "params",
        "restored",
        "started",
    )

    def __init__(self, id: int, attempt: int, params: dict[Any, Any], restored: Any, host: Host) -> None:
        self.id = id
        self.attempt = attempt
        """1 for the first time that this candidate is evaluated."""
        self.params = params
        self.restored = restored
        """What the previous attempt gave to `save`, or `None`."""
        self.estimates: list[float] = []
        self._cost = 0.0
        self.started = 0.0
        self._host = host
        self._interrupted: Event | None = None
        self._task: asyncio.Task[None] | None = None
        """Where it is evaluated, unless that is elsewhere, or it has been answered already."""
        self._taken = False
        self._begun = False

    def __repr__(self) -> str:
        return f"RunningTrial({self.id}, attempt {self.attempt}, {self.params!r:.200})"

    @property
    def interrupted(self) -> Event:
        """Set when the search is being stopped: what matters should be saved now."""
        if self._interrupted is None:
            self._interrupted = Event()
        return self._interrupted

    def report(self, value: float) -> Awaitable[None]:
        """Reports an intermediate value; raises `TrialPruned` when the pruner gives the evaluation up.

        Takes effect at once; `await` it in a coroutine to let other evaluations run, leave the `await` out in a function.
        """
        if self._marshal(self._host.prunes, self, to_number(value, "report")):
            raise TrialPruned(f"pruned after {len(self.estimates)} estimates")
        return _DONE

    def should_prune(self, value: float) -> bool:
        """Reports an intermediate value, and says whether the pruner gives the evaluation up."""
        return bool(self._marshal(self._host.prunes, self, to_number(value, "should_prune")))

    def save(self, state: Any) -> Awaitable[None]:
        """Keeps a small JSON value for the next attempt, should this one be taken away; durable when it returns.

        Await it in a coroutine; in a plain function and in any other thread it blocks. Raises `TypeError` for what JSON
        cannot hold.
        """
        loop = self._host.elsewhere()
        saving = self._host.save(self, state)
        if loop is None:
            return saving
        try:
            answer = asyncio.run_coroutine_threadsafe(saving, loop)
        except RuntimeError:  # the loop has closed: the search is over
            saving.close()
            raise Interrupted from None
        self._waited(answer, loop)
        return _DONE

    @property
    def cost(self) -> float:
        """What this evaluation has cost so far, in a unit of your own."""
        return self._cost

    @cost.setter
    def cost(self, x: float) -> None:
        self._count(to_cost(x, "trial.cost"))

    def add_cost(self, x: float) -> None:
        """Adds to `cost`. Raises `ObjectiveError` unless it is a finite number of 0 or more."""
        self.cost += to_cost(x, "add_cost")

    def _count(self, cost: float) -> None:
        self._cost = cost

    def _marshal(self, fn: Callable[..., Any], *args: Any) -> Any:
        """`fn(*args)` on the event loop, wherever we are: pruners and state know one thread only."""
        if self._taken:
            raise Interrupted
        loop = self._host.elsewhere()
        if loop is None:
            return fn(*args)
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def call() -> None:
            try:
                answer.set_result(fn(*args))
            except BaseException as e:
                answer.set_exception(e)

        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has closed: the search is over
            raise Interrupted from None
        return self._waited(answer, loop)

    def _waited(self, answer: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
        """What the event loop answers to another thread."""
        while True:
            try:
                return answer.result(0.1)
            except concurrent.futures.TimeoutError:
                if answer.done():
                    raise
                if self._taken or loop.is_closed():
                    raise Interrupted from None


class Host(Protocol):
    """What a running trial needs from the search that it belongs to."""

    def elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the rest is to be called on, where the calling thread is another one."""
        ...

    def prunes(self, trial: RunningTrial, value: float) -> bool:
        """Takes in an estimate; whether the evaluation is given up."""
        ...

    def save(self, trial: RunningTrial, state: Any) -> Coroutine[Any, Any, None]:
        """Makes the objective's own state durable."""
        ...


def current_trial() -> RunningTrial:
    """The trial that the calling code is evaluating. Raises `UsageError` outside of an objective."""
    try:
        return _current.get()
    except LookupError:
        raise UsageError("there is no current trial: this was called outside of an objective") from None


def report(value: float) -> Awaitable[None]:
    """`RunningTrial.report` of the current trial."""
    return current_trial().report(value)


def should_prune(value: float) -> bool:
    """`RunningTrial.should_prune` of the current trial."""
    return current_trial().should_prune(value)


def to_number(value: Any, where: str = "the objective") -> float:
    """A float of anything that is one number; raises `ObjectiveError` that says what to write instead."""
    if type(value) is float:
        return value
    if value is None:
        instead = "give (or yield) it the value"
        if where == "the objective":
            instead = "return (or yield) the value to optimize, or raise TrialPruned to give up"
        raise ObjectiveError(f"{_got(where)} None instead of a number; {instead}")
    if not isinstance(value, (str, bytes, bytearray, complex)) and (
        hasattr(value, "__float__") or hasattr(value, "__index__")
    ):
        try:
            mask = getattr(value, "mask", False)
            if not callable(mask) and mask:
                raise TypeError("it is masked")
            # NumPy has no float of an array of one entry
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as e:
            raise ObjectiveError(f"{_got(where)} {value!r:.80}, which is not one number: {e}") from None
    hint = "; return one number, and keep the rest elsewhere" if isinstance(value, (tuple, list, dict)) else ""
    raise ObjectiveError(f"{_got(where)} {value!r:.80} of type {type(value).__name__}, which is not a number{hint}")


def _got(where: str) -> str:
    return f"{where} {'returned' if where == 'the objective' else 'got'}"


def to_cost(value: Any, where: str) -> float:
    """A float that can be summed up; raises `ObjectiveError` for anything but a finite number of 0 or more."""
    cost = to_number(value, where)
    if not 0.0 <= cost < math.inf:
        raise ObjectiveError(f"{where} got {cost!r}; a cost is a finite number of 0 or more")
    return cost


def kind_of(objective: Objective) -> Kind:
    """What calling the objective gives. Looks through partials, bound methods and callable objects."""
    fn: Any = objective
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not (inspect.isroutine(fn) or inspect.isclass(fn)):
        fn = getattr(fn, "__call__", fn)  # noqa: B004 - wanted is the method itself, to look at
    if inspect.iscoroutinefunction(fn):
        return "coroutine"
    if inspect.isasyncgenfunction(fn):
        return "async generator"
    return "generator" if inspect.isgeneratorfunction(fn) else "function"


class Evaluation:
    """An objective made ready: `await evaluation(trial)` gives its value.

    Raises `UsageError` when it cannot be called with `params`, or with `params, trial`.
    """

    def __init__(self, objective: Objective, kwargs: Mapping[str, Any] | None, executor: Executor | None) -> None:
        if not callable(objective):
            raise UsageError(f"the objective must be callable, got {objective!r:.80}")
        if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(k, str) for k in kwargs)):
            raise UsageError(f"kwargs= takes a dict of the objective's further arguments by name, got {kwargs!r:.80}")
        self.objective, self.kind, self.executor = objective, kind_of(objective), executor
        self.kwargs = dict(kwargs or {})
        self.trial_as = _wants_trial(objective, self.kwargs)
        self.plain = self.kind == "coroutine" and executor is None and not self.kwargs and self.trial_as is None
        if executor is not None:
            executor.check(self)

    def call(self, trial: RunningTrial) -> Any:
        """The objective called, not yet awaited or iterated."""
        if self.trial_as == "positional":
            return self.objective(trial.params, trial, **self.kwargs)
        if self.trial_as == "keyword":
            return self.objective(trial.params, trial=trial, **self.kwargs)
        return self.objective(trial.params, **self.kwargs)

    async def __call__(self, trial: RunningTrial) -> float:
        _current.set(trial)
        if self.executor is not None:
            return to_number(await self.executor.run(self, trial))
        return to_number(await finish(self.call(trial), trial))

    def in_thread(self, trial: RunningTrial) -> Any:
        """The whole evaluation of a plain function or generator, in a worker thread."""
        _current.set(trial)
        result = self.call(trial)
        if isinstance(result, Iterator):
            return exhaust(result, trial)
        return result


async def finish(result: Any, trial: RunningTrial) -> Any:
    """The value of whatever an objective returned when it was called."""
    if isinstance(result, AsyncIterator):
        value: Any = None
        try:
            async for value in result:
                trial.report(value)
        finally:
            close = getattr(result, "aclose", None)
            if close is not None:
                await close()
        return _last(value)
    if inspect.isawaitable(result):
        return await finish(await result, trial)
    return result


def exhaust(result: Iterator[Any], trial: RunningTrial) -> Any:
    """The value of a plain generator: the last estimate it yields, or what it returns, if it does."""
    value: Any = None
    try:
        while True:
            try:
                value = next(result)
            except StopIteration as stop:
                return stop.value if stop.value is not None else _last(value)
            trial.report(value)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()


def _last(value: Any) -> Any:
    if value is None:
        raise ObjectiveError("the objective yielded nothing; its last yielded value is the value to optimize")
    return value


def _wants_trial(objective: Objective, kwargs: Mapping[str, Any]) -> Literal["positional", "keyword"] | None:
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise UsageError(f"the objective {_name(objective)}{signature} must take the parameters as its first argument")
    wants: Literal["positional", "keyword"] | None = None
    second = positional[1] if len(positional) > 1 and positional[1].name not in kwargs else None
    if second is not None and (second.name == "trial" or second.default is second.empty):
        wants = "positional"
    elif "trial" not in kwargs and any(
        p.name == "trial" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters[1:]
    ):
        wants = "keyword"
    given: tuple[Any, ...] = (None, None) if wants == "positional" else (None,)
    try:
        signature.bind(*given, **kwargs, **({"trial": None} if wants == "keyword" else {}))
    except TypeError as e:
        raise UsageError(
            f"the objective {_name(objective)}{signature} cannot be called with params"
            f"{', trial' if wants else ''}{' and kwargs' if kwargs else ''}: {e}"
        ) from None
    return wants


def _name(objective: Objective) -> str:
    return str(getattr(objective, "__qualname__", None) or type(objective).__qualname__)


def unwrapped(error: BaseException) -> BaseException:
    """The one exception of a group of one; `TrialPruned` out of a group that holds nothing else of substance."""
    while isinstance(error, BaseExceptionGroup):
        inner = [e for e in error.exceptions if not isinstance(e, asyncio.CancelledError)] or list(error.exceptions)
        pruned = next((e for e in inner if isinstance(e, TrialPruned)), None)
        if pruned is not None and all(isinstance(e, TrialPruned) for e in inner):
            return pruned
        if len(inner) != 1:
            return error
        error = inner[0]
    return error


def printed(error: BaseException) -> str:
    """The type of an error and what it says, as UTF-8 can hold it."""
    try:
        text = str(error)
    except Exception:
        text = "(an error that cannot be printed)"
    return f"{type(error).__qualname__}: {text}"[:1000].encode(errors="backslashreplace").decode()


def note(error: BaseException, trial: RunningTrial) -> None:
    """Says on the exception which trial it was."""
    try:
        params = f"{trial.params!r:.1000}"
    except Exception:
        params = "(that cannot be printed)"
    with contextlib.suppress(Exception):  # a frozen dataclass, say, takes none
        error.add_note(f"in trial {trial.id} (attempt {trial.attempt}) with params {params}")
