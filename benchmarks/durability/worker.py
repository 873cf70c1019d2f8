"""One tuner, run until somebody stops it, or asked what it knows: `worker.py TOOL run|read PATH [ROOM]`.

`run` evaluates one candidate after another and says `s` when an evaluation starts and `v VALUE` when it ends, so whoever
listens knows what a tuner has gone on from. Values are unique. `read` prints the values that the checkpoint holds. With a
`ROOM` no file can grow beyond so many bytes, as on a full disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import sys
import time
from typing import Any

DRAW = random.Random(os.urandom(8))
EVALUATION_S = 0.002


def said(params: Any) -> float:
    os.write(1, b"s\n")
    time.sleep(EVALUATION_S)
    value = DRAW.random()
    os.write(1, f"v {value.hex()}\n".encode())
    return value


def asynchopper(what: str, path: str) -> list[float]:
    import asynchopper as ah

    async def objective(params: dict[str, Any]) -> float:
        os.write(1, b"s\n")
        await asyncio.sleep(EVALUATION_S)
        value = DRAW.random()
        os.write(1, f"v {value.hex()}\n".encode())
        return value

    async def main() -> list[float]:
        search = ah.Search(x=ah.float(0, 1))
        if what == "run":
            await search.run(objective, endless=True, checkpoint_path=path, quiet=True)
        else:
            await search.load(path)
        return [t.value for t in search.history if t.value is not None]

    return asyncio.run(main())


def pyhopper(what: str, path: str) -> list[float]:
    import pyhopper as ph
    from pyhopper.utils import load_dict

    search = ph.Search(x=ph.float(0, 1))
    if what == "run":
        search.run(said, "maximize", steps=10**6, checkpoint_path=path, quiet=True)
    else:  # its `load` refuses the checkpoint of any run that has not ended; its `run` reads it like this
        search.history.load_state_dict(load_dict(path)["history"])
    return [float(f) for f in search.history.fs]


def optuna_journal(what: str, path: str) -> list[float]:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return _optuna(what, JournalStorage(JournalFileBackend(path)))


def optuna_sqlite(what: str, path: str) -> list[float]:
    return _optuna(what, f"sqlite:///{path}")


def _optuna(what: str, storage: Any) -> list[float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if what == "run":
        study = optuna.create_study(
            storage=storage,
            study_name="s",
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(),
        )
        study.optimize(lambda trial: said(trial.suggest_float("x", 0, 1)))
    else:
        study = optuna.load_study(storage=storage, study_name="s")
    return [t.value for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]


TOOLS = {
    "asynchopper": asynchopper,
    "pyhopper": pyhopper,
    "optuna-journal": optuna_journal,
    "optuna-sqlite": optuna_sqlite,
}


def main(tool: str, what: str, path: str, room: str = "") -> None:
    if room:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    values = TOOLS[tool](what, path)
    if what == "read":
        print(json.dumps([float(v).hex() for v in values]))


if __name__ == "__main__":
    main(*sys.argv[1:])
