"""What observers are told of calls, their stages, attempts and errors."""

import numpy as np
import pytest

from salf_client import Client, Retry, UnknownClassError
from salf_client.testing import mock_server

PICTURE = np.random.default_rng(7).integers(0, 256, (50, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def server():
    with mock_server() as running:
        yield running


def test_spans_and_metrics_tell_of_calls_attempts_and_errors(server):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from prometheus_client import CollectorRegistry

    from salf_client.telemetry import OpenTelemetryObserver, PrometheusObserver

    spans, registry, provider = InMemorySpanExporter(), CollectorRegistry(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    observers = [OpenTelemetryObserver(provider), PrometheusObserver(registry)]
    with Client(server.address, observers=observers, retry=Retry(first_pause_s=0.0)) as client:
        client.explain(PICTURE)
        server.fail("UNAVAILABLE", "Exceeds maximum queue size")
        client.explain(PICTURE)
        with pytest.raises(UnknownClassError):
            client.explain(PICTURE, target="cow")
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["salf explain"] * 3
    assert [len(span.events) for span in spans.get_finished_spans()] == [0, 1, 0]
    assert not spans.get_finished_spans()[2].status.is_ok
    value = registry.get_sample_value
    assert value("salf_client_call_seconds_count", {"call": "explain", "outcome": "ok"}) == 2
    assert value("salf_client_call_seconds_count", {"call": "explain", "outcome": "UnknownClassError"}) == 1
    for stage in ("prepare", "infer", "read"):
        assert value("salf_client_stage_seconds_count", {"call": "explain", "stage": stage}) == 2
        assert spans.get_finished_spans()[0].attributes[f"salf.{stage}_seconds"] > 0
    stages_s = [value("salf_client_stage_seconds_sum", {"call": "explain", "stage": stage}) or 0
                for stage in ("prepare", "infer", "read")]  # fmt: skip
    assert sum(stages_s) <= (value("salf_client_call_seconds_sum", {"call": "explain", "outcome": "ok"}) or 0)
    failed = {"address": server.address, "error": "ServerOverloadedError"}
    assert value("salf_client_failed_attempts_total", failed) == 1
    assert value("salf_client_calls_in_progress", {"call": "explain"}) == 0


def test_headers_of_any_propagator_travel(server, monkeypatch):
    """AWS X-Ray's is X-Amzn-Trace-Id; gRPC takes lower case alone."""
    from opentelemetry import propagate

    from salf_client.telemetry import OpenTelemetryObserver

    monkeypatch.setattr(propagate, "inject", lambda carrier, context: carrier.update({"X-Amzn-Trace-Id": "Root=1"}))
    assert OpenTelemetryObserver().begin("explain").headers() == {"x-amzn-trace-id": "Root=1"}
    with Client(server.address, observers=[OpenTelemetryObserver()]) as client:
        assert client.explain(PICTURE).label
