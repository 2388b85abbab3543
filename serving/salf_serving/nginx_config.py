"""nginx's configuration as text: what the front's settings mean."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from salf_serving.command import CONTROL_HEADER
from salf_serving.front_settings import FrontSettings
from salf_serving.nginx_blocks import indented, map_block
from salf_serving.nginx_connections import TOO_MANY_CONNECTIONS, listen_lines, stream_lines
from salf_serving.nginx_requests import request_lines
from salf_serving.ports import LOOPBACK

_SERVICE = "/inference.GRPCInferenceService"
#: Read-only calls of KServe v2 that pass. Streams do not: one could carry any number of inferences past the limits.
_QUESTIONS = ("ServerLive", "ServerMetadata", "ModelMetadata", "ModelConfig")
#: Calls that ask whether inferences are answered; they are refused until the supervisor's own probes are right.
_READINESS = (f"{_SERVICE}/ServerReady", f"{_SERVICE}/ModelReady", "/grpc.health.v1.Health/Check")
_INDEX = "RepositoryIndex"
_INFER = "ModelInfer"
_CALLS = (*_QUESTIONS, "ServerReady", "ModelReady", _INDEX, _INFER)
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
#: Questions under way at once, in all.
_MOST_QUESTIONS = 64

#: HTTP status inside nginx -> reason that is counted, and gRPC status and message that the client gets.
_ANSWERS = (
    ((400, 405, 408, 414, 431, 494), "malformed", 3, "the request is malformed or came too slowly"),
    ((401, 403, 495, 496, 497), "unauthenticated", 16, "a valid token or client certificate is needed"),
    ((404, 418), "unknown_call", 12, "this call is not offered here"),
    ((413,), "too_large", 8, "the request is larger than this server takes"),
    ((429,), "too_many", 8, "too many requests at once or too fast; try again later"),
    ((500, 501), "front_failed", 13, "the front failed"),
    ((502, 503), "not_ready", 14, "the server is not ready; try again later"),
    ((504,), "late", 4, "the server did not answer in time"),
)
#: HTTP status inside nginx: an inference that Triton may know no model for, since one is taken out.
_WHILE_OUT = 419
#: What such a caller gets in the place of NOT_FOUND, which would tell it to give up: gRPC status and message.
_NOT_FOUND, _UNAVAILABLE, _MENDED = 5, 14, "a model is being mended; try again later"
REFUSAL_REASONS = (*(reason for _, reason, _, _ in _ANSWERS), TOO_MANY_CONNECTIONS)


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
    def right(self) -> Path:
        """Exists while no model's last answer to its probe was a wrong one; lies beside `ready`."""
        return self.ready.with_name("right")

    @property
    def out(self) -> Path:
        """Exists while a model is taken out of Triton to be mended; lies beside `ready`."""
        return self.ready.with_name("out")

    @property
    def socket(self) -> Path:
        """Takes connections from nginx's stream module, if those are counted; nginx's workers can reach it there."""
        return self.ready.with_name("front.sock")

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
    traced_share: float | None = None,
    stream_module: Path | None = None,
) -> str:
    """The whole configuration.

    Args:
        settings: what is let through.
        files: where things lie; their paths must hold no quotation mark, dollar sign or line end.
        port: that clients connect to.
        triton_port: Triton's gRPC port on the loopback.
        control_key: opens Triton's repository index, and more that the front does not pass.
        worker_user: whom nginx's workers run as; None where nginx is not started by root.
        traced_share: of the requests without a caller's trace, those that begin one; None: nothing is traced.
        stream_module: to be loaded where connections are counted; None: it is built in.
    """
    http = _http(settings, files, triton_port, traced_share)
    server = _server(
        settings, files, port, control_key, passed="$salf_trace" if traced_share is None else "$salf_passed"
    )
    blocks = _main(settings, files, worker_user, stream_module)
    blocks += stream_lines(settings, port=port, socket=files.socket, access_log=files.access_log)
    blocks += ["http {", *indented(http)]
    blocks += indented(["server {", *indented(server), "}"])
    return "\n".join([*blocks, "}", ""])


def _main(settings: FrontSettings, files: FrontFiles, worker_user: str | None, stream_module: Path | None) -> list[str]:
    return [
        "# Written by `salf serve`; holds a secret.",
        "daemon off;",
        *([f'load_module "{stream_module}";'] if stream_module is not None else []),
        *([f"user {worker_user};"] if worker_user else []),
        f"worker_processes {settings.workers};",
        f"worker_rlimit_nofile {settings.max_connections + 256};",
        f"worker_shutdown_timeout {settings.answer_timeout_s}s;",
        f'pid "{files.pid}";',
        # Up to "crit" (some failures of TLS), lines name clients' addresses and requests.
        f'error_log "{files.error_log}" {"warn" if settings.log_addresses else "alert"};',
        f"events {{ worker_connections {settings.max_connections}; }}",
    ]


def _http(settings: FrontSettings, files: FrontFiles, triton_port: int, traced_share: float | None) -> list[str]:
    rate = settings.requests_per_second_per_client
    limit_req = [] if rate is None else [f"limit_req_zone $salf_key zone=salf_rate:10m rate={rate}r/s;"]
    return [
        "default_type application/grpc;",
        "server_tokens off;",
        *(f'{kind}_temp_path "{files.folder}/{kind}";' for kind in _TEMPORARY),
        "",
        "# Who asks: a token's name, a certificate's subject, or nobody known; and what its requests are counted by.",
        *_clients(settings, files),
        *map_block("$salf_client", "$salf_key", '"" $binary_remote_addr', "default $salf_client"),
        *map_block('""', "$salf_everyone", "default all"),
        *_told_anew(),
        "",
        *request_lines(settings, files.access_log, calls=_CALLS, service=_SERVICE, traced_share=traced_share),
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
        f"keepalive_time {settings.connection_age_s}s;",
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


def _told_anew() -> list[str]:
    """Status and message of an answer, out of its trailer, or an error's headers, if that is all that it is."""
    status, message = (f"$upstream_trailer_grpc_{part}$upstream_http_grpc_{part}" for part in ("status", "message"))
    return [
        *map_block(f'"{status}"', "$salf_told_status", f'default "{status}"', f"{_NOT_FOUND} {_UNAVAILABLE}"),
        *map_block(f'"{status}"', "$salf_told_message", f'default "{message}"', f'{_NOT_FOUND} "{_MENDED}"'),
    ]


def _clients(settings: FrontSettings, files: FrontFiles) -> list[str]:
    if settings.tokens is not None:
        return map_block("$http_authorization", "$salf_client", 'default ""', f'include "{files.token_map}"')
    if settings.client_ca is not None:
        return map_block("$ssl_client_s_dn", "$salf_client", "default $ssl_client_s_dn")
    return map_block('""', "$salf_client", 'default ""')


def _server(settings: FrontSettings, files: FrontFiles, port: int, control_key: str, *, passed: str) -> list[str]:
    rate = settings.requests_per_second_per_client
    limit_req = [] if rate is None else [f"limit_req zone=salf_rate burst={settings.burst_per_client} nodelay;"]
    request_id = "add_header x-request-id $salf_request_id always;"
    questions = ["limit_conn salf_questions " + f"{_MOST_QUESTIONS};", "grpc_pass grpc://salf_triton;"]
    not_ready = [f'if (!-f "{files.ready}") {{ return 503; }}']
    lines = [*listen_lines(settings, port=port, socket=files.socket), "", *_error_pages(), *_token_check(settings), ""]
    lines += [
        "set $salf_by triton;",
        'set $salf_reason "";',
        request_id,
        "grpc_set_header x-request-id $salf_request_id;",
        f"grpc_set_header traceparent {passed};",
        'grpc_set_header authorization "";',
        f'grpc_set_header {CONTROL_HEADER} "";',
        "grpc_socket_keepalive on;",
        "grpc_buffer_size 64k;",
        "grpc_connect_timeout 2s;",
        f"grpc_send_timeout {settings.slow_timeout_s}s;",
        f"grpc_read_timeout {settings.answer_timeout_s}s;",
        "",
    ]
    infer = [
        f"limit_conn salf_all {settings.concurrent_requests};",
        f"limit_conn salf_client {settings.concurrent_requests_per_client};",
        *limit_req,
        "grpc_pass grpc://salf_triton;",
    ]
    closed = f'if (!-f "{files.right}") {{ return 503; }}'
    while_out = f'if (-f "{files.out}") {{ return {_WHILE_OUT}; }}'
    lines += _location(f"= {_SERVICE}/{_INFER}", [closed, while_out, "recursive_error_pages on;", *infer])
    told_anew = [
        f"{how};" for part in ("status", "message")
        for how in (f"grpc_hide_header grpc-{part}", f"add_trailer grpc-{part} $salf_told_{part} always")
    ]  # fmt: skip
    lines += [f"error_page {_WHILE_OUT} = @while_out;", *_location("@while_out", [request_id, *told_anew, *infer])]
    for call in _QUESTIONS:
        lines += _location(f"= {_SERVICE}/{call}", questions)
    for path in _READINESS:
        lines += _location(f"= {path}", [*not_ready, *questions])
    index = [
        "grpc_set_header x-request-id $salf_request_id;",
        f"grpc_set_header traceparent {passed};",
        'grpc_set_header authorization "";',
        f'grpc_set_header {CONTROL_HEADER} "{control_key}";',
        *questions,
    ]
    lines += _location(f"= {_SERVICE}/{_INDEX}", index)
    lines += _location("/", ["return 404;"])
    for statuses, reason, code, message in _ANSWERS:
        headers = [request_id, f"add_header grpc-status {code} always;", f'add_header grpc-message "{message}" always;']
        lines += _location(
            f"@answer_{statuses[0]}", ["set $salf_by front;", f"set $salf_reason {reason};", *headers, 'return 200 "";']
        )
    return lines


def _error_pages() -> list[str]:
    return [f"error_page {' '.join(map(str, statuses))} = @answer_{statuses[0]};" for statuses, *_ in _ANSWERS]


def _token_check(settings: FrontSettings) -> list[str]:
    return [] if settings.tokens is None else ['if ($salf_client = "") { return 401; }']


def _location(name: str, lines: Iterable[str]) -> list[str]:
    return [f"location {name} {{", *indented(lines), "}"]
