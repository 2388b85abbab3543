"""How commands reach servers: the same options and variables for each of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from salf_client import Connection

DEFAULT_URL = "localhost:8001"
_PANEL = "Connection"

Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        help="host:port of a server; give several that serve the same model, and they share the work.",
        envvar="SALF_URL",
        show_default=DEFAULT_URL,
        rich_help_panel=_PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Sent as Bearer token. Other users of this machine see options: better set the variable.",
        envvar="SALF_TOKEN",
        show_default=False,
        show_envvar=True,
        rich_help_panel=_PANEL,
    ),
]
UsesTls = Annotated[
    bool,
    typer.Option("--tls", help="Encrypt; the options below do too.", envvar="SALF_TLS", rich_help_panel=_PANEL),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the authority that signed the server's certificate; public ones by default.",
        envvar="SALF_TLS_CA",
        rich_help_panel=_PANEL,
    ),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(help="PEM file of this client's certificate.", envvar="SALF_TLS_CERTIFICATE", rich_help_panel=_PANEL),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(help="PEM file of its private key.", envvar="SALF_TLS_KEY", rich_help_panel=_PANEL),
]
TlsName = Annotated[
    str | None,
    typer.Option(
        help="Name in the server's certificate, if it is not the host.", envvar="SALF_TLS_NAME", rich_help_panel=_PANEL
    ),
]


def urls_of(given: list[str] | None) -> list[str]:
    """The addresses, or the default one."""
    return given or [DEFAULT_URL]


def connection_of(
    *,
    token: str | None,
    uses_tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    name: str | None,
) -> "Connection | None":
    """What the options say; None if they say nothing.

    Raises:
        InvalidConnectionError: a certificate without its key, or the other way round.
    """
    from salf_client import Connection, Tls

    is_encrypted = uses_tls or any(option is not None for option in (ca, certificate, key, name))
    if token is None and not is_encrypted:
        return None
    tls = Tls(ca=ca, certificate=certificate, key=key, server_name=name) if is_encrypted else None
    return Connection(tls=tls, token=token)
