"""What all tests share: the event loops that a test can ask to run on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, settings

# how fast examples are made says how busy the machine is, and nothing about this project
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

Factory = Callable[[], asyncio.AbstractEventLoop]


def _eager_loop() -> asyncio.AbstractEventLoop:
    """A loop that runs each new task at once, up to its first wait."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # Python 3.12 has it
    return loop


def _loops() -> dict[str, Factory]:
    loops: dict[str, Factory] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    except ImportError:
        pass
    if sys.version_info >= (3, 12):
        loops["eager"] = _eager_loop
    return loops


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "every_loop: run on asyncio, on uvloop, and with eager tasks where Python has them"
    )


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Factory]:
    if item.get_closest_marker("every_loop") is not None:
        return _loops()
    return {"asyncio": asyncio.new_event_loop}
