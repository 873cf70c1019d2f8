"""What the contracts write into a log, and how they read it back."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from asynchopper.records import bare
from asynchopper.storage import Resume, Storage


def header() -> bytes:
    """The first record of a log."""
    space = {"x": {"kind": "float", "low": 0.0, "high": 1.0, "log": False}}
    body = {"kind": "header", "format": "1.0", "search": "0123456789abcdef", "direction": "maximize", "seed": 7}
    return orjson.dumps(body | {"space": space})


def record(number: int, size: int = 0) -> bytes:
    """A record that can be told from others by its number; `size` bytes are added to it."""
    body = {"kind": "saved", "id": number, "attempt": 1, "data": 'ä\\"\n' + "x" * size}
    return orjson.dumps(body)


def batch(number: int, of: int = 3) -> list[bytes]:
    """`of` records that belong together."""
    return [record(of * number + i) for i in range(of)]


async def read_all(storage: Storage) -> list[bytes]:
    """The records of an open log as they were appended. Checks their numbers."""
    found: list[bytes] = []
    async for portion in storage.read():
        for seq, data in portion:
            assert seq == len(found), f"record {seq} stands in the place of record {len(found)}"
            found.append(bare(data))
    return found


async def opened(
    storage: Storage, *, resume: Resume = "auto", overwrite: bool = False, readonly: bool = False
) -> list[bytes]:
    """Opens a log, and gives what it holds."""
    await storage.open(resume=resume, overwrite=overwrite, readonly=readonly)
    try:
        return await read_all(storage)
    except BaseException:
        await storage.close()
        raise


async def contents(storage: Storage) -> list[bytes]:
    """What a log holds, read beside whoever has it."""
    found = await opened(storage, readonly=True)
    await storage.close()
    return found


async def written(storage: Storage, *batches: Sequence[bytes]) -> None:
    """Opens a log, appends to it, and closes it."""
    await opened(storage)
    try:
        for records in batches:
            await storage.append(records)
    finally:
        await storage.close()
