"""What a run shows while it goes: Prometheus metrics, over HTTP or in a file for the textfile collector.

All values are read from the run when somebody asks, so that showing them costs a row nothing.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salf_batch.errors import MetricsUnavailableError, MissingExtraError
from salf_batch.progress import Tally
from salf_batch.stores import RetryCount

_WRITTEN_EVERY_S = 10.0


@dataclass(eq=False)  # a registry keeps it by identity
class RunMetrics:
    """A prometheus-client collector of one run.

    Attributes:
        target: label of all series, so that files of several runs can lie in one folder.
        inputs: of the source.
        tally: rows and repeated requests so far.
        reads: repeated questions to the source's stores.
        writes: the same of the target's store.
        started_s: when it began, Unix time.
        finished_s: when all rows were there, Unix time; 0 until then.
    """

    target: str
    inputs: int
    tally: Tally
    reads: RetryCount
    writes: RetryCount
    started_s: float = field(default_factory=time.time)
    finished_s: float = 0.0

    def collect(self) -> Iterator[Any]:
        """The metrics now."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        def gauge(name: str, about: str, value: float) -> Any:
            family = Gauge(f"salf_score_{name}", about, labels=["target"])
            family.add_metric([self.target], value)
            return family

        tally = self.tally
        yield gauge("inputs", "Inputs of the source", self.inputs)
        yield gauge("rows_done", "Rows that are known, those of earlier runs included", tally.done)
        yield gauge("started_timestamp_seconds", "When the run began", self.started_s)
        yield gauge("finished_timestamp_seconds", "When all rows were there; 0 until then", self.finished_s)
        rows = Counter("salf_score_rows", "Rows of this run", labels=["target", "result"])
        rows.add_metric([self.target, "answered"], tally.scored - tally.errors)
        rows.add_metric([self.target, "error"], tally.errors)
        yield rows
        requests = Counter("salf_score_request_retries", "Requests made again: server away or busy", labels=["target"])
        requests.add_metric([self.target], tally.requests_repeated)
        yield requests
        stores = Counter(
            "salf_score_store_retries",
            "Questions to stores asked again",
            labels=["target", "store", "operation", "reason"],
        )
        for operation, count in (("read", self.reads), ("write", self.writes)):
            for (store, reason), times in sorted(count.counts.items()):
                stores.add_metric([self.target, store, operation, reason], times)
        yield stores


@contextmanager
def exposed(metrics: RunMetrics, *, file: Path | None, port: int | None) -> Iterator[None]:
    """Show metrics while a run goes, and in the file what it came to.

    Args:
        metrics: to show.
        file: rewritten every ten seconds and at the end, each time whole; None writes none.
        port: of 127.0.0.1 and all other addresses of this machine, while the run goes; None opens none.

    Raises:
        MetricsUnavailableError: the port is taken, or the file cannot be written.
        MissingExtraError: prometheus-client is not installed.
    """
    if file is None and port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
    except ImportError as error:
        raise MissingExtraError("metrics need prometheus-client; install it with: pip install 'salf[batch]'") from error
    registry = CollectorRegistry()
    registry.register(metrics)
    with ExitStack() as stack:
        if port is not None:
            try:
                server, thread = start_http_server(port, registry=registry)
            except (OSError, OverflowError) as error:  # the second is Python's word for a number that is no port
                reason = getattr(error, "strerror", None) or error
                raise MetricsUnavailableError(
                    f"metrics cannot be shown on port {port} ({reason}); choose another --metrics-port"
                ) from error
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        if file is not None:
            try:
                write_to_textfile(str(file), registry)
            except OSError as error:
                raise MetricsUnavailableError(
                    f"{file} cannot be written ({error.strerror}); choose another --metrics-file"
                ) from error
            stack.enter_context(_rewritten(file, registry))
        yield


@contextmanager
def _rewritten(file: Path, registry: Any) -> Iterator[None]:
    from prometheus_client import write_to_textfile

    ended = threading.Event()

    def write() -> None:
        try:
            write_to_textfile(str(file), registry)
        except OSError:  # it could be written when the run began: rows are worth more than what is said of them
            logging.getLogger(__name__).warning("the metrics file %s cannot be written", file, exc_info=True)

    def keep_writing() -> None:
        while not ended.wait(_WRITTEN_EVERY_S):
            write()
        write()

    thread = threading.Thread(target=keep_writing, name="salf-metrics")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
