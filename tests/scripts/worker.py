"""One worker of a fleet. Its objective writes what it does into a log of its own, synced, so that no death hides anything.

`python worker.py '{"url": …, "log": …, "steps": …}'`
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

import asynchopper as ah

words: dict[str, Any] = json.loads(sys.argv[1])
log = os.open(words["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def say(*line: Any) -> None:
    os.write(log, json.dumps([*line, os.getpid(), time.time()]).encode() + b"\n")
    os.fdatasync(log)


async def objective(params: dict[str, Any], trial: Any) -> float:
    id, attempt = trial.id, trial.attempt
    say("begin", id, attempt, params["x"])
    if words.get("block") and id % 7 == 0:
        time.sleep(words["block"])
    else:
        await asyncio.sleep(words.get("pause", 0.02) * (1 + id % 5))
    value = round(-((params["x"] - 0.3) ** 2) - 0.1 * params["n"], 9)
    say("end", id, attempt, value)
    return value


async def main() -> None:
    search = ah.Search({"x": ah.float(0, 1), "n": ah.int(0, 9)}, seed=words.get("seed"))
    budget = {k: words[k] for k in ("steps", "runtime") if k in words}
    try:
        best = await search.run(
            objective,
            "maximize",
            checkpoint_path=words["url"],
            concurrency=words.get("concurrency", 2),
            grace=words.get("grace", 0.0),
            quiet=True,
            **budget,
        )
    except ah.StorageError as e:
        say("error", type(e).__name__, str(e))
        raise SystemExit(3) from None
    say("over", search.outcome.reason, [t.id for t in search.history], search.best_value, best)  # type: ignore[union-attr]


signal.signal(signal.SIGINT, signal.SIG_DFL)
say("up")
asyncio.run(main())
