"""The front before a real Triton: hostile requests, closed interfaces, limits."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from served import (
    access_log,
    code_of,
    command_of,
    infer_request,
    own_connections,
    rss_mb,
    serving,
    stub_on,
    wait_until,
)
from tritonclient.grpc import service_pb2 as pb

#: What any hostile request may get; everything else is a crash or a hang.
TYPED = {
    "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE", "INTERNAL", "CANCELLED"
}  # fmt: skip
FRONT = """\
max_request_bytes = 1_000_000
concurrent_requests = 6
slow_timeout_s = 3
idle_timeout_s = 20
connection_age_s = 5
max_connections = 2048
"""


@pytest.fixture(scope="module")
def served(tiny, runtime, nginx, tmp_path_factory):
    folder = tmp_path_factory.mktemp("front")
    tiny.write(folder / "models")
    with serving(folder / "models", folder, nginx=nginx, front=FRONT) as running:
        yield running


def mutated(request: pb.ModelInferRequest, seed: int) -> pb.ModelInferRequest:
    """The request with one to three things wrong."""
    rng = random.Random(seed)
    bad = pb.ModelInferRequest()
    bad.CopyFrom(request)
    for _ in range(rng.randint(1, 3)):
        tensor = rng.choice(bad.inputs) if bad.inputs else bad.inputs.add()
        match rng.randrange(9):
            case 0:
                tensor.shape[:] = [rng.choice([-1, 0, 1, 7, 2**31, 2**62]) for _ in range(rng.randint(0, 6))]
            case 1:
                tensor.datatype = rng.choice(["", "FP32", "BYTES", "INT64", "NOTHING", "UINT8" * 50])
            case 2:
                tensor.name = rng.choice(["", "picture", "image\0", "x" * 10_000, "../../etc/passwd"])
            case 3:
                del bad.inputs[rng.randrange(max(1, len(bad.inputs))) :]
            case 4:
                bad.raw_input_contents.append(rng.randbytes(rng.randint(0, 200_000)))
            case 5:
                del bad.raw_input_contents[rng.randint(0, 1) :]
            case 6:
                bad.model_name = rng.choice(["", "other", "tiny/1", "$(reboot)", "é" * 200])
            case 7:
                bad.model_version = rng.choice(["0", "2", "-1", "one", "9" * 40])
            case _:
                bad.outputs.add().name = rng.choice(["", "nothing", "logits" * 500])
    return bad


def test_wrong_requests_get_typed_errors_and_leave_the_memory_as_it_was(served, tiny, good):
    channel, stub = stub_on(served.address)
    request = infer_request(tiny.images(1), np.full((1, 1), -1, np.int32))
    workers = [pid for pid in served.tree() if "stub" in command_of(pid)]

    def hostile(seed: int) -> str:
        return code_of(stub.ModelInfer, mutated(request, seed))[0]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(hostile, range(200))) <= TYPED | {"OK"}  # warms up what remembers sizes
        before_mb = rss_mb(served.tree())
        codes = list(pool.map(hostile, range(200, 1000)))
    assert set(codes) <= TYPED | {"OK"}, set(codes)
    assert codes.count("OK") < 100, "most of them are wrong"
    assert rss_mb(served.tree()) < before_mb * 1.05 + 5
    good(stub)
    assert served.is_ready()
    assert [pid for pid in served.tree() if "stub" in command_of(pid)] == workers, "no worker was started again"
    channel.close()


def test_large_bodies_and_batches_are_refused_before_they_are_held(served, tiny, good):
    channel, stub = stub_on(served.address)
    before_mb = rss_mb(served.tree())
    targets = np.full((9, 1), -1, np.int32)
    assert code_of(stub.ModelInfer, infer_request(tiny.images(9), targets))[0] == "INVALID_ARGUMENT"
    huge = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[bytes(150_000_000)])
    for _ in range(4):
        code, said = code_of(stub.ModelInfer, huge)
        assert (code, said) == ("RESOURCE_EXHAUSTED", "the request is larger than this server takes")
    assert rss_mb(served.tree()) < before_mb + 20
    good(stub)
    channel.close()


def test_junk_and_500_idle_or_slow_connections_keep_nobody_out(served, good):
    rng = random.Random(0)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    before_mb = rss_mb(served.tree())
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as junk:
            start = rng.choice([b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", preface, preface + settings])
            junk.sendall(start + rng.randbytes(rng.randint(1, 2000)))
    idle = []
    try:
        for number in range(500):
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=5)
            # A third says nothing, a third stops within the first words, a third within a frame.
            connection.sendall((b"", preface[:7], preface + settings + b"\0\0\x20\x01")[number % 3])
            idle.append(connection)
        channel, stub = stub_on(served.address)
        for _ in range(20):
            good(stub)
        channel.close()
        assert served.is_ready()
        time.sleep(4)
        quiet = sum(_is_closed(connection) for connection in idle)
        assert quiet >= 330, f"connections that say nothing are closed after slow_timeout_s, but only {quiet} were"
        assert rss_mb(served.tree()) < before_mb + 30
    finally:
        for connection in idle:
            connection.close()


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        while data := connection.recv(4096):
            assert data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_old_connections_give_way_to_new_ones_and_no_request_is_lost(served, good):
    """So that clients look up addresses again, and find servers that were added."""
    channel, stub = stub_on(served.address)
    seen: set[str] = set()
    deadline_s = time.monotonic() + 30
    with channel, ThreadPoolExecutor(4) as pool:
        while len(seen) < 3 and time.monotonic() < deadline_s:
            list(pool.map(lambda _: good(stub), range(8)))
            seen |= own_connections(served.port)

    assert len(seen) >= 3


def test_more_requests_than_allowed_are_told_to_come_later(served, tiny):
    channel, stub = stub_on(served.address)
    request = infer_request(tiny.images(8), np.full((8, 1), -1, np.int32))
    with ThreadPoolExecutor(64) as pool:
        codes = list(pool.map(lambda _: code_of(stub.ModelInfer, request), range(400)))
    assert {code for code, _ in codes} == {"OK", "RESOURCE_EXHAUSTED"}
    assert {said for code, said in codes if code != "OK"} == {"too many requests at once or too fast; try again later"}
    wait_until(lambda: served.metric('salf_front_requests_total{by="front",call="ModelInfer",grpc_status="8"') > 0)
    channel.close()


CLOSED = {
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="tiny"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="tiny"),
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=8),
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
    "TraceSetting": pb.TraceSettingRequest(),
    "LogSettings": pb.LogSettingsRequest(),
}


@pytest.mark.parametrize("call", CLOSED)
def test_closed_interfaces_are_closed_in_front_and_behind(served, good, call):
    front, stub = stub_on(served.address)
    behind, bare = stub_on(f"127.0.0.1:{served.triton_port()}")
    wrong_key = [("triton-grpc-protocol-salf", "0" * 64)]
    assert code_of(getattr(stub, call), CLOSED[call]) == ("UNIMPLEMENTED", "this call is not offered here")
    for metadata in (None, wrong_key):
        code, said = code_of(getattr(bare, call), CLOSED[call], metadata=metadata)
        assert code == "UNAVAILABLE"
        assert "restricted" in said
    assert code_of(bare.RepositoryIndex, pb.RepositoryIndexRequest())[0] == "UNAVAILABLE"
    good(stub)
    front.close()
    behind.close()


def test_streams_and_unknown_calls_do_not_pass(served):
    channel, stub = stub_on(served.address)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="tiny")]), timeout=10))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    unknown = channel.unary_unary("/etc/passwd", request_serializer=bytes, response_deserializer=bytes)
    assert code_of(unknown, b"")[0] == "UNIMPLEMENTED"
    channel.close()


def test_answers_and_log_carry_the_request_id_and_no_data(served, good):
    channel, stub = stub_on(served.address)
    mine = ("x-request-id", "order-66")
    trace = ("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")
    assert dict(good(stub, metadata=[mine, trace]))["x-request-id"] == "order-66"
    forged = dict(good(stub, metadata=[("x-request-id", 'a","client":"root')]))["x-request-id"]
    assert len(forged) == 32
    entries = {entry["request_id"]: entry for entry in access_log(served)}
    assert entries["order-66"]["trace"] == trace[1]
    assert entries[forged]["trace"].startswith(f"00-{forged}-")
    assert entries["order-66"]["grpc_status"] == "0"
    assert "127.0.0.1" not in str(entries)
    channel.close()


def test_only_the_front_is_open_to_other_hosts_and_http_is_off(served):
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in _sockets(served.tree())
    }
    assert {address.partition(":")[0][-8:] for address in listening} == {"0100007F"}
    assert len(listening) == 4, "the front, Triton's gRPC and metrics, and the status page"
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as http:
        http.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not http.recv(4096).startswith(b"HTTP/1.1 200")


def _sockets(pids: list[int]) -> set[str]:
    """Inodes of the sockets that processes hold."""
    links = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                links.add(str(path.readlink()))
            except OSError:
                continue
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}
