"""The endpoint's metrics. A call to Triton's metrics costs tens of microseconds, so a thread makes them, in sums.

docs/metrics.md lists the names.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from salf_contract import NO_CONCEPT, Metadata, Refusal

EXPLANATIONS = "salf_explanations_total"
COVERAGE = "salf_coverage_total"
TOP_CONCEPTS = "salf_top_concepts_total"
FAILURES = "salf_failures_total"
#: Upper bounds in seconds; from a small picture in a small model to a queue that nobody wants.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHER = "other"
_FLUSH_S = 0.5

Labels = tuple[tuple[str, str], ...]


class Observations:
    """Gathers what one instance sees, and hands it to Triton twice a second.

    Args:
        model: the explain model's name, a label of everything.
        max_series: pairs of class and top concept that get a series of their own, first come first served.
    """

    def __init__(self, model: str, *, max_series: int) -> None:
        self._model, self._max_series = model, max_series
        self._counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._seconds: list[tuple[Labels, float]] = []
        self._pairs: set[Labels] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="salf-metrics", daemon=True)
        self._metrics: dict[tuple[str, Labels], Any] = {}
        family, counter = pb_utils.MetricFamily, pb_utils.MetricFamily.COUNTER
        self._histogram = family(
            name="salf_explanation_seconds",
            description="Time of a request in the encoded endpoint by stage, without Triton's queue",
            kind=pb_utils.MetricFamily.HISTOGRAM,
        )
        self._counters = {
            name: family(name=name, description=description, kind=counter)
            for name, description in (
                (EXPLANATIONS, "Pictures explained"),
                (COVERAGE, "Sum of the explanations' coverage (0 to 1 each)"),
                (TOP_CONCEPTS, "Pictures explained, by the class explained and its strongest concept"),
                (FAILURES, "Requests that were not explained, by reason"),
            )
        }

    def start(self) -> None:
        """Begin to hand over."""
        self._thread.start()

    def stop(self) -> None:
        """Hand over what is left, and end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def took(self, stage: str, version: int, *seconds: float) -> None:
        """A stage was passed by as many requests as there are times."""
        labels = self._labels(version, stage=stage)
        with self._lock:
            self._seconds += [(labels, one) for one in seconds]

    def failed(self, reason: Refusal, version: int) -> None:
        """A request was not explained."""
        self._add(FAILURES, self._labels(version, reason=reason.value.lower()))

    def explained(self, document: Metadata, answer: Mapping[str, NDArray[np.generic]]) -> None:
        """Pictures were explained: what was said about them.

        Args:
            document: names the classes and concepts.
            answer: `target_class` INT32 [B,1], `top_concepts` INT32 [B,n], `coverage` FP32 [B,1].
        """
        whole = self._labels(document.version)
        self._add(EXPLANATIONS, whole, len(answer["coverage"]))
        self._add(COVERAGE, whole, float(answer["coverage"].sum()))
        for target, concept in zip(answer["target_class"][:, 0], answer["top_concepts"][:, 0], strict=True):
            said = "none" if concept == NO_CONCEPT else document.concepts[concept]
            self._add(TOP_CONCEPTS, self._pair(document.version, document.classes[target], said))

    def _pair(self, version: int, name: str, concept: str) -> Labels:
        labels = {"class": name, "concept": concept}
        pair = self._labels(version, **labels)
        if pair not in self._pairs:
            if len(self._pairs) >= self._max_series:
                return self._labels(version, **dict.fromkeys(labels, OTHER))
            self._pairs.add(pair)
        return pair

    def _labels(self, version: int, **labels: str) -> Labels:
        return (("model", self._model), ("version", str(version)), *labels.items())

    def _add(self, name: str, labels: Labels, value: float = 1.0) -> None:
        with self._lock:
            self._counts[name, labels] += value

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(_FLUSH_S)
            try:
                self.hand_over()
            except Exception as error:  # noqa: BLE001 - metrics may be lost, but must neither end nor pile up
                pb_utils.Logger.log_warn(f"salf_encoded: metrics of half a second are lost: {error}")

    def hand_over(self) -> None:
        """Give Triton what has gathered."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
            seconds, self._seconds = self._seconds, []
        for (name, labels), value in counts.items():
            self._metric(name, labels).increment(value)
        for labels, one in seconds:
            self._metric("", labels).observe(one)

    def _metric(self, counter: str, labels: Labels) -> Any:
        """Triton's metric, made at its first use; no counter's name stands for the histogram."""
        if (counter, labels) not in self._metrics:
            self._metrics[counter, labels] = (
                self._counters[counter].Metric(labels=dict(labels))
                if counter
                else self._histogram.Metric(labels=dict(labels), buckets=list(BUCKETS_S))
            )
        return self._metrics[counter, labels]
