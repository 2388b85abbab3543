"""The evaluation as one JSON document; every share is between 0 and 1."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from salf_training.checkpoint import NecPoint


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RefittedHeads(_Document):
    """Heads fitted anew on given training pictures."""

    training_pictures: int
    curve: tuple[NecPoint, ...] = Field(description="by the NEC that was reached; asked for were 5, 10, ... 30")
    dense: float


class Accuracy(_Document):
    """Share of pictures classified right."""

    checkpoint: float = Field(description="the head in the checkpoint")
    concepts_per_class: float = Field(description="its NEC")
    backbone: float | None = Field(description="the backbone's own classifier; null: it has none")
    refitted: RefittedHeads | None = Field(description="null: no training pictures were given")


class ConceptPlaces(_Document):
    """Do concept maps lie on their concepts? Means over all (picture, visible concept) pairs."""

    cases: int
    tolerance_px: int
    pointing_game: float
    pointing_game_centre: float
    pointing_game_random: float
    iou: float = Field(description="of what lies above the map's mean")
    iou_same_area: float = Field(description="of as many pixels as the mask has, the strongest ones")
    energy_inside: float = Field(description="locality: share of the map's height above its minimum inside the mask")
    mask_share: float = Field(description="the same of a flat map")


class Segmentation(_Document):
    """One method's class heatmaps against the class's masks."""

    pixel_accuracy: float = Field(description="foreground: above the map's mean (Chefer et al. 2021)")
    mean_iou: float
    average_precision: float = Field(description="mean over pictures; no threshold")
    pixel_accuracy_same_area: float = Field(description="foreground: as many pixels as the mask has")
    mean_iou_same_area: float
    pixel_accuracy_chosen_line: float = Field(
        description="foreground: above one share of every map's range; for each half of the pictures the share that "
        "gives the largest mIoU on the other half"
    )
    mean_iou_chosen_line: float


class Verdict(_Document):
    """Whether the model's evidence maps are ahead of a post-hoc method on the same pictures."""

    over: str
    pixel_accuracy: bool
    mean_iou: bool
    average_precision: bool
    pixel_accuracy_same_area: bool
    mean_iou_same_area: bool
    pixel_accuracy_chosen_line: bool
    mean_iou_chosen_line: bool


class Faithfulness(_Document):
    """Probability of the explained class as pixels leave or enter by rank; of the model that the method explains."""

    model: Literal["SALF-CBM", "backbone"]
    deletion: tuple[float, ...] = Field(description="0 to 100 % of the pixels taken away; lower is better")
    insertion: tuple[float, ...] = Field(description="0 to 100 % of the pixels put in; higher is better")
    deletion_area: float
    insertion_area: float


class ConceptSimilarity(_Document):
    """How well one concept's maps follow the encoder's similarities: cubed cosine, -1 to 1."""

    concept: str
    similarity: float


class EvaluationReport(_Document):
    """Everything that was measured."""

    format_version: Literal[1] = 1
    checkpoint: str
    weights_sha256: str
    data: str
    pictures: int
    pooling: str
    classes: int
    concepts: int
    accuracy: Accuracy
    concept_places: ConceptPlaces | None = Field(description="of all visible concepts with masks")
    deciding_places: ConceptPlaces | None = Field(description="of those among them that the head weighs for any class")
    segmented_pictures: int = Field(description="that have a mask of their class; the same for all methods")
    segmentation: dict[str, Segmentation]
    ahead: tuple[Verdict, ...]
    faithfulness_pictures: int
    faithfulness: dict[str, Faithfulness]
    encoder_similarity: tuple[ConceptSimilarity, ...]
    left_out: tuple[str, ...] = Field(description="what was not measured, and what it would need")
