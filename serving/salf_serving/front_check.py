"""Asking nginx itself, as clients do, whether it takes connections and how long its certificate is valid."""

import ipaddress
import socket
import ssl
from pathlib import Path

from salf_serving.errors import FrontError, FrontHangsError

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
#: An HTTP/2 server's first frame is its settings.
_FRAME_HEADER_BYTES, _SETTINGS = 9, 4
_NOT_YET_VALID, _EXPIRED = 9, 10  # OpenSSL's X509_V_ERR_*


def ask_front(address: str, port: int, *, certificate: Path | None, timeout_s: float) -> float | None:
    """Open a connection and wait for nginx's first words; no request is made.

    Args:
        address: IP address that it listens on.
        port: that it listens on.
        certificate: the PEM file that it shows; None: no TLS.
        timeout_s: how long it may take for each step.

    Returns:
        When its certificate expires, as Unix time; None without TLS, or if it shows another one by now.

    Raises:
        FrontHangsError: it says nothing in time.
        FrontError: it refuses the connection, or its certificate is not valid now.
    """
    try:
        with socket.create_connection((_reached_at(address), port), timeout=timeout_s) as connection:
            if certificate is not None:
                return _handshake(connection, certificate)
            connection.sendall(_PREFACE)
            first = connection.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except TimeoutError as error:
        raise FrontHangsError(f"nginx does not answer on port {port}: {error}") from error
    except OSError as error:  # TLS's errors are among them
        raise FrontError(f"nginx does not answer on port {port}: {error}") from error
    if len(first) < _FRAME_HEADER_BYTES or first[3] != _SETTINGS:
        raise FrontError(f"nginx does not answer on port {port} as HTTP/2 wants it")
    return None


def _handshake(connection: socket.socket, certificate: Path) -> float | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The certificate itself is what is trusted, whoever signed it: all that is left to check is its dates.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(connection) as secured:
            shown = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
            raise FrontError(f"the front's certificate is not valid now: {error.verify_message}") from error
        return None
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _reached_at(address: str) -> str:
    """Where to reach what listens on an address, which may stand for all of this host."""
    parsed = ipaddress.ip_address(address)
    if not parsed.is_unspecified:
        return address
    return "127.0.0.1" if parsed.version == 4 else "::1"
