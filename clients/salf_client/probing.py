"""Probes from outside: one question with a known answer, as a service would ask it, and what came of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from salf_client.client import Client
from salf_client.connection import Connection
from salf_client.errors import (
    ClientError,
    ContractMismatchError,
    DeadlineExceededError,
    InvalidAddressError,
    InvalidConnectionError,
    KnownAnswerError,
    MissingExtraError,
    ServerUnavailableError,
    VersionNotKnownError,
)
from salf_client.known_answers import difference, read_known_answer, recorded, synthetic_picture
from salf_client.retrying import Retry

ProbeOutcome: TypeAlias = Literal["good", "wrong", "refused", "unreachable", "late", "changed"]

#: Exit status of each outcome; 1 and 2 are left to what every command may end with.
EXIT_STATUS: dict[ProbeOutcome, int] = {
    "good": 0,
    "wrong": 3,
    "refused": 4,
    "unreachable": 5,
    "late": 6,
    "changed": 7,
}
#: What is at fault here is the probe's own call, and not the server.
_OWN = (InvalidAddressError, InvalidConnectionError, KnownAnswerError, MissingExtraError)


@dataclass(frozen=True)
class ProbeResult:
    """What came of a probe.

    Attributes:
        server: host:port.
        outcome: "good"; "wrong": answered, but not what is known; "refused": the server answered with an error;
            "unreachable": nothing answers; "late": not in time; "changed": right or not cannot be said, because
            another version is served than the one whose answer is known.
        message: what happened, for people.
        model: that answered, or "".
        version: of it, or 0.
        seconds: the whole probe took, connecting and asking which model there is included.
        latency_ms: the explanation alone took; None if there was none.
    """

    server: str
    outcome: ProbeOutcome
    message: str
    model: str = ""
    version: int = 0
    seconds: float = 0.0
    latency_ms: float | None = None


def probe(
    server: str,
    known: Path,
    *,
    model: str | None = None,
    model_version: int | None = None,
    timeout_s: float = 5.0,
    connection: Connection | None = None,
) -> ProbeResult:
    """Ask one server the question whose answer is known, once: nothing is repeated.

    Args:
        server: host:port.
        known: where the answer is kept, see `salf_client.known_answers`.
        model: to ask; None asks the only one.
        model_version: of it; None asks the newest that is served.
        timeout_s: for the whole probe.
        connection: encryption, token and the like.

    Raises:
        KnownAnswerError: there is no answer to compare with.
        InvalidAddressError: `server` is no host:port.
        InvalidConnectionError: the connection's settings cannot be used.
    """
    started_s = time.monotonic()
    once = Retry(attempts=1)
    with Client(
        server, model=model, model_version=model_version, timeout_s=timeout_s, connection=connection, retry=once
    ) as client:
        result = _asked(client, ProbeResult(server, "good", ""), known, ends_at_s=started_s + timeout_s)
    return replace(result, seconds=time.monotonic() - started_s)


def record(client: Client, picture: bytes | None = None) -> str:
    """Ask for an answer to keep as the known one; whoever records it vouches for it.

    Args:
        client: of a server that is right.
        picture: encoded; None takes a synthetic one.

    Returns:
        A JSON document for `probe`.
    """
    model = client.model()
    asked = synthetic_picture(model.input_size) if picture is None else picture
    return recorded(asked, client.explain(asked, top=model.top))


def metrics_text(results: Sequence[ProbeResult]) -> str:
    """Results in Prometheus' text format, for its textfile collector or a gateway.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError as error:
        raise MissingExtraError(
            "metrics need prometheus-client; install it with: pip install 'salf[telemetry]'"
        ) from error
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"salf_blackbox_{name}", text, ["server", *labels], registry=registry)

    success = gauge("success", "1 if the probe's answer was right.")
    outcome = gauge("outcome", "1 for what came of the probe.", "outcome")
    seconds = gauge("seconds", "Time of the whole probe.")
    explained = gauge("explanation_seconds", "Time of its explanation alone.")
    version = gauge("model_version", "Version that answered.", "model")
    finished = gauge("timestamp_seconds", "When the probe ended.")
    for result in results:
        success.labels(result.server).set(result.outcome == "good")
        for name in EXIT_STATUS:
            outcome.labels(result.server, name).set(result.outcome == name)
        seconds.labels(result.server).set(result.seconds)
        if result.latency_ms is not None:
            explained.labels(result.server).set(result.latency_ms / 1e3)
        if result.model:
            version.labels(result.server, result.model).set(result.version)
        finished.labels(result.server).set_to_current_time()
    return generate_latest(registry).decode()


def exit_status(results: Sequence[ProbeResult]) -> int:
    """Of a command: 0 if all are good, else that of the first one that is not."""
    return next((EXIT_STATUS[result.outcome] for result in results if result.outcome != "good"), 0)


def _asked(client: Client, result: ProbeResult, known: Path, *, ends_at_s: float) -> ProbeResult:
    try:
        model = client.model()
        result = replace(result, model=model.name, version=model.version)
        right = read_known_answer(known, model)
        # The known answer's shape is the model's: all concepts that it shows.
        left_s = max(1e-3, ends_at_s - time.monotonic())
        answer = client.explain(right.picture, top=model.top, timeout_s=left_s)
    except VersionNotKnownError as error:
        return replace(result, outcome="changed", message=str(error))
    except _OWN:
        raise
    except ServerUnavailableError as error:
        return replace(result, outcome="unreachable", message=str(error))
    except DeadlineExceededError as error:
        return replace(result, outcome="late", message=str(error))
    except ContractMismatchError as error:
        return replace(result, outcome="wrong", message=str(error))
    except ClientError as error:
        return replace(result, outcome="refused", message=str(error))
    result = replace(result, version=answer.version, latency_ms=answer.latency_ms)
    named = f"model '{answer.model}' version {answer.version}"
    if answer.contract_id != right.contract_id:
        said = f"{named} is served, but the known answer is of another version or model; record it again"
        return replace(result, outcome="changed", message=said)
    wrong = difference(right, answer)
    if wrong is not None:
        return replace(result, outcome="wrong", message=f"{named} {wrong}")
    return replace(result, message=f"{named} answers right")
