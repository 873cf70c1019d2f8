"""The logs of a directory keep the contract."""

from pathlib import Path

import pytest

from asynchopper.testing import PersistentStorageContract


class TestDirectory(PersistentStorageContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return f"{tmp_path}/made/on/demand/"
