"""The gRPC transport against a real socket whose server gives any status code wanted."""

import socket
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from salf_client import (
    Client,
    ClientError,
    DeadlineExceededError,
    InvalidAddressError,
    InvalidRequestError,
    ModelNotFoundError,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    UnauthenticatedError,
)
from salf_client.grpc_transport import GrpcTransport


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self):
        self.code = grpc.StatusCode.INTERNAL
        self.slow_s = 0.0

    def ServerLive(self, request, context):  # noqa: N802 - gRPC's name
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, request, context):  # noqa: N802 - gRPC's name
        time.sleep(self.slow_s)
        context.abort(self.code, "as the test wishes")

    RepositoryIndex = ServerReady = ModelReady = ModelInfer


@pytest.fixture
def peer():
    servicer = Servicer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    servicer.address = f"127.0.0.1:{port}"
    yield servicer
    server.stop(None)


@pytest.fixture
def closed_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


CODES = {
    grpc.StatusCode.UNAVAILABLE: ServerNotReadyError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerOverloadedError,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_code_becomes_one_of_our_errors(peer, code):
    peer.code = code
    transport = GrpcTransport(peer.address)
    with pytest.raises(ClientError) as caught:
        transport.infer("boats", {"image": np.zeros((1, 2, 2, 3), np.uint8)}, ("logits",), timeout_s=5)
    assert type(caught.value) is CODES.get(code, ServerFailedError)
    assert peer.address in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_server_that_is_down_is_named_with_the_remedy(closed_address):
    with Client(closed_address) as client:
        assert not client.is_ready()
        with pytest.raises(ServerUnavailableError, match=f"{closed_address}.*salf serve"):
            client.explain(np.zeros((8, 8, 3), np.uint8))


def test_a_slow_server_meets_the_deadline(peer):
    peer.slow_s = 2.0
    started_s = time.monotonic()
    with Client(peer.address, timeout_s=0.2) as client, pytest.raises(DeadlineExceededError, match=r"0\.2 s"):
        client.models()
    assert time.monotonic() - started_s < 1.5


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost:8001", ":8001", "localhost:0", "localhost:x"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(InvalidAddressError, match="host:port"):
        Client(address)


def test_a_failed_start_does_not_slow_down_the_next_client(closed_address):
    with pytest.raises(ServerUnavailableError):
        GrpcTransport(closed_address).server_metadata(timeout_s=5)
    servicer = Servicer()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(closed_address)
    server.start()
    with pytest.raises(ServerFailedError):
        GrpcTransport(closed_address).repository_index(timeout_s=5)
    server.stop(None)
