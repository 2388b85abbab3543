"""What was dropped from a concept list, why, and by which number."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Reason = Literal["length", "class_similarity", "concept_similarity", "presence", "interpretability"]


class DroppedConcept(BaseModel):
    """One concept that is no longer in the list."""

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
    """What became of a concept list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    given: int
    kept: tuple[str, ...]
    dropped: tuple[DroppedConcept, ...]

    def then(self, kept: tuple[str, ...], dropped: tuple[DroppedConcept, ...]) -> "ConceptReport":
        """The report after a further filter."""
        return ConceptReport(given=self.given, kept=kept, dropped=(*self.dropped, *dropped))

    def write(self, path: Path) -> None:
        """Write it as JSON, in one step."""
        aside = path.with_name(f".{path.name}.aside")
        aside.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
