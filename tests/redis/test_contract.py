"""A log on a server keeps the contract that every log keeps."""

import pytest

from asynchopper.testing import PersistentStorageContract
from tests.servers import Server


class TestServer(PersistentStorageContract):
    @pytest.fixture
    def location(self, each_server: Server, name: str) -> str:
        return each_server.url(name)
