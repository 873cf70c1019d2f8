"""What a person sees: a live line on a terminal or in a notebook, log lines elsewhere, and a table at the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asynchopper.history import COMPLETED, FAILED, NAN, PRUNED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from asynchopper.engine import Engine
    from asynchopper.journal import Journal
    from asynchopper.ledger import Ledger

_REFRESH_S = 0.2
_FIRST_LINE_S, _LONGEST_LINE_S = 5.0, 60.0  # log lines come after 5, 10, 20, 40, and then every 60 seconds


class Progress:
    """Follows an engine until `finish`. Looks at it now and then, so it costs nothing per trial."""

    def __init__(self, ledger: Ledger, engine: Engine, console: Console | None = None) -> None:
        self.ledger, self.engine = ledger, engine
        self.console = console or _stderr()
        self.live_line = self.console.is_terminal or self.console.is_jupyter
        self._began = time.monotonic()
        self._had = ledger.state.told
        self._task: asyncio.Task[None] | None = None
        self._live: Any = None

    def start(self) -> None:
        storage = self.ledger.journal.storage
        where = (
            storage.describe() if storage is not None else "memory only: give checkpoint_path= to survive this process"
        )
        resumed = f", continues after {self._had} trials" if self._had else ""
        self._say(f"asynchopper: {where}{resumed}")
        if self.live_line:
            from rich.live import Live

            self._live = Live(
                self.line(),
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=_shows(sys.stdout),  # what goes to a file must stay out of the terminal's stream
                redirect_stderr=_shows(sys.stderr),
            )
            self._show(self._live.start)
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="asynchopper-progress")

    async def finish(self, reason: str) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._live is not None:
            self._show(self._live.stop)
        self._say(f"asynchopper: {self.text()} · ended: {reason}")
        if self.ledger.journal.head.rows:
            from rich import box

            table = summary(self.ledger.journal, box.SIMPLE if self.live_line else box.ASCII)
            self._show(lambda: self.console.print(table))

    async def _follow(self) -> None:
        pause = _FIRST_LINE_S
        while True:
            if self._live is not None:
                await asyncio.sleep(_REFRESH_S)
                self._show(lambda: self._live.update(self.line(), refresh=True))
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_LINE_S)
                self._say(f"asynchopper: {self.text()}")

    def _say(self, text: str) -> None:
        self._show(lambda: self.console.print(text, highlight=False, markup=False, soft_wrap=True))

    def _show(self, show: Callable[[], object]) -> None:
        """A terminal that has gone away is no reason to end a search."""
        try:
            show()
        except (OSError, ValueError):
            self.console.quiet = True

    def line(self) -> Text:
        from rich.text import Text

        done = self.ledger.budget.progress(self.ledger.state, self.ledger.elapsed())
        if self.ledger.budget.steps:
            done = self.ledger.state.spent_steps / self.ledger.budget.steps
        filled = round(20 * min(done, 1.0))
        bar = Text("━" * filled, "green") + Text("━" * (20 - filled), "bright_black")
        return Text.assemble(bar, " ", self.text())

    def text(self) -> str:
        """Trials, rate, best, elapsed, remaining, running."""
        ledger, head = self.ledger, self.ledger.journal.head
        state, budget = ledger.state, ledger.budget
        took = time.monotonic() - self._began
        rate = (head.rows - self._had) / took if took > 0 else 0.0
        of = f"/{budget.steps + state.run.base_steps}" if budget.steps is not None and state.run else ""
        parts = [f"{head.rows}{of} trials", f"{rate:,.1f}/s" if rate < 1000 else f"{rate:,.0f}/s"]
        if head.best_row >= 0:
            parts.append(f"best {state.table.values[head.best_row]:.6g}")
        parts.append(f"{clock(ledger.elapsed())} elapsed")
        left = ledger.remaining() if budget.seconds is not None else None
        if budget.steps is not None and rate > 0:
            left = (budget.steps - state.spent_steps) / rate
        if left is not None:
            parts.append(f"{clock(max(left, 0.0))} left")
        parts.append(f"{self.engine.running} running")
        return " · ".join(parts)


def _stderr() -> Console:
    from rich.console import Console

    class Lasting(Console):
        def on_broken_pipe(self) -> None:  # rich's own closes the program's stdout and exits
            self.quiet = True

    return Lasting(stderr=True)


def _shows(stream: Any) -> bool:
    """Whether a stream ends at a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def clock(seconds: float) -> str:
    """Seconds as `0:07`, `12:30` or `3:04:05`."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


def summary(journal: Journal, box: Any = None) -> Any:
    """A table with a row an origin: how many, how they ended, the best, the mean time."""
    import numpy as np
    from rich.table import Table as RichTable

    t, n, sign = journal.state.table, journal.head.rows, journal.state.sign
    states = np.array(t.states[:n])
    origins = np.array(t.origins[:n])
    values, seconds = np.array(t.values[:n]), np.array(t.seconds[:n])
    view = RichTable(box=box)
    view.add_column("origin")
    for heading in ("trials", "pruned", "failed", "NaN", "best", "seconds each"):
        view.add_column(heading, justify="right")
    row_of: Callable[[Any], Any] = lambda mask: (  # noqa: E731 - one expression, used for the parts and the whole
        *(str(int((states[mask] == code).sum())) for code in (PRUNED, FAILED, NAN)),
        _best(sign, values[mask & (states == COMPLETED)]),
        f"{seconds[mask].mean():.3g}" if mask.any() else "",
    )
    for code, name in enumerate(t.origin_names):
        mask = origins == code
        if mask.any():
            view.add_row(name, str(int(mask.sum())), *row_of(mask))
    everything = np.ones(n, bool)
    view.add_section()
    view.add_row("all", str(n), *row_of(everything))
    return view


def _best(sign: float, values: Any) -> str:
    return f"{sign * (sign * values).max():.6g}" if len(values) else ""
