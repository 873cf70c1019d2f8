"""A backend that somebody else has published is found by its scheme, through the same door as the ones that come along."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from asynchopper import UsageError
from asynchopper.storage import open_storage

MODULE = '''
"""Logs in a SQLite database."""

import os
import sqlite3

from asynchopper.errors import StorageError
from asynchopper.storage import Entry, Storage, check_presence

_held = set()


class TinyStorage(Storage):
    def __init__(self, path):
        self.path, self.location = path, f"tiny://{path}"
        self.base, self.mode = None, "closed"

    @classmethod
    def from_url(cls, url):
        return cls(url.removeprefix("tiny://"))

    async def open(self, *, resume="auto", overwrite=False, readonly=False):
        if self.mode != "closed":
            raise StorageError(f"{self.location} is open already")
        exists = os.path.exists(self.path)
        check_presence(exists, self.location, resume, overwrite, readonly)
        self.base = sqlite3.connect(self.path, isolation_level=None) if exists or not readonly else None
        self.replace, self.mode = overwrite, "reader" if readonly else "owner"
        if self.base is not None:
            self.base.execute("pragma synchronous = off")  # no test pulls the plug
        if not exists:
            self.base.execute("create table log (seq integer primary key, data blob)")

    async def read(self):
        if self.mode == "closed":
            raise StorageError(f"{self.location} is not open")
        rows = [] if self.replace else self.base.execute("select seq, data from log order by seq").fetchall()
        if rows:
            yield [Entry(*row) for row in rows]

    async def append(self, records):
        if self.mode != "owner":
            raise StorageError(f"{self.location} is not open for writing")
        self.base.execute("begin immediate")
        if self.replace:
            self.base.execute("delete from log")
            self.replace = False
        (n,) = self.base.execute("select count(*) from log").fetchone()
        self.base.executemany("insert into log values (?, ?)", list(enumerate(records, n)))
        self.base.execute("commit")

    async def close(self):
        if self.mode == "owner":
            (n,) = self.base.execute("select count(*) from log").fetchone()
            if n == 0:
                os.unlink(self.path)
        if self.base is not None:
            self.base.close()
        self.base, self.mode = None, "closed"
'''

TEST = """
import pytest
from asynchopper.testing import StorageContract


class TestTiny(StorageContract):
    @pytest.fixture
    def location(self, tmp_path):
        return f"tiny://{tmp_path}/log"
"""

SEARCH = """
import asyncio, sys
import asynchopper as ah

async def objective(params):
    return params["x"]

async def main():
    for steps in (5, 7):
        search = ah.Search(x=ah.float(0, 1), seed=1)
        await search.run(objective, steps=steps, checkpoint_path=sys.argv[1], quiet=True)
    print(len(search.history), search.checkpoint_path)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where pip has installed the wheel of another project."""
    made = tmp_path_factory.mktemp("dist")
    info = "tiny_store-1.0.dist-info"
    wheel = made / "tiny_store-1.0-py3-none-any.whl"
    files = {
        "tiny_store.py": MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-store\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[asynchopper.backends]\ntiny = tiny_store:TinyStorage\n"
        "needy = tiny_store_that_is_not_there:Storage\nodd = tiny_store:os\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    site = made / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, timeout=100)
    return site


def python(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *args], env=environment, capture_output=True, text=True, timeout=100)


def test_a_search_runs_and_resumes_in_it(site: Path, tmp_path: Path) -> None:
    ran = python(site, "-c", SEARCH, f"tiny://{tmp_path}/log")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["12", f"tiny://{tmp_path}/log"]


def test_the_contract_runs_on_it_from_a_file_of_a_few_lines(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_tiny.py").write_text(TEST)
    ran = python(
        site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", str(tmp_path / "test_tiny.py")
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
    assert "failed" not in ran.stdout


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("needy://x", "needs a package that is not installed"),
        ("odd://x", "is not a Storage"),
        ("nobody://x", "there is no backend for nobody://; installed are:"),
    ],
)
def test_what_cannot_be_used_is_named(site: Path, url: str, said: str) -> None:
    ran = python(site, "-c", f"from asynchopper.storage import open_storage; open_storage({url!r})")
    assert "UsageError" in ran.stderr
    assert said in ran.stderr


@pytest.mark.parametrize("text", ["", "a\0b", 7, b"bytes"])
def test_a_location_is_a_path_or_a_url(text: object) -> None:
    with pytest.raises((UsageError, TypeError)):
        open_storage(text)  # type: ignore[arg-type]  # that is the point


def test_paths_go_to_the_right_backend(tmp_path: Path) -> None:
    assert type(open_storage(tmp_path / "run.ckpt")).__name__ == "FileStorage"
    assert type(open_storage(str(tmp_path))).__name__ == "DirectoryStorage"
    assert type(open_storage(f"{tmp_path}/new/")).__name__ == "DirectoryStorage"
    assert type(open_storage(f"FILE://{tmp_path}/x")).__name__ == "FileStorage"
    assert type(open_storage(f"dir://{tmp_path}/x")).__name__ == "DirectoryStorage"
    storage = open_storage("memory://x")
    assert open_storage(storage) is storage


def test_a_url_that_a_path_has_eaten_a_slash_of_is_refused() -> None:
    with pytest.raises(UsageError, match="a URL begins with redis://; a Path loses a slash"):
        open_storage(Path("redis://localhost/0?search=a"))
