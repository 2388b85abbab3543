"""Who may pass the front: tokens and client certificates before a real Triton, and that neither is ever shown."""

import datetime as dt

import grpc
import numpy as np
import pytest
from certificates import write_certificate
from served import (
    access_log,
    code_of,
    command_of,
    infer_request,
    serving,
    stub_on,
    wait_until,
)
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

TOKEN, OTHER_TOKEN = "f00dfeed" * 8, "cafebabe" * 8


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Makes certificates; gives their folder."""
    folder = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC)
    write_certificate(folder, "ca", issuer=None, until=now + dt.timedelta(days=1))
    write_certificate(folder, "server", issuer="ca", until=now + dt.timedelta(days=1))
    write_certificate(folder, "client", issuer="ca", until=now + dt.timedelta(days=1))
    write_certificate(folder, "expired", issuer="ca", until=now - dt.timedelta(days=1))
    write_certificate(folder, "stranger", issuer=None, until=now + dt.timedelta(days=1))
    return folder


def test_tokens_and_certificates_are_needed_and_never_shown(tiny, runtime, nginx, authority, good, tmp_path):
    tokens = authority / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"shop {TOKEN}\n")
    tiny.write(tmp_path / "models")
    front = f"""
        certificate = "{authority}/server.pem"
        certificate_key = "{authority}/server.key"
        client_ca = "{authority}/ca.pem"
        tokens = "{tokens}"
    """
    root = (authority / "ca.pem").read_bytes()

    def connected(name: str | None) -> tuple[grpc.Channel, service_pb2_grpc.GRPCInferenceServiceStub]:
        pair = [(authority / f"{name}.{kind}").read_bytes() for kind in ("key", "pem")] if name else [None, None]
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.secure_channel(served.address, grpc.ssl_channel_credentials(root, *pair), options=options)
        return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def token(text: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {text}")]

    with serving(tmp_path / "models", tmp_path / "serve", nginx=nginx, front=front) as served:
        channel, stub = connected("client")
        good(stub, metadata=token(TOKEN))
        needed = "a valid token or client certificate is needed"
        for wrong in (None, token(OTHER_TOKEN), token(TOKEN.upper()), token(TOKEN + "a"), [("authorization", TOKEN)]):
            request = infer_request(tiny.images(1), np.full((1, 1), -1, np.int32))
            assert code_of(stub.ModelInfer, request, metadata=wrong) == ("UNAUTHENTICATED", needed)
            index = pb.RepositoryIndexRequest()
            assert code_of(stub.RepositoryIndex, index, metadata=wrong)[0] == "UNAUTHENTICATED"
        for name in ("expired", "stranger", None):
            refused, bad = connected(name)
            code = code_of(bad.ServerLive, pb.ServerLiveRequest(), metadata=token(TOKEN))[0]
            assert code in ("UNAUTHENTICATED", "UNAVAILABLE"), name
            refused.close()
        plain, bare = stub_on(served.address)
        assert code_of(bare.ServerLive, pb.ServerLiveRequest(), metadata=token(TOKEN))[0] != "OK"
        plain.close()

        # Another token takes over, on a connection that is open, without a pause.
        fresh = tokens.with_name("fresh")
        fresh.touch(mode=0o600)
        fresh.write_text(f"shop {OTHER_TOKEN}\n")
        fresh.replace(tokens)
        live = pb.ServerLiveRequest()
        wait_until(lambda: code_of(stub.ServerLive, live, metadata=token(TOKEN))[0] == "UNAUTHENTICATED", 15)
        good(stub, metadata=token(OTHER_TOKEN))
        # A broken file changes nothing.
        tokens.write_text("nonsense\n")
        wait_until(lambda: served.metric('salf_front_reloads_total{result="refused"') == 1)
        good(stub, metadata=token(OTHER_TOKEN))
        channel.close()

        entries = access_log(served)
        assert {entry["client"] for entry in entries if entry["grpc_status"] == "0"} == {"shop"}
        key = (authority / "server.key").read_text()
        written = [path.read_text(errors="replace") for path in (tmp_path / "serve").glob("*.log*")]
        written += [command_of(pid) for pid in served.tree()]
        triton_key = command_of(served.triton()).partition(":salf=")[2].split()[0]
        assert len(triton_key) == 64
        for text in written:
            for secret in (TOKEN, OTHER_TOKEN, TOKEN.upper(), key):
                assert secret not in text
        # Triton takes its key on its command line only; nowhere else is it shown.
        assert not any(triton_key in path.read_text(errors="replace") for path in (tmp_path / "serve").glob("*.log*"))
        closed = [
            path for path in (tmp_path / "serve" / "state").rglob("*") if path.name in ("nginx.conf", "tokens.map")
        ]
        assert len(closed) == 2
        assert all(path.stat().st_mode & 0o077 == 0 for path in closed)
