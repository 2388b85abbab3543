"""The settings file of the front: TOML, checked when read, closed to unknown keys."""

import tomllib
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from salf_serving.errors import FrontError

_Seconds = Annotated[int, Field(ge=1, le=3600)]


class FrontSettings(BaseModel):
    """What the front lets through, and to whom.

    Paths may be relative to the settings file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(default="127.0.0.1", description="IP address that clients connect to")
    allow_plaintext: bool = Field(default=False, description="no TLS although the address is not the loopback")
    certificate: Path | None = Field(default=None, description="TLS certificate with its chain, PEM")
    certificate_key: Path | None = Field(default=None, description="its private key, PEM")
    client_ca: Path | None = Field(default=None, description="certificates that clients' certificates must come from")
    tokens: Path | None = Field(default=None, description="file of `NAME TOKEN` lines, mode 0600")
    max_request_bytes: int = Field(default=8 * 2**20, ge=1024, le=2**31 - 1)
    concurrent_requests: int = Field(default=32, ge=1, description="inferences under way at once, in all")
    concurrent_requests_per_client: int = Field(
        default=16, ge=1, description="the same for one token, certificate or address"
    )
    requests_per_second_per_client: int | None = Field(default=None, ge=1, description="None: no such limit")
    burst_per_client: int = Field(default=20, ge=0, description="inferences over that rate that are let through")
    connections_per_client: int | None = Field(
        default=None, ge=1, description="open connections of one address; needs nginx's stream module"
    )
    max_connections: int = Field(default=4096, ge=64, description="open connections of a worker, those to Triton too")
    workers: int = Field(default=1, ge=1, le=64, description="processes of nginx")
    slow_timeout_s: _Seconds = Field(default=10, description="longest pause within a request or an answer")
    answer_timeout_s: _Seconds = Field(default=30, description="longest wait for Triton")
    idle_timeout_s: _Seconds = Field(default=60, description="a connection without requests is closed after this")
    connection_age_s: _Seconds = Field(
        default=300, description="an older connection is closed, so that its client sees servers that came meanwhile"
    )
    log_addresses: bool = Field(default=False, description="write clients' addresses into the access log")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        loopback = _parsed_address(self.address).is_loopback
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key belong together: give both or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and certificate_key: clients are checked within TLS")
        if not loopback and self.certificate is None and not self.allow_plaintext:
            raise ValueError(
                f"address {self.address} is reached from elsewhere: give certificate and certificate_key, or say "
                "allow_plaintext = true where something else encrypts"
            )
        return self


def read_front_settings(path: Path) -> FrontSettings:
    """Read a settings file.

    Raises:
        FrontError: no such file, no TOML, an unknown key, or a value that is not allowed.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FrontError(f"the front's settings {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FrontError(f"the front's settings {path} are no TOML: {error}") from error
    folder = path.absolute().parent
    for key in ("certificate", "certificate_key", "client_ca", "tokens"):
        if isinstance(given.get(key), str):
            given[key] = folder / Path(given[key]).expanduser()
    try:
        return FrontSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise FrontError(f"the front's settings {path}: {where + ': ' if where else ''}{said}") from error


def _parsed_address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise ValueError(f"address {text!r} is no IP address, such as 0.0.0.0") from error
