"""How a connection is secured and what travels beside each request; settings that cannot work are refused."""

import asyncio
import queue
import subprocess
import threading
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest

from salf_client import (
    AsyncClient,
    Client,
    Connection,
    InvalidAddressError,
    InvalidConnectionError,
    Retry,
    ServerUnavailableError,
    Tls,
)
from salf_client.testing import mock_server

PICTURE = np.random.default_rng(7).integers(0, 256, (50, 80, 3), dtype=np.uint8)


def test_settings_of_a_connection_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(InvalidConnectionError, match="in the clear"):
        Client("salf.example:443", connection=Connection(token="secret"))
    with pytest.raises(InvalidConnectionError, match="belong together"):
        Tls(certificate=tmp_path / "client.pem")
    with pytest.raises(InvalidConnectionError, match="cannot be read"):
        Client("localhost:1", connection=Connection(tls=Tls(ca=tmp_path / "none.pem")))
    with pytest.raises(InvalidConnectionError, match="lower case"):
        Connection(headers={"Key": "x"})
    for headers in ({"a b": "x"}, {":path": "x"}, {"x-bin": "x"}):
        with pytest.raises(InvalidConnectionError, match=next(iter(headers))):
            Connection(headers=headers)
    with pytest.raises(InvalidConnectionError, match="x-team must be text, but it is a int"):
        Connection(headers={"x-team": 5})
    for size in (0, 2**31, 1.5):
        with pytest.raises(InvalidConnectionError, match="max_message_bytes"):
            Connection(max_message_bytes=size)
    for keepalive_s in (0, -1, float("nan"), 1e9):
        with pytest.raises(InvalidConnectionError, match="keepalive_s"):
            Connection(keepalive_s=keepalive_s)
    no_certificate = tmp_path / "notes.txt"
    no_certificate.write_text("no certificate")
    with pytest.raises(InvalidConnectionError, match=r"notes\.txt holds no PEM"):
        Client("localhost:1", connection=Connection(tls=Tls(ca=no_certificate)))
    with pytest.raises(InvalidConnectionError, match="the token must be text, but it is a NoneType"):
        Client("localhost:1", connection=Connection(token=lambda: None)).explain(PICTURE)
    with pytest.raises(InvalidAddressError, match="no address"):
        Client([])
    for address in (None, 5, ["localhost:1", None], "localhost:\N{SUPERSCRIPT TWO}"):
        with pytest.raises(InvalidAddressError, match="expected host:port"):
            Client(address)
    with pytest.raises(InvalidAddressError, match="no transport"):
        Client(transport=[])
    assert "secret" not in repr(Connection(token="secret"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and a server's and a client's certificate that it signed: name -> (key, certificate)."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        openssl("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


def test_encryption_is_mutual_where_the_server_asks_for_it(certificates):
    def read(name):
        return (certificates / name).read_bytes()

    pair = [(read("server.key"), read("server.pem"))]
    credentials = grpc.ssl_server_credentials(pair, read("ca.pem"), require_client_auth=True)
    ca, client_key = certificates / "ca.pem", certificates / "client.key"
    known = Tls(ca=ca, certificate=certificates / "client.pem", key=client_key)
    once = Retry(attempts=1)

    async def asked(address):
        async with AsyncClient(address, connection=Connection(tls=known, token="secret")) as client:
            return await client.explain(PICTURE)

    with mock_server(credentials=credentials) as server:
        with Client(server.address, connection=Connection(tls=known, token="secret")) as client:
            assert client.explain(PICTURE) == asyncio.run(asked(server.address))
        for wrong in (Connection(tls=Tls(ca=ca)), Connection(tls=Tls()), Connection()):
            with Client(server.address, connection=wrong, retry=once) as client, pytest.raises(ServerUnavailableError):
                client.explain(PICTURE, timeout_s=5)
    strange = Connection(tls=Tls(ca=ca))
    with (
        mock_server() as plain,
        Client(plain.address, connection=strange, retry=once) as client,
        pytest.raises(ServerUnavailableError, match=r"cannot agree on encryption.*authority"),
    ):
        client.explain(PICTURE, timeout_s=5)


def test_compression_headers_and_a_token_reach_the_server(monkeypatch):
    from salf_client.testing import kserve

    seen, infer, made = [], kserve._Servicer.ModelInfer, iter(range(100))

    def spy(self, request, context):
        seen.append(dict(context.invocation_metadata()))
        return infer(self, request, context)

    monkeypatch.setattr(kserve._Servicer, "ModelInfer", spy)
    connection = Connection(token=lambda: f"token-{next(made)}", headers={"x-team": "boats"}, compression="gzip")
    with mock_server() as own, Client(own.address, connection=connection) as client:
        answers = [client.explain(PICTURE) for _ in range(2)]
    assert answers[0] == answers[1]
    assert [headers["x-team"] for headers in seen] == ["boats"] * 2
    first, second = (headers["authorization"].removeprefix("Bearer token-") for headers in seen)
    assert int(second) == int(first) + 1


@contextmanager
def far_away(address, delay_s):
    """A server at the other end of a slow line: whatever either side says arrives so much later."""
    host, _, port = address.rpartition(":")

    async def carried(reader, writer):
        loop = asyncio.get_running_loop()
        last_s = 0.0
        with suppress(OSError):
            while data := await reader.read(65536):
                last_s = max(last_s, loop.time() + delay_s)
                loop.call_at(last_s, writer.write, data)
            await asyncio.sleep(delay_s)
        writer.close()

    async def connected(reader, writer):
        there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carried(reader, there[1]), carried(there[0], writer))

    async def serve():
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        found.put(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await ended.wait()
        server.close()

    found, ended = queue.Queue(), asyncio.Event()
    with asyncio.Runner() as runner:  # whose end cancels what is still carried
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            yield found.get(timeout=10)
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()


def test_a_server_at_the_end_of_a_slow_line_is_reached_at_the_first_attempt():
    """As between continents, with encryption: the first word of gRPC comes later than a tenth of a second."""

    async def asked(address):
        async with AsyncClient(address, retry=Retry(attempts=1)) as client:
            return await client.model(timeout_s=20)

    with (
        mock_server() as server,
        far_away(server.address, 0.15) as address,
        Client(address, retry=Retry(attempts=1)) as client,
    ):
        assert client.model(timeout_s=20) == asyncio.run(asked(address))
