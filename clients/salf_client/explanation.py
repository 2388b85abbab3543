"""What an explained prediction looks like to its reader."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.errors import AbsentConceptError
from salf_client.pictures import KeptPicture, Picture
from salf_contract import place_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from salf_client.comparing import Comparison

_ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ConceptEvidence:
    """What one concept said about the explained class.

    Attributes:
        name: of the concept.
        index: of the concept in the model's list.
        contribution: weight times score, in logit units; positive speaks for the class.
        score: z, in standard deviations of the training pictures; positive means more of it than usual.
        map: FP32 [h,w], read-only: where the concept's score comes from, in the same units as `score`.
    """

    name: str
    index: int
    contribution: float
    score: float
    map: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def present(self) -> bool:
        """Whether the picture shows more of the concept than usual."""
        return self.score > 0

    @property
    def speaks_for(self) -> bool:
        """Whether the concept, present or absent, speaks for the class."""
        return self.contribution > 0

    @property
    def wording(self) -> str:
        """The evidence in words: "sail", or "no sail" where the concept is absent."""
        return self.name if self.present else f"no {_ARTICLE.sub('', self.name)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A prediction with its reasons; the concepts' contributions, the rest and the bias sum to the class's logit.

    Attributes:
        label: the predicted class.
        label_index: its index.
        target: the class that is explained; the predicted one unless another was asked for.
        target_index: its index.
        concepts: the strongest evidence, by falling |contribution|.
        rest_contribution: sum of the contributions of all concepts not shown, in logit units.
        bias: of the explained class, in logit units.
        coverage: sum of shown |contributions| / sum of all |contributions|, 0..1.
        logits: FP32 [K], read-only.
        model: name of the model that answered.
        version: its version.
        contract_id: hash of its metadata, 32 hex digits.
        source_size: (width, height) of the source picture in pixels, upright.
        crop_box: (left, top, right, bottom) in source pixels: the part that the model saw.
        latency_ms: from sending the request to having the answer.
        kept: what `picture` is made of.
    """

    label: str
    label_index: int
    target: str
    target_index: int
    concepts: tuple[ConceptEvidence, ...]
    rest_contribution: float
    bias: float
    coverage: float
    logits: NDArray[np.float32] = field(repr=False, compare=False)
    model: str
    version: int
    contract_id: str
    source_size: tuple[int, int]
    crop_box: tuple[float, float, float, float]
    latency_ms: float = field(compare=False)
    kept: KeptPicture = field(repr=False, compare=False)

    @property
    def picture(self) -> Image.Image:
        """The source in RGB for drawing, at no more than 512 pixels a side; decoded when first asked for.

        Raises:
            InvalidPictureError: the explanation was stored without its picture, or is of a prepared one.
        """
        return self.kept.get()

    @property
    def predicted_probability(self) -> float:
        """Softmax of the logits at the predicted class, 0..1."""
        return _softmax_at(self.logits, self.label_index)

    @property
    def probability(self) -> float:
        """Softmax of the logits at the explained class, 0..1."""
        return _softmax_at(self.logits, self.target_index)

    @property
    def logit(self) -> float:
        """The explained class's logit, as the model computed it."""
        return float(self.logits[self.target_index])

    def concept(self, name: str) -> ConceptEvidence:
        """The evidence of one concept.

        Raises:
            AbsentConceptError: it is not among the concepts of this answer.
        """
        for concept in self.concepts:
            if concept.name == name:
                return concept
        shown = ", ".join(concept.name for concept in self.concepts) or "none"
        raise AbsentConceptError(
            f"'{name}' is not among the concepts of this answer: {shown}; ask for more with top=..."
        )

    def heatmap(self, concept: str | ConceptEvidence, *, allow_absent: bool = False) -> NDArray[np.float32]:
        """A concept's map over the source picture.

        Args:
            concept: one of `concepts`, or its name.
            allow_absent: also lay out the map of an absent concept, though it marks no place.

        Returns:
            FP32 [height,width] over the source, NaN where the model did not look; units of `score`.

        Raises:
            AbsentConceptError: the concept is absent from the picture or from this answer.
        """
        evidence = self.concept(concept) if isinstance(concept, str) else concept
        if not evidence.present and not allow_absent:
            raise AbsentConceptError(
                f"'{evidence.name}' is absent (score {evidence.score:.2f}), so its map shows no place; "
                f"pass allow_absent=True to see the map all the same"
            )
        if evidence.map.size == 0:
            raise AbsentConceptError(
                f"this explanation was stored without maps, and so without one of '{evidence.name}'"
            )
        return place_map(evidence.map, source_size=self.source_size, crop_box=self.crop_box)

    def plot(self, image: Picture | None = None, path: str | Path | None = None) -> "Figure":
        """Draw the picture, the strongest present concepts over it, and a bar chart of the contributions.

        Args:
            image: the source at full size, if the kept copy is too small for the purpose.
            path: where to save the figure as well; the ending says the format.

        Returns:
            A matplotlib figure.

        Raises:
            PlotUnavailableError: matplotlib is not installed.
            InvalidPictureError: `image` cannot be read.
        """
        from salf_client.drawing import draw  # drawing needs matplotlib, which only plots need

        return draw(self, image=image, path=path)

    def compare(self, later: "Explanation") -> "Comparison":
        """How another explanation differs from this one.

        Two classes of one picture: "why A and not B". One class, answered by two versions: "what changed".

        Raises:
            NotComparableError: neither the class nor the picture's size is the same.
        """
        from salf_client.comparing import compare

        return compare(self, later)

    def to_dict(self, *, maps: bool = False, picture: bool = False) -> dict[str, Any]:
        """Plain values for JSON.

        Args:
            maps: whether to keep the concepts' maps.
            picture: whether to keep the picture, at no more than 512 pixels a side, as a JPEG in base64.
        """
        from salf_client.storing import to_plain

        return to_plain(self, maps=maps, picture=picture)

    def to_json(self, *, maps: bool = True, picture: bool = False) -> str:
        """One JSON document that `from_json` reads; see `to_dict`."""
        return json.dumps(self.to_dict(maps=maps, picture=picture))

    @staticmethod
    def from_json(text: str | bytes) -> "Explanation":
        """Read what `to_json` wrote.

        Raises:
            StoredExplanationError: no JSON, no explanation, or one of a later salf.
        """
        from salf_client.storing import from_json

        return from_json(text)

    def __str__(self) -> str:
        lines = [f"{self.label} {self.predicted_probability:.1%}  ({self.model} version {self.version})"]
        if self.target_index != self.label_index:
            lines = [lines[0], f"why not {self.target} ({self.probability:.1%})?"]
        lines += [f"  {concept.contribution:+8.3f}  {concept.wording}" for concept in self.concepts]
        lines += [
            f"  {self.rest_contribution:+8.3f}  other concepts",
            f"  {self.bias:+8.3f}  bias",
            f"  {self.logit:+8.3f}  = logit of {self.target}; shown: {self.coverage:.0%} of the evidence",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from salf_client.notebook import explanation_html  # only notebooks need it

        return explanation_html(self)


def _softmax_at(logits: NDArray[np.float32], index: int) -> float:
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return float(powers[index] / powers.sum())
