"""Traces of a real server behind its front, taken by a collector that speaks OTLP."""

import time
from pathlib import Path

import pytest
from collector import Collector, collecting
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from served import Served, access_log, code_of, serving, stub_on, wait_until
from tritonclient.grpc import service_pb2 as pb

from salf_client import Client
from salf_client.telemetry import OpenTelemetryObserver
from salf_serving import LaunchSettings, ServingError, TraceSettings, free_port
from salf_serving.command import ServerSettings, triton_command
from salf_serving.server import launched

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "demonstration" / "pictures" / "harbour.jpg"
SPAN = "cd" * 8


@pytest.fixture(scope="module")
def collector():
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def served(collector, runtime, nginx, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    options = ["--traces", collector.url]
    front = "max_request_bytes = 200_000"
    with serving(ROOT / "model_repository", folder, nginx=nginx, front=front, options=options) as running:
        yield running


def encoded_request() -> pb.ModelInferRequest:
    data = PICTURE.read_bytes()
    request = pb.ModelInferRequest(model_name="scenes_encoded")
    request.inputs.add(name="encoded", datatype="BYTES", shape=[1, 1])
    request.inputs.add(name="target", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.extend([len(data).to_bytes(4, "little") + data, b"\xff" * 4])
    return request


def answered_id(served: Served, *metadata: tuple[str, str]) -> str:
    """Ask with headers; the id that the answer carries."""
    channel, stub = stub_on(served.address)
    _, call = stub.ModelInfer.with_call(encoded_request(), metadata=metadata, timeout=30)
    channel.close()
    return dict(call.initial_metadata())["x-request-id"]


def spans_of(collector: Collector, trace: str, wanted: int) -> dict:
    """A trace's spans, when all have come: Triton sends them every five seconds."""
    deadline_s = time.monotonic() + 30
    while len(collector.of(trace)) < wanted:
        assert time.monotonic() < deadline_s, f"of {wanted} spans there are {sorted(collector.of(trace))}"
        time.sleep(0.1)
    return collector.of(trace)


def test_one_trace_leads_from_the_client_through_the_front_to_both_models(served, collector):
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.url)))
    with Client(served.address, model="scenes", observers=[OpenTelemetryObserver(provider)]) as client:
        assert client.explain(PICTURE).label == "harbour"
    (root,) = [span for span in collector.spans if span.name == "salf explain"]
    spans = spans_of(collector, root.trace, 7)
    front = spans["salf: front ModelInfer"]
    parents = {name: next((one for one in spans if spans[one].id == span.parent), None) for name, span in spans.items()}
    assert parents == {
        "shop: salf explain": None,
        "salf: front ModelInfer": "shop: salf explain",
        "salf: InferRequest": "salf: front ModelInfer",
        "salf: scenes_encoded": "salf: InferRequest",
        "salf: compute": "salf: scenes_encoded",
        "salf: scenes": "salf: scenes_encoded",
        "salf: compute 2": "salf: scenes",
    }
    for name, span in spans.items():
        parent = parents[name]
        assert span.start_ns <= span.end_ns
        if parent is not None:  # nginx counts milliseconds; and Triton ends its spans a moment after it has answered
            assert spans[parent].start_ns - 3e6 <= span.start_ns <= spans[parent].end_ns, name
    request_id = root.attributes["salf.request_id"]
    assert front.attributes["salf.request_id"] == request_id
    assert front.attributes["rpc.grpc.status_code"] == 0
    assert not front.failed
    (entry,) = [entry for entry in access_log(served) if entry["request_id"] == request_id]
    assert entry["trace"].startswith(f"00-{root.trace}-{root.id}-")
    assert "sight" not in str([span.attributes for span in spans.values()]), "no answers, no pictures"


def test_no_trace_is_lost_on_the_way_to_triton(served, collector):
    """Triton reads beyond a trace's header; what lies there depends on the other headers' lengths and on chance."""
    channel, stub = stub_on(served.address)
    traces = [f"{number:032x}" for number in range(1, 101)]
    for number, trace in enumerate(traces):
        metadata = [("traceparent", f"00-{trace}-{SPAN}-01"), ("x-note", "n" * number)]
        stub.ModelInfer(encoded_request(), metadata=metadata, timeout=30)
    channel.close()
    assert [len(spans_of(collector, trace, 6)) for trace in traces] == [6] * len(traces)


def test_the_request_id_is_in_trace_log_and_answer(served, collector):
    own = answered_id(served)
    assert set(spans_of(collector, own, 6)) >= {"salf: front ModelInfer", "salf: scenes"}, (
        "no caller's trace: a new one"
    )
    given = f"00-{'ab' * 16}-{SPAN}-01"
    assert answered_id(served, ("x-request-id", "order-66"), ("traceparent", given)) == "order-66"
    front = spans_of(collector, "ab" * 16, 6)["salf: front ModelInfer"]
    assert (front.parent, front.attributes["salf.request_id"]) == (SPAN, "order-66")
    entries = {entry["request_id"]: entry for entry in access_log(served)}
    assert entries["order-66"]["trace"] == given
    assert entries["order-66"]["span"] == front.id
    assert entries[own]["trace"] == f"00-{own}-{entries[own]['span']}-01"


def test_refused_requests_are_in_their_traces(served, collector):
    channel, stub = stub_on(served.address)
    huge = pb.ModelInferRequest(model_name="scenes", raw_input_contents=[bytes(300_000)])
    assert code_of(stub.ModelInfer, huge, metadata=[("traceparent", f"00-{'12' * 16}-{SPAN}-01")])[0] != "OK"
    channel.close()
    (span,) = spans_of(collector, "12" * 16, 1).values()
    assert span.failed
    assert span.attributes.items() >= {"salf.answered_by": "front", "salf.reason": "too_large"}.items()


def test_a_caller_that_does_not_trace_is_not_traced_nor_are_probes(served, collector):
    """They came before what is waited for, so their spans would have come with it."""
    answered_id(served, ("traceparent", f"00-{'34' * 16}-{SPAN}-00"))
    answered_id(served, ("traceparent", f"00-{'0' * 32}-{SPAN}-01"), ("x-request-id", "zeros"))
    answered_id(served, ("traceparent", f"00-{'56' * 16}-{SPAN}-01"))
    spans_of(collector, "56" * 16, 6)
    assert not collector.of("34" * 16)
    assert not collector.of("0" * 32)
    (entry,) = [entry for entry in access_log(served) if entry["request_id"] == "zeros"]
    assert entry["span"] == entry["trace"].split("-")[2], "a trace that is none counts as none"
    roots = [span for span in collector.spans if span.name == "InferRequest"]
    fronts = {span.id for span in collector.spans if span.name.startswith("front ")}
    assert all(span.parent in fronts for span in roots), "no inference is traced that did not come through the front"


def test_nobody_can_read_or_change_what_is_traced(served):
    request = pb.TraceSettingRequest()
    request.settings["trace_rate"].value.append("1")
    for address, refusal in ((served.address, "UNIMPLEMENTED"), (f"127.0.0.1:{served.triton_port()}", "UNAVAILABLE")):
        channel, stub = stub_on(address)
        for asked in (pb.TraceSettingRequest(), request):
            assert code_of(stub.TraceSetting, asked)[0] == refusal
        channel.close()


def test_a_collector_that_is_away_costs_spans_and_nothing_else(runtime, nginx, tmp_path):
    options = ["--traces", f"http://127.0.0.1:{free_port()}/v1/traces"]
    with serving(ROOT / "model_repository", tmp_path, nginx=nginx, options=options) as served:
        for _ in range(5):
            answered_id(served)
        wait_until(lambda: served.metric("salf_lost_spans_total") >= 5, 30, "the count of lost spans")
        assert served.is_ready()
        started_s = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - started_s < 15
        assert "Traceback" not in served.log


def test_without_a_front_triton_takes_the_callers_trace(collector, tmp_path):
    settings = LaunchSettings(
        repository=ROOT / "model_repository", grpc_port=free_port(), log_file=tmp_path / "triton.log", threads=1,
        traces=TraceSettings(url=collector.url, share=0),
    )  # fmt: skip
    with launched(settings) as (server, _):
        channel, stub = stub_on(server.grpc_address)
        before = len(collector.spans)
        stub.ModelInfer(encoded_request(), timeout=30)
        traces = [f"{number:032x}" for number in range(1001, 1021)]
        for trace in traces:
            stub.ModelInfer(encoded_request(), metadata=[("traceparent", f"00-{trace}-{SPAN}-01")], timeout=30)
        channel.close()
        wait_until(lambda: len(collector.spans) > before, 30, "spans")
    taken = [
        collector.of(trace) for trace in traces if collector.of(trace)
    ]  # Triton by itself loses some: see limits.md
    assert {(len(spans), spans["salf: InferRequest"].parent) for spans in taken} == {(5, SPAN)}
    assert len(collector.spans) == before + 5 * len(taken), "a share of 0 begins no trace"


def test_nothing_of_traces_is_said_to_triton_unless_wanted(runtime, tmp_path):
    settings = ServerSettings(
        repository=tmp_path, grpc_port=1, metrics_port=None, threads=None, stop_timeout_s=1, server_id="salf_1_a"
    )
    assert not [word for word in triton_command(runtime, settings) if word.startswith("--trace")]


@pytest.mark.parametrize("url", ["", "collector:4317", "https://collector/v1/traces", "http://a b", "http://a,rate=1"])
def test_a_wrong_url_is_told(url):
    with pytest.raises(ServingError, match="must be the URL of a collector's OTLP/HTTP endpoint"):
        TraceSettings(url=url)
