"""What every storage backend has to keep, as tests. See `asynchopper.storage.Storage` for the promises in words."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import orjson
import pytest

from asynchopper.errors import CheckpointLocked, StorageError
from asynchopper.storage import Storage, open_storage
from asynchopper.testing.logs import batch, contents, header, opened, read_all, record, written

T = TypeVar("T")
_BOUND_S = 60.0  # for whatever must happen at some time
_AT_ONCE_S = 5.0  # for whatever must not wait; a loaded machine needs a part of it
_OWNERS_WORDS: list[dict[str, Any]] = [{"resume": "auto"}, {"overwrite": True}, {"resume": "never", "overwrite": True}]


def run(work: Coroutine[Any, Any, T]) -> T:
    """A coroutine in a loop of its own, so that no plugin is needed."""

    async def bounded() -> T:
        async with asyncio.timeout(_BOUND_S):
            return await work

    return asyncio.run(bounded())


class StorageContract:
    """Derive from it, and give the fixture `location`: a path or URL where no log is yet, another one for each test."""

    @pytest.fixture
    def location(self) -> str:
        """Where a log can be made."""
        pytest.fail(f"{type(self).__name__} has to give the fixture `location`")

    def again(self, storage: Storage) -> Storage:
        """A fresh instance for the very log that `storage` has or had open."""
        return open_storage(storage.location)

    def name(self, location: str, said: str) -> str:
        """What another process has to be given for the log that calls its location `said`; made at `location`."""
        return said

    # -- reading back

    def test_a_new_log_is_empty_and_takes_records(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            assert await opened(storage) == []
            await storage.append([header(), *batch(0)])
            await storage.close()
            assert await contents(self.again(storage)) == [header(), *batch(0)]

        run(work())

    def test_a_record_is_durable_when_append_returns(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await opened(storage)
            expected = [header()]
            await storage.append(expected)
            for i in range(20):
                await storage.append(batch(i))
                expected += batch(i)
                assert await contents(self.again(storage)) == expected
            await storage.close()

        run(work())

    def test_a_log_goes_on_in_another_loop_and_another_instance(self, location: str) -> None:
        storage = open_storage(location)
        run(written(storage, [header()], batch(0)))
        expected = [header(), *batch(0)]
        for i in range(1, 4):
            run(written(self.again(storage), batch(i)))
            expected += batch(i)
        run(written(storage, batch(4)))  # the first instance can be opened again
        assert run(contents(self.again(storage))) == expected + batch(4)

    def test_records_come_back_byte_for_byte(self, location: str) -> None:
        odd = [
            b'{"kind":"saved","data":{"nested":{"a":[1,2.5,-0.0,1e-300,1.7976931348623157e308,null,true]}}}',
            b'{"kind":"unheard of","text":"\\u0000\\u001f\\n\\r\\\\ \xc3\xa4 \xf0\x9f\x90\x87 \xe2\x80\xa8"}',
            b'{"kind":"told","value":9007199254740993,"id":9223372036854775807}',
            b'{"kind":"}{\\",\\"crc\\":1}","":""}',
        ]
        odd = [orjson.dumps(orjson.loads(data)) for data in odd]

        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], odd, [odd[1]])
            assert await contents(self.again(storage)) == [header(), *odd, odd[1]]

        run(work())

    def test_large_records_and_large_batches(self, location: str) -> None:
        large = [record(1, 3 * 2**20), record(2), record(3, 2**20 - 100), record(4, 2**16)]
        many = [record(i) for i in range(5, 3005)]

        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], large, many, [record(9999)])
            assert await contents(self.again(storage)) == [header(), *large, *many, record(9999)]

        run(work())

    def test_an_empty_batch_changes_nothing(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], [], batch(0), [])
            assert await contents(self.again(storage)) == [header(), *batch(0)]

        run(work())

    # -- opening

    def test_naming_a_log_makes_none(self, location: str) -> None:
        async def work() -> None:
            open_storage(location)
            with pytest.raises(StorageError):
                await open_storage(location).open(readonly=True)
            storage = open_storage(location)
            assert await opened(storage) == []
            await storage.close()
            with pytest.raises(StorageError):  # opened and never written to
                await open_storage(location).open(resume="must")

        run(work())

    def test_resume_must_and_readonly_want_a_log(self, location: str) -> None:
        async def work() -> None:
            with pytest.raises(StorageError, match="there is no checkpoint"):
                await open_storage(location).open(resume="must")
            with pytest.raises(StorageError, match="there is no checkpoint"):
                await open_storage(location).open(readonly=True)
            storage = open_storage(location)
            await written(storage, [header()])
            again = self.again(storage)
            assert await opened(again, resume="must") == [header()]
            await again.close()

        run(work())

    def test_resume_never_refuses_a_log_and_leaves_it(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            assert await opened(storage, resume="never") == []
            await storage.append([header()])
            await storage.close()
            with pytest.raises(StorageError, match="already"):
                await self.again(storage).open(resume="never")
            assert await contents(self.again(storage)) == [header()]

        run(work())

    def test_overwriting_replaces_with_the_first_append_and_not_before(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], batch(0))
            before = [header(), *batch(0)]
            new = self.again(storage)
            assert await opened(new, resume="never", overwrite=True) == []
            assert await contents(self.again(storage)) == before
            await new.close()
            assert await contents(self.again(storage)) == before
            new = self.again(storage)
            assert await opened(new, overwrite=True) == []
            await new.append([header(), *batch(7)])
            await new.append(batch(8))
            assert await contents(self.again(storage)) == [header(), *batch(7), *batch(8)]
            await new.close()
            assert await contents(self.again(storage)) == [header(), *batch(7), *batch(8)]

        run(work())

    def test_calls_out_of_order_raise_and_break_nothing(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await storage.close()
            with pytest.raises(StorageError):
                await storage.append([header()])
            with pytest.raises(StorageError):
                await read_all(storage)
            await opened(storage)
            with pytest.raises(StorageError):
                await storage.open()
            await storage.append([header()])
            await storage.close()
            await storage.close()
            with pytest.raises(StorageError):
                await storage.append(batch(0))
            assert await contents(self.again(storage)) == [header()]

        run(work())

    def test_it_says_where_it_is_in_one_line(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()])
            for text in (storage.location, storage.describe(), repr(storage)):
                assert text
                assert "\n" not in text
            assert storage.location in storage.describe()

        run(work())

    # -- readers

    def test_readers_see_whole_batches_and_change_nothing(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await opened(storage)
            await storage.append([header()])
            promised, done = 1, False

            async def follow() -> int:
                looks = 0
                while not done:
                    before = promised
                    found = await contents(self.again(storage))
                    assert before <= len(found) <= promised + 3, "a reader misses what was promised, or sees more"
                    assert len(found) % 3 == 1, "a reader sees a part of a batch"
                    assert found == [header(), *(record(i) for i in range(len(found) - 1))]
                    looks += 1
                    await asyncio.sleep(0)
                return looks

            readers = [asyncio.create_task(follow()) for _ in range(2)]
            looks_wanted = time.monotonic() + _BOUND_S / 2
            for i in range(200):
                await storage.append(batch(i))
                promised += 3
                await asyncio.sleep(0)
                assert time.monotonic() < looks_wanted
            done = True
            assert min(await asyncio.gather(*readers)) > 0
            await storage.close()

        run(work())

    def test_a_reader_cannot_append(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()])
            reader = self.again(storage)
            assert await opened(reader, readonly=True) == [header()]
            with pytest.raises(StorageError):
                await reader.append(batch(0))
            await reader.close()
            assert await contents(self.again(storage)) == [header()]

        run(work())

    def test_salvage_gives_all_of_a_whole_log(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], batch(0))
            reader = self.again(storage)
            await reader.open(readonly=True)
            found = [entry async for portion in reader.salvage() for entry in portion]
            await reader.close()
            assert [getattr(entry, "seq", None) for entry in found] == [0, 1, 2, 3]

        run(work())

    # -- cancellation

    def test_a_cancelled_append_is_there_wholly_or_not_at_all(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await opened(storage)
            await storage.append([header()])
            known = [header()]
            for i in range(24):
                append = asyncio.create_task(storage.append([record(100 * i + k, 5000) for k in range(40)]))
                for _ in range(i % 8):
                    await asyncio.sleep(0)
                append.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await append
                if i % 3 == 0:
                    await storage.close()
                    storage = self.again(storage)
                    found = await opened(storage)
                    assert found[: len(known)] == known, "a record that was promised is gone"
                    known = found
                    numbers = [int(r.split(b'"id":')[1].split(b",")[0]) for r in found[1:] if len(r) > 4000]
                    assert len(numbers) % 40 == 0, "a part of a batch is there"
                    assert all(n % 100 == k % 40 for k, n in enumerate(numbers)), "batches are mixed up"
                    known = found
                    await storage.append([record(7)])
                    known = [*found, record(7)]
            await storage.close()
            assert (await contents(self.again(storage)))[: len(known)] == known

        run(work())

    def test_a_cancelled_open_holds_nothing(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()])
            for i in range(12):
                cancelled = self.again(storage)
                opening = asyncio.create_task(cancelled.open())
                for _ in range(i % 6):
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait([opening])
                if not opening.cancelled():
                    await cancelled.close()
                again = self.again(storage)
                assert await opened(again) == [header()]
                await again.close()

        run(work())

    def test_reading_can_be_broken_off(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()], [record(i, 1000) for i in range(3000)])
            again = self.again(storage)
            await again.open()
            async for portion in again.read():
                assert portion
                break
            await again.close()
            assert len(await contents(self.again(storage))) == 3001

        run(work())


class ExclusiveStorageContract(StorageContract):
    """For backends whose logs have one owner at a time."""

    def test_a_second_owner_is_refused_at_once_and_by_name(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            for first in (True, False):
                await opened(storage)
                if first:
                    await storage.append([header()])
                for words in _OWNERS_WORDS:
                    began = time.monotonic()
                    with pytest.raises(CheckpointLocked) as refused:
                        await self.again(storage).open(**words)
                    assert time.monotonic() - began < _AT_ONCE_S
                    assert storage.location in str(refused.value)
                await storage.close()
                again = self.again(storage)
                assert await opened(again) == [header()]
                await again.close()

        run(work())

    def test_readers_hold_nobody_up(self, location: str) -> None:
        async def work() -> None:
            storage = open_storage(location)
            await written(storage, [header()])
            reader = self.again(storage)
            await opened(reader, readonly=True)
            owner = self.again(storage)
            assert await opened(owner) == [header()]
            await owner.append(batch(0))
            late = self.again(storage)
            assert await opened(late, readonly=True) == [header(), *batch(0)]
            for used in (reader, owner, late):
                await used.close()

        run(work())


class PersistentStorageContract(ExclusiveStorageContract):
    """For backends whose logs outlive the process. Starts processes, and kills them."""

    kills = 5
    """How often a writer is killed, and its log continued."""

    def test_kill_9_loses_nothing_that_was_promised(self, location: str) -> None:
        rng = random.Random(5)
        named, promised = location, 1
        for _ in range(self.kills):
            with _writer(named, "write") as writer:
                named = self.name(location, _line(writer).split(" ", 2)[2])
                enough = promised + 3 * rng.randrange(1, 40)
                while promised < enough:
                    promised = int(_line(writer).split()[1])
                writer.send_signal(signal.SIGKILL)
                assert writer.stdout is not None
                for line in writer.stdout.read().decode().splitlines():
                    promised = int(line.split()[1])
            found = run(contents(open_storage(named)))
            assert promised <= len(found) <= promised + 3, "a promised record is gone, or one was invented"
            assert len(found) % 3 == 1, "a part of a batch is there"
            assert found == [header(), *(record(i) for i in range(len(found) - 1))]
            promised = len(found)

    def test_another_process_is_refused_until_the_owner_dies(self, location: str) -> None:
        with _writer(location, "write") as owner:
            named = self.name(location, _line(owner).split(" ", 2)[2])
            with _writer(named, "hold") as other:
                began = time.monotonic()
                said = _line(other)
                assert said.startswith("locked ")
                assert str(owner.pid) in said
                assert time.monotonic() - began < _AT_ONCE_S
            owner.send_signal(signal.SIGKILL)
            owner.wait(_BOUND_S)
            began = time.monotonic()
            run(written(open_storage(named)))
            assert time.monotonic() - began < _AT_ONCE_S, "a stale lock was waited for"

    def test_of_eight_processes_one_gets_the_log(self, location: str) -> None:
        storage = open_storage(location)
        run(written(storage, [header()]))
        with contextlib.ExitStack() as stack:
            named = self.name(location, storage.location)
            rivals = [stack.enter_context(_writer(named, "hold")) for _ in range(8)]
            said = [_line(rival).split()[0] for rival in rivals]
        assert sorted(said) == ["locked"] * 7 + ["open"]


@contextlib.contextmanager
def _writer(location: str, task: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "asynchopper.testing.writer", location, task]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=_BOUND_S)


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _BOUND_S)
    assert ready, "the process says nothing"
    line = process.stdout.readline().decode().strip()
    assert line, f"the process has ended with status {process.wait(_BOUND_S)}"
    return line
