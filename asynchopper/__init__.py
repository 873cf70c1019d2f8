"""An asyncio-native, durable tuning engine.

Describe a search space, hand over an objective that can be awaited, and `await search.run(objective, steps=100)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynchopper import pruners
    from asynchopper.callbacks import Callback
    from asynchopper.errors import (
        AsynchopperError,
        CheckpointCorrupted,
        CheckpointLocked,
        CheckpointVersionError,
        LeaseLost,
        ObjectiveError,
        SpaceError,
        StorageError,
        StudyMismatch,
        TrialPruned,
        TrialTimeout,
        UsageError,
    )
    from asynchopper.history import History
    from asynchopper.ledger import RunOutcome
    from asynchopper.objective import RunningTrial, current_trial, report, should_prune
    from asynchopper.opening import Direction
    from asynchopper.samplers import PortfolioSampler, Proposal, RandomSampler, Sampler, TwoStageSampler, View
    from asynchopper.search import Search
    from asynchopper.session import Session
    from asynchopper.space import Parameter
    from asynchopper.space.words import bool_ as bool
    from asynchopper.space.words import choice, custom
    from asynchopper.space.words import float_ as float
    from asynchopper.space.words import int_ as int
    from asynchopper.trial import Trial
    from asynchopper.wrap import wrap_n_times

__version__ = "0.1.0"

__all__ = [
    "AsynchopperError",
    "Callback",
    "CheckpointCorrupted",
    "CheckpointLocked",
    "CheckpointVersionError",
    "Direction",
    "History",
    "LeaseLost",
    "ObjectiveError",
    "Parameter",
    "PortfolioSampler",
    "Proposal",
    "RandomSampler",
    "RunOutcome",
    "RunningTrial",
    "Sampler",
    "Search",
    "Session",
    "SpaceError",
    "StorageError",
    "StudyMismatch",
    "Trial",
    "TrialPruned",
    "TrialTimeout",
    "TwoStageSampler",
    "UsageError",
    "View",
    "bool",
    "choice",
    "current_trial",
    "custom",
    "float",
    "int",
    "pruners",
    "report",
    "should_prune",
    "wrap_n_times",
]

_HOMES = {
    "callbacks": ["Callback"],
    "errors": [
        "AsynchopperError",
        "CheckpointCorrupted",
        "CheckpointLocked",
        "CheckpointVersionError",
        "LeaseLost",
        "ObjectiveError",
        "SpaceError",
        "StorageError",
        "StudyMismatch",
        "TrialPruned",
        "TrialTimeout",
        "UsageError",
    ],
    "history": ["History"],
    "ledger": ["RunOutcome"],
    "objective": ["RunningTrial", "current_trial", "report", "should_prune"],
    "opening": ["Direction"],
    "samplers": ["PortfolioSampler", "Proposal", "RandomSampler", "Sampler", "TwoStageSampler", "View"],
    "search": ["Search"],
    "session": ["Session"],
    "space": ["Parameter"],
    "space.words": ["bool_", "choice", "custom", "float_", "int_"],
    "trial": ["Trial"],
    "wrap": ["wrap_n_times"],
}
_HOME = {name.rstrip("_"): (home, name) for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is first used, so that a service that may never tune starts as fast as before."""
    from importlib import import_module

    if name == "pruners":
        return import_module("asynchopper.pruners")
    if name not in _HOME:
        raise AttributeError(f"module 'asynchopper' has no attribute {name!r}")
    home, inner = _HOME[name]
    found = getattr(import_module(f"asynchopper.{home}"), inner)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
