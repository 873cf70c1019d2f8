"""`python -m tests.fuzz SECONDS [FOLDER]`: lets atheris look for inputs that break the reader (needs `pip install atheris`).

New inputs that reach new code go to the folder (by default one that is thrown away); `tests/fuzz/corpus` is where it starts.
`python -m tests.fuzz merge FOLDER` adds to the corpus what the folder's inputs reach and the corpus does not.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["asynchopper", "asynchopper_backends"]):
    from tests.fuzz.reader import CORPUS, read


def main(what: str, *rest: str) -> None:
    if what.startswith("-"):  # libFuzzer starts itself again, to merge
        words = [what, *rest]
    else:
        place = rest[0] if rest else tempfile.mkdtemp()
        words = ["-max_len=6000", "-timeout=10", "-rss_limit_mb=3000", f"-artifact_prefix={place}/"]
        if what == "merge":
            words += ["-merge=1", str(CORPUS), place]
        else:
            words += [f"-max_total_time={what}", "-print_final_stats=1", place, str(CORPUS)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    atheris.Setup([f"{sys.executable} -m tests.fuzz", *words], read)  # how libFuzzer starts itself again
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
