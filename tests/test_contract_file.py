"""A log in a file keeps the contract."""

from pathlib import Path

import pytest

from asynchopper.testing import ExclusiveStorageContract, PersistentStorageContract


class TestFile(PersistentStorageContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return str(tmp_path / "made on demand" / "run.ckpt")


class TestFileUrl(ExclusiveStorageContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/a%20run.ckpt"
