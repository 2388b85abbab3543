"""The supervisor's own endpoint, and what it counts in the front's access log."""

import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from salf_serving import ServingError, free_port
from salf_serving.access_log import AccessLog
from salf_serving.metrics_page import metrics_page
from salf_serving.status import Status, status_endpoint


def own(status: Status, triton_port: int | None = None):
    return lambda timeout_s: metrics_page(status, triton_port, timeout_s=timeout_s)


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_ready_means_that_nothing_is_wrong():
    status = Status(stuck_after_s=30)
    with status_endpoint(status, address="127.0.0.1", port=free_port(), metrics=own(status)) as port:
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
            status_endpoint(status, address="127.0.0.1", port=port, metrics=own(status)),
        ):
            pass


def test_a_supervisor_that_looks_at_nothing_is_stuck():
    status = Status(stuck_after_s=-1)
    with status_endpoint(status, address="127.0.0.1", port=free_port(), metrics=own(status)) as port:
        assert page(port, "/healthz") == (503, "stuck\n")


def test_models_come_and_go_in_the_metrics():
    status = Status()
    status.serving("a", {"9": True, "10": False})
    assert status.registry.get_sample_value("salf_model_version", {"model": "a"}) == 10
    status.serving("a", {})
    assert status.registry.get_sample_value("salf_model_version", {"model": "a"}) is None


def line(**changes) -> str:
    entry = {"call": "ModelInfer", "by": "triton", "reason": "", "grpc_status": "0", "http_status": 200,
             "seconds": 0.2}  # fmt: skip
    return json.dumps(entry | changes) + "\n"


def test_requests_are_counted_once_and_half_lines_later(tmp_path):
    status, path = Status(), tmp_path / "front-1.log"
    path.write_text(line() * 5)  # of an earlier start
    log = AccessLog(path, status)

    def count(**labels) -> float | None:
        return status.registry.get_sample_value("salf_front_requests_total", labels)

    half = line()[:30]
    with path.open("a") as file:
        file.write(
            line()
            + line(by="front", grpc_status="8", reason="too_many")
            + line(http_status=499)
            + line(http_status=408, grpc_status="none")
            + "no JSON\n"
            + half
        )
    log.count()
    log.count()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 1
    assert count(call="ModelInfer", by="front", grpc_status="8") == 1
    assert count(call="ModelInfer", by="triton", grpc_status="cancelled") == 1
    assert count(call="ModelInfer", by="front", grpc_status="too_slow") == 1, "no fault of the server's"
    assert status.registry.get_sample_value("salf_front_refusals_total", {"reason": "malformed"}) == 1
    assert count(call="other", by="front", grpc_status="unreadable") == 1
    assert status.registry.get_sample_value("salf_front_refusals_total", {"reason": "too_many"}) == 1
    assert status.registry.get_sample_value("salf_front_refusals_total", {"reason": "too_large"}) == 0
    with path.open("a") as file:
        file.write(line()[30:])
    log.rotate()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 2
    assert status.registry.get_sample_value("salf_front_request_seconds_count") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["front-1.1.log"]
    path.write_text(line())
    log.count()
    assert count(call="ModelInfer", by="triton", grpc_status="0") == 3


TRITON_PAGE = """\
# HELP nv_inference_count Pictures
# TYPE nv_inference_count counter
nv_inference_count{model="a",version="1"} 3
# HELP salf_ready Of a model of somebody's own
# TYPE salf_ready gauge
salf_ready 7
# HELP salf_explanations_total Pictures explained
# TYPE salf_explanations_total counter
salf_explanations_total{model="a",version="1"} 2
"""


class Triton(BaseHTTPRequestHandler):
    """Gives a page of metrics, or (`hangs`) keeps one waiting."""

    hangs = threading.Event()

    def do_GET(self) -> None:
        while self.hangs.is_set():
            time.sleep(0.05)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(TRITON_PAGE.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_one_page_holds_triton_as_well_but_no_family_twice():
    status = Status()
    status.set_problem("start", None)
    triton = ThreadingHTTPServer(("127.0.0.1", 0), Triton)
    threading.Thread(target=triton.serve_forever, daemon=True).start()
    metrics = own(status, triton.server_address[1])
    with status_endpoint(status, address="127.0.0.1", port=free_port(), metrics=metrics) as port:
        lines = page(port, "/metrics")[1].splitlines()
        families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert len(families) == len(set(families))
        assert {"salf_ready 1.0", "salf_triton_up 1.0"} < set(lines)
        assert {
            'nv_inference_count{model="a",version="1"} 3',
            'salf_explanations_total{model="a",version="1"} 2',
        } < set(lines)

        Triton.hangs.set()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics")
        request.add_header("X-Prometheus-Scrape-Timeout-Seconds", "1")
        started_s = time.monotonic()
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read().decode()
        assert time.monotonic() - started_s < 0.95, "the page comes within the scraper's time"
        assert "salf_triton_up 0.0" in text
        assert "nv_inference" not in text
        Triton.hangs.clear()

        triton.shutdown()
        triton.server_close()
        assert "salf_triton_up 0.0" in page(port, "/metrics")[1]
