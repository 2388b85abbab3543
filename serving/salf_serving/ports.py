"""Ports on the loopback."""

import errno
import socket

from salf_serving.errors import PortTakenError, ServingError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A loopback port that nobody listens on at this moment (another process may still take it first)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def check_port(port: int, *, option: str, address: str = LOOPBACK) -> None:
    """Check that the server can listen on a port.

    Args:
        port: TCP port.
        option: the command's option that chooses it, for the message.
        address: IP address of this host.

    Raises:
        PortTakenError: something listens there.
        ServingError: the number is no port, or may not be used by this user.
    """
    if not 1 <= port <= 65535:
        raise ServingError(f"{option} must be a port from 1 to 65535, but is {port}")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_taken(port, option=option, address=address) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise ServingError(
                    f"{address} is no address of this host; give one that is, or 0.0.0.0 for all of them"
                ) from error
            raise ServingError(
                f"port {port} on {address} cannot be used: {error.strerror}; choose another with {option}"
            ) from error


def port_taken(port: int, *, option: str, address: str = LOOPBACK) -> PortTakenError:
    """The error that names port and remedy."""
    return PortTakenError(
        f"port {port} on {address} is already in use; stop what listens there or choose another with {option}"
    )
