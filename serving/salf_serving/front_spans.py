"""The front's part of a trace: nginx 1.22 makes no spans, so they are made of its access log."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from salf_serving.status import Status as ServerStatus
from salf_serving.tracing import service_name

_EXPORT_TIMEOUT_S = 5.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("salf_serving")


class FrontSpans:
    """Sends a span for each request that the front let into a trace.

    Its parent is the caller's span, if there is one, and Triton's spans are its children: the front handed its id on.
    """

    def __init__(self, url: str, told: ServerStatus) -> None:
        """Send nothing yet.

        Args:
            url: of a collector that takes OTLP over HTTP.
            told: counts what could not be sent.
        """
        # Each failure is counted; a line and a stack trace for each would flood the log while a collector is away.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._resource = Resource.create({"service.name": service_name()})
        self._processor = BatchSpanProcessor(_Counting(OTLPSpanExporter(url, timeout=_EXPORT_TIMEOUT_S), told))

    def take(self, entry: Mapping[str, Any]) -> None:
        """Make a span of a line of the access log, if its request is traced.

        Raises:
            ValueError, KeyError, TypeError: the line is not as nginx was told to write it.
        """
        if not entry["span"]:
            return
        _, trace, caller, _ = entry["trace"].split("-")
        own = SpanContext(int(trace, 16), int(entry["span"], 16), is_remote=False, trace_flags=_SAMPLED)
        parent = (
            None
            if caller == entry["span"]
            else SpanContext(own.trace_id, int(caller, 16), is_remote=True, trace_flags=_SAMPLED)
        )
        end_ns = round(float(entry["ended_s"]) * 1e9)
        code = entry["grpc_status"]
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.method": entry["call"],
            "salf.request_id": entry["request_id"],
            "salf.answered_by": entry["by"],
            "salf.request_bytes": int(entry["request_bytes"]),
            "salf.answer_bytes": int(entry["answer_bytes"]),
        }
        if code.isdecimal():
            attributes["rpc.grpc.status_code"] = int(code)
        if entry["reason"]:
            attributes["salf.reason"] = entry["reason"]
        self._processor.on_end(
            ReadableSpan(
                f"front {entry['call']}",
                context=own,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                kind=SpanKind.SERVER,
                status=Status(StatusCode.UNSET if code == "0" else StatusCode.ERROR),
                start_time=end_ns - round(float(entry["seconds"]) * 1e9),
                end_time=end_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Send what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # as the SDK left it


class _Counting(SpanExporter):
    """An exporter whose failures are counted."""

    def __init__(self, exporter: SpanExporter, told: ServerStatus) -> None:
        self._exporter, self._told = exporter, told

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        try:
            result = self._exporter.export(spans)
        except Exception:  # noqa: BLE001 - whatever a collector does, the server goes on
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._told.lost_spans.inc(len(spans))
        return result

    def shutdown(self) -> None:
        """End it."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what is left."""
        return self._exporter.force_flush(timeout_millis)
