"""What holds for the project as a whole: how it is imported, typed, layered and found."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, requires
from pathlib import Path

import asynchopper_backends
import pytest

import asynchopper
from asynchopper.storage import Storage

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "asynchopper").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])
PROGRAMS = [*SOURCES, *sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "docs").glob("*.py"))]


def python(code: str) -> str:
    """What a fresh interpreter prints; it runs outside of the clone, so that it sees what is installed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- imports


def test_importing_it_takes_less_than_150_ms() -> None:
    code = "import time; began = time.perf_counter(); import asynchopper; print(time.perf_counter() - began)"
    fastest = min(float(python(code)) for _ in range(7))  # what the machine does besides only ever adds
    assert fastest < 0.150


def test_importing_it_pulls_no_optional_package() -> None:
    code = """
import sys, json, asynchopper
for name in asynchopper.__all__:
    getattr(asynchopper, name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = set(json.loads(python(code)))
    optional = {re.split(r"[ <>=\[;]", r)[0].lower() for r in requires("asynchopper") or [] if "extra ==" in r}
    optional = {name.replace("-", "_") for name in optional} | {"sklearn", "asynchopper_backends", "multiprocessing"}
    assert {"pandas", "uvicorn", "httpx", "pytest", "mypy"} <= optional
    assert loaded & optional == set()


def test_all_public_names_are_there() -> None:
    assert len(set(asynchopper.__all__)) == len(asynchopper.__all__)
    for name in asynchopper.__all__:
        assert getattr(asynchopper, name) is not None
    assert set(asynchopper.__all__) <= set(dir(asynchopper))


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b0 broken", done.stdout)


# -- what is installed


@pytest.mark.parametrize("scheme", ["file", "dir", "memory"])
def test_the_built_in_backends_are_found_through_entry_points(scheme: str) -> None:
    (point,) = entry_points(group="asynchopper.backends", name=scheme)
    assert issubclass(point.load(), Storage)


@pytest.mark.parametrize("package", [asynchopper, asynchopper_backends])
def test_both_packages_say_that_they_are_typed(package: object) -> None:
    assert (Path(str(package.__file__)).parent / "py.typed").exists()  # type: ignore[attr-defined]  # a module has a file


def test_the_public_surface_type_checks_as_its_users_write_it(tmp_path: Path) -> None:
    checker = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path, "tests/typing/api.py"]
    done = subprocess.run(checker, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    ours = [line for line in done.stdout.splitlines() if line.startswith("tests/typing/")]
    assert not ours and "error" not in done.stderr, done.stdout + done.stderr
    assert done.stdout.strip(), "mypy said nothing at all"


# -- what the sources look like


def test_no_source_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in PROGRAMS if (n := len(path.read_text("utf-8").splitlines())) > 450
    }
    assert not long


def test_the_package_neither_unpickles_nor_evaluates() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path}:{node.lineno}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, f"{path}:{node.lineno}"


def test_nothing_is_left_for_later_and_every_ignore_says_why() -> None:
    for path in PROGRAMS:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|pragma: no cover", line), f"{path}:{number}"
            if "# type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z, -]+\]  # \w", line), f"{path}:{number}"
            if "# noqa" in line:
                assert re.search(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \w", line), f"{path}:{number}"


def test_the_script_that_checks_everything_is_one() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=10)
