"""`python -m tests.long.hostile`: seconds and memory that it takes to refuse each hostile file, the worst last."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.test_hostile import HOSTILE, measured, write


def main() -> None:
    rows = []
    for name, (make, said) in HOSTILE.items():
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / "hostile.ckpt"
            write(path, make())
            size = path.stat().st_size
            answer, seconds, grown = measured(path)
            assert said in answer, answer
        rows.append((grown, seconds, size, name))
    for grown, seconds, size, name in sorted(rows):
        print(f"{grown:8.0f} MB {seconds:7.2f} s  {size / 2**20:8.1f} MB on disk  {name}")


if __name__ == "__main__":
    main()
