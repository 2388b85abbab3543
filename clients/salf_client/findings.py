"""Answers to the questions beside "what is it, and why?": maps, regions, edits, rules, health."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from salf_client.errors import AbsentConceptError
from salf_contract import place_map


@dataclass(frozen=True, slots=True)
class ConceptMaps:
    """All concept maps of a picture.

    Attributes:
        names: of the concepts.
        maps: FP32 [M,h,w], read-only: raw c(x), of which scores are pooled; compare them within a concept only.
        model: that answered.
        version: its version.
        contract_id: hash of its metadata.
        source_size: (width, height) of the source in pixels.
        crop_box: (left, top, right, bottom) in source pixels: what the model saw.
    """

    names: tuple[str, ...]
    maps: NDArray[np.float32] = field(repr=False, compare=False)
    model: str
    version: int
    contract_id: str
    source_size: tuple[int, int]
    crop_box: tuple[float, float, float, float]

    def __getitem__(self, concept: str) -> NDArray[np.float32]:
        """One concept's map, FP32 [h,w].

        Raises:
            AbsentConceptError: the model has no such concept.
        """
        if concept not in self.names:
            raise AbsentConceptError(f"model '{self.model}' has no concept '{concept}'")
        row: NDArray[np.float32] = self.maps[self.names.index(concept)]
        return row

    def heatmap(self, concept: str) -> NDArray[np.float32]:
        """One concept's map over the source picture, FP32 [height,width], NaN where the model did not look."""
        return place_map(self[concept], source_size=self.source_size, crop_box=self.crop_box)


@dataclass(frozen=True, slots=True)
class ConceptScore:
    """How much of one concept there is.

    Attributes:
        name: of the concept.
        index: in the model's list.
        score: see the answer's `unit`.
    """

    name: str
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class RegionFinding:
    """What is in a region.

    Attributes:
        concepts: by falling score; as many as were asked for.
        scores: FP32 [M], read-only, of all concepts.
        unit: "deviations": standard deviations of training pictures, comparable among concepts; "raw" under softmax
            pooling, where a region has raw maps' means only.
        weights: FP32 [h,w], read-only: the weight of each cell.
        model: that answered.
        version: its version.
        contract_id: hash of its metadata.
    """

    concepts: tuple[ConceptScore, ...]
    scores: NDArray[np.float32] = field(repr=False, compare=False)
    unit: Literal["deviations", "raw"]
    weights: NDArray[np.float32] = field(repr=False, compare=False)
    model: str
    version: int
    contract_id: str

    def __str__(self) -> str:
        return "\n".join(f"{concept.score:+8.3f}  {concept.name}" for concept in self.concepts)


@dataclass(frozen=True, slots=True)
class ConceptChange:
    """What became of one concept's contribution to a class.

    Attributes:
        name: of the concept.
        before: its contribution in logit units; None if it was not shown.
        after: the same afterwards.
    """

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float:
        """After minus before; what is not shown counts as 0 here, and in the rest."""
        return (self.after or 0.0) - (self.before or 0.0)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """An answer before and after edits.

    Attributes:
        label: predicted before.
        edited_label: predicted after.
        target: the class whose contributions are shown; the one predicted before unless another was asked for.
        probability: of the target before, 0..1.
        edited_probability: after.
        logit: of the target before.
        edited_logit: after.
        changes: concepts whose contribution to the target changed, by falling size of the change.
        logits: FP32 [K], read-only, before.
        edited_logits: FP32 [K], read-only, after.
        contributions: FP32 [M], read-only, to the target, before.
        edited_contributions: FP32 [M], read-only, to the target, after.
        bias: of the target.
        classes: names of the classes, in logit order.
        model: that answered.
        version: its version.
        contract_id: hash of its metadata.
    """

    label: str
    edited_label: str
    target: str
    probability: float
    edited_probability: float
    logit: float
    edited_logit: float
    changes: tuple[ConceptChange, ...]
    logits: NDArray[np.float32] = field(repr=False, compare=False)
    edited_logits: NDArray[np.float32] = field(repr=False, compare=False)
    contributions: NDArray[np.float32] = field(repr=False, compare=False)
    edited_contributions: NDArray[np.float32] = field(repr=False, compare=False)
    bias: float
    classes: tuple[str, ...] = field(repr=False)
    model: str
    version: int
    contract_id: str

    @property
    def is_another_class(self) -> bool:
        """Whether the edits change what is predicted."""
        return self.label != self.edited_label

    def __str__(self) -> str:
        outcome = f"{self.label} becomes {self.edited_label}" if self.is_another_class else f"{self.label} stays"
        lines = [f"{outcome}; {self.target} {self.probability:.1%} -> {self.edited_probability:.1%}"]
        lines += [f"  {change.before:+8.3f} -> {change.after:+8.3f}  {change.name}" for change in self.changes]
        lines.append(f"  {self.logit:+8.3f} -> {self.edited_logit:+8.3f}  = logit of {self.target}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides a class in every picture: its logit is the bias plus the sum of weight times score.

    Attributes:
        label: the class.
        bias: in logit units.
        weights: concept -> logit units per standard deviation, those that are not 0, by falling size.
    """

    label: str
    bias: float
    weights: Mapping[str, float]

    def __str__(self) -> str:
        lines = [self.label, *(f"  {weight:+8.3f}  {name}" for name, weight in self.weights.items())]
        return "\n".join([*lines, f"  {self.bias:+8.3f}  bias"])


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint, as a client sees it.

    Attributes:
        address: host:port.
        ready: whether it and the model answer inferences.
        server: name and version of the server, or "" if it does not answer.
        in_flight: requests of this client that it has not answered yet.
        error: what it said or what kept it silent, or "".
    """

    address: str
    ready: bool
    server: str
    in_flight: int
    error: str


@dataclass(frozen=True, slots=True)
class Health:
    """All endpoints of a client.

    Attributes:
        endpoints: in the order in which they were given.
    """

    endpoints: tuple[EndpointHealth, ...]

    @property
    def ready(self) -> bool:
        """Whether at least one endpoint answers inferences."""
        return any(endpoint.ready for endpoint in self.endpoints)
