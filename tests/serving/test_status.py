"""The supervisor's own endpoint, and what it counts in the front's access log."""

import json
import urllib.error
import urllib.request

import pytest

from salf_serving import ServingError, free_port
from salf_serving.access_log import AccessLog
from salf_serving.status import Status, status_endpoint


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_ready_means_that_nothing_is_wrong():
    status = Status(stuck_after_s=30)
    with status_endpoint(status, address="127.0.0.1", port=free_port()) as port:
        code, text = page(port, "/readyz")
        assert (code, json.loads(text)["problems"]) == (503, {"start": "the server is starting"})
        status.set_problem("start", None)
        status.set_problem("model a", "answered wrongly")
        assert "salf_ready 0.0" in page(port, "/metrics")[1]
        status.set_problem("model a", None)
        assert page(port, "/readyz")[0] == 200
        assert "salf_ready 1.0" in page(port, "/metrics")[1]
        assert page(port, "/healthz") == (200, "alive\n")
        assert page(port, "/etc/passwd")[0] == 404
        with (
            pytest.raises(ServingError, match=f"port {port} .* choose another with --status-port"),
            status_endpoint(status, address="127.0.0.1", port=port),
        ):
            pass


def test_a_supervisor_that_looks_at_nothing_is_stuck():
    with status_endpoint(Status(stuck_after_s=-1), address="127.0.0.1", port=free_port()) as port:
        assert page(port, "/healthz") == (503, "stuck\n")


def test_models_come_and_go_in_the_metrics():
    status = Status()
    status.serving("a", {"9": True, "10": False})
    assert status.registry.get_sample_value("salf_model_version", {"model": "a"}) == 10
    status.serving("a", {})
    assert status.registry.get_sample_value("salf_model_version", {"model": "a"}) is None


def line(**changes) -> str:
    entry = {"call": "ModelInfer", "by": "triton", "grpc_status": "0", "http_status": 200, "seconds": 0.2}
    return json.dumps(entry | changes) + "\n"


def test_requests_are_counted_once_and_half_lines_later(tmp_path):
    status, path = Status(), tmp_path / "front-1.log"
    path.write_text(line() * 5)  # of an earlier start
    log = AccessLog(path, status)

    def count(**labels) -> float | None:
        return status.registry.get_sample_value("salf_front_requests_total", labels)

    half = line()[:30]
    with path.open("a") as file:
        file.write(line() + line(by="front", grpc_status="8") + line(http_status=499) + "no JSON\n" + half)
    log.count()
    log.count()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 1
    assert count(call="ModelInfer", by="front", grpc_status="8") == 1
    assert count(call="ModelInfer", by="triton", grpc_status="cancelled") == 1
    assert count(call="other", by="front", grpc_status="unreadable") == 1
    with path.open("a") as file:
        file.write(line()[30:])
    log.rotate()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 2
    assert status.registry.get_sample_value("salf_front_request_seconds_count") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["front-1.1.log"]
    path.write_text(line())
    log.count()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 3
