"""`python -m tests.long.crash_states [DRAWS]`: every crash state of every history, with that many random ones at each moment.

For the logs of files and directories, and for a whole search on a file, which is resumed from each state.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from asynchopper.testing.crash_contract import CrashContract, _new_plan, _plan, check_all
from asynchopper.testing.crashes import Recording
from asynchopper.testing.system import WithoutSync
from tests.test_crash_states import TestDirectory, TestFile, resumed, search_on


def logs(contract: CrashContract, home: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    recordings = [(contract.record_new(home / "new"), None)]
    recordings += [(recording, None) for recording in contract.record_continued(home)]
    if isinstance(contract, TestFile):
        recordings.append((contract.record_replaced(home / "replaced"), [_plan()[:4], _new_plan()]))
    for i, (recording, plans) in enumerate(recordings):
        counts.update(check_all(contract, recording, home / f"state{i}", plans))
    return counts


async def searches(home: Path, draws: int) -> Counter[str]:
    root = home / "run"
    root.mkdir()
    with Recording(root) as recording:
        await search_on(root / "run.ckpt", recording)
    counts: Counter[str] = Counter()
    with WithoutSync(home):
        for state in (*recording.kills(), *recording.power_cuts(draws=draws)):
            if b'"kind":"ended"' not in b"".join(state.files.values()):
                await resumed(state, home / "state")
                counts[state.kind] += 1
    return counts


def main(draws: int) -> None:
    logging.getLogger("asynchopper").setLevel(logging.ERROR)
    for contract in (TestFile(), TestDirectory()):
        contract.draws = draws
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            counts = logs(contract, Path(home))
        print(
            f"{type(contract).__name__}: {dict(counts)} states in {time.monotonic() - began:.0f} s, all safe",
            flush=True,
        )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        counts = asyncio.run(searches(Path(home), draws))
    print(f"a search: {dict(counts)} states in {time.monotonic() - began:.0f} s, all resumed and run on")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
