"""What servers are doing now: rates, latencies, errors and queues, from the difference of two looks at their metrics.

docs/metrics.md says what each metric counts.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

from salf_client.errors import InvalidAddressError, MetricsUnavailableError
from salf_client.scraping import Scrape, Window, scrape

#: Of the encoded endpoint, in a request's order; docs/metrics.md says what they are.
STAGES = ("total", "decode", "infer", "answer")
#: Values of labels -> events per second.
Rates: TypeAlias = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class StageLatency:
    """Latencies of one stage.

    Attributes:
        per_second: how many were measured.
        p50_ms: the median, interpolated within its bucket as PromQL does; None if nothing was measured.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
    """

    per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class ModelActivity:
    """One model.

    Attributes:
        version: served, the newest where servers differ.
        pictures_per_second: inferred, probes among them.
        pending: requests that wait in Triton's queue now.
        queue_ms: mean wait in it; None without requests.
        coverage: mean of what was explained through the encoded endpoint, 0..1; None if nothing was.
    """

    version: int
    pictures_per_second: float
    pending: int
    queue_ms: float | None
    coverage: float | None


@dataclass(frozen=True)
class Activity:
    """What a server, or several together, did between two looks.

    Attributes:
        requests_per_second: inferences asked of the front; None without a front.
        pictures_per_second: inferred by all models, probes among them; an encoded picture counts once.
        failures_per_second: "where: reason" -> how many; only those that happened.
        stages: name -> latencies: "front" is what callers wait, then `STAGES`, "probe" the supervisor's own questions;
            those that no server measures are left out.
        models: name -> activity.
        restarts: processes and workers started again since the servers started.
    """

    requests_per_second: float | None
    pictures_per_second: float
    failures_per_second: Mapping[str, float]
    stages: Mapping[str, StageLatency]
    models: Mapping[str, ModelActivity]
    restarts: int


@dataclass(frozen=True)
class ServerReading:
    """One server.

    Attributes:
        address: of its metrics.
        error: why it gives none, or "".
        ready: what its supervisor says; None where none says anything.
        activity: None without metrics, and at the first look.
    """

    address: str
    error: str
    ready: bool | None = None
    activity: Activity | None = None


@dataclass(frozen=True)
class Reading:
    """All servers.

    Attributes:
        seconds: the longest time between two looks; 0 at the first.
        servers: in the order in which they were given.
        together: of those that answer; None at the first look.
    """

    seconds: float
    servers: tuple[ServerReading, ...]
    together: Activity | None


@dataclass
class Watcher:
    """Looks at servers again and again.

    Attributes:
        addresses: `host:port` of their status ports, or addresses of pages.
        timeout_s: for each look at a page.
    """

    addresses: Sequence[str]
    timeout_s: float = 5.0
    _before: dict[str, Scrape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.addresses:
            raise InvalidAddressError("no address was given; expected host:port of a status port")

    def look(self) -> Reading:
        """Look at all servers now.

        A server that does not answer is said to be so; it does not keep the others from being read.
        """
        with ThreadPoolExecutor(len(self.addresses)) as threads:
            found = list(threads.map(self._scraped, self.addresses))
        windows: list[Window] = []
        servers: list[ServerReading] = []
        for address, one in zip(self.addresses, found, strict=True):
            if isinstance(one, MetricsUnavailableError):
                servers.append(ServerReading(address, str(one)))
                continue
            ready = one.value("salf_ready")
            is_ready = None if ready is None else ready == 1
            before = self._before.get(address)
            window = None if before is None else Window(before, one)
            if one.is_whole or before is None:
                # Without Triton's part, all of its counters would seem to begin at the next look.
                self._before[address] = one
            if window is not None:
                windows.append(window)
            servers.append(ServerReading(address, "", is_ready, None if window is None else activity([window])))
        seconds = max((window.seconds for window in windows), default=0.0)
        return Reading(seconds, tuple(servers), activity(windows) if windows else None)

    def _scraped(self, address: str) -> Scrape | MetricsUnavailableError:
        try:
            return scrape(address, timeout_s=self.timeout_s)
        except MetricsUnavailableError as error:
            return error


def activity(windows: Sequence[Window]) -> Activity:
    """What happened in windows of one or several servers."""
    stages = {"front": _latency(windows, "salf_front_request_seconds")}
    for stage in STAGES:
        stages[stage] = _latency(windows, "salf_explanation_seconds", stage=stage)
    stages["probe"] = _latency(windows, "salf_probe_seconds")
    pictures = _rates(windows, "nv_inference_count_total", ("model",))
    has_front = any("salf_front_refusals_total" in window.after.samples for window in windows)
    asked = _rates(windows, "salf_front_requests_total", ("call",), call="ModelInfer")
    restarts = [
        window.after.value(f"salf_{name}_total") for window in windows for name in ("restarts", "worker_restarts")
    ]
    return Activity(
        requests_per_second=asked.get(("ModelInfer",), 0.0) if has_front else None,
        pictures_per_second=math.fsum(rate for (model,), rate in pictures.items() if not model.endswith("_encoded")),
        failures_per_second=_failures(windows),
        stages={name: latency for name, latency in stages.items() if latency is not None},
        models=_models(windows),
        restarts=int(sum(count or 0 for count in restarts)),
    )


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """A quantile of a histogram, as PromQL's histogram_quantile finds it.

    Args:
        buckets: upper end -> how many were measured up to it; `inf` among them.
        q: 0..1.

    Returns:
        In the buckets' unit; the highest finite end if it lies beyond; None if nothing was measured.
    """
    ends = sorted(buckets)
    total = buckets[ends[-1]] if ends else 0.0
    if total <= 0:
        return None
    rank, lower, below = q * total, 0.0, 0.0
    for end in ends:
        within = buckets[end]
        if within >= rank:
            if math.isinf(end):
                return lower
            share = (rank - below) / (within - below) if within > below else 1.0
            return lower + (end - lower) * share
        lower, below = end, within
    return lower


def _latency(windows: Iterable[Window], name: str, **wanted: str) -> StageLatency | None:
    """Latencies of a histogram; None if no server has it."""
    buckets: dict[float, float] = defaultdict(float)
    per_second = 0.0
    for window in windows:
        increases = window.increases(f"{name}_bucket", ("le",), **wanted)
        for (end,), increase in increases.items():
            buckets[float(end)] += increase
        per_second += sum(increase for (end,), increase in increases.items() if end == "+Inf") / window.seconds
    if not buckets:
        return None
    found = [quantile(buckets, q) for q in (0.5, 0.95, 0.99)]
    p50, p95, p99 = (None if value is None else 1e3 * value for value in found)
    return StageLatency(per_second, p50, p95, p99)


def _rates(windows: Iterable[Window], name: str, by: Sequence[str], **wanted: str) -> Rates:
    rates: Rates = defaultdict(float)
    for window in windows:
        for labels, increase in window.increases(name, by, **wanted).items():
            rates[labels] += increase / window.seconds
    return dict(rates)


def _failures(windows: Sequence[Window]) -> dict[str, float]:
    """What was refused or failed, by who said so: the front, the encoded endpoint, Triton, and failed probes."""
    sources = (
        ("front", "salf_front_refusals_total", ("reason",)),
        ("encoded", "salf_failures_total", ("reason",)),
        ("triton", "nv_inference_request_failure_total", ("reason", "model")),
        ("probe", "salf_probe_failures_total", ("reason", "model")),
    )
    found = {
        f"{where}: {' of '.join(labels).lower()}": rate
        for where, name, by in sources
        for labels, rate in _rates(windows, name, by).items()
        if rate > 0
    }
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _models(windows: Sequence[Window]) -> dict[str, ModelActivity]:
    pictures = _rates(windows, "nv_inference_count_total", ("model",))
    waits = _rates(windows, "nv_inference_queue_duration_us_total", ("model",))
    asked = _rates(windows, "nv_inference_request_success_total", ("model",))
    covered, explained = (_rates(windows, f"salf_{name}_total", ("model",)) for name in ("coverage", "explanations"))
    versions: dict[str, int] = {}
    pending: dict[str, float] = defaultdict(float)
    for window in windows:
        samples = window.after.samples
        for labels, value in samples.get("salf_model_version", {}).items():
            model = dict(labels)["model"]
            versions[model] = max(versions.get(model, 0), int(value))
        for labels in samples.get("nv_inference_count_total", {}):
            named = dict(labels)
            if "salf_model_version" not in samples and named.get("version", "").isdigit():
                versions[named["model"]] = max(versions.get(named["model"], 0), int(named["version"]))
        for labels, value in samples.get("nv_inference_pending_request_count", {}).items():
            pending[dict(labels)["model"]] += value

    def ratio(over: Rates, under: Rates, model: str) -> float | None:
        return over.get((model,), 0.0) / under[(model,)] if under.get((model,), 0.0) > 0 else None

    return {
        model: ModelActivity(
            version=version,
            pictures_per_second=pictures.get((model,), 0.0),
            pending=int(pending[model]),
            queue_ms=None if (wait_us := ratio(waits, asked, model)) is None else wait_us / 1e3,
            coverage=ratio(covered, explained, model),
        )
        for model, version in sorted(versions.items())
    }
