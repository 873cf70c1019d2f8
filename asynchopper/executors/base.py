"""What the engine asks of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from asynchopper.objective import Evaluation, RunningTrial


class Executor(Protocol):
    """Runs evaluations away from the event loop."""

    def check(self, evaluation: Evaluation) -> None:
        """Raises `UsageError` when the objective cannot run here."""

    async def open(self, evaluation: Evaluation) -> None:
        """Gets ready, before anything is written. Raises `UsageError` when the objective cannot run here."""

    async def ready(self, evaluation: Evaluation, trial: RunningTrial) -> None:
        """Returns when there is a place for the trial to run in; its time counts from then."""

    async def run(self, evaluation: Evaluation, trial: RunningTrial) -> Any:
        """What the objective returns. When cancelled, the evaluation is abandoned or killed, never waited for."""

    async def close(self) -> None:
        """Lets go of every worker, without waiting for those that are busy."""
