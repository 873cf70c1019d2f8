"""A process that uses a log until it is killed: `python -m asynchopper.testing.writer LOCATION hold|write`.

`hold` says `open`, `locked PROBLEM` or `refused PROBLEM`, and then waits for its standard input to end. `write` appends batch
after batch, and says after each how many records it has been promised.
"""

from __future__ import annotations

import asyncio
import os
import sys

from asynchopper.errors import CheckpointLocked, StorageError
from asynchopper.storage import open_storage
from asynchopper.testing.logs import batch, header, opened


def say(text: str) -> None:
    """At once and unbuffered, so that what was said is known after a kill."""
    os.write(1, f"{text}\n".encode())


async def main(location: str, task: str) -> None:
    storage = open_storage(location)
    try:
        found = await opened(storage)
    except CheckpointLocked as e:
        say(f"locked {e}")
        return
    except StorageError as e:
        say(f"refused {e}")
        return
    if task == "write" and not found:
        await storage.append([header()])
        found.append(header())
    say(f"open {len(found)} {storage.location}")
    if task == "hold":
        await asyncio.to_thread(sys.stdin.read)
    while task == "write":
        await storage.append(batch(len(found) // 3))
        found += batch(len(found) // 3)
        say(f"durable {len(found)}")
    await storage.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
