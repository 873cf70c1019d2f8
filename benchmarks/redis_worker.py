"""One worker process of the Redis benchmark: says `ready`, waits for a line, works, says what it did.

`python -m benchmarks.redis_worker KIND PORT NAME TOTAL SHARE CONCURRENCY`. Kinds: `ours`, `bare` (the turns alone), `pair` (two
XADDs in one round trip, the least that any log of trials needs), `optuna`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from typing import Any


def main(kind: str, port: str, name: str, total: str, share: str, concurrency: str) -> None:
    work = {"ours": ours, "bare": bare, "pair": pair, "optuna": optuna}[kind]
    begin = work(int(port), name, int(total), int(share), int(concurrency))
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    begin()
    print(time.process_time() - cpu, flush=True)


def ours(port: int, name: str, total: int, share: int, concurrency: int) -> Any:
    import asynchopper_backends.redis  # noqa: F401 - so that its import is not measured

    import asynchopper as ah

    async def objective(params: dict[str, Any]) -> float:
        return float(params["x"])

    search = ah.Search({"x": ah.float(0, 1), "y": ah.float(0, 1), "n": ah.int(1, 64)})
    url = f"redis://127.0.0.1:{port}/0?search={name}"
    return lambda: asyncio.run(
        search.run(objective, steps=total, checkpoint_path=url, concurrency=concurrency, quiet=True)
    )


def bare(port: int, name: str, total: int, share: int, concurrency: int) -> Any:
    from asynchopper_backends.redis import RedisStorage

    from asynchopper.storage import Ask, Grant, Tell

    header = b'{"kind":"header","format":"1.0","search":"0123456789abcdef","direction":"maximize","seed":7,"space":{}}'
    ask = Ask(
        "0123456789abcdef01", b'"params":{"x":0.9535361917094717,"y":0.5124077907470762,"n":17},"origin":"local"}'
    )
    end = b'"state":"completed","value":0.9535361917094717,"seconds":0.000123,"elapsed":12.345678}'

    async def work() -> None:
        storage = RedisStorage(f"redis://127.0.0.1:{port}/0?search={name}")
        while not (await storage.join()).seq:
            if await storage.create([header, b'{"kind":"run"}'], None):
                break
        async for _ in storage.read():
            pass
        tells: list[Tell] = []
        for i in range(share):
            reply = await storage.turn(tells, [ask._replace(key=f"{os.getpid()}-{i}")])
            (grant,) = reply.grants
            assert isinstance(grant, Grant)
            tells = [Tell("told", grant.id, 1, b'{"kind":"told","id":%d,"attempt":1,' % grant.id + end)]
        await storage.close()

    return lambda: asyncio.run(work())


def pair(port: int, name: str, total: int, share: int, concurrency: int) -> Any:
    from redis.asyncio import Redis

    async def work() -> None:
        client = Redis(port=port, protocol=2)
        for _ in range(share):
            pipe = client.pipeline(transaction=False)
            pipe.xadd(name, {"r": b"x" * 130})
            pipe.xadd(name, {"r": b"x" * 130})
            await pipe.execute()
        await client.aclose()

    return lambda: asyncio.run(work())


def optuna(port: int, name: str, total: int, share: int, concurrency: int) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalRedisBackend

    warnings.simplefilter("ignore")  # that it is experimental
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalRedisBackend(f"redis://127.0.0.1:{port}/0", prefix=name))
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(), load_if_exists=True
    )

    def objective(trial: Any) -> float:
        trial.suggest_float("y", 0, 1)
        trial.suggest_int("n", 1, 64)
        return float(trial.suggest_float("x", 0, 1))

    return lambda: study.optimize(objective, n_trials=share)


if __name__ == "__main__":
    main(*sys.argv[1:])
