"""Makes `img/digits.svg`, the picture in the README: runs `examples/digits.py` in a terminal, stops it, and runs it again.

Everything in the picture is what the two runs wrote. Takes about a minute: `python docs/picture.py`.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "digits.py"
WIDTH = 106
STOP_AFTER_S = 14.0


class Screen:
    """What a terminal shows of the few controls that a progress line uses."""

    def __init__(self) -> None:
        self.lines, self.row = [""], 0

    def write(self, text: str) -> None:
        for part in re.split(r"(\n|\r|\x1b\[[0-9;?]*[A-Za-z])", text):
            up = re.fullmatch(r"\x1b\[(\d*)A", part)
            if part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif up:
                self.row -= int(up[1] or 1)
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            elif part != "\r" and not re.fullmatch(r"\x1b\[.*[^m]", part):
                self.lines[self.row] += part


def run(directory: str, stop_after_s: float | None) -> list[str]:
    """The lines that a run leaves on a terminal, with the live line as it was when the run was stopped."""
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, EXAMPLE], cwd=directory, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    screen, began, stopped = Screen(), time.monotonic(), stop_after_s is None
    while True:
        try:
            screen.write(os.read(master, 2**16).decode())
        except OSError:  # the other end has closed
            break
        if not stopped and time.monotonic() - began > (stop_after_s or 0.0) and "running" in screen.lines[-1]:
            process.send_signal(signal.SIGINT)
            stopped = True
            screen.lines[-1] += " ^C"
            screen.row += 1
            screen.lines.append("")
    process.wait()
    return [line for line in screen.lines if line.strip() or line is not screen.lines[-1]]


def main() -> None:
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as directory:
        for stop_after_s in (STOP_AFTER_S, None):
            console.print(Text.assemble(("$ ", "bold green"), "python examples/digits.py"))
            for line in run(directory, stop_after_s):
                console.print(Text.from_ansi(line))
    svg = console.export_svg(title="examples/digits.py", unique_id="run")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture loads nothing from elsewhere
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    (HERE / "img" / "digits.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
