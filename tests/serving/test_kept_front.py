"""A real nginx without Triton behind it: what the supervisor's thread for the front does about files and hangs."""

import datetime as dt
import os
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from certificates import write_certificate
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from served import code_of, is_gone, process_tree, stub_on, wait_until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from salf_serving import FrontError, ServingError
from salf_serving.access_log import AccessLog
from salf_serving.errors import FrontHangsError
from salf_serving.front_check import ask_front
from salf_serving.process import GuardedProcess
from salf_serving.status import Status

SECRET = "0123456789abcdef0123456789ABCDEF"


@pytest.fixture
def tls(tmp_path) -> dict[str, Path]:
    write_certificate(tmp_path, "server", until=dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    return {"certificate": tmp_path / "server.pem", "certificate_key": tmp_path / "server.key"}


def reloads(status: Status, result: str) -> float | None:
    return status.registry.get_sample_value("salf_front_reloads_total", {"result": result})


def test_a_token_file_that_is_closed_as_the_message_says_is_read_again(kept, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"shop {SECRET}\n")
    front, status, _ = kept(tokens=tokens)
    tokens.chmod(0o644)
    front.look_after()
    assert reloads(status, "refused") == 1
    tokens.chmod(0o600)
    front.look_after()
    assert reloads(status, "done") == 1


def test_a_secret_that_kubernetes_swaps_behind_links_is_read_again(kept, tmp_path):
    mount = tmp_path / "mount"

    def swap(version: str, token: str) -> None:
        (mount / version).mkdir(parents=True)
        (mount / version / "tokens").write_text(f"shop {token}\n")
        (mount / version / "tokens").chmod(0o440)
        (mount / "..data_tmp").symlink_to(version)
        (mount / "..data_tmp").replace(mount / "..data")

    swap("..1", SECRET)
    (mount / "tokens").symlink_to("..data/tokens")
    front, status, made = kept(tokens=mount / "tokens")
    front.look_after()
    assert reloads(status, "done") == 0

    swap("..2", SECRET[::-1])
    front.look_after()

    assert reloads(status, "done") == 1
    told = made.files.token_map.read_text()
    assert SECRET[::-1] in told
    assert SECRET not in told


def test_a_hanging_nginx_is_not_ready(kept, monkeypatch):
    monkeypatch.setattr("salf_serving.kept_front._ANSWER_S", 1.0)
    front, status, made = kept()
    front.look_after()
    assert status.problems == {}
    assert front._process is not None
    children = Path(f"/proc/{front._process.pid}/task/{front._process.pid}/children").read_text()
    workers = [int(pid) for pid in children.split()]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        front.look_after()
        assert status.problems["front"].startswith(f"nginx does not answer on port {made.port}")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    front.look_after()
    assert status.problems == {}
    assert front._process.guard.poll() is None, "it may have been busy"


def test_an_nginx_that_goes_on_hanging_is_killed_and_started_again(kept, monkeypatch):
    monkeypatch.setattr("salf_serving.kept_front._ANSWER_S", 1.0)
    monkeypatch.setattr("salf_serving.kept_front._HANGS_AFTER_S", 1.5)
    front, status, _ = kept()
    assert front._process is not None
    hanging = process_tree(front._process.pid)
    assert len(hanging) >= 2, "nginx and its worker"
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: front.look_after() or status.problems == {}, what="a new nginx")
    assert all(is_gone(pid) for pid in hanging)
    assert status.registry.get_sample_value("salf_restarts_total", {"process": "front"}) == 1


def test_one_question_without_an_answer_kills_no_nginx_however_long_it_took(kept, monkeypatch):
    """A container that is frozen for half a minute finds that all of it has passed while it waited."""
    monkeypatch.setattr("salf_serving.kept_front._HANGS_AFTER_S", 0.2)
    killed: list[GuardedProcess] = []

    def frozen(*_arguments, **_options):
        time.sleep(0.3)
        raise FrontHangsError("nginx does not answer on port 1: timed out")

    front, _, _ = kept()
    monkeypatch.setattr("salf_serving.kept_front.ask_front", frozen)
    with monkeypatch.context() as patch:
        patch.setattr(GuardedProcess, "kill", lambda process: killed.append(process))
        front.look_after()
        assert killed == []
        front.look_after()
        assert killed == [front._process]


def test_an_nginx_that_only_turns_connections_away_is_left_alone(kept, monkeypatch):
    """Strangers could otherwise make salf kill it, with all that is under way, by opening connections."""
    monkeypatch.setattr("salf_serving.kept_front._HANGS_AFTER_S", 0.0)

    def turned_away(*_arguments, **_options):
        raise FrontError("nginx does not answer on port 1 as HTTP/2 wants it")

    front, status, _ = kept()
    monkeypatch.setattr("salf_serving.kept_front.ask_front", turned_away)
    front.look_after()
    assert list(status.problems) == ["front"]
    assert front._process is not None
    assert front._process.guard.poll() is None


def test_an_expired_certificate_is_told_from_the_start_on(kept, tls, tmp_path):
    write_certificate(tmp_path, "server", until=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    _, status, _ = kept(**tls)
    assert status.problems["front"] == "the front's certificate is not valid now: certificate has expired"


def test_a_key_with_a_pass_phrase_is_told_before_nginx_asks_for_it(kept, tls):
    key = load_pem_private_key(tls["certificate_key"].read_bytes(), None)
    closed = BestAvailableEncryption(b"open sesame")
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        tls["certificate_key"].write_bytes(key.private_bytes(Encoding.PEM, form, closed))
        with pytest.raises(FrontError, match=r"server\.key asks for a pass phrase.*`openssl pkey"):
            kept(**tls)
        shutil.rmtree(tls["certificate_key"].parent / "run")


def test_a_log_that_cannot_be_written_is_told(kept, tmp_path):
    (tmp_path / "a.log").mkdir()
    with pytest.raises(FrontError, match=r"nginx refuses its configuration: .*a\.log"):
        kept()


def test_the_certificates_end_is_told_and_not_waited_for(kept, tls, tmp_path):
    front, status, _ = kept(**tls)
    front.look_after()
    assert status.problems == {}
    expires = status.registry.get_sample_value("salf_front_certificate_expiry_timestamp_seconds")
    assert expires == pytest.approx(time.time() + 86400, abs=60)
    write_certificate(tmp_path, "server", until=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    front.look_after()
    wait_until(lambda: front.look_after() or "front" in status.problems)
    assert status.problems["front"] == "the front's certificate is not valid now: certificate has expired"


def test_broken_certificates_keep_neither_a_dead_nginx_nor_a_full_log(kept, tls, monkeypatch):
    """nginx is started and reloaded with copies of what was checked last."""
    front, status, made = kept(**tls)
    tls["certificate"].write_text("no certificate")
    front.look_after()
    assert reloads(status, "refused") == 1
    assert front._process is not None
    os.kill(front._process.pid, signal.SIGKILL)
    wait_until(front._process.ended)
    front.look_after()
    wait_until(lambda: front.look_after() or status.problems == {}, what="a new nginx")

    aside = made.files.access_log.with_suffix(".1.log")
    monkeypatch.setattr(AccessLog, "needs_rotation", lambda _log: not aside.exists())
    front.look_after()
    wait_until(made.files.access_log.exists, what="a new log")


def test_a_full_disk_ends_neither_the_front_nor_its_supervisor(kept, monkeypatch, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"shop {SECRET}\n")
    front, status, _ = kept(tokens=tokens)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("salf_serving.front._write_closed", full)
    monkeypatch.setattr(AccessLog, "needs_rotation", lambda _log: True)
    monkeypatch.setattr(AccessLog, "rotate", full)
    monkeypatch.setattr(Path, "touch", full)
    tokens.write_text(f"shop {SECRET}2\n")
    front.look_after()
    front.set_flags(ready=True, right=True)
    assert reloads(status, "refused") == 1
    assert status.problems == {}


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every inference, as if it were right."""

    def ModelInfer(self, request, context):  # noqa: N802 - Triton's name
        return service_pb2.ModelInferResponse(model_name=request.model_name)


def test_no_inference_passes_while_answers_are_wrong(kept):
    front, _, made = kept()
    with ThreadPoolExecutor(2) as pool:
        triton = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), triton)
        triton.add_insecure_port(f"127.0.0.1:{made.triton_port}")
        triton.start()
        channel, stub = stub_on(f"127.0.0.1:{made.port}")
        request = service_pb2.ModelInferRequest(model_name="a")
        refused = "UNAVAILABLE", "the server is not ready; try again later"
        for right, answer in ((True, ("OK", "")), (False, refused), (True, ("OK", ""))):
            front.set_flags(ready=False, right=right)
            assert code_of(stub.ModelInfer, request) == answer
        channel.close()
        triton.stop(None).wait()


def test_something_that_is_no_nginx_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"nginx does not answer on port {port}: timed out"):
            ask_front("0.0.0.0", port, certificate=None, timeout_s=0.2)
    with pytest.raises(ServingError, match=f"nginx does not answer on port {port}: .*refused"):
        ask_front("127.0.0.1", port, certificate=None, timeout_s=0.2)
