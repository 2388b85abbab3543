"""How to reach an endpoint: address, encryption, token, sizes, compression."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from salf_client.errors import InvalidAddressError, InvalidConnectionError

#: Of the numbers that gRPC takes.
_MOST = 2**31 - 1
#: A name that ends with -bin holds bytes, which nothing here sends.
_HEADER_NAME = re.compile(r"(?!.*-bin$)[0-9a-z_.-]+")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Encryption, and with a certificate of one's own mutual authentication.

    Attributes:
        ca: PEM file of the authority that signed the server's certificate; None takes gRPC's own roots.
        certificate: PEM file of the client's certificate, for servers that ask for one.
        key: PEM file of its private key.
        server_name: name in the server's certificate, if it is not the host of the address.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidConnectionError("a client's certificate and its key belong together; give both or none")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Settings of the connection, the same for every endpoint.

    Attributes:
        tls: encryption; None sends in the clear.
        token: sent as `authorization: Bearer TOKEN`; a function is asked before each call, so that tokens may change.
            Without `tls` a token is refused, unless the endpoint is on this machine.
        headers: more gRPC metadata, lower-case names.
        max_message_bytes: largest request and answer.
        compression: of requests; the server answers as it likes. Pixels and JPEGs rarely get smaller.
        shared_memory: hand pixels over through /dev/shm; for a server on this machine that opens that interface.
        keepalive_s: seconds between signs of life on a connection, which find a dead network; None sends none.
    """

    tls: Tls | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_message_bytes: int = 64 * 2**20
    compression: Literal["gzip", "deflate"] | None = None
    shared_memory: bool = False
    keepalive_s: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_message_bytes, int) or not 1 <= self.max_message_bytes <= _MOST:
            raise InvalidConnectionError(
                f"max_message_bytes must be a whole number from 1 to {_MOST}, but it is {self.max_message_bytes}"
            )
        # Written so that NaN fails.
        if self.keepalive_s is not None and not 0 < self.keepalive_s <= _MOST / 1e3:
            raise InvalidConnectionError(
                f"keepalive_s must be a positive number of seconds, {_MOST // 1000} at most, "
                f"but it is {self.keepalive_s}"
            )
        if self.compression not in (None, "gzip", "deflate"):
            raise InvalidConnectionError(f"compression must be gzip, deflate or None, not {self.compression!r}")
        bad = [name for name in self.headers if not _HEADER_NAME.fullmatch(name)]
        if bad:
            raise InvalidConnectionError(
                f"names of headers must be lower case letters, digits, '-', '_' and '.', and not end with -bin, "
                f"but these are not: {', '.join(bad)}"
            )
        for name, value in self.headers.items():
            _check_travels(f"the header {name}", value)
        if self.token is not None and not callable(self.token):
            _check_travels("the token", self.token)

    def check_address(self, address: str) -> None:
        """Refuse what is no `host:port`, and a token that would travel in the clear.

        Raises:
            InvalidAddressError: the address has no port or names another protocol.
            InvalidConnectionError: a token without encryption to another machine.
        """
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not host or "//" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidAddressError(
                f"'{address}' is no address of a gRPC server; expected host:port, such as localhost:8001"
            )
        if self.token is not None and self.tls is None and not _is_loopback(host):
            raise InvalidConnectionError(
                f"a token for {address} would travel in the clear; give Connection(tls=Tls(...)) as well"
            )

    def metadata(self, headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
        """GRPC metadata of one call; None if there is none.

        Args:
            headers: of this call alone.

        Raises:
            InvalidConnectionError: a token that was asked for cannot travel in a header.
        """
        if self.token is None and not self.headers and not headers:
            return None
        token = self.token
        if callable(token):
            token = token()
            _check_travels("the token", token)
        bearer = () if token is None else (("authorization", f"Bearer {token}"),)
        return (*bearer, *self.headers.items(), *(headers or {}).items())

    def channel_options(self) -> list[tuple[str, int | str]]:
        """GRPC's channel arguments."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # A client made just after a failed one must not inherit its back-off.
            ("grpc.use_local_subchannel_pool", 1),
            # A server that comes back is found quickly.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # Not a pause, whatever its name: how long an attempt to connect may take, encryption included.
            ("grpc.min_reconnect_backoff_ms", 5000),
            # Which calls are repeated is decided here, where the budget is known. What gRPC sends again by itself is
            # what the server never read, having closed an old connection just then; it must fit into this buffer.
            ("grpc.enable_retries", 1),
            ("grpc.per_rpc_retry_buffer_size", self.max_message_bytes),
        ]
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        if self.keepalive_s is not None:
            options += [("grpc.keepalive_time_ms", max(1, round(1e3 * self.keepalive_s)))]
        return options

    def pem_files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Contents of authority, key and certificate.

        Raises:
            InvalidConnectionError: a file cannot be read.
        """
        tls = self.tls or Tls()
        return _read(tls.ca), _read(tls.key), _read(tls.certificate)


def _check_travels(what: str, value: object) -> None:
    """Refuse what gRPC would refuse with a message that shows the secret."""
    if not isinstance(value, str):
        raise InvalidConnectionError(f"{what} must be text, but it is a {type(value).__name__}")
    if not (value.isascii() and value.isprintable()):
        raise InvalidConnectionError(
            f"{what} holds characters that cannot travel in a header: a line end at its end, perhaps; "
            f"give printable ASCII"
        )


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidConnectionError(f"{path} cannot be read ({error.strerror}); give a PEM file") from error
    if b"-----BEGIN " not in content:  # gRPC would say later that no server answers
        raise InvalidConnectionError(f"{path} holds no PEM block (-----BEGIN ...); give a PEM file")
    return content


def _is_loopback(host: str) -> bool:
    name = host.strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
