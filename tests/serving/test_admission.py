"""What a real nginx lets through: limits in all and for each client, time-outs, and what is under way at the end.

In Triton's place stands a server that answers when the test says so.
"""

import datetime as dt
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from certificates import write_certificate
from served import code_of, stub_on, takes_connections, wait_until
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

REQUEST = pb.ModelInferRequest(model_name="a")
TOO_MANY = "RESOURCE_EXHAUSTED", "too many requests at once or too fast; try again later"
SHOP, SHOP_NEW, LAB = "a" * 32, "b" * 32, "c" * 32


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts the inferences that reach it, and answers them when it may."""

    def __init__(self) -> None:
        self.reached, self.may_answer = 0, threading.Event()

    def ModelInfer(self, request, context):  # noqa: N802 - Triton's name
        self.reached += 1
        while not self.may_answer.wait(0.02) and context.is_active():
            pass
        if request.model_name == "unknown":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown is not found")
        if request.model_name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "it is broken, 100 %")
        return pb.ModelInferResponse(model_name=request.model_name)


@pytest.fixture
def behind() -> Iterator[tuple[Triton, int]]:
    """A Triton and its port."""
    with ThreadPoolExecutor(16) as pool:
        server, triton = grpc.server(pool), Triton()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield triton, port
        triton.may_answer.set()
        server.stop(None).wait()


@pytest.fixture
def asking():
    """Ask without waiting: the future of gRPC status and message."""
    pool = ThreadPoolExecutor(32)

    def ask(stub, token: str | None = None) -> "Future[tuple[str, str]]":
        metadata = None if token is None else [("authorization", f"Bearer {token}")]
        return pool.submit(code_of, stub.ModelInfer, REQUEST, metadata=metadata)

    yield ask
    pool.shutdown()


@pytest.fixture
def tokens(tmp_path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"shop {SHOP}\nshop {SHOP_NEW}\nlab {LAB}\n")
    return path


def test_one_client_leaves_room_for_others_and_all_have_a_limit(kept, behind, asking, tokens):
    triton, port = behind
    front, _, made = kept(triton_port=port, tokens=tokens, concurrent_requests=3, concurrent_requests_per_client=2)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    waiting = [asking(stub, SHOP), asking(stub, SHOP_NEW)]
    wait_until(lambda: triton.reached == 2)
    assert asking(stub, SHOP).result() == TOO_MANY
    assert asking(stub, SHOP_NEW).result() == TOO_MANY, "a second token of the same name is the same client"
    waiting.append(asking(stub, LAB))
    wait_until(lambda: triton.reached == 3)
    assert asking(stub, LAB).result() == TOO_MANY, "three are under way in all"
    triton.may_answer.set()
    assert [one.result() for one in waiting] == [("OK", "")] * 3
    assert asking(stub, SHOP).result() == ("OK", "")
    channel.close()


def test_clients_without_tokens_are_told_apart_by_their_certificates(kept, behind, asking, tmp_path):
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    for name, issuer in (("ca", None), ("server", "ca"), ("shop", "ca"), ("lab", "ca")):
        write_certificate(tmp_path, name, issuer=issuer, until=until)
    triton, port = behind
    front, _, made = kept(
        triton_port=port, concurrent_requests_per_client=1, client_ca=tmp_path / "ca.pem",
        certificate=tmp_path / "server.pem", certificate_key=tmp_path / "server.key",
    )  # fmt: skip
    front.set_flags(ready=True, right=True)
    stubs = {}
    for name in ("shop", "lab"):
        files = [(tmp_path / part).read_bytes() for part in ("ca.pem", f"{name}.key", f"{name}.pem")]
        channel = grpc.secure_channel(f"127.0.0.1:{made.port}", grpc.ssl_channel_credentials(*files))
        stubs[name] = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    waiting = [asking(stubs["shop"])]
    wait_until(lambda: triton.reached == 1)
    assert asking(stubs["shop"]).result() == TOO_MANY
    waiting.append(asking(stubs["lab"]))
    wait_until(lambda: triton.reached == 2)
    triton.may_answer.set()
    assert [one.result() for one in waiting] == [("OK", "")] * 2


def test_a_client_that_asks_too_fast_is_told_and_others_are_not(kept, behind, asking, tokens):
    triton, port = behind
    triton.may_answer.set()
    front, _, made = kept(triton_port=port, tokens=tokens, requests_per_second_per_client=1, burst_per_client=3)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    asked_s = time.monotonic()
    codes = [asking(stub, SHOP).result() for _ in range(20)]
    passed, took_s = codes.count(("OK", "")), time.monotonic() - asked_s
    assert 4 <= passed <= 5 + took_s, "the burst, and one a second"
    assert set(codes) == {("OK", ""), TOO_MANY}
    assert asking(stub, LAB).result() == ("OK", "")
    channel.close()


def test_an_answer_that_does_not_come_in_time_is_given_up_and_frees_its_place(kept, behind, asking):
    triton, port = behind
    front, status, made = kept(triton_port=port, answer_timeout_s=2, concurrent_requests=1)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    assert asking(stub).result() == ("DEADLINE_EXCEEDED", "the server did not answer in time")
    triton.may_answer.set()
    assert asking(stub).result() == ("OK", "")
    late = {"reason": "late"}
    wait_until(lambda: front.look_after() or status.registry.get_sample_value("salf_front_refusals_total", late) == 1)
    channel.close()


def test_what_is_under_way_at_the_end_is_answered_and_nothing_else_begins(kept, behind, asking):
    triton, port = behind
    front, _, made = kept(triton_port=port)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    waiting = asking(stub)
    wait_until(lambda: triton.reached == 1)
    ending = threading.Thread(target=front.drain_and_stop)
    ending.start()
    wait_until(lambda: not takes_connections(made.port), what="a closed door")
    assert asking(stub).result()[0] == "UNAVAILABLE"
    assert not waiting.done()
    triton.may_answer.set()
    assert waiting.result() == ("OK", "")
    ending.join(20)
    assert not ending.is_alive()
    assert triton.reached == 1
    channel.close()


def test_who_asks_a_model_that_is_taken_out_is_told_to_come_later(kept, behind, asking):
    triton, port = behind
    triton.may_answer.set()
    front, _, made = kept(triton_port=port, concurrent_requests=1)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    unknown = pb.ModelInferRequest(model_name="unknown")
    for out, told in (
        (False, ("NOT_FOUND", "unknown is not found")),
        (True, ("UNAVAILABLE", "a model is being mended; try again later")),
    ):
        front.set_flags(ready=True, right=True, out=out)
        assert code_of(stub.ModelInfer, unknown) == told
        broken = pb.ModelInferRequest(model_name="broken")
        assert code_of(stub.ModelInfer, broken) == ("INTERNAL", "it is broken, 100 %"), "other errors are as they were"
        answer, call = stub.ModelInfer.with_call(REQUEST, timeout=20)
        assert answer.model_name == "a"
        assert "x-request-id" in dict(call.initial_metadata())
    triton.may_answer.clear()
    before = triton.reached
    waiting = asking(stub)
    wait_until(lambda: triton.reached > before)
    assert asking(stub).result() == TOO_MANY, "limits hold meanwhile"
    triton.may_answer.set()
    assert waiting.result() == ("OK", "")
    channel.close()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def is_taken(connection: socket.socket) -> bool:
    """Whether nginx says its first words on a connection, or closes it."""
    try:
        connection.sendall(PREFACE)
        return bool(connection.recv(9))
    except ConnectionError:
        return False


def test_idle_connections_keep_nobody_out_even_where_a_worker_has_none_left(kept, behind, asking):
    triton, port = behind
    triton.may_answer.set()
    front, status, made = kept(triton_port=port, max_connections=64)
    front.set_flags(ready=True, right=True)
    idle = []
    try:
        for _ in range(300):
            idle.append(socket.create_connection(("127.0.0.1", made.port), timeout=10))
            idle[-1].sendall(PREFACE)
        for _ in range(20):
            channel, stub = stub_on(f"127.0.0.1:{made.port}")
            assert asking(stub).result() == ("OK", "")
            channel.close()
        front.look_after()
        assert status.problems == {}
    finally:
        for connection in idle:
            connection.close()


def test_one_address_has_so_many_connections_and_no_more(kept, behind, asking, stream_module):
    triton, port = behind
    triton.may_answer.set()
    front, status, made = kept(triton_port=port, connections_per_client=2, log_addresses=True)
    front.set_flags(ready=True, right=True)

    def connected(address: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", made.port), timeout=10, source_address=(address, 0))

    with connected("127.0.0.2") as first, connected("127.0.0.2") as second, connected("127.0.0.2") as third:
        assert [is_taken(one) for one in (first, second, third)] == [True, True, False]
        with connected("127.0.0.3") as other:
            assert is_taken(other)
        channel, stub = stub_on(f"127.0.0.1:{made.port}")
        assert asking(stub).result() == ("OK", "")
        channel.close()
        second.close()
        wait_until(lambda: is_taken(connected("127.0.0.2")), what="a connection in the place of a closed one")
    reason = {"reason": "too_many_connections"}
    wait_until(lambda: front.look_after() or status.registry.get_sample_value("salf_front_refusals_total", reason) >= 1)
    assert status.problems == {}
    wait_until(lambda: '"ModelInfer"' in made.files.access_log.read_text(), what="a line about the inference")
    entries = [json.loads(line) for line in made.files.access_log.read_text().splitlines()]
    inferences = [entry for entry in entries if entry["call"] == "ModelInfer"]
    assert [entry["address"] for entry in inferences] == ["127.0.0.1"], "its caller's, not the socket's"


def test_an_nginx_that_counts_connections_is_reloaded_and_replaced(kept, behind, asking, tokens, stream_module):
    triton, port = behind
    triton.may_answer.set()
    front, status, made = kept(triton_port=port, connections_per_client=2, tokens=tokens)
    front.set_flags(ready=True, right=True)
    tokens.write_text(f"lab {LAB}\n")
    front.look_after()

    def asked_anew(token: str) -> str:
        channel, stub = stub_on(f"127.0.0.1:{made.port}")
        code, _ = asking(stub, token).result()
        channel.close()
        return code

    wait_until(lambda: asked_anew(SHOP) == "UNAUTHENTICATED", what="new tokens")
    wait_until(lambda: asked_anew(LAB) == "OK", what="the end of the old worker")
    assert front._process is not None
    os.kill(front._process.pid, signal.SIGKILL)
    wait_until(front._process.ended)
    wait_until(lambda: front.look_after() or status.problems == {}, what="a new nginx")
    assert asked_anew(LAB) == "OK"
    assert status.registry.get_sample_value("salf_restarts_total", {"process": "front"}) == 1


def half_a_request() -> bytes:
    """The start of an inference over HTTP/2 whose body does not come."""
    headers = {":method": "POST", ":scheme": "http", ":path": "/inference.GRPCInferenceService/ModelInfer",
               ":authority": "a", "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    # Literal fields without indexing, as HPACK calls them: 0, length and name, length and value.
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    head = len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + block
    body = b"\0\0\0\0\x64" + b"\x0a"  # of a message of 100 bytes, the first
    return PREFACE + head + len(body).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + body


def test_a_body_that_does_not_come_frees_its_place(kept, behind, asking):
    triton, port = behind
    triton.may_answer.set()
    front, status, made = kept(triton_port=port, slow_timeout_s=5, concurrent_requests=1)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    assert asking(stub).result() == ("OK", "")
    with socket.create_connection(("127.0.0.1", made.port), timeout=10) as slow:
        slow.sendall(half_a_request())
        wait_until(lambda: asking(stub).result() == TOO_MANY, 4, what="a place that is taken")
        wait_until(lambda: asking(stub).result() == ("OK", ""), what="a free place")
    malformed = {"reason": "malformed"}
    wait_until(
        lambda: front.look_after() or status.registry.get_sample_value("salf_front_refusals_total", malformed) == 1
    )
    channel.close()


def test_a_connection_without_requests_is_closed(kept, behind, asking):
    triton, port = behind
    triton.may_answer.set()
    front, _, made = kept(triton_port=port, idle_timeout_s=1, slow_timeout_s=20)
    front.set_flags(ready=True, right=True)
    channel, stub = stub_on(f"127.0.0.1:{made.port}")
    states: list[grpc.ChannelConnectivity] = []
    channel.subscribe(states.append)  # says IDLE at first, at a time of its own
    asked_s = time.monotonic()
    assert asking(stub).result() == ("OK", "")
    wait_until(lambda: grpc.ChannelConnectivity.READY in states, what="a connection")
    wait_until(lambda: states[-1] is grpc.ChannelConnectivity.IDLE, what="the end of the connection")
    assert time.monotonic() - asked_s > 0.5
    channel.close()
