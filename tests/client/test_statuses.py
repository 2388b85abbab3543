"""The table of status codes against what the real Triton says."""

import re
import threading
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import pytest

from salf_client import (
    Client,
    ClientError,
    Connection,
    DeadlineExceededError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    QueueTimeoutError,
    Retry,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    SharedMemoryUnavailableError,
    UnauthenticatedError,
)
from salf_client.grpc_transport import GrpcTransport
from salf_client.statuses import MEANINGS, error_of
from salf_client.testing import mock_server
from salf_serving import RunningServer, Runtime, free_port, launch, nginx_config
from salf_serving import server as serving_server

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.zeros((112, 112, 3), np.uint8)
POLICY = """dynamic_batching {
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 20000 max_queue_size: 4 }
"""


@pytest.fixture(scope="module")
def strict_server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory):
    """A real server with a short queue, that restricts shared memory and refuses to load anything by itself."""
    folder = tmp_path_factory.mktemp("strict")
    scenes = folder / "models" / "scenes"
    for path in (ROOT / "model_repository" / "scenes").rglob("*"):
        if path.is_file():
            target = scenes / path.relative_to(ROOT / "model_repository" / "scenes")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    config = scenes / "config.pbtxt"
    config.write_text(config.read_text().replace("dynamic_batching {\n", POLICY))
    patch = pytest.MonkeyPatch()
    command = serving_server.triton_command
    patch.setattr(
        serving_server,
        "triton_command",
        lambda *arguments, **options: [
            *(word for word in command(*arguments, **options) if not word.startswith("--grpc-restricted-protocol")),
            "--grpc-restricted-protocol=shared-memory:key=secret",
        ],
    )
    try:
        with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=1) as server:
            yield server
    finally:
        patch.undo()


def test_a_full_queue_and_a_time_out_in_it_are_overload(strict_server: RunningServer) -> None:
    found: Counter[type] = Counter()

    def load() -> None:
        with Client(strict_server.grpc_address, retry=Retry(attempts=1)) as client:
            for _ in range(40):
                try:
                    client.explain(PICTURE)
                    found[type(None)] += 1
                except ClientError as error:
                    found[type(error)] += 1

    threads = [threading.Thread(target=load) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {type(None), ServerOverloadedError, QueueTimeoutError}, found
    assert found[ServerOverloadedError] > 0
    assert found[QueueTimeoutError] > 0


def test_a_key_that_is_missing_is_said_and_the_right_one_opens(strict_server: RunningServer) -> None:
    address = strict_server.grpc_address
    with (
        Client(address, connection=Connection(shared_memory=True)) as client,
        pytest.raises(SharedMemoryUnavailableError, match="its key"),
    ):
        client.explain(PICTURE)
    key = {"triton-grpc-protocol-key": "secret"}
    with Client(address, connection=Connection(shared_memory=True, headers=key)) as client, Client(address) as plain:
        assert client.explain(PICTURE) == plain.explain(PICTURE)


def test_salf_serve_keeps_shared_memory_closed_and_the_error_says_how_to_open_it(triton_server: RunningServer) -> None:
    with (
        Client(triton_server.grpc_address, connection=Connection(shared_memory=True)) as client,
        pytest.raises(SharedMemoryUnavailableError, match="salf serve --shared-memory"),
    ):
        client.explain(PICTURE)


def test_a_host_without_an_address_is_not_taken_for_a_server_that_loads() -> None:
    with (
        Client("no-such-host.invalid:8001", retry=Retry(attempts=1)) as client,
        pytest.raises(ServerUnavailableError, match="no server answers"),
    ):
        client.explain(PICTURE, timeout_s=10)


def test_what_triton_says_about_models_and_tensors(triton_server: RunningServer) -> None:
    transport = GrpcTransport(triton_server.grpc_address)
    inputs = {"image": PICTURE[None], "target": np.array([[-1]], np.int32)}
    with pytest.raises(ModelNotFoundError):
        transport.infer("no_such_model", inputs, ("logits",), timeout_s=10)
    with pytest.raises(InvalidRequestError):
        transport.infer("scenes", {"image": PICTURE[None]}, ("logits",), timeout_s=10)
    transport.close()


def test_large_messages_are_refused_by_the_connections_own_limit(triton_server: RunningServer) -> None:
    small = Connection(max_message_bytes=20_000)
    with Client(triton_server.grpc_address, connection=small) as client, pytest.raises(MessageTooLargeError):
        client.explain(PICTURE)


#: Code, words, and the error that they mean.
SAID = (
        # Wordings of gRPC, Triton and nginx.
        ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect",
         ServerUnavailableError),
        ("UNAVAILABLE", "errors resolving no.host:1: [field:hostname lookup error:address lookup failed for no.host:1]",
         ServerUnavailableError),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Tls handshake",
         ServerUnavailableError),
        ("UNAVAILABLE", "Socket closed", ServerUnavailableError),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", ServerUnavailableError),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", ServerOverloadedError),
        ("UNAVAILABLE", "Request timeout expired", QueueTimeoutError),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-x'",
         UnauthenticatedError),
        ("UNAVAILABLE", "Request for unknown model: 'scenes' has no available versions", ServerNotReadyError),
        ("UNAVAILABLE", "Received http2 header with status: 502", ServerUnavailableError),
        ("UNAVAILABLE", "Received http2 header with status: 503", ServerOverloadedError),
        ("UNAUTHENTICATED", "Received http2 header with status: 401", UnauthenticatedError),
        ("RESOURCE_EXHAUSTED", "the server has too many requests", ServerOverloadedError),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (929329 vs. 20000)", MessageTooLargeError),
        # The front of salf, as it words its refusals.
        ("RESOURCE_EXHAUSTED", "the request is larger than this server takes", MessageTooLargeError),
        ("RESOURCE_EXHAUSTED", "too many requests at once or too fast; try again later", ServerOverloadedError),
        ("UNAUTHENTICATED", "a valid token or client certificate is needed", UnauthenticatedError),
        ("UNAVAILABLE", "the server is not ready; try again later", ServerNotReadyError),
        ("DEADLINE_EXCEEDED", "the server did not answer in time", DeadlineExceededError),
        ("NOT_FOUND", "Unable to find shared memory region: 'x'", SharedMemoryUnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'boats' is not found", ModelNotFoundError),
        ("INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs for model 'scenes'", InvalidRequestError),
        ("UNIMPLEMENTED", "Method not found!", ServerFailedError),
)  # fmt: skip


@pytest.mark.parametrize(("code", "said", "expected"), SAID)
def test_words_tell_what_a_code_means(code: str, said: str, expected: type[ClientError]) -> None:
    assert type(error_of(code, said, model="scenes", address="here:1", timeout_s=1.0)) is expected


def test_every_refusal_of_the_front_becomes_its_error() -> None:
    """By the front's own table, whose words its tests hear from a real nginx."""
    expected: dict[str, type[ClientError]] = {
        "malformed": InvalidRequestError,
        "unauthenticated": UnauthenticatedError,
        "unknown_call": ServerFailedError,
        "too_large": MessageTooLargeError,
        "too_many": ServerOverloadedError,
        "front_failed": ServerFailedError,
        "not_ready": ServerNotReadyError,
        "late": DeadlineExceededError,
    }
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    found = {
        reason: type(error_of(names[number], said, model="scenes", address="here:1", timeout_s=1.0))
        for _, reason, number, said in nginx_config._ANSWERS
    }
    assert found == expected


def test_every_row_of_the_table_is_reached_by_its_own_words() -> None:
    reached = [
        next(row for row in MEANINGS if code in row.codes.split("|") and re.search(row.words, said, re.IGNORECASE))
        for code, said, _ in SAID
    ]
    assert set(reached) == set(MEANINGS)


def test_overload_is_retried_and_refusals_are_not() -> None:
    with mock_server() as server, Client(server.address, retry=Retry(first_pause_s=0.001)) as client:
        client.explain(PICTURE)
        for code, message in (("UNAVAILABLE", "Exceeds maximum queue size"), ("RESOURCE_EXHAUSTED", "busy")):
            server.fail(code, message, times=2)
            assert client.explain(PICTURE).label
        before = server.calls["ModelInfer"]
        server.fail("UNAUTHENTICATED", "no token")
        with pytest.raises(UnauthenticatedError, match="token"):
            client.explain(PICTURE)
        assert server.calls["ModelInfer"] == before + 1


def test_a_server_without_shared_memory_says_so_and_nothing_is_left_behind() -> None:
    before = set(Path("/dev/shm").glob("salf_client_*"))
    shared = Connection(shared_memory=True)
    with mock_server() as server, Client(server.address, connection=shared) as client:
        with pytest.raises(SharedMemoryUnavailableError, match="leave Connection"):
            client.explain(np.zeros((300, 300, 3), np.uint8), top=1)
        assert set(Path("/dev/shm").glob("salf_client_*")) == before
    assert set(Path("/dev/shm").glob("salf_client_*")) == before


def test_retries_end_with_the_budget_and_the_deadline() -> None:
    with mock_server() as server:
        with Client(server.address, retry=Retry(budget=2.0, earned=0.0, first_pause_s=0.0)) as client:
            client.explain(PICTURE)
            server.fail("UNAVAILABLE", "Exceeds maximum queue size", times=100)
            before = server.calls["ModelInfer"]
            for _ in range(5):
                with pytest.raises(ServerOverloadedError):
                    client.explain(PICTURE)
            assert server.calls["ModelInfer"] == before + 5 + 2
        patient = Retry(attempts=50, first_pause_s=0.2, budget=50)
        with Client(server.address, retry=patient) as client, pytest.raises(ServerOverloadedError):
            client.explain(PICTURE, timeout_s=0.5)
