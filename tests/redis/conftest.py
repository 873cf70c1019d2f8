"""Servers that tests share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, binaries

_names = (f"search-{n}" for n in itertools.count())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that change nothing about it."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session", params=binaries())
def each_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same of each product that is there."""
    with Server(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


@pytest.fixture
def name() -> str:
    """A search that no other test uses."""
    return next(_names)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "server"
