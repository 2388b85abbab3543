"""What a scored store looks like as a whole: read part by part, held in memory class by class."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from salf_batch.stores import Place

_COLUMNS = ["index", "uri", "label", "probability", "concepts", "contributions", "scores", "coverage", "error"]


@dataclass
class ClassOverview:
    """One class in a scored store.

    Attributes:
        pictures: predicted to be of it.
        probability_sum: of these pictures' probabilities.
        coverage_sum: of their coverages.
        reasons: (concept, whether it is present) -> pictures in which it speaks for the class.
        weight: the same -> sum of its contributions there, in logit units.
    """

    pictures: int = 0
    probability_sum: float = 0.0
    coverage_sum: float = 0.0
    reasons: Counter[tuple[str, bool]] = field(default_factory=Counter)
    weight: dict[tuple[str, bool], float] = field(default_factory=lambda: defaultdict(float))

    def share(self, reason: tuple[str, bool]) -> float:
        """In which share of the class's pictures a reason speaks for it, 0..1."""
        return self.reasons[reason] / self.pictures if self.pictures else 0.0


@dataclass(frozen=True)
class Notable:
    """A picture worth a look.

    Attributes:
        uri: of it.
        label: its predicted class, or "".
        value: probability, coverage or oddness, 0..1.
        note: in words: its reasons, or its error.
    """

    uri: str
    label: str
    value: float
    note: str


@dataclass(frozen=True)
class Overview:
    """A scored store as a whole.

    Attributes:
        rows: that are there.
        errors: rows without an answer.
        classes: class -> overview.
        unsure: pictures with the lowest probability.
        uncovered: pictures whose shown concepts are the least of their evidence.
        odd: pictures whose reasons are unusual for their class.
        failed: the first rows with an error.
    """

    rows: int
    errors: int
    classes: dict[str, ClassOverview]
    unsure: tuple[Notable, ...]
    uncovered: tuple[Notable, ...]
    odd: tuple[Notable, ...]
    failed: tuple[Notable, ...]


def overview(parts: Iterable[Place], *, shown: int) -> Overview:
    """Read a scored store, twice: what is usual must be known before anything is odd.

    Args:
        parts: its Parquet files.
        shown: pictures of each notable kind, at most.
    """
    parts = list(parts)
    classes: dict[str, ClassOverview] = defaultdict(ClassOverview)
    rows = errors = 0
    failed: list[Notable] = []
    for row in _rows(parts):
        rows += 1
        if row["error"] is not None:
            errors += 1
            if len(failed) < shown:
                failed.append(Notable(row["uri"], "", 0.0, row["error"]))
            continue
        one = classes[row["label"]]
        one.pictures += 1
        one.probability_sum += row["probability"]
        one.coverage_sum += row["coverage"]
        for reason, contribution in _reasons(row):
            one.reasons[reason] += 1
            one.weight[reason] += contribution
    usual = dict(classes)
    unsure, uncovered, odd = _lowest(
        (row for row in _rows(parts) if row["error"] is None),
        (lambda row: row["probability"], lambda row: row["coverage"], partial(_usualness, usual)),
        shown,
    )
    return Overview(
        rows=rows,
        errors=errors,
        classes=dict(sorted(usual.items(), key=lambda item: -item[1].pictures)),
        unsure=unsure,
        uncovered=uncovered,
        odd=odd,
        failed=tuple(failed),
    )


def _usualness(classes: dict[str, ClassOverview], row: dict[str, Any]) -> float:
    """How usual a picture's reasons are for its class, 0..1: their shares, weighted by their contributions."""
    reasons = _reasons(row)
    total = sum(contribution for _, contribution in reasons)
    one = classes[row["label"]]
    return sum(one.share(reason) * contribution for reason, contribution in reasons) / total if total else 0.0


def _lowest(
    rows: Iterable[dict[str, Any]], values: Sequence[Callable[[dict[str, Any]], float]], shown: int
) -> list[tuple[Notable, ...]]:
    """Of each value, the rows that have the least of it, the lowest first."""
    heaps: list[list[tuple[float, int, dict[str, Any]]]] = [[] for _ in values]  # the highest on top, to be dropped
    for row in rows:
        for heap, value in zip(heaps, values, strict=True):
            entry = (-value(row), -row["index"], row)
            if len(heap) < shown:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    return [
        tuple(
            Notable(row["uri"], row["label"], -negative, ", ".join(wording(*reason) for reason, _ in _reasons(row)))
            for negative, _, row in sorted(heap, reverse=True)
        )
        for heap in heaps
    ]


def wording(concept: str, present: bool) -> str:
    """A reason in words."""
    return concept if present else f"no {concept}"


def _reasons(row: dict[str, Any]) -> list[tuple[tuple[str, bool], float]]:
    """What speaks for the class: (concept, whether it is present), contribution."""
    triples = zip(row["concepts"], row["scores"], row["contributions"], strict=True)
    return [((name, score > 0), contribution) for name, score, contribution in triples if contribution > 0]


def _rows(parts: Iterable[Place]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet

    for part in parts:
        with part.open() as file:
            for batch in parquet.ParquetFile(file).iter_batches(1000, columns=_COLUMNS):
                yield from batch.to_pylist()
