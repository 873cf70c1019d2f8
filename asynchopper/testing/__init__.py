"""The contracts that backends and samplers have to keep, as test classes to derive from. Needs pytest, and no plugin.

A backend's test file is a subclass with one fixture:

    class TestMine(PersistentStorageContract):
        @pytest.fixture
        def location(self, tmp_path):
            return f"mine://{tmp_path}/log"
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynchopper.testing.crash_contract import CrashContract
    from asynchopper.testing.samplers import SamplerContract
    from asynchopper.testing.shared import SharedStorageContract
    from asynchopper.testing.storages import ExclusiveStorageContract, PersistentStorageContract, StorageContract

__all__ = [
    "CrashContract",
    "ExclusiveStorageContract",
    "PersistentStorageContract",
    "SamplerContract",
    "SharedStorageContract",
    "StorageContract",
]

_HOMES = {
    "CrashContract": "crash_contract",
    "ExclusiveStorageContract": "storages",
    "PersistentStorageContract": "storages",
    "SamplerContract": "samplers",
    "SharedStorageContract": "shared",
    "StorageContract": "storages",
}


def __getattr__(name: str) -> Any:
    """Loads a contract when it is asked for: the processes that the tests start need none of them, nor pytest."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    home = f"{__name__}.{_HOMES[name]}"
    pytest.register_assert_rewrite(home)
    return getattr(import_module(home), name)
