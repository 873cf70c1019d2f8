"""Those who watch a run. None of them can lose a result or hold one up."""

from __future__ import annotations

from asynchopper.callbacks.base import Callback, Watchers

__all__ = ["Callback", "Watchers"]
