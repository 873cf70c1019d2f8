"""What the README and the documentation show is run here, page by page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.page import blocks, title

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_PAGE = ROOT / "tests" / "scripts" / "page.py"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, RUN_PAGE, page], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert "ignored in" not in done.stderr, done.stderr[-6000:]  # a warning where it cannot be raised


def test_few_blocks_are_left_out_and_each_says_so() -> None:
    left_out = [(page.name, title(block)) for page in PAGES for block in blocks(page) if "notest" in block.words]
    assert len(left_out) <= 2, left_out


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(contents) == sorted(page.name for page in PAGES[1:])


def test_the_readme_starts_with_the_two_commands() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.code.splitlines()]
    install = "python3 -m venv .venv && .venv/bin/pip install -q -e "
    assert lines[0] == install + "'.[examples]' && .venv/bin/python examples/digits.py"
    assert lines[1] == install + "'.[test]' && .venv/bin/python -m pytest"


def test_the_readme_names_only_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        if "://" not in path:
            assert (ROOT / path).exists(), path
