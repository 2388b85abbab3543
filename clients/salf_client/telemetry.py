"""Observers for OpenTelemetry and for prometheus-client; both packages come with the extra `telemetry`.

Give them to a client with `observers=[...]`. Without observers a client does nothing for them.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from salf_client.errors import ClientError, MissingExtraError
from salf_client.observing import Call, Stage

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from prometheus_client import CollectorRegistry

#: Upper ends of the histogram's buckets, in seconds.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class OpenTelemetryObserver:
    """A span for each call, and its trace's id sent along, so that the server's spans join it.

    Its requests carry an id made of the span's (`x-request-id`, attribute `salf.request_id`): the front writes it into
    its log and returns it.

    Args:
        provider: where spans go; None takes the process's own.

    Raises:
        MissingExtraError: opentelemetry-api is not installed.
    """

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError as error:
            raise MissingExtraError(
                "traces need opentelemetry-api; install it with: pip install 'salf[telemetry]'"
            ) from error
        self._tracer: Tracer = trace.get_tracer("salf_client", tracer_provider=provider)
        self._trace, self._propagate = trace, propagate

    def begin(self, name: str) -> Call:
        """Start a span that is a child of the caller's."""
        span = self._tracer.start_span(f"salf {name}", kind=self._trace.SpanKind.CLIENT)
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span))
        headers = {name.lower(): value for name, value in carrier.items()}  # gRPC takes no others
        ids = span.get_span_context()
        if ids.is_valid:
            headers["x-request-id"] = f"{ids.trace_id:032x}-{ids.span_id:016x}"
            span.set_attribute("salf.request_id", headers["x-request-id"])
        return _Spanned(span, headers)


class _Spanned:
    def __init__(self, span: "Span", headers: Mapping[str, str]) -> None:
        self._span, self._headers = span, headers

    def headers(self) -> Mapping[str, str] | None:
        return self._headers

    def attempt_failed(self, address: str, error: ClientError) -> None:
        attributes = {"server.address": address, "error.type": type(error).__name__, "error.message": str(error)}
        self._span.add_event("attempt failed", attributes)

    def took(self, stage: Stage, seconds: float) -> None:
        self._span.set_attribute(f"salf.{stage}_seconds", seconds)

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()


class PrometheusObserver:
    """Metrics of calls: how long, in which stage, how many in progress, how they end, and which attempts failed.

    Args:
        registry: where the metrics are registered; None takes prometheus-client's own. One observer for a registry:
            several clients may share it.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtraError(
                "metrics need prometheus-client; install it with: pip install 'salf[telemetry]'"
            ) from error
        where: Any = {"registry": REGISTRY if registry is None else registry}
        self.seconds: Histogram = Histogram(
            "salf_client_call_seconds",
            "Time of a call, retries included",
            ["call", "outcome"],
            buckets=BUCKETS_S,
            **where,
        )
        self.stage_seconds: Histogram = Histogram(
            "salf_client_stage_seconds",
            "Time of a call's stage: prepare, infer or read",
            ["call", "stage"],
            buckets=BUCKETS_S,
            **where,
        )
        self.in_progress: Gauge = Gauge("salf_client_calls_in_progress", "Calls not over yet", ["call"], **where)
        self.failed_attempts: Counter = Counter(
            "salf_client_failed_attempts", "Requests that failed, repeated or not", ["address", "error"],
            **where,
        )  # fmt: skip

    def begin(self, name: str) -> Call:
        """Start the clock."""
        self.in_progress.labels(name).inc()
        return _Measured(self, name)


class _Measured:
    def __init__(self, metrics: PrometheusObserver, name: str) -> None:
        self._metrics, self._name, self._started_s = metrics, name, time.perf_counter()

    def headers(self) -> Mapping[str, str] | None:
        return None

    def attempt_failed(self, address: str, error: ClientError) -> None:
        self._metrics.failed_attempts.labels(address, type(error).__name__).inc()

    def took(self, stage: Stage, seconds: float) -> None:
        self._metrics.stage_seconds.labels(self._name, stage).observe(seconds)

    def end(self, error: BaseException | None) -> None:
        self._metrics.in_progress.labels(self._name).dec()
        outcome = "ok" if error is None else type(error).__name__
        self._metrics.seconds.labels(self._name, outcome).observe(time.perf_counter() - self._started_s)
