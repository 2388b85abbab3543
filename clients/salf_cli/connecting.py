"""How commands reach servers: the same options and variables for each of them."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from salf_client import Connection

R = TypeVar("R")

DEFAULT_URL = "localhost:8001"
_PANEL = "Connection"

_Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        help="host:port of a server; give several that serve the same model, and they share the work.",
        envvar="SALF_URL",
        show_default=DEFAULT_URL,
        rich_help_panel=_PANEL,
    ),
]
_Token = Annotated[
    str | None,
    typer.Option(
        help="Sent as Bearer token. Other users of this machine see options: better set the variable.",
        envvar="SALF_TOKEN",
        show_default=False,
        show_envvar=True,
        rich_help_panel=_PANEL,
    ),
]
_UsesTls = Annotated[
    bool,
    typer.Option("--tls", help="Encrypt; the options below do too.", envvar="SALF_TLS", rich_help_panel=_PANEL),
]
_TlsCa = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the authority that signed the server's certificate; public ones by default.",
        envvar="SALF_TLS_CA",
        rich_help_panel=_PANEL,
    ),
]
_TlsCertificate = Annotated[
    Path | None,
    typer.Option(help="PEM file of this client's certificate.", envvar="SALF_TLS_CERTIFICATE", rich_help_panel=_PANEL),
]
_TlsKey = Annotated[
    Path | None,
    typer.Option(help="PEM file of its private key.", envvar="SALF_TLS_KEY", rich_help_panel=_PANEL),
]
_TlsName = Annotated[
    str | None,
    typer.Option(
        help="Name in the server's certificate, if it is not the host.", envvar="SALF_TLS_NAME", rich_help_panel=_PANEL
    ),
]


@dataclass(frozen=True)
class Servers:
    """What the options say.

    Attributes:
        urls: one or more addresses.
        connection: encryption and token; None if nothing is said of them.
    """

    urls: list[str]
    connection: "Connection | None"


def asks_servers(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of this module; it takes what they say as the argument `servers`.

    The command fails with `InvalidConnectionError` where a certificate is given without its key, or a key alone.
    """

    @functools.wraps(function)
    def run(**given: Any) -> R:
        said = {name: given.pop(name) for name in inspect.signature(_servers).parameters}
        return function(**given, servers=_servers(**said))

    kept = [one for one in inspect.signature(function).parameters.values() if one.name != "servers"]
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in (*kept, *inspect.signature(_servers).parameters.values())
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _servers(
    url: _Urls = None,
    token: _Token = None,
    tls: _UsesTls = False,
    tls_ca: _TlsCa = None,
    tls_certificate: _TlsCertificate = None,
    tls_key: _TlsKey = None,
    tls_name: _TlsName = None,
) -> Servers:
    from salf_client import Connection, Tls

    urls = url or [DEFAULT_URL]
    is_encrypted = tls or any(option is not None for option in (tls_ca, tls_certificate, tls_key, tls_name))
    if token is None and not is_encrypted:
        return Servers(urls, None)
    encryption = (
        Tls(ca=tls_ca, certificate=tls_certificate, key=tls_key, server_name=tls_name) if is_encrypted else None
    )
    return Servers(urls, Connection(tls=encryption, token=token))
