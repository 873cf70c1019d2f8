"""From one place to another: every record of a search, and a look whether they have arrived."""

from __future__ import annotations

from typing import NamedTuple

from asynchopper.errors import CheckpointCorrupted, StorageError
from asynchopper.records import bare, decode
from asynchopper.space import Space
from asynchopper.space.words import float_
from asynchopper.storage import Location, Storage, open_storage

_AT_ONCE = 500_000  # records in one append: as many as any place takes as a whole


class Copied(NamedTuple):
    """What was copied, and where it is."""

    source: str
    target: str
    records: int
    size: int
    """Bytes of all records."""


async def copy(source: Location, target: Location, *, overwrite: bool = False) -> Copied:
    """Copies a search from one path or URL to another, and reads the copy back to compare.

    The source is only read, without a lock: of a search that is running, the copy is what it was at that moment. Raises
    `StorageError` when there is no source, when there is a target already (unless `overwrite`), or when the copy differs;
    `CheckpointVersionError` for a search of a newer version.
    """
    there, here = open_storage(source), open_storage(target)
    await there.open(readonly=True)
    try:
        records = await _records(there)
    finally:
        await there.close()
    if not records:
        raise StorageError(f"{there.location} holds no search yet")
    try:  # of a newer version, nobody knows what a copy would need
        decode(records[0], Space({"(none)": float_(0, 1)}))
    except ValueError as e:
        raise CheckpointCorrupted(f"{there.location}: its first record: {e}; look at it with verify") from e
    location = here.location
    await here.open(resume="auto" if overwrite else "never", overwrite=overwrite)
    try:
        async for _ in here.read():
            pass
        for start in range(0, len(records), _AT_ONCE):
            await here.append(records[start : start + _AT_ONCE])
    finally:
        await here.close()
    # of a directory, the file that it has become; otherwise the same again, since a location does not show secrets
    check = here if here.location == location else open_storage(here.location)
    await check.open(readonly=True)
    try:
        if await _records(check) != records:
            raise StorageError(f"{here.location} is not what was copied from {there.location}; do not use it")
    finally:
        await check.close()
    return Copied(there.location, here.location, len(records), sum(map(len, records)))


async def _records(storage: Storage) -> list[bytes]:
    return [bare(entry.data) async for portion in storage.read() for entry in portion]
