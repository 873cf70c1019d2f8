"""The examples, run as a person runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE_S = 300.0  # each takes half a minute or less on two idle cores; a crowded machine has been ten times slower


def start(name: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", EXAMPLES / name],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, err[-4000:]
    return out, err


def count_told(log: Path) -> int:
    return log.read_bytes().count(b'"kind":"told"') if log.exists() else 0


@pytest.mark.timeout(900)
def test_digits_survives_ctrl_c_and_carries_on_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "digits.ckpt"
    first = start("digits.py", tmp_path)
    deadline = time.monotonic() + PATIENCE_S
    while count_told(log) < 3:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    out, err = finish(first)
    stopped = int(re.search(r"stopped after (\d+) trials. Run this again to carry on.", out)[1])  # type: ignore[index]  # or the test fails
    assert 3 <= stopped < 60 and "ended: sigint" in err

    out, err = finish(start("digits.py", tmp_path))
    assert f"continues after {stopped} trials" in err
    assert "60/60 trials" in err and "ended: steps" in err
    assert "Run this again for 60 trials more" in out
    best = float(re.search(r"best accuracy (\d\.\d+)", out)[1])  # type: ignore[index]  # or the test fails
    assert best > 0.98  # what the first guess alone reaches


@pytest.mark.timeout(400)
def test_the_http_service_sees_that_its_readers_hang_up(tmp_path: Path) -> None:
    out, _ = finish(start("http_service.py", tmp_path))
    gave_up, seen = map(int, re.search(r"(\d+) evaluations took too long; the service saw (\d+)", out).groups())  # type: ignore[union-attr]  # or the test fails
    assert 0 < seen <= gave_up  # on a crowded machine a reader may give up before the service has its request
    assert not list(tmp_path.iterdir())
