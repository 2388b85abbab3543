"""What was dropped from a concept list, why, and by which number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from salf_training.whole_files import replace_file

Reason = Literal["length", "class_similarity", "concept_similarity", "presence", "interpretability"]


class DroppedConcept(BaseModel):
    """One concept that is no longer in the list, or is there without a say (see `ConceptReport.muted`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: str
    reason: Reason
    value: float
    threshold: float
    other: str | None = None

    @property
    def sentence(self) -> str:
        """The reason in words."""
        told = f"{self.value:.3f}"
        match self.reason:
            case "length":
                return f"{self.value:.0f} characters, more than {self.threshold:.0f}"
            case "class_similarity":
                return f"as close as {told} to the class {self.other!r} (limit {self.threshold:g})"
            case "concept_similarity":
                return f"as close as {told} to the concept {self.other!r} (limit {self.threshold:g})"
            case "presence":
                return f"too weak in the pictures: {told}, below {self.threshold:g}"
            case "interpretability":
                return f"not learnt by the bottleneck: held-out similarity {told}, below {self.threshold:g}"


class ConceptReport(BaseModel):
    """What became of a concept list.

    Attributes:
        given: how many concepts there were.
        kept: those that are left, the muted ones included.
        dropped: those that are gone.
        muted: those that keep their maps but may decide nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    given: int
    kept: tuple[str, ...]
    dropped: tuple[DroppedConcept, ...]
    muted: tuple[DroppedConcept, ...] = ()

    @property
    def deciding(self) -> tuple[str, ...]:
        """The kept concepts that may decide."""
        silent = {item.concept for item in self.muted}
        return tuple(concept for concept in self.kept if concept not in silent)

    def dropping(self, dropped: Sequence[DroppedConcept]) -> "ConceptReport":
        """The report after a further filter."""
        gone = {item.concept for item in dropped}
        kept = tuple(concept for concept in self.kept if concept not in gone)
        return self.model_copy(update={"kept": kept, "dropped": (*self.dropped, *dropped)})

    def muting(self, muted: Sequence[DroppedConcept]) -> "ConceptReport":
        """The report after a further filter that takes concepts their say; one that has none keeps its first reason."""
        deciding = set(self.deciding)
        fresh = tuple(item for item in muted if item.concept in deciding)
        return self.model_copy(update={"muted": (*self.muted, *fresh)})

    def write(self, path: Path) -> None:
        """Write it as JSON, in one step."""
        replace_file(path, f"{self.model_dump_json(indent=1)}\n".encode())
