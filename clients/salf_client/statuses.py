"""What gRPC's status codes mean, as Triton and the front before it really use them.

Triton says UNAVAILABLE for a full queue, for a time-out in the queue, for a missing key and for a model that is not
loaded, and gRPC says it for a dead connection: only the words tell them apart. The table is read from above; the first
row whose code and words fit is taken. Its words are what Triton 2.51, nginx and gRPC say, and are tested against them.
"""

import re
from dataclasses import dataclass

from salf_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    MessageTooLargeError,
    ModelNotFoundError,
    QueueTimeoutError,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    SharedMemoryUnavailableError,
    UnauthenticatedError,
)


@dataclass(frozen=True)
class Meaning:
    """One row: what a status says.

    Attributes:
        codes: names of gRPC status codes, divided by |.
        words: pattern that its message holds, case ignored; "" fits any.
        error: what it becomes.
        message: for people; takes {what}, {address}, {said} and {timeout_s}.
    """

    codes: str
    words: str
    error: type[ClientError]
    message: str


_RESTRICTED = r"protocol is restricted"
_OVERLOAD = r"exceeds maximum queue size|too many requests|overload|http2 header with status: (429|503)"
_CONNECTION = (
    r"connect|socket|recvmsg|reset|broken pipe|goaway|endpoint closing|resolution|resolv|address lookup|"
    r"rst_stream|keepalive|ping timeout|stream removed|transport|http2 header with status: (502|504)"
)

#: What is said about shared memory, whatever the status.
NO_SHARED_MEMORY = (
    "{address} does not take pictures through shared memory ({said}); let a server on this machine open that interface "
    "(`salf serve --shared-memory`), give its key with Connection(headers=...) if it has one, or leave "
    "Connection(shared_memory=True) away"
)

MEANINGS = (
    Meaning(
        "UNAUTHENTICATED|PERMISSION_DENIED",
        "",
        UnauthenticatedError,
        "{address} refused the caller ({said}); give Connection(token=...) one that the server accepts",
    ),
    Meaning(
        "UNAVAILABLE",
        _RESTRICTED,
        UnauthenticatedError,
        "{address} restricts this call ({said}); give the key with Connection(headers=...)",
    ),
    Meaning(
        "UNAVAILABLE|DEADLINE_EXCEEDED",
        r"request timeout expired",
        QueueTimeoutError,
        "{what} at {address} was too busy: the request waited in its queue for longer than it allows; try again later",
    ),
    Meaning(
        "RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNKNOWN|INTERNAL",
        r"larger than|too large|exceeds maximum (request|message)|http2 header with status: 413",
        MessageTooLargeError,
        "a message to or from {address} is too large ({said}); send a smaller picture, or raise the limit",
    ),
    Meaning(
        "RESOURCE_EXHAUSTED",
        "",
        ServerOverloadedError,
        "{address} has more requests than it takes ({said}); try again later, or add servers",
    ),
    Meaning(
        "UNAVAILABLE",
        _OVERLOAD,
        ServerOverloadedError,
        "{what} at {address} has more requests than it takes ({said}); try again later, or add servers",
    ),
    Meaning(
        "UNAVAILABLE",
        r"handshake|ssl_error|ssl routines",
        ServerUnavailableError,
        "{address} and this client cannot agree on encryption ({said}); see whether it encrypts at all, and give "
        "Connection(tls=Tls(ca=...)) the authority that signed its certificate",
    ),
    Meaning(
        "UNAVAILABLE",
        _CONNECTION,
        ServerUnavailableError,
        "no server answers at {address} ({said}); start one with `salf serve model_repository`, "
        "or give the address of a running one",
    ),
    Meaning(
        "UNAVAILABLE",
        "",
        ServerNotReadyError,
        "{what} at {address} is not ready: {said}; wait until it has loaded, or see its log",
    ),
    Meaning(
        "DEADLINE_EXCEEDED",
        "",
        DeadlineExceededError,
        "{what} at {address} did not answer within {timeout_s:.3g} s; give the client a larger timeout_s, "
        "or see whether the server is overloaded",
    ),
    Meaning(
        "NOT_FOUND|INVALID_ARGUMENT|INTERNAL|UNKNOWN|UNIMPLEMENTED",
        r"shared memory",
        SharedMemoryUnavailableError,
        NO_SHARED_MEMORY,
    ),
    Meaning(
        "NOT_FOUND",
        "",
        ModelNotFoundError,
        "{what} is not served at {address}: {said}; see `salf models`",
    ),
    Meaning(
        "INVALID_ARGUMENT",
        "",
        InvalidRequestError,
        "{what} at {address} refused the request: {said}",
    ),
    Meaning(
        "UNIMPLEMENTED",
        "",
        ServerFailedError,
        "what listens at {address} is no Triton server or lacks this call ({said}); check the address: "
        "Triton's gRPC port is 8001 by default",
    ),
)


def error_of(code: str, said: str, *, model: str | None, address: str, timeout_s: float) -> ClientError:
    """The error that a status becomes.

    Args:
        code: name of the gRPC status code, e.g. "UNAVAILABLE".
        said: the status's message.
        model: that was asked; None for a call to the server itself.
        address: of the endpoint.
        timeout_s: that the call was given.
    """
    what = f"model '{model}'" if model else "the server"
    said = " ".join(said.split()).rstrip(".")
    for meaning in MEANINGS:
        if code in meaning.codes.split("|") and re.search(meaning.words, said, re.IGNORECASE):
            return meaning.error(
                meaning.message.format(what=what, address=address, said=said or "no reason given", timeout_s=timeout_s)
            )
    return ServerFailedError(f"{what} at {address} failed ({code}): {said}; see the server's log")
