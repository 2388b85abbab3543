"""How far a run is, and what it came to."""

from collections import Counter
from dataclasses import dataclass, field

from salf_batch.rows import Row


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "listing", "waiting for the model" or "scoring".
        total: inputs; found so far while listing.
        done: rows that are known, those of earlier runs included.
        errors: rows of this run that hold an error.
    """

    stage: str
    total: int
    done: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        target: that was written.
        inputs: of the source; the target has so many rows.
        scored: by this run.
        already_done: by earlier runs.
        errors: rows of this run that hold an error.
        labels: class -> rows of this run, the most frequent first.
        model: that answered.
        version: of it.
        contract_id: of it.
        seconds: this run took.
        pictures_per_second: of this run, listing left out.
        requests_repeated: because the server was away or busy.
        reads_repeated: because the source's store was in trouble.
        writes_repeated: because the target's store was; looking at what it holds counts too.
    """

    target: str
    inputs: int
    scored: int
    already_done: int
    errors: int
    labels: dict[str, int]
    model: str
    version: int
    contract_id: str
    seconds: float
    pictures_per_second: float
    requests_repeated: int
    reads_repeated: int
    writes_repeated: int


@dataclass
class Tally:
    """Rows so far.

    Attributes:
        done: that are known, those of earlier runs included.
        scored: by this run.
        errors: of them.
        labels: class -> rows of this run.
        requests_repeated: because the server was away or busy.
    """

    done: int = 0
    scored: int = 0
    errors: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    requests_repeated: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.done += 1
        self.scored += 1
        if row.get("error") is not None:
            self.errors += 1
        else:
            self.labels[row["label"]] += 1
