"""nginx's configuration as text: what the front's settings mean."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from salf_serving.command import CONTROL_HEADER
from salf_serving.front_settings import FrontSettings
from salf_serving.ports import LOOPBACK

_SERVICE = "/inference.GRPCInferenceService"
#: Read-only calls of KServe v2 that pass. Streams do not: one could carry any number of inferences past the limits.
_QUESTIONS = ("ServerLive", "ServerMetadata", "ModelMetadata", "ModelConfig")
#: Calls that ask whether inferences are answered; they are refused until the supervisor's own probes are right.
_READINESS = (f"{_SERVICE}/ServerReady", f"{_SERVICE}/ModelReady", "/grpc.health.v1.Health/Check")
_INDEX = "RepositoryIndex"
_INFER = "ModelInfer"
_CALLS = (*_QUESTIONS, "ServerReady", "ModelReady", _INDEX, _INFER)
_ID = r"[A-Za-z0-9._-]{1,64}"
_SPAN = r"[0-9a-f]{16}"
_TRACE = r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
#: Name in the access log -> JSON value with nginx's variables.
_LOG_FIELDS = {
    "time": '"$time_iso8601"',
    "request_id": '"$salf_request_id"',
    "trace": '"$salf_trace"',
    "client": '"$salf_client"',
    "call": '"$salf_call"',
    "by": '"$salf_by"',
    "grpc_status": '"$salf_status"',
    "http_status": "$status",
    "request_bytes": "$request_length",
    "answer_bytes": "$bytes_sent",
    "seconds": "$request_time",
    "server_seconds": '"$upstream_response_time"',
}
#: Questions under way at once, in all.
_MOST_QUESTIONS = 64

#: HTTP status inside nginx -> gRPC status and message that the client gets.
_ANSWERS = (
    ((400, 405, 408, 414, 431, 494), 3, "the request is malformed or came too slowly"),
    ((401, 403, 495, 496, 497), 16, "a valid token or client certificate is needed"),
    ((404, 418), 12, "this call is not offered here"),
    ((413,), 8, "the request is larger than this server takes"),
    ((429,), 8, "too many requests at once or too fast; try again later"),
    ((500, 501), 13, "the front failed"),
    ((502, 503), 14, "the server is not ready; try again later"),
    ((504,), 4, "the server did not answer in time"),
)


@dataclass(frozen=True, kw_only=True)
class FrontFiles:
    """Where nginx finds and leaves things.

    Attributes:
        folder: of this run; its files are closed to other users.
        ready: exists while all models answer right.
        access_log: one JSON object per request.
        error_log: nginx's own complaints.
    """

    folder: Path
    ready: Path
    access_log: Path
    error_log: Path

    @property
    def config(self) -> Path:
        """The configuration; holds Triton's control key."""
        return self.folder / "nginx.conf"

    @property
    def pid(self) -> Path:
        """Nginx's process id, written when it listens (and emptied when it checks a configuration that names it)."""
        return self.folder / "nginx.pid"

    @property
    def token_map(self) -> Path:
        """Included by the configuration; holds clients' tokens."""
        return self.folder / "tokens.map"


def nginx_config(
    settings: FrontSettings,
    files: FrontFiles,
    *,
    port: int,
    triton_port: int,
    control_key: str,
    worker_user: str | None = None,
) -> str:
    """The whole configuration.

    Args:
        settings: what is let through.
        files: where things lie; their paths must hold no quotation mark, dollar sign or line end.
        port: that clients connect to.
        triton_port: Triton's gRPC port on the loopback.
        control_key: opens Triton's repository index, and more that the front does not pass.
        worker_user: whom nginx's workers run as; None where nginx is not started by root.
    """
    blocks = [*_main(settings, files, worker_user), "http {", *_indented(_http(settings, files, triton_port))]
    blocks += _indented(["server {", *_indented(_server(settings, files, port, control_key)), "}"])
    return "\n".join([*blocks, "}", ""])


def _main(settings: FrontSettings, files: FrontFiles, worker_user: str | None) -> list[str]:
    return [
        "# Written by `salf serve`; holds a secret.",
        "daemon off;",
        *([f"user {worker_user};"] if worker_user else []),
        f"worker_processes {settings.workers};",
        f"worker_rlimit_nofile {settings.max_connections + 256};",
        f"worker_shutdown_timeout {settings.answer_timeout_s}s;",
        f'pid "{files.pid}";',
        # From "error" on, lines name clients' addresses and requests.
        f'error_log "{files.error_log}" {"warn" if settings.log_addresses else "crit"};',
        f"events {{ worker_connections {settings.max_connections}; }}",
    ]


def _http(settings: FrontSettings, files: FrontFiles, triton_port: int) -> list[str]:
    rate = settings.requests_per_second_per_client
    limit_req = [] if rate is None else [f"limit_req_zone $salf_key zone=salf_rate:10m rate={rate}r/s;"]
    return [
        "default_type application/grpc;",
        "server_tokens off;",
        *(f'{kind}_temp_path "{files.folder}/{kind}";' for kind in _TEMPORARY),
        "",
        "# Who asks: a token's name, a certificate's subject, or nobody known; and what its requests are counted by.",
        *_clients(settings, files),
        *_map("$salf_client", "$salf_key", '"" $binary_remote_addr', "default $salf_client"),
        *_map('""', "$salf_everyone", "default all"),
        "",
        "# A request keeps its caller's id and trace, if they are well-formed; otherwise both are made of one number.",
        *_map("$http_x_request_id", "$salf_request_id", "default $request_id", f'"~^{_ID}$" $http_x_request_id'),
        *_map("$request_id", "$salf_new_trace", f'"~^(?<salf_span>{_SPAN})" "00-$request_id-$salf_span-01"'),
        *_map("$http_traceparent", "$salf_trace", "default $salf_new_trace", f'"~^{_TRACE}$" $http_traceparent'),
        "",
        "# The log: no pictures, no answers, no tokens, no text that a client made up.",
        *_map("$uri", "$salf_call", "default other", f'"~^{_SERVICE}/(?<salf_name>{"|".join(_CALLS)})$" $salf_name'),
        *_map(
            '"$sent_trailer_grpc_status$sent_http_grpc_status"',
            "$salf_status",
            "default none",
            '"~^(?<salf_code>[0-9]+)" $salf_code',
        ),
        "log_format salf escape=json",
        *_log_fields(settings),
        f'access_log "{files.access_log}" salf buffer=32k flush=1s;',
        "",
        "limit_conn_zone $salf_everyone zone=salf_all:1m;",
        "limit_conn_zone $salf_key zone=salf_client:10m;",
        "limit_conn_zone $salf_everyone zone=salf_questions:1m;",
        *limit_req,
        "limit_conn_status 429;",
        "limit_req_status 429;",
        "limit_conn_log_level info;",
        "limit_req_log_level info;",
        "",
        f"client_max_body_size {settings.max_request_bytes};",
        "large_client_header_buffers 4 16k;",
        f"client_header_timeout {settings.slow_timeout_s}s;",
        f"client_body_timeout {settings.slow_timeout_s}s;",
        f"send_timeout {settings.slow_timeout_s}s;",
        f"keepalive_timeout {settings.idle_timeout_s}s;",
        "keepalive_requests 1000000;",
        "http2_max_concurrent_streams 128;",
        "reset_timedout_connection on;",
        "",
        "upstream salf_triton {",
        f"    server {LOOPBACK}:{triton_port} max_fails=0;",
        f"    keepalive {settings.concurrent_requests + 8};",
        "    keepalive_requests 1000000;",
        "    keepalive_timeout 30s;",
        "}",
        "",
    ]


def _clients(settings: FrontSettings, files: FrontFiles) -> list[str]:
    if settings.tokens is not None:
        return _map("$http_authorization", "$salf_client", 'default ""', f'include "{files.token_map}"')
    if settings.client_ca is not None:
        return _map("$ssl_client_s_dn", "$salf_client", "default $ssl_client_s_dn")
    return _map('""', "$salf_client", 'default ""')


def _log_fields(settings: FrontSettings) -> list[str]:
    fields = dict(_LOG_FIELDS)
    if settings.log_addresses:
        fields["address"] = '"$remote_addr"'
    text = [f'"{name}":{value}' for name, value in fields.items()]
    return [f"    '{{{text[0]},'", *(f"    '{field},'" for field in text[1:-1]), f"    '{text[-1]}}}';"]


def _map(source: str, target: str, *cases: str) -> list[str]:
    return [f"map {source} {target} {{", *_indented(f"{case};" for case in cases), "}"]


def _server(settings: FrontSettings, files: FrontFiles, port: int, control_key: str) -> list[str]:
    rate = settings.requests_per_second_per_client
    limit_req = [] if rate is None else [f"limit_req zone=salf_rate burst={settings.burst_per_client} nodelay;"]
    request_id = "add_header x-request-id $salf_request_id always;"
    questions = ["limit_conn salf_questions " + f"{_MOST_QUESTIONS};", "grpc_pass grpc://salf_triton;"]
    not_ready = [f'if (!-f "{files.ready}") {{ return 503; }}']
    lines = [*_listen(settings, port), "", *_error_pages(), *_token_check(settings), ""]
    lines += [
        "set $salf_by triton;",
        request_id,
        "grpc_set_header x-request-id $salf_request_id;",
        "grpc_set_header traceparent $salf_trace;",
        'grpc_set_header authorization "";',
        f'grpc_set_header {CONTROL_HEADER} "";',
        "grpc_socket_keepalive on;",
        "grpc_buffer_size 64k;",
        "grpc_connect_timeout 2s;",
        f"grpc_send_timeout {settings.slow_timeout_s}s;",
        f"grpc_read_timeout {settings.answer_timeout_s}s;",
        "",
    ]
    lines += _location(
        f"= {_SERVICE}/{_INFER}",
        [
            f"limit_conn salf_all {settings.concurrent_requests};",
            f"limit_conn salf_client {settings.concurrent_requests_per_client};",
            *limit_req,
            "grpc_pass grpc://salf_triton;",
        ],
    )
    for call in _QUESTIONS:
        lines += _location(f"= {_SERVICE}/{call}", questions)
    for path in _READINESS:
        lines += _location(f"= {path}", [*not_ready, *questions])
    index = [
        "grpc_set_header x-request-id $salf_request_id;",
        "grpc_set_header traceparent $salf_trace;",
        'grpc_set_header authorization "";',
        f'grpc_set_header {CONTROL_HEADER} "{control_key}";',
        *questions,
    ]
    lines += _location(f"= {_SERVICE}/{_INDEX}", index)
    lines += _location("/", ["return 404;"])
    for statuses, code, message in _ANSWERS:
        headers = [request_id, f"add_header grpc-status {code} always;", f'add_header grpc-message "{message}" always;']
        lines += _location(f"@answer_{statuses[0]}", ["set $salf_by front;", *headers, 'return 200 "";'])
    return lines


def _listen(settings: FrontSettings, port: int) -> list[str]:
    address = f"[{settings.address}]" if ipaddress.ip_address(settings.address).version == 6 else settings.address
    if settings.certificate is None:
        return [f"listen {address}:{port} http2 backlog=1024;"]
    lines = [
        f"listen {address}:{port} ssl http2 backlog=1024;",
        f'ssl_certificate "{settings.certificate}";',
        f'ssl_certificate_key "{settings.certificate_key}";',
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_session_tickets off;",
    ]
    if settings.client_ca is not None:
        lines += [f'ssl_client_certificate "{settings.client_ca}";', "ssl_verify_client on;", "ssl_verify_depth 3;"]
    return lines


def _error_pages() -> list[str]:
    return [f"error_page {' '.join(map(str, statuses))} = @answer_{statuses[0]};" for statuses, _, _ in _ANSWERS]


def _token_check(settings: FrontSettings) -> list[str]:
    return [] if settings.tokens is None else ['if ($salf_client = "") { return 401; }']


def _location(name: str, lines: Iterable[str]) -> list[str]:
    return [f"location {name} {{", *_indented(lines), "}"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
