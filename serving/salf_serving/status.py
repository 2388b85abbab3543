"""The supervisor's own endpoint: /healthz, /readyz and /metrics."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from salf_serving.errors import ServingError
from salf_serving.nginx_config import REFUSAL_REASONS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Status:
    """What the supervisor knows, for probes and Prometheus; safe to use from several threads."""

    def __init__(self, *, stuck_after_s: float = 180.0) -> None:
        """Nothing is ready yet.

        Args:
            stuck_after_s: a supervisor that has looked at nothing for so long is stuck; longer than any load takes.
        """
        self._stuck_after_s = stuck_after_s
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {"start": "the server is starting"}
        self._beat_s = time.monotonic()
        self._probing_s: float | None = None
        self.registry = CollectorRegistry()
        registry = self.registry
        ready = Gauge("salf_ready", "1 while every model answers its probe right.", registry=registry)
        ready.set_function(lambda: float(not self.problems))
        self._version = Gauge("salf_model_version", "Newest served version.", ["model"], registry=registry)
        self._loaded = Gauge(
            "salf_model_loaded_timestamp_seconds", "When what is served was put into service.", ["model"],
            registry=registry,
        )  # fmt: skip
        self.restarts = Counter(
            "salf_restarts", "Processes started again after they died.", ["process"], registry=registry
        )
        self.worker_restarts = Counter(
            "salf_worker_restarts", "Models loaded again because their worker died or answered wrong.", ["model"],
            registry=registry,
        )  # fmt: skip
        self.refused = Counter(
            "salf_refused_versions", "Versions that were not put into service.", ["model", "reason"], registry=registry
        )
        self.changes = Counter(
            "salf_repository_changes", "Changes of the repository that were put into service.", ["model"],
            registry=registry,
        )  # fmt: skip
        self.probe_seconds = Histogram(
            "salf_probe_seconds", "Time of a probe's right answer.", ["model"], buckets=_SECONDS, registry=registry
        )
        self.probe_failures = Counter(
            "salf_probe_failures", "Probes without a right answer.", ["model", "reason"], registry=registry
        )
        self.front_reloads = Counter(
            "salf_front_reloads", "Tokens or certificates read again.", ["result"], registry=registry
        )
        self.front_requests = Counter(
            "salf_front_requests", "Requests that the front answered or passed on.", ["call", "grpc_status", "by"],
            registry=registry,
        )  # fmt: skip
        self.front_seconds = Histogram(
            "salf_front_request_seconds", "Time of an answered inference, as the front saw it.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.front_refusals = Counter(
            "salf_front_refusals", "Requests that the front answered itself, by reason.", ["reason"], registry=registry
        )
        self._certificate: Gauge | None = None
        self.lost_spans = Counter("salf_lost_spans", "Spans of the front that no collector took.", registry=registry)
        self.triton_up = Gauge("salf_triton_up", "1 if Triton gave its metrics to this page.", registry=registry)
        for process in ("triton", "front"):
            self.restarts.labels(process)
        for result in ("done", "refused"):
            self.front_reloads.labels(result)
        for reason in REFUSAL_REASONS:
            self.front_refusals.labels(reason)

    def beat(self) -> None:
        """The supervisor is alive."""
        self._beat_s = time.monotonic()

    def probing_lives(self) -> None:
        """Whoever probes has probed a model, or waits for a change of what is served. Never again means not ready."""
        self._probing_s = time.monotonic()

    def set_problem(self, part: str, problem: str | None) -> None:
        """Say why a part ("triton", "front", "model NAME", ...) is not ready, or (None) that it is."""
        with self._lock:
            if problem is None:
                self._problems.pop(part, None)
            else:
                self._problems[part] = problem

    @property
    def problems(self) -> Mapping[str, str]:
        """Part -> why it is not ready; empty when everything is."""
        with self._lock:
            problems = dict(self._problems)
        if self._probing_s is not None and (age_s := time.monotonic() - self._probing_s) > self._stuck_after_s:
            problems["probing"] = f"no model was probed for {age_s:.0f} s"
        return problems

    def is_stuck(self) -> bool:
        """Whether the supervisor has looked at nothing for too long."""
        return time.monotonic() - self._beat_s > self._stuck_after_s

    def certificate_expires(self, moment: float) -> None:
        """When the front's certificate stops being valid, as Unix time; without TLS there is no such metric."""
        if self._certificate is None:
            self._certificate = Gauge(
                "salf_front_certificate_expiry_timestamp_seconds", "When the front's certificate expires.",
                registry=self.registry,
            )  # fmt: skip
        self._certificate.set(moment)

    def serving(self, model: str, versions: Mapping[str, bool]) -> None:
        """What is served of a model: version -> whether it was put into service just now; empty: nothing any more."""
        if not versions:
            self._version.remove(model)
            self._loaded.remove(model)
            self.set_problem(f"model {model}", None)
            return
        self._version.labels(model).set(max(map(int, versions)))
        # Series exist before their first event: Prometheus sees no increase in one that begins with 1.
        for counter in (self.worker_restarts, self.changes):
            counter.labels(model)
        for reason in ("wrong", "late"):
            self.probe_failures.labels(model, reason)
        if any(versions.values()):
            self._loaded.labels(model).set_to_current_time()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A scraper that hangs up is no news; the library would print its address and a stack trace."""


@contextmanager
def status_endpoint(status: Status, *, address: str, port: int, metrics: Callable[[float], bytes]) -> Iterator[int]:
    """Answer /healthz, /readyz and /metrics while a block runs; yields the port.

    Args:
        status: what the supervisor knows.
        address: to listen on.
        port: to listen on.
        metrics: makes the page for Prometheus within some seconds.

    Raises:
        ServingError: the port cannot be used.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            """Answer one of the three pages."""
            if self.path == "/metrics":
                self._answer(200, metrics(0.5 * self._scrape_timeout_s()), CONTENT_TYPE_LATEST)
            elif self.path == "/healthz":
                stuck = status.is_stuck()
                self._answer(503 if stuck else 200, b"stuck\n" if stuck else b"alive\n", "text/plain")
            elif self.path == "/readyz":
                problems = status.problems
                body = json.dumps({"ready": not problems, "problems": problems}) + "\n"
                self._answer(503 if problems else 200, body.encode(), "application/json")
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics\n", "text/plain")

        def _scrape_timeout_s(self) -> float:
            """How long the scraper waits, as Prometheus says; people with curl wait ten seconds."""
            try:
                return min(10.0, max(0.2, float(self.headers.get("X-Prometheus-Scrape-Timeout-Seconds", 10))))
            except ValueError:
                return 10.0

        def _answer(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    try:
        server = _QuietServer((address, port), Handler)
    except OSError as error:
        raise ServingError(
            f"port {port} on {address} cannot be used: {error.strerror}; choose another with --status-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="status", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
