"""An asyncio-native, durable tuning engine.

Describe a search space, hand over an objective that can be awaited, and `await search.run(objective, steps=100)`.
"""

from __future__ import annotations

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
from asynchopper.objective import RunningTrial, current_trial, report, should_prune
from asynchopper.samplers import RandomSampler, Sampler, TwoStageSampler
from asynchopper.search import RunOutcome, Search
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
    "History",
    "LeaseLost",
    "ObjectiveError",
    "Parameter",
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
