"""What both clients must do on the wire: status codes, sizes, compression, tokens, shared memory, deadlines."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from salf_client import (
    AsyncClient,
    Client,
    ClientError,
    Connection,
    DeadlineExceededError,
    InvalidConnectionError,
    MessageTooLargeError,
    Retry,
    ServerUnavailableError,
    pictures,
)
from salf_client.statuses import error_of
from salf_client.testing import MockServer, kserve, mock_server
from salf_serving import Runtime, free_port, launch

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.random.default_rng(5).integers(0, 256, (112, 112, 3), dtype=np.uint8)
ONCE = Retry(attempts=1)
#: Calls a method of a client of the kind, made with (address, settings).
Ask = Callable[..., Any]


def called(client: Client | AsyncClient, method: str, *arguments: Any) -> Any:
    """Call a method; a last argument of names and values gives keywords."""
    keywords = arguments[-1] if arguments and isinstance(arguments[-1], dict) else {}
    return getattr(client, method)(*arguments[: len(arguments) - bool(keywords)], **keywords)


def blocking(address: str | list[str], method: str, *arguments: Any, times: int = 1, **settings: Any) -> Any:
    with Client(address, **settings) as client:
        return [called(client, method, *arguments) for _ in range(times)][-1]


def awaited(address: str | list[str], method: str, *arguments: Any, times: int = 1, **settings: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address, **settings) as client:
            return [await called(client, method, *arguments) for _ in range(times)][-1]

    return asyncio.run(ask())


@pytest.fixture(params=[blocking, awaited], ids=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture
def server() -> Iterator[MockServer]:
    with mock_server() as running:
        yield running


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def counting(address: str) -> Iterator[tuple[str, list[int]]]:
    """A relay to a server; counts the bytes that clients send."""
    sent = [0]
    host, port = address.split(":")
    listening = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket, *, counts: bool) -> None:
        try:
            while data := source.recv(65536):
                sent[0] += len(data) if counts else 0
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            upstream = socket.create_connection((host, int(port)))
            threading.Thread(target=copy, args=(client, upstream), kwargs={"counts": True}, daemon=True).start()
            threading.Thread(target=copy, args=(upstream, client), kwargs={"counts": False}, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", sent
    finally:
        listening.close()


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_becomes_the_error_of_the_table(ask: Ask, server: MockServer, code: str) -> None:
    server.fail(code, "as the test wishes")
    expected = error_of(code, "as the test wishes", model="mock", address=server.address, timeout_s=30)
    with pytest.raises(ClientError) as caught:
        ask(server.address, "explain", PICTURE, retry=ONCE)
    assert type(caught.value) is type(expected)
    assert caught.value.__cause__ is not None


def test_compressed_requests_are_smaller_and_answered_alike(ask: Ask, server: MockServer) -> None:
    grey = np.full((32, 32, 3), 99, np.uint8)
    sizes = {}
    answers = []
    for compression in (None, "gzip", "deflate"):
        with counting(server.address) as (address, sent):
            answers.append(ask(address, "explain", grey, times=5, connection=Connection(compression=compression)))
            sizes[compression] = sent[0]
    assert answers[0] == answers[1] == answers[2]
    assert sizes["gzip"] < sizes[None] / 2
    assert sizes["deflate"] < sizes[None] / 2


def test_the_limit_of_message_size_holds(ask: Ask, server: MockServer) -> None:
    with pytest.raises(MessageTooLargeError):
        ask(server.address, "explain", PICTURE[:32, :32], connection=Connection(max_message_bytes=1000))


@pytest.mark.parametrize("secret", ["secret\n", "s\u00e9cret"])
def test_a_token_that_cannot_travel_is_said_and_not_shown(ask: Ask, server: MockServer, secret: str) -> None:
    for token in (secret, lambda: secret):
        with pytest.raises(InvalidConnectionError, match="token") as caught:
            ask(server.address, "explain", PICTURE, connection=Connection(token=token))
        assert "secret" not in str(caught.value)
        assert "closed" not in str(caught.value)
    with pytest.raises(InvalidConnectionError, match="x-team"):
        Connection(headers={"x-team": secret})


def test_a_closed_client_says_so(server: MockServer) -> None:
    client = Client(server.address)
    client.close()
    client.close()
    with pytest.raises(InvalidConnectionError, match="closed"):
        client.explain(PICTURE)

    async def closed() -> None:
        one = AsyncClient(server.address)
        await one.close()
        await one.close()
        await one.explain(PICTURE)

    with pytest.raises(InvalidConnectionError, match="closed"):
        asyncio.run(closed())


#: gRPC gives up a connection on which nothing is said, and the client tries again until the deadline.
NOTHING_SAID = (DeadlineExceededError, ServerUnavailableError)
METHODS = (
    ("explain", PICTURE),
    ("concept_maps", PICTURE),
    ("region", PICTURE, {"point": (50, 50)}),
    ("what_if", PICTURE, []),
    ("rules",),
    ("models",),
    ("model",),
)


@pytest.mark.parametrize("call", METHODS, ids=lambda call: call[0])
def test_every_call_ends_at_its_deadline_where_nothing_is_said(ask: Ask, call: tuple[Any, ...]) -> None:
    with silent_server() as address:
        started_s = time.monotonic()
        with pytest.raises(NOTHING_SAID):
            ask(address, *call, timeout_s=0.3)
        assert time.monotonic() - started_s < 1.5


def test_health_and_readiness_of_a_silent_server_are_bounded(ask: Ask, server: MockServer) -> None:
    with silent_server() as silent:
        started_s = time.monotonic()
        assert ask([silent, server.address], "is_ready", timeout_s=1.0) is True
        health = ask([silent, server.address], "health", timeout_s=1.0)
        assert [endpoint.ready for endpoint in health.endpoints] == [False, True]
        assert ask(silent, "is_ready", timeout_s=0.3) is False
        assert time.monotonic() - started_s < 4


def test_an_endpoint_that_hangs_does_not_cost_the_others_their_turn(
    ask: Ask, server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = kserve._Servicer.ServerReady

    def hangs(self: Any, request: Any, context: Any) -> Any:
        if self._server is not server:
            time.sleep(1.5)
        return ready(self, request, context)

    monkeypatch.setattr(kserve._Servicer, "ServerReady", hangs)
    with mock_server() as hanging:
        assert ask([hanging.address, server.address], "is_ready", timeout_s=1.0) is True


def test_models_are_told_by_the_endpoint_that_lives(ask: Ask, server: MockServer) -> None:
    gone = f"127.0.0.1:{free_port()}"
    for addresses in ([gone, server.address], [server.address, gone]):
        assert [model.name for model in ask(addresses, "models")] == ["mock"]


def test_a_store_that_hangs_costs_no_more_than_the_deadline(ask: Ask, server: MockServer) -> None:
    with silent_server() as store:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=store):
            ask(server.address, "explain", f"http://{store}/boat.jpg", timeout_s=0.5)
        assert time.monotonic() - started_s < 2


def test_large_pictures_are_reduced_beside_the_event_loop(server: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    where = []
    reduced = pictures._reduced
    monkeypatch.setattr(pictures, "_reduced", lambda rgb: where.append(threading.get_ident()) or reduced(rgb))
    large = np.zeros((900, 900, 3), np.uint8)

    explanation = awaited(server.address, "explain", large)
    assert where
    assert threading.get_ident() not in where
    assert max(explanation.picture.size) == 512


def test_without_observers_nothing_is_done_for_them(server: MockServer) -> None:
    called: list[tuple[str, str]] = []

    def spy(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            called.append((Path(frame.f_code.co_filename).name, frame.f_code.co_qualname))

    with Client(server.address) as client:
        client.explain(PICTURE)
        sys.setprofile(spy)
        try:
            client.explain(PICTURE)
        finally:
            sys.setprofile(None)
    files = {file for file, _ in called}
    assert "explaining.py" in files
    assert "telemetry.py" not in files
    told = [name for file, name in called if file == "observing.py"]
    assert all(name.startswith("_Nobody.") for name in told), "only what passes at once is called"
    assert len(told) <= 4, "the headers, and three stages that are over"


def shared_regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("salf_client_*")}


def registered_regions(address: str) -> set[str]:
    with triton.InferenceServerClient(address) as connection:
        return set(connection.get_system_shared_memory_status().regions)


@contextmanager
def sharing_server(port: int, log_file: Path) -> Iterator[str]:
    """A real server that takes pictures through shared memory."""
    with launch(ROOT / "model_repository", grpc_port=port, log_file=log_file, threads=1, shared_memory=True) as server:
        yield server.grpc_address


@pytest.mark.slow
def test_shared_memory_outlives_failures_and_a_restart_and_leaves_nothing(runtime: Runtime, tmp_path: Path) -> None:
    """One test for all of it, since each server takes seconds to start."""
    port, shared, before = free_port(), Connection(shared_memory=True), shared_regions()
    address = f"127.0.0.1:{port}"
    bad = ("scenes", {"image": PICTURE[None]}, ("logits",))

    async def check() -> None:
        with Client(address, connection=shared, retry=ONCE, timeout_s=20) as blocking_client:
            async with AsyncClient(address, connection=shared, retry=ONCE, timeout_s=20) as client:
                with sharing_server(port, tmp_path / "first.log"):
                    plain = blocking(address, "explain", PICTURE)
                    for _ in range(2):
                        assert blocking_client.explain(PICTURE) == await client.explain(PICTURE) == plain
                    assert len(registered_regions(address)) == 2
                    for _ in range(3):
                        with pytest.raises(ClientError, match="scenes"):
                            blocking_client._transports[0].infer(*bad, timeout_s=10)
                        with pytest.raises(ClientError, match="scenes"):
                            await client._transports[0].infer(*bad, timeout_s=10)
                    # What failed was taken out of use, and the server forgets it with the next request.
                    assert blocking_client.explain(PICTURE) == await client.explain(PICTURE) == plain
                    assert len(registered_regions(address)) == 2
                    assert len(shared_regions() - before) == 2
                with sharing_server(port, tmp_path / "second.log"):
                    # The second server was never told of the regions, and `ONCE` repeats nothing.
                    await asyncio.sleep(0.3)  # until gRPC has noticed that the connection is gone
                    assert blocking_client.explain(PICTURE) == await client.explain(PICTURE) == plain
                    await client.close()
                    blocking_client.close()
                    assert registered_regions(address) == set()

    asyncio.run(check())
    assert shared_regions() == before


def test_a_client_that_is_closed_while_it_is_asked_says_so(server: MockServer) -> None:
    """Not that the server failed, and not as if somebody had cancelled the caller's task."""
    large = np.zeros((512, 512, 3), np.uint8)
    server.delay_s = 0.5

    def blocking_closing() -> ClientError:
        client = Client(server.address)
        threading.Timer(0.2, client.close).start()
        with pytest.raises(ClientError) as caught:
            client.explain(large, timeout_s=10)
        return caught.value

    async def closing() -> ClientError:
        client = AsyncClient(server.address)
        task = asyncio.create_task(client.explain(large, timeout_s=10))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(ClientError) as caught:
            await task
        return caught.value

    async def cancelling() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.explain(large, timeout_s=10))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    for error in (blocking_closing(), asyncio.run(closing())):
        assert isinstance(error, InvalidConnectionError), repr(error)
        assert "was closed" in str(error)
    asyncio.run(cancelling())
