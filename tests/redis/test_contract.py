"""A log on a server keeps the contracts: that of every log, and that of one that many share."""

import pytest

from asynchopper.testing import PersistentStorageContract, SharedStorageContract
from tests.servers import Server


class TestServer(PersistentStorageContract, SharedStorageContract):
    @pytest.fixture
    def location(self, each_server: Server, name: str) -> str:
        return each_server.url(name)
