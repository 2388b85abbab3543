"""A real Prometheus scrapes a real server, which is broken until each alert has fired."""

import datetime as dt
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
import pytest
from certificates import write_certificate
from encoded_requests import Endpoint, Failure
from prometheus_server import Prometheus, autoscaler_query, prometheus_running, rules
from served import SALF, Served, serving, wait_until

from deploy.grafana.generate import queries
from salf_contract import decode_picture, parse_metadata, prepare, with_served_version
from salf_serving.control import workers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "demonstration" / "pictures"
DOCUMENT = parse_metadata((ROOT / "model_repository/scenes_encoded/1/metadata.json").read_bytes())
HARBOUR = DOCUMENT.classes.index("harbour")
FRONT = "concurrent_requests = 30\nconcurrent_requests_per_client = 30\n"


class Traffic:
    """A few clients who ask why a picture is a harbour, ten times a second in all, and once in a while send rubbish.

    Attributes:
        picture: that they ask about.
    """

    def __init__(self, address: str, authority: Path, picture: bytes) -> None:
        self.address, self.authority, self.picture = address, authority, picture
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self) -> None:
        endpoint = Endpoint(self.address, authority=self.authority)
        for number in itertools.count():
            if self._stop.wait(0.25):
                break
            endpoint.ask(b"rubbish" if number % 20 == 19 else self.picture, target=HARBOUR, timeout_s=5)
        endpoint.channel.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The demonstration model with answers of two concepts, so that how much they cover depends on the picture."""
    models = tmp_path_factory.mktemp("alerts") / "models"
    command = [SALF, "export", ROOT / "demonstration" / "checkpoint", "--repository", models, "--name", "scenes"]
    done = subprocess.run([*command, "--top", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return models


@pytest.fixture(scope="module")
def pictures(repository) -> tuple[bytes, bytes]:
    """One to ask about, and another that other concepts explain, and of whose evidence two concepts cover much less."""
    graph = onnxruntime.InferenceSession(repository / "scenes/1/model.onnx")
    seen = {}
    for path in PICTURES.glob("*.jpg"):
        pixels = prepare(decode_picture(path.read_bytes()), DOCUMENT.preparation).pixels[None]
        given = {"image": pixels, "target": np.array([[HARBOUR]], np.int32)}
        concepts, coverage = graph.run(["top_concepts", "coverage"], given)
        seen[path] = int(concepts[0, 0]), float(coverage.item())
    usual = max(seen, key=lambda path: seen[path][1])
    unusual = min((path for path in seen if seen[path][0] != seen[usual][0]), key=lambda path: seen[path][1])
    assert seen[usual][1] - seen[unusual][1] > 0.2
    return usual.read_bytes(), unusual.read_bytes()


def certificate(folder: Path, *, days: int) -> None:
    """Give the server a certificate that is valid for so long."""
    write_certificate(folder, "server", issuer="ca", until=dt.datetime.now(dt.UTC) + dt.timedelta(days=days))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificate(folder, "ca", until=dt.datetime.now(dt.UTC) + dt.timedelta(days=25))
    certificate(folder, days=25)
    return folder


@pytest.fixture(scope="module")
def served(repository, runtime, nginx, certificates, tmp_path_factory) -> Iterator[Served]:
    front = FRONT + f'certificate = "{certificates}/server.pem"\ncertificate_key = "{certificates}/server.key"\n'
    with serving(repository, tmp_path_factory.mktemp("alerts-server"), nginx=nginx, front=front) as running:
        yield running


@pytest.fixture(scope="module")
def traffic(served, certificates, pictures) -> Iterator[Traffic]:
    with Traffic(served.address, certificates / "ca.pem", pictures[0]) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(served, traffic, debian_program, tmp_path_factory) -> Iterator[Prometheus]:
    program = debian_program("prometheus", "prometheus")
    with prometheus_running(program, tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{served.status_port}") as one:
        yield one


@pytest.fixture
def fires(prometheus):
    """Wait until alerts have fired since the test began; `again` is done whenever that takes too long."""
    since_s = time.time()

    def wait(*alerts: str, again=lambda: None, tries: int = 4) -> None:
        missing = set(alerts)
        for _ in range(tries):
            deadline_s = time.monotonic() + 9
            while missing and time.monotonic() < deadline_s:
                missing -= prometheus.fired(since_s)
                time.sleep(0.3)
            if not missing:
                return
            again()
        pytest.fail(f"{', '.join(sorted(missing))} did not fire")

    return wait


def test_a_healthy_server_is_scraped_whole_and_fires_nothing(prometheus, served):
    wait_until(lambda: prometheus.now("class:salf_top_concepts:distance_1h_1d"), 30, "the last of the rules' results")
    wait_until(lambda: not prometheus.firing(), 15, "silence")
    time.sleep(3)
    assert prometheus.firing() == set()
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
    scraped = ("salf_ready == 1", "salf_triton_up == 1", "nv_inference_count", "salf_explanations_total",
               'salf_front_requests_total{call="ModelInfer"}', 'salf_probe_seconds_count{model="scenes"}')  # fmt: skip
    for metric in scraped:
        assert prometheus.now(metric), metric
    (share,) = prometheus.now('concept:salf_top_concepts:share_1h{class="harbour"}')
    assert float(share["value"][1]) == 1, "the same picture has the same explanation, and probes do not count"
    (waited,) = prometheus.now(autoscaler_query())
    assert 0 < float(waited["value"][1]) < 1, "the queue's mean time in seconds"


def test_a_hanging_triton_is_seen_and_its_slow_answers_burn_the_budget(served, certificates, prometheus, fires):
    """Requests that wait for it come late or are given up; those that find no place are refused."""

    def hang() -> None:
        triton = served.triton()
        with ThreadPoolExecutor(50) as pool:
            os.kill(triton, signal.SIGSTOP)
            try:
                given_up = list(pool.map(lambda endpoint: endpoint.ask(picture, timeout_s=0.5), endpoints[:25]))
                answers = pool.map(lambda endpoint: endpoint.ask(picture), endpoints)
                time.sleep(2.2)
            finally:
                os.kill(triton, signal.SIGCONT)
            assert all(isinstance(answer, Failure) for answer in given_up)
            for answer in answers:
                assert not isinstance(answer, Failure) or "too many requests" in answer.message

    picture = (PICTURES / "farm.jpg").read_bytes()
    endpoints = [Endpoint(served.address, authority=certificates / "ca.pem")] * 50
    hang()
    fires(
        "SalfCallersGiveUp",
        "SalfTritonDown",
        "SalfLatencyBurnsFast",
        "SalfLatencyBurnsSlowly",
        "SalfRefusesForLoad",
        again=hang,
    )


def test_a_killed_worker_is_seen(served, fires):
    wait_until(served.is_ready, 30, "readiness")

    def kill() -> None:
        for pid in [pid for pid, model in workers(served.triton()).items() if model == "scenes"]:
            os.kill(pid, signal.SIGKILL)

    kill()
    fires("SalfWorkerRestarted", "SalfExplanationsFail", again=kill)


def test_a_killed_triton_is_seen(served, fires):
    wait_until(served.is_ready, 30, "readiness")

    def kill() -> None:
        os.kill(served.triton(), signal.SIGKILL)

    kill()
    fires("SalfProcessRestarted", "SalfErrors", "SalfNotReady", again=kill)


def serve_version(model: Path, version: int) -> None:
    new = model / "config.new"
    new.write_text(with_served_version((model / "config.pbtxt").read_text(), version))
    new.replace(model / "config.pbtxt")


def test_a_corrupt_version_is_seen(served, repository, fires):
    wait_until(served.is_ready, 30, "readiness")
    model = repository / "scenes"
    shutil.copytree(model / "1", model / "2")
    (model / "2" / "model.onnx").write_bytes(b"no model")
    serve_version(model, 2)
    fires("SalfVersionRefused")
    assert served.is_ready()


def test_a_certificate_that_ends_soon_and_one_that_cannot_be_used_are_seen(served, certificates, fires):
    certificate(certificates, days=10)
    fires("SalfCertificateExpires")
    (certificates / "server.pem").write_text("no certificate")
    fires("SalfFrontFilesRefused")
    assert served.is_ready(), "it goes on with what it has"
    certificate(certificates, days=25)


def test_what_is_put_into_service_is_seen_and_a_restart_is_not_taken_for_it(served, repository, prometheus):
    loaded = "changes(salf_model_loaded_timestamp_seconds[2m]) > 0"
    assert prometheus.ever("changes(salf_restarts_total[2m]) > 0")
    assert not prometheus.ever(loaded)
    serve_version(repository / "scenes", 1)
    wait_until(lambda: served.metric("salf_repository_changes_total") == 1, 60, "the change")
    wait_until(lambda: prometheus.ever(loaded), 15, "its mark on the dashboard")


def test_explanations_that_change_are_seen(prometheus, traffic, pictures, fires):
    """The same question about a picture in which other concepts speak about a harbour, and many instead of few."""
    drift = {"SalfTopConceptsDrift", "SalfCoverageDrift"}
    wait_until(lambda: not drift & prometheus.firing())
    traffic.picture = pictures[1]
    fires(*drift)


def test_every_rule_and_every_query_of_the_dashboard_has_given_data(prometheus):
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert [query for query in (*recorded, *queries()) if not prometheus.ever(query)] == []


def test_a_server_that_is_gone_is_seen_and_no_alert_is_untried(prometheus, served, fires):
    assert served.stop() == 0
    fires("SalfDown")
    (ready,) = (query for query in queries() if query.startswith("salf_ready"))
    assert [one["value"][1] for one in prometheus.now(ready)] == ["0"], "the dashboard shows it, as not ready"
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts - prometheus.fired(prometheus.started_s) == set()
