"""What it takes to have something on a disk: names, bytes, and the word that they are there."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
from pathlib import Path

_log = logging.getLogger("asynchopper")


def make_directories(directory: Path) -> None:
    """Makes a directory and those above it that are missing, durably."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_directory(new.parent)


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
        _log.warning("%s: this file system cannot sync a directory; a power cut may lose a new file's name", directory)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """The data, and what of the file's own record is needed to read it."""
    if sys.platform == "darwin":  # where fsync stops at the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        if n == 0:
            raise OSError(errno.EIO, "nothing could be written")
        view, offset = view[n:], offset + n
