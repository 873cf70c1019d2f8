"""`asynchopper verify` and `repair`, for checkpoints that somebody is worried about; `copy`, for those that shall move."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from asynchopper import __version__
from asynchopper.errors import AsynchopperError
from asynchopper.storage import open_storage
from asynchopper.transfer import copy
from asynchopper.verify import repair, verify

WHOLE, DAMAGED, UNREADABLE = 0, 1, 2

_STATUSES = """exit status:
  0  whole: every record that was ever acknowledged is there, unchanged
  1  damaged: what was lost is listed
  2  there is nothing that can be read, or the words make no sense"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives its exit status."""
    words = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no damage
    try:
        if words.command == "repair":
            status = asyncio.run(_repair(words.source, words.target))
        elif words.command == "copy":
            status = asyncio.run(_copy(words.source, words.target, words.overwrite))
        else:
            status = asyncio.run(_verify(words.paths))
        print(end="", flush=True)  # which is nothing where the output was closed
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return UNREADABLE
    except OSError as e:
        print(f"the output cannot be written: {e.strerror or e}", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return UNREADABLE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asynchopper", description="Looks after the checkpoints of searches.")
    parser.add_argument("--version", action="version", version=f"asynchopper {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    check = commands.add_parser(
        "verify",
        help="say what a checkpoint holds, and whether it is whole",
        description="Reads checkpoints from end to end, changes nothing, and takes no lock, so it may look at a running search.",
        epilog=_STATUSES,
        formatter_class=raw,
    )
    check.add_argument("paths", nargs="+", metavar="PATH", help="a file, a directory (all logs in it), or a URL")
    mend = commands.add_parser(
        "repair",
        help="save what is intact into a new checkpoint",
        description="Writes every record that is provably intact into a new checkpoint, and lists what it left.\n"
        "The source is not touched; the target must not exist. Trials whose results were lost run again.",
        epilog=_STATUSES,
        formatter_class=raw,
    )
    mend.add_argument("source", metavar="SOURCE")
    mend.add_argument("target", metavar="TARGET")
    move = commands.add_parser(
        "copy",
        help="copy a search to another place, between a file, a directory and a server",
        description="Copies every record of a search, and reads the copy back to compare. The source is only read.",
        epilog="exit status:\n  0  copied\n  2  not copied",
        formatter_class=raw,
    )
    move.add_argument("source", metavar="SOURCE", help="a path or a URL")
    move.add_argument("target", metavar="TARGET", help="a path or a URL, where no search is yet")
    move.add_argument("--overwrite", action="store_true", help="replace a search that is there, as a whole")
    return parser


async def _verify(paths: Sequence[str]) -> int:
    statuses = {WHOLE}
    for path in [p for given in paths for p in _logs(given)]:
        try:
            report = await verify(path)
        except AsynchopperError as e:
            print(e, file=sys.stderr)
            statuses.add(UNREADABLE)
            continue
        print(*report.lines(), sep="\n")
        if report.state.header is None:
            statuses.add(UNREADABLE)
        elif report.damage:
            statuses.add(DAMAGED)
            # a URL's location holds no password
            old, new = (report.location, "mended.ckpt") if "://" in path else (path, f"{path}.repaired")
            print(f"  save what is intact with: asynchopper repair {shlex.quote(old)} {shlex.quote(new)}")
    return DAMAGED if DAMAGED in statuses else max(statuses)


def _logs(path: str) -> list[str]:
    """The logs that a path means: itself, or those in it; says which of these hold nothing, and leaves them out."""
    try:
        directory = getattr(open_storage(path), "directory", None) if "://" in path else Path(path)
        found = sorted(directory.glob("*.ckpt")) if directory is not None and directory.is_dir() else []
    except (OSError, AsynchopperError):  # it cannot be a name; what it is then is said where it is read
        found = []
    logs = []
    for log in found:
        if log.is_file() and not log.stat().st_size:
            print(f"{log}: empty, and passed over: nothing was ever written in it")
        else:
            logs.append(str(log))
    return logs or [path]


async def _repair(source: str, target: str) -> int:
    try:
        report = await repair(source, target)
    except AsynchopperError as e:
        print(e, file=sys.stderr)
        return UNREADABLE
    kept = f"{len(report.usable):,} records with {report.state.told:,} finished trials"
    print(f"{report.target}: {kept}, from {report.location}")
    for note in (*report.damage, *report.notes):
        print(f"  left: {note}")
    return DAMAGED if report.damage else WHOLE


async def _copy(source: str, target: str, overwrite: bool) -> int:
    try:
        done = await copy(source, target, overwrite=overwrite)
    except AsynchopperError as e:
        print(e, file=sys.stderr)
        return UNREADABLE
    print(f"{done.target}: {done.records:,} records, {done.size:,} bytes, from {done.source}")
    return WHOLE
