"""The one error tree. Whatever asynchopper raises on its own account derives from `AsynchopperError`.

What an objective raises is not ours: it reaches the caller as itself, with a note.
"""

from __future__ import annotations


class AsynchopperError(Exception):
    """The root of every error that asynchopper raises."""


class UsageError(AsynchopperError, ValueError):
    """An argument, or a combination of arguments, that cannot be carried out. Raised before anything runs."""


class SpaceError(UsageError):
    """A search space, a parameter or a guess that contradicts itself or the space."""


class ObjectiveError(AsynchopperError, TypeError, ValueError):
    """An objective that returned something which is not a number, or NaN when NaNs are not expected."""


class TrialTimeout(AsynchopperError, TimeoutError):
    """An evaluation took longer than `timeout` and was cancelled. The search goes on."""


class TrialPruned(AsynchopperError):
    """Raised inside an objective, by `report` or by the user, to give up an unpromising evaluation."""


class StorageError(AsynchopperError):
    """The checkpoint could not be opened, read or written. The search in memory is whole and can be saved elsewhere."""


class CheckpointLocked(StorageError):
    """Another process is using this checkpoint."""


class CheckpointCorrupted(StorageError):
    """A checkpoint that was changed after it was durably written. Nothing was modified."""


class CheckpointVersionError(StorageError):
    """A checkpoint written in a newer format than this version of asynchopper understands."""


class StudyMismatch(StorageError):
    """The checkpoint holds a different search: another direction, or a history that this one does not continue."""


class LeaseLost(StorageError):
    """A worker's claim on a trial has expired and the trial belongs to somebody else now."""
