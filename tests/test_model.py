"""Every backend against its twin in memory: appends, cancellations in their middle, kills, reopenings, readers beside."""

from __future__ import annotations

import uuid
from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.model import KilledLogMachine, LogMachine

few = settings(
    max_examples=8,
    stateful_step_count=16,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


class MemoryMachine(LogMachine):
    def first_location(self, place: Path) -> str:
        return f"memory://{uuid.uuid4().hex}"


class FileMachine(LogMachine):
    def first_location(self, place: Path) -> str:
        return str(place / "sub" / "run.ckpt")


class DirectoryMachine(LogMachine):
    def first_location(self, place: Path) -> str:
        return f"{place}/runs/"


class KilledFileMachine(KilledLogMachine):
    def first_location(self, place: Path) -> str:
        return str(place / "run.ckpt")


class KilledDirectoryMachine(KilledLogMachine):
    def first_location(self, place: Path) -> str:
        return f"{place}/runs/"


TestMemory = MemoryMachine.TestCase
TestFile = FileMachine.TestCase
TestDirectory = DirectoryMachine.TestCase
TestKilledFile = KilledFileMachine.TestCase
TestKilledDirectory = KilledDirectoryMachine.TestCase
TestMemory.settings = TestFile.settings = TestDirectory.settings = few
TestKilledFile.settings = TestKilledDirectory.settings = few
