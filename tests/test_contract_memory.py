"""The log in memory keeps the contract of every log."""

import uuid

import pytest

from asynchopper.testing import ExclusiveStorageContract


class TestMemory(ExclusiveStorageContract):
    @pytest.fixture
    def location(self) -> str:
        return f"memory://{uuid.uuid4().hex}"
