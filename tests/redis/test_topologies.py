"""Servers that are more than one: a Sentinel that fails over, a cluster, and one behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchopper_backends.redis import RedisStorage

import asynchopper as ah
from tests.redis.fleet import Fleet, check, wait_until
from tests.redis.proxy import Proxy
from tests.redis.test_faults import Run, exactly
from tests.servers import Server, binaries


async def until(true: Any, within_s: float = 30.0, what: str = "") -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await asyncio.to_thread(true):
        assert loop.time() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)


class Watched:
    """A primary, a replica that follows it through a proxy, and a Sentinel that watches both."""

    def __init__(self, home: Path, stack: contextlib.ExitStack, product: str) -> None:
        self.primary = stack.enter_context(Server(home / "primary", product, repl_diskless_sync_delay=0))
        self.home, self.stack, self.product = home, stack, product

    async def start(self, proxy: Proxy) -> None:
        self.replica = self.stack.enter_context(
            Server(
                self.home / "replica",
                self.product,
                replicaof=["127.0.0.1", str(proxy.port)],
                repl_diskless_sync_delay=0,
            )
        )
        await until(lambda: self.info(self.primary)["connected_slaves"] == 1, what="no replica comes")
        await until(lambda: self.info(self.replica)["master_link_status"] == "up", what="the replica does not follow")
        home = self.home / "sentinel"
        home.mkdir()
        (home / "sentinel.conf").write_text(
            f"dir {home}\nsentinel monitor main 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds main 1500\nsentinel failover-timeout main 4000\n"
        )
        self.sentinel = self.stack.enter_context(Server(home, self.product, mode="sentinel"))

        def knows() -> bool:
            with self.sentinel.client() as client:
                return bool(client.execute_command("SENTINEL REPLICAS main"))

        await until(knows, what="the Sentinel knows no replica")

    def main(self) -> int:
        """The port of the primary, as the Sentinel says."""
        with self.sentinel.client() as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME main")[1])

    def settle(self) -> None:
        """Has the Sentinel fail over no more: on a crowded machine it may take the new primary for dead as well."""
        with self.sentinel.client() as client:
            client.execute_command("SENTINEL SET main down-after-milliseconds 120000")

    @staticmethod
    def info(server: Server) -> dict[str, Any]:
        with server.client() as client:
            return client.info("replication")  # type: ignore[no-any-return]  # redis-py leaves it open

    def url(self, name: str, **words: Any) -> str:
        said = "".join(f"&{k}={v}" for k, v in words.items())
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main/0?search={name}{said}"


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Watched, Proxy]]:
    with contextlib.ExitStack() as stack:
        group = Watched(tmp_path, stack, next(iter(binaries())))
        async with Proxy(group.primary.port) as proxy:
            await group.start(proxy)
            yield group, proxy


async def test_a_failover_to_a_replica_that_lags_is_said_aloud(watched: tuple[Watched, Proxy], name: str) -> None:
    group, proxy = watched
    run = Run(group.url(name, patience=20, lease=5))
    run.at = {20: lambda: setattr(proxy, "fault", "black hole"), 40: group.primary.kill}
    with pytest.raises(ah.StorageError, match="has lost results that it had confirmed"):
        await run()
    assert len(run.search.history) >= 30
    lost = len(run.search.history)
    again = Run(group.url(name, patience=20))  # what is left is a search that can go on
    await again()
    exactly(group.replica, name, 60)
    assert again.search.outcome is not None
    assert again.search.outcome.trials > 60 - lost


async def test_what_has_reached_a_replica_survives_a_failover(watched: tuple[Watched, Proxy], name: str) -> None:
    group, proxy = watched
    run = Run(group.url(name, patience=40, lease=20, durability="replicated"), steps=40)
    confirmed: list[int] = []

    def lag() -> None:
        proxy.fault = "black hole"

    run.at = {20: lag}
    task = asyncio.create_task(run())
    await until(
        lambda: proxy.fault == "black hole" and proxy.lost > 0, what="nothing is lost on the way to the replica"
    )
    confirmed.append(len(run.search.history))
    group.primary.kill()
    await until(lambda: group.main() == group.replica.port, what="the replica is not promoted")
    group.settle()
    await asyncio.to_thread(group.primary.start)  # the Sentinel makes it a replica
    await task
    exactly(group.replica, name, 40)
    assert run.calls == 40, "a confirmed result was lost, and evaluated again"
    assert confirmed[0] >= 10


# -- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    home = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(Server(home / str(i), cluster_enabled="yes", cluster_node_timeout=2000))
            for i in range(3)
        ]
        bounds = [0, 5461, 10923, 16384]
        for i, node in enumerate(nodes):
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            with nodes[0].client() as client:
                client.execute_command("CLUSTER MEET", node.host, node.port)

        def whole() -> bool:
            states = []
            for node in nodes:
                with node.client() as client:
                    states.append(client.execute_command("CLUSTER INFO"))
            return all(s["cluster_state"] == "ok" and s["cluster_known_nodes"] == "3" for s in states)

        wait_until(whole, what="the cluster does not form")
        yield nodes


def at_cluster(nodes: list[Server], name: str, **words: Any) -> str:
    hosts = ",".join(f"{n.host}:{n.port}" for n in nodes)
    return f"redis+cluster://{hosts}?search={name}" + "".join(f"&{k}={v}" for k, v in words.items())


def home_of(nodes: list[Server], name: str) -> Server:
    for node in nodes:
        with node.client() as client, contextlib.suppress(Exception):
            if client.exists(f"asynchopper:{{{name}}}:log"):
                return node
    raise AssertionError("the search is nowhere")


async def test_searches_find_their_place_in_a_cluster(cluster: list[Server], name: str) -> None:
    homes = set()
    for i in range(6):
        run = Run(at_cluster(cluster[i % 3 :] + cluster[: i % 3], f"{name}-{i}"), steps=20)
        await run()
        home = home_of(cluster, f"{name}-{i}")
        exactly(home, f"{name}-{i}", 20)
        homes.add(home.port)
    assert len(homes) > 1


async def test_a_search_follows_when_the_cluster_moves_it(cluster: list[Server], name: str) -> None:
    run = Run(at_cluster(cluster, name), steps=60)
    moved: list[Server] = []

    def move() -> None:
        source = home_of(cluster, name)
        target = cluster[(cluster.index(source) + 1) % 3]
        with source.client() as a, target.client() as b:
            slot = a.execute_command("CLUSTER KEYSLOT", f"asynchopper:{{{name}}}:log")
            ids = [node.execute_command("CLUSTER MYID").decode() for node in (a, b)]
            b.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            a.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
            keys = a.execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
            a.execute_command("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
            b.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
            a.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        moved.append(target)

    run.at = {20: move}
    await run()
    assert home_of(cluster, name) is moved[0]
    exactly(moved[0], name, 60)
    assert run.calls == 60


def test_a_fleet_on_a_cluster_is_exact(cluster: list[Server], name: str, tmp_path: Path) -> None:
    with Fleet(tmp_path, at_cluster(cluster, name), steps=40, pause=0.002) as fleet:
        fleet.start(3)
        fleet.wait()
        check(fleet, home_of(cluster, name), name, 40)


# -- TLS


def _certificates(home: Path) -> None:
    """A certificate authority of our own, and a server's certificate for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's authority")])

    def certificate(name: x509.Name, key: Any, ca: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(ca_name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if ca:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(here, critical=False).sign(ca_key, hashes.SHA256())

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    pem = serialization.Encoding.PEM
    home.mkdir()
    (home / "ca.pem").write_bytes(certificate(ca_name, ca_key, True).public_bytes(pem))
    (home / "server.pem").write_bytes(certificate(name, key, False).public_bytes(pem))
    (home / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def test_tls_is_checked_and_works(tmp_path: Path, name: str) -> None:
    _certificates(tmp_path / "pki")
    pki = tmp_path / "pki"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    login = {"password": "hunter2"}
    with Server(tmp_path / "server", login=login, requirepass="hunter2") as server:
        async with Proxy(server.port, tls=context) as proxy:
            url = f"rediss://:hunter2@127.0.0.1:{proxy.port}/0?search={name}&patience=5"
            run = Run(f"{url}&ssl_ca_certs={pki}/ca.pem", steps=20)
            await run()
            exactly(server, name, 20)
            assert "hunter2" not in str(run.search.checkpoint_path)
            with pytest.raises(ah.StorageError, match="certificate is not accepted"):
                await Run(url)()
            with pytest.raises(ah.StorageError, match="certificate is not accepted"):
                await Run(f"{url}&ssl_ca_certs={pki}/ca.pem".replace("127.0.0.1", "localhost"))()
            storage = RedisStorage(f"{url}&ssl_cert_reqs=none&ssl_check_hostname=false")
            await storage.open(readonly=True)
            await storage.close()
