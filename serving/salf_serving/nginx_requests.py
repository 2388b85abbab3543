"""Part of the configuration: what nginx calls a request by, which trace it is part of, and what is logged of it."""

from collections.abc import Sequence
from pathlib import Path

from salf_serving.front_settings import FrontSettings
from salf_serving.nginx_blocks import indented, map_block

_ID = r"[A-Za-z0-9._-]{1,64}"
_SPAN = r"[0-9a-f]{16}"
_TRACE_ID = r"(?!0{32})[0-9a-f]{32}"
_CALLERS_SPAN = r"(?!0{16})[0-9a-f]{16}"
_TRACE = rf"00-{_TRACE_ID}-{_CALLERS_SPAN}-[0-9a-f]{{2}}"
#: Triton 2.51 reads a caller's trace up to the next zero byte, beyond the header's end, and drops what is then too
#: long, depending on what lies there. No text ends in a zero byte, so the front's own header brings one along.
_END = "\0"
#: Fields of the access log that traces need: the front's own span, if the request has one, and when it ended.
_TRACED_FIELDS = {"span": '"$salf_traced_span"', "ended_s": '"$msec"'}
#: Name in the access log -> JSON value with nginx's variables.
_LOG_FIELDS = {
    "time": '"$time_iso8601"',
    "request_id": '"$salf_request_id"',
    "trace": '"$salf_trace"',
    "client": '"$salf_client"',
    "call": '"$salf_call"',
    "by": '"$salf_by"',
    "reason": '"$salf_reason"',
    "grpc_status": '"$salf_status"',
    "http_status": "$status",
    "request_bytes": "$request_length",
    "answer_bytes": "$bytes_sent",
    "seconds": "$request_time",
    "server_seconds": '"$upstream_response_time"',
}


def request_lines(
    settings: FrontSettings, access_log: Path, *, calls: Sequence[str], service: str, traced_share: float | None
) -> list[str]:
    """Request ids, traces and the access log.

    Args:
        settings: what is let through.
        access_log: one JSON object per request.
        calls: names that may be logged.
        service: path that they lie under.
        traced_share: of the requests without a caller's trace, those that begin one; None: nothing is traced.
    """
    return [
        "# A request keeps its caller's id and trace, if they are well-formed; otherwise both are made of one number.",
        *map_block("$http_x_request_id", "$salf_request_id", "default $request_id", f'"~^{_ID}$" $http_x_request_id'),
        *map_block("$request_id", "$salf_new_trace", f'"~^(?<salf_span>{_SPAN})" "00-$request_id-$salf_span-01"'),
        *map_block("$http_traceparent", "$salf_trace", "default $salf_new_trace", f'"~^{_TRACE}$" $http_traceparent'),
        *([] if traced_share is None else _tracing(traced_share)),
        "",
        "# The log: no pictures, no answers, no tokens, no text that a client made up.",
        *map_block("$uri", "$salf_call", "default other", f'"~^{service}/(?<salf_name>{"|".join(calls)})$" $salf_name'),
        *map_block(
            '"$sent_trailer_grpc_status$sent_http_grpc_status"',
            "$salf_status",
            "default none",
            '"~^(?<salf_code>[0-9]+)" $salf_code',
        ),
        "log_format salf escape=json",
        *_log_fields(settings, traced=traced_share is not None),
        f'access_log "{access_log}" salf buffer=32k flush=1s;',
    ]


def _tracing(share: float) -> list[str]:
    """What is traced, and under which span: a caller's trace as the caller says, of the others a share."""
    drawn = ["* 1;"] if share == 1 else [f"{share:.2%} 1;", "* 0;"] if share > 0 else ["* 0;"]
    return [
        "",
        "# Traces: the front hands its own span's id on, with a zero byte at the end, which Triton needs; without one",
        "# Triton makes no trace.",
        *map_block("$request_id", "$salf_own_span", f'"~^(?<salf_first>{_SPAN})" $salf_first'),
        *map_block(
            "$http_traceparent", "$salf_trace_id", "default $request_id",
            f'"~^00-(?<salf_given>{_TRACE_ID})-{_CALLERS_SPAN}-[0-9a-f]{{2}}$" $salf_given',
        ),
        'split_clients "$request_id" $salf_drawn {', *indented(drawn), "}",
        *map_block(
            "$http_traceparent", "$salf_sampled", "default $salf_drawn",
            f'"~^00-{_TRACE_ID}-{_CALLERS_SPAN}-[0-9a-f][02468ace]$" 0', f'"~^{_TRACE}$" 1',
        ),
        *map_block(
            "$salf_sampled", "$salf_passed", 'default ""', f'1 "00-$salf_trace_id-$salf_own_span-01{_END}"',
        ),
        *map_block("$salf_sampled", "$salf_traced_span", 'default ""', "1 $salf_own_span"),
    ]  # fmt: skip


def _log_fields(settings: FrontSettings, *, traced: bool) -> list[str]:
    fields = _LOG_FIELDS | (_TRACED_FIELDS if traced else {})
    if settings.log_addresses:
        fields["address"] = '"$remote_addr"'
    text = [f'"{name}":{value}' for name, value in fields.items()]
    return [f"    '{{{text[0]},'", *(f"    '{field},'" for field in text[1:-1]), f"    '{text[-1]}}}';"]
