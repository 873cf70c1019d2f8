"""Runs the Python blocks of a documentation page, in order, as one notebook: `python page.py <page.md>`.

A block with a title is a file: it is written under that name and run as a script of its own, or by pytest if it is called
`test_…`. A TOML block with entry points makes them known, as installing their package would. A block whose fence says `notest`
is left out. Line numbers in tracebacks are those of the page.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any, NamedTuple


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    words: str  # what the fence says behind the language
    code: str


def blocks(page: Path, language: str = "python") -> list[Block]:
    """The fenced blocks of a page that are in this language."""
    found: list[Block] = []
    fence: re.Match[str] | None = None
    start = 0
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        match = re.match(r"( *)(`{3,})\s*(\w*)(.*)$", line)
        if fence is None and match is not None:
            fence, start = match, number
        elif fence is not None and match is not None and len(match[2]) >= len(fence[2]) and not match[3]:
            if fence[3] == language:
                indent = len(fence[1])
                found.append(
                    Block(start + 1, fence[4].strip(), "\n".join(x[indent:] for x in lines[start : number - 1]))
                )
            fence = None
    return found


def title(block: Block) -> str | None:
    match = re.search(r'title="([^"]+)"', block.words)
    return match[1] if match else None


def _install(project: dict[str, Any]) -> None:
    """The entry points of a project, where Python looks for those of installed ones."""
    info = Path("page-1.0.dist-info")
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: page\nVersion: 1.0\n")
    groups = project["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("".join(lines))


def main(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    sys.path.insert(0, "")  # as in a notebook: what a page writes it can import
    os.environ["PYTHONPATH"] = str(Path.cwd())
    for block in blocks(page, "toml"):
        _install(tomllib.loads(block.code))
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if "notest" in block.words:
                continue
            name = title(block)
            if name is not None:
                Path(name).write_text(block.code + "\n", "utf-8")
                how = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if name.startswith("test_") else ["-W", "error"]
                subprocess.run([sys.executable, *how, name], check=True, timeout=300)
                continue
            source = "\n" * (block.line - 1) + block.code
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(eval(code, namespace))
            else:
                exec(code, namespace)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(Path(sys.argv[1]))
