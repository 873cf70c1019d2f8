"""What the guide to fleets shows: its script as a fleet, its commands, and its batch script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.redis.fleet import log_of, told_of
from tests.scripts.page import blocks, title
from tests.servers import Server

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"


def test_the_script_of_the_page_is_a_fleet(server: Server, name: str, tmp_path: Path) -> None:
    (script,) = [block.code for block in blocks(PAGE) if title(block) == "train.py"]
    (tmp_path / "train.py").write_text(script)
    env = {**os.environ, "SEARCH": server.url(name), "PYTHONWARNINGS": "error"}
    workers = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
        assert out.startswith("steps 200 {"), out
    assert len(told_of(log_of(server, name))) == 200


def test_the_batch_script_is_one(tmp_path: Path) -> None:
    (script,) = [block.code for block in blocks(PAGE, "bash") if title(block) == "fleet.sbatch"]
    (tmp_path / "fleet.sbatch").write_text(script)
    subprocess.run(["bash", "-n", "fleet.sbatch"], cwd=tmp_path, check=True)
