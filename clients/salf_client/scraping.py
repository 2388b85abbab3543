"""A server's page of metrics, and what became of it between two looks."""

import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPException
from typing import TypeAlias
from urllib.error import HTTPError

from salf_client.errors import MetricsUnavailableError, MissingExtraError

#: Sorted (label, value) pairs.
Labels: TypeAlias = tuple[tuple[str, str], ...]

#: A page is larger only if something in it has grown without bound.
_LARGEST_BYTES = 32 * 2**20
_PIECE_BYTES = 2**16
#: A page with none of these is no salf server's and no Triton's.
_OURS = ("salf_", "nv_inference_")


@dataclass(frozen=True)
class Scrape:
    """One look at a page.

    Attributes:
        at_s: on the monotonic clock.
        samples: name of the sample -> labels -> value.
    """

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    def value(self, name: str) -> float | None:
        """The sum of all series of a name; None if there are none."""
        series = self.samples.get(name)
        return None if series is None else sum(series.values())

    @property
    def is_whole(self) -> bool:
        """Whether Triton's part is in it: the supervisor's page goes on without."""
        return self.value("salf_triton_up") != 0


@dataclass(frozen=True)
class Window:
    """What happened between two looks at one server.

    Attributes:
        before: the first.
        after: the second.
    """

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        """Between the two."""
        return max(1e-9, self.after.at_s - self.before.at_s)

    def increases(self, name: str, by: Sequence[str], **wanted: str) -> dict[tuple[str, ...], float]:
        """How much counters grew.

        Args:
            name: of the samples.
            by: labels to group by; a missing one is "".
            wanted: values that other labels must have.

        Returns:
            Values of the labels -> increase. A counter that fell was started again, and counts from 0.
        """
        old = self.before.samples.get(name, {})
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for labels, value in self.after.samples.get(name, {}).items():
            named = dict(labels)
            if any(named.get(label) != said for label, said in wanted.items()):
                continue
            earlier = old.get(labels, 0.0)
            found[tuple(named.get(label, "") for label in by)] += value - earlier if value >= earlier else value
        return dict(found)


def scrape(url: str, *, timeout_s: float) -> Scrape:
    """Look at a page.

    Args:
        url: of the page, or `host:port` of a server that gives it at /metrics.
        timeout_s: for the page; a server that falls silent within it may cost as much again.

    Raises:
        MetricsUnavailableError: nothing answers, or with something else.
        MissingExtraError: prometheus-client is not installed.
    """
    address, ends_at_s = metrics_url(url), time.monotonic() + timeout_s
    try:
        with urllib.request.urlopen(address, timeout=timeout_s) as answer:  # noqa: S310 - http or https, see above
            data = bytearray()
            while len(data) < _LARGEST_BYTES and (piece := answer.read1(_PIECE_BYTES)):
                data += piece
                if time.monotonic() > ends_at_s:
                    raise TimeoutError(f"its page was not complete within {timeout_s:g} s")
    except (OSError, ValueError, HTTPException) as error:
        cause = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        reason = getattr(cause, "strerror", None) or cause
        if isinstance(error, BadStatusLine):  # which holds the bytes that came
            reason = "it speaks no HTTP: is that the gRPC port?"
        raise MetricsUnavailableError(
            f"{address} gives no metrics ({reason}); start the server with `salf serve --status-port 8003`, "
            f"and give that port's address"
        ) from error
    samples = read_page(data.decode(errors="replace"), address=address)
    return Scrape(time.monotonic(), samples)


def metrics_url(url: str) -> str:
    """The page's whole address.

    Raises:
        MetricsUnavailableError: it is neither http nor https.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return f"http://{url.rstrip('/')}/metrics" if "/" not in url.rstrip("/") else f"http://{url}"
    if scheme not in ("http", "https"):
        raise MetricsUnavailableError(f"{url} is no address of metrics; expected host:port or http://host:port/metrics")
    return url


def read_page(page: str, *, address: str) -> dict[str, dict[Labels, float]]:
    """Samples of a page in Prometheus' text format.

    Names of counters end in `_total`, also where the page leaves it away, as Triton does: prometheus-client adds it.

    Raises:
        MetricsUnavailableError: it is none, or of another program.
        MissingExtraError: prometheus-client is not installed.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise MissingExtraError(
            "reading metrics needs prometheus-client; install it with: pip install 'salf[telemetry]'"
        ) from error
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                samples[sample.name][tuple(sorted(sample.labels.items()))] = float(sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise MetricsUnavailableError(f"{address} answers with something else than metrics ({error})") from error
    if not any(name.startswith(_OURS) for name in samples):
        raise MetricsUnavailableError(f"{address} gives metrics, but none of a salf server; see docs/metrics.md")
    return dict(samples)
