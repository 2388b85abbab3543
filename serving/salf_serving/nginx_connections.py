"""Part of the configuration: where nginx listens, and how many connections one address may have.

Where HTTP/2 is spoken, nginx's `limit_conn` counts requests. Its stream module counts connections: it takes them, and
hands them to the rest of the front over a socket of this host, with their callers' addresses (the PROXY protocol).
"""

import ipaddress
import json
import re
import subprocess
from pathlib import Path

from salf_serving.errors import FrontError
from salf_serving.front_settings import FrontSettings
from salf_serving.nginx_blocks import indented, map_block

TOO_MANY_CONNECTIONS = "too_many_connections"
#: Names the folder of nginx's modules, where it is not the one that nginx was built for.
MODULES_VARIABLE = "SALF_NGINX_MODULES"
_MODULE = "ngx_stream_module.so"
_ASK_S = 10.0
#: What the access log says of a connection that is turned away; the fields are those of requests.
_TURNED_AWAY = {
    "time": "$time_iso8601", "request_id": "", "trace": "", "client": "", "call": "connection", "by": "front",
    "reason": TOO_MANY_CONNECTIONS, "grpc_status": "none", "http_status": 503, "request_bytes": 0, "answer_bytes": 0,
    "seconds": 0, "server_seconds": "", "span": "",
}  # fmt: skip


def find_stream_module(nginx: Path, folder: str | None) -> Path | None:
    """Nginx's stream module; None if it is built in.

    Args:
        nginx: the program.
        folder: of its modules; None: as it was built.

    Raises:
        FrontError: there is none.
    """
    try:
        said = subprocess.run([str(nginx), "-V"], capture_output=True, text=True, timeout=_ASK_S, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise FrontError(f"{nginx} does not say how it was built: {error}") from error
    if re.search(r"--with-stream(\s|$)", said):
        return None
    built = re.search(r"--modules-path=(\S+)", said)
    module = Path(folder or (built[1] if built else "modules")) / _MODULE
    if not module.is_file():
        raise FrontError(
            f"connections_per_client needs nginx's stream module, and there is no {module}; install it with "
            "`apt-get install --no-install-recommends libnginx-mod-stream`, or leave that setting out"
        )
    return module


def listen_lines(settings: FrontSettings, *, port: int, socket: Path) -> list[str]:
    """Where requests come from, encrypted or not.

    Args:
        settings: what is let through.
        port: that clients connect to.
        socket: where connections come from, if they are counted.
    """
    ssl = "" if settings.certificate is None else " ssl"
    lines = [f"listen {_address(settings, port)}{ssl} http2 backlog=1024;"]
    if settings.connections_per_client is not None:
        lines = [
            f'listen "unix:{socket}"{ssl} http2 proxy_protocol backlog=1024;',
            "set_real_ip_from unix:;",
            "real_ip_header proxy_protocol;",
        ]
    if settings.certificate is not None:
        lines += [
            f'ssl_certificate "{settings.certificate}";',
            f'ssl_certificate_key "{settings.certificate_key}";',
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_session_tickets off;",
        ]
    if settings.client_ca is not None:
        lines += [f'ssl_client_certificate "{settings.client_ca}";', "ssl_verify_client on;", "ssl_verify_depth 3;"]
    return lines


def stream_lines(settings: FrontSettings, *, port: int, socket: Path, access_log: Path) -> list[str]:
    """The block that counts connections, if they are counted. The supervisor's own are not.

    Args:
        settings: what is let through.
        port: that clients connect to.
        socket: that the rest of the front listens on.
        access_log: gets a line for each connection that is turned away.
    """
    if settings.connections_per_client is None:
        return []
    # The rest of the front closes idle and slow ones; this is for what it knows nothing of any more.
    longest_s = settings.idle_timeout_s + settings.answer_timeout_s + settings.slow_timeout_s
    own = [f'{address} ""' for address in _supervisors_addresses(settings)]
    line = _TURNED_AWAY | ({"address": "$remote_addr"} if settings.log_addresses else {})
    lines = [
        *map_block("$remote_addr", "$salf_address", "default $binary_remote_addr", *own),
        *map_block("$limit_conn_status", "$salf_turned_away", 'default ""', "REJECTED 1"),
        f"log_format salf escape=json '{json.dumps(line, separators=(',', ':'))}';",
        f'access_log "{access_log}" salf buffer=32k flush=1s if=$salf_turned_away;',
        "limit_conn_zone $salf_address zone=salf_connections:10m;",
        "limit_conn_log_level info;",
        "server {",
        f"    listen {_address(settings, port)} backlog=1024;",
        f"    limit_conn salf_connections {settings.connections_per_client};",
        f'    proxy_pass "unix:{socket}";',
        "    proxy_protocol on;",
        "    proxy_connect_timeout 2s;",
        f"    proxy_timeout {longest_s}s;",
        "    proxy_buffer_size 64k;",
        "}",
    ]
    return ["stream {", *indented(lines), "}"]


def _supervisors_addresses(settings: FrontSettings) -> list[str]:
    """What it may come from when it asks the front: the loopback, or the address that the front listens on."""
    listens = ipaddress.ip_address(settings.address)
    others = [] if listens.is_unspecified else [str(listens)]
    return list(dict.fromkeys(["127.0.0.1", "::1", *others]))  # nginx takes each once


def _address(settings: FrontSettings, port: int) -> str:
    address = f"[{settings.address}]" if ipaddress.ip_address(settings.address).version == 6 else settings.address
    return f"{address}:{port}"
