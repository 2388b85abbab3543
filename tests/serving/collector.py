"""A collector of traces: it takes OTLP over HTTP, as protobuf (the SDKs) and as JSON (Triton), and keeps all spans."""

import base64
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """One span as it arrived; ids in hexadecimal, times in nanoseconds since 1970."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int]
    failed: bool


@dataclass
class Collector:
    """Where spans go, and what has come."""

    url: str
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> dict[str, Span]:
        """A trace's spans by service and name, those of a name numbered from the second on."""
        named: dict[str, Span] = {}
        for span in sorted((one for one in self.spans if one.trace == trace), key=lambda one: one.start_ns):
            name = f"{span.service}: {span.name}"
            named[name if name not in named else f"{name} {sum(key.startswith(name) for key in named) + 1}"] = span
        return named


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect while a block runs."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            message = ExportTraceServiceRequest()
            if self.headers["Content-Type"].startswith("application/json"):
                json_format.Parse(body, message)
                message = _with_hexadecimal_ids(message)
            else:
                message.ParseFromString(body)
            collector.spans.extend(_spans(message))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _with_hexadecimal_ids(message: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """OTLP's JSON writes ids in hexadecimal, which protobuf's reader took for base64."""
    for resource in message.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                for name in ("trace_id", "span_id", "parent_span_id"):
                    setattr(span, name, bytes.fromhex(base64.b64encode(getattr(span, name)).decode()))
    return message


def _spans(message: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in message.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    str(service), span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
                    span.start_time_unix_nano, span.end_time_unix_nano, _values(span.attributes),
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                )  # fmt: skip


def _values(attributes: Any) -> dict[str, str | int]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
