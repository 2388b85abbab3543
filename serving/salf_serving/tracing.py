"""Where traces go, which requests have one, and what Triton is told about it."""

import os
import re
from dataclasses import dataclass

from salf_serving.errors import ServingError

#: What traces call the server, unless the operator's environment says something else.
SERVICE = "salf"
SERVICE_VARIABLE = "OTEL_SERVICE_NAME"
_URL = re.compile(r"http://[^\s/,=]+(/[^\s,=]*)?")
#: nginx draws requests with two digits after the point of a per cent.
_SMALLEST_SHARE = 0.0001


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """OpenTelemetry traces of inferences.

    A caller who sends `traceparent` decides about its own requests, by that header's sampled flag.

    Attributes:
        url: of a collector close by that takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces.
        share: of the requests without a caller's trace, those that begin one; 0 to 1.
    """

    url: str
    share: float = 1.0

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            raise ServingError(
                f"--traces must be the URL of a collector's OTLP/HTTP endpoint, such as "
                f"http://127.0.0.1:4318/v1/traces, but is {self.url!r}"
            )
        if not (self.share == 0 or _SMALLEST_SHARE <= self.share <= 1):
            raise ServingError(f"the share of traced requests must be 0, or {_SMALLEST_SHARE:g} to 1: {self.share:g}")


def triton_trace_options(settings: TraceSettings, *, behind_front: bool) -> list[str]:
    """Options of Triton's command line.

    Triton traces each request that comes with a `traceparent`, whatever its sampled flag says, and of the others one in
    `rate`; a rate of 0 means none. Behind the front it is the front that chooses.
    """
    rate = 0 if behind_front or settings.share == 0 else round(1 / settings.share)
    values = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={rate}",
        f"opentelemetry,url={settings.url}",
        f"opentelemetry,resource=service.name={service_name()}",
    )
    return [f"--trace-config={value}" for value in values]


def service_name() -> str:
    """What traces call this server."""
    return os.environ.get(SERVICE_VARIABLE) or SERVICE
