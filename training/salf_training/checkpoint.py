"""A checkpoint: one folder with weights, names and a model card.

weights.safetensors   the model's state dict
classes.txt           K names, one a line, in logit order
concepts.txt          M names, one a line, in index order
card.json             the model card (ModelCard), with the hash of the weights
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from salf_contract import Preparation, first_problem
from salf_training.backbone import Backbone, BackboneSettings
from salf_training.errors import CheckpointError, SettingsError, WeightsError
from salf_training.model import FeaturesBackbone, Pooling, SalfModel
from salf_training.weights import read_weights

WEIGHTS_FILE = "weights.safetensors"
CLASSES_FILE = "classes.txt"
CONCEPTS_FILE = "concepts.txt"
CARD_FILE = "card.json"
#: Name, in a card, of the backbone that hands features through.
FEATURES_BACKBONE = "features"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NecPoint(_Document):
    """Accuracy of a head with a given number of effective concepts."""

    concepts_per_class: float = Field(ge=0, description="NEC: non-zero weights / classes")
    accuracy: float = Field(ge=0, le=1, description="on held-out pictures")


class Localisation(_Document):
    """Pointing game on held-out pictures: share of maps whose maximum lies in the mask, within a tolerance."""

    tolerance_px: int = Field(description="in source pixels")
    deciding_concepts: float = Field(ge=0, le=1)
    all_objects: float = Field(ge=0, le=1)
    centre_point: float = Field(ge=0, le=1, description="baseline over all objects: always the picture's centre")
    random_point: float = Field(ge=0, le=1, description="baseline over all objects: a uniformly random point")
    encoder: float = Field(ge=0, le=1, description="the encoder's own similarity maps, over all objects")


class Naming(_Document):
    """How much of the evidence for the predicted classes of held-out pictures says the truth, by |contribution|."""

    drawn: float = Field(ge=0, le=1, description="by concepts that pictures of this world show at all")
    true: float = Field(ge=0, le=1, description="called present and visible in the picture, or absent and not visible")
    well_placed: float = Field(
        ge=0, le=1, description="of what is called present: visible, and the map's maximum on it, within the tolerance"
    )


class Evaluation(_Document):
    """What was measured on held-out pictures when the model was trained."""

    pictures: int = Field(ge=1)
    backbone_accuracy: float = Field(ge=0, le=1, description="the backbone's own classifier")
    accuracy: float = Field(ge=0, le=1, description="the head in this checkpoint")
    nec_curve: tuple[NecPoint, ...] = ()
    dense_accuracy: float | None = None
    localisation: Localisation | None = None
    naming: Naming | None = None


class ModelCard(_Document):
    """What a checkpoint is and where it came from."""

    format_version: Literal[1] = 1
    backbone: BackboneSettings
    preparation: Preparation
    pixel_mean: tuple[float, float, float] = Field(description="of pixels in 0..1")
    pixel_std: tuple[float, float, float]
    pooling: Pooling = "average"
    feature_shape: tuple[int, int, int] = Field(description="(C, h, w) of the backbone's features at the input size")
    map_size: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="(h, w) that features are resized to before the bottleneck; null: as they are"
    )
    grid: tuple[int, int] = Field(
        description="(H, W) of the visual prompts that the maps were trained with; of the maps, where nobody knows"
    )
    concepts_per_class: float = Field(ge=0, description="NEC of the head in this checkpoint")
    evaluation: Evaluation | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict, description="what it was trained on")
    encoder: dict[str, str] = Field(default_factory=dict, description="which encoder named the concepts")
    versions: dict[str, str] = Field(default_factory=dict, description="of the packages that trained it")
    weights_sha256: str = Field(default="", description="of weights.safetensors; filled in when saved")

    @property
    def starts_from_features(self) -> bool:
        """Whether the model has no backbone and is asked about features, not pictures."""
        return self.backbone.name == FEATURES_BACKBONE


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; the model is in evaluation mode, on the CPU, in float32."""

    model: SalfModel
    card: ModelCard
    classes: tuple[str, ...]
    concepts: tuple[str, ...]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> ModelCard:
    """Write a checkpoint; an existing one is replaced in one step or not at all.

    Returns:
        The card as written, with the hash of the weights.

    Raises:
        CheckpointError: the folder holds something else, or the names or the card do not fit the model.
    """
    check_replaceable(folder)
    _check_description(folder, checkpoint)
    _check_counts(folder, checkpoint.model.state_dict(), checkpoint.classes, checkpoint.concepts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}, aside / WEIGHTS_FILE
        )
        for file_name, names in ((CLASSES_FILE, checkpoint.classes), (CONCEPTS_FILE, checkpoint.concepts)):
            (aside / file_name).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            if _read_names(aside, file_name) != names:
                raise CheckpointError(f"the names for {folder / file_name} must be strings of one line each")
        card = checkpoint.card.model_copy(update={"weights_sha256": file_sha256(aside / WEIGHTS_FILE)})
        (aside / CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        replace_folder(folder, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return card


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and check that its parts fit together.

    Raises:
        CheckpointError: a file is missing, broken, or contradicts another.
    """
    card = _read_card(folder)
    classes, concepts = _read_names(folder, CLASSES_FILE), _read_names(folder, CONCEPTS_FILE)
    weights = _existing(folder, WEIGHTS_FILE)
    if file_sha256(weights) != card.weights_sha256:
        raise CheckpointError(
            f"{weights} is not the file that {folder / CARD_FILE} describes (its SHA-256 differs); "
            "copy the checkpoint again or train it again"
        )
    try:
        state = read_weights(weights)
        _check_counts(folder, state, classes, concepts)
        channels = card.feature_shape[0]
        backbone: nn.Module = FeaturesBackbone(channels) if card.starts_from_features else Backbone(card.backbone)
        model = SalfModel(
            backbone,
            channels=channels,
            concepts=len(concepts),
            classes=len(classes),
            pooling=card.pooling,
            map_size=card.map_size,
        )
        model.load_state_dict(state)
    except (WeightsError, SettingsError, RuntimeError) as error:
        raise CheckpointError(
            f"{weights} does not fit {CARD_FILE}, {len(concepts)} concepts and {len(classes)} classes: {error}"
        ) from error
    return Checkpoint(model.eval(), card, classes, concepts)


def check_replaceable(folder: Path) -> None:
    """Refuse to save over anything but a checkpoint: saving removes what is there.

    Raises:
        CheckpointError: the place is taken by a file, or by a folder that is neither empty nor a checkpoint.
    """
    if folder.is_dir() and ((folder / CARD_FILE).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise CheckpointError(f"{folder} exists and is no checkpoint (it has no {CARD_FILE}); give another place")


def replace_folder(folder: Path, aside: Path) -> None:
    """Put a finished folder in the place of another by renames; what goes wrong leaves the old one.

    Args:
        folder: the place; may hold an older folder, which is removed.
        aside: the finished folder, on the same file system; gets ordinary permissions.
    """
    aside.chmod(0o755)
    for file in aside.iterdir():
        file.chmod(0o644 if file.is_file() else 0o755)
    if not folder.exists():
        aside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        aside.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_card(folder: Path) -> ModelCard:
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {folder}; `salf train` writes one")
    path = _existing(folder, CARD_FILE)
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"the model card {path} cannot be read: {first_problem(error)}") from error


def _read_names(folder: Path, file_name: str) -> tuple[str, ...]:
    try:
        names = tuple(_existing(folder, file_name).read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder / file_name} is no UTF-8 text: {error}") from error
    if not names or not all(names) or len(set(names)) != len(names):
        raise CheckpointError(f"{folder / file_name} must hold one name a line, none empty and none twice")
    return names


def _check_description(folder: Path, checkpoint: Checkpoint) -> None:
    """What the weights do not tell must be on the card: a loaded model is built from it."""
    for name in ("pooling", "map_size"):
        says, has = getattr(checkpoint.card, name), getattr(checkpoint.model, name)
        if says != has:
            raise CheckpointError(f"the card for {folder} says {name} {says!r}, but the model has {has!r}")


def _check_counts(
    folder: Path, state: Mapping[str, Tensor], classes: tuple[str, ...], concepts: tuple[str, ...]
) -> None:
    for file_name, names, rows_of in (
        (CLASSES_FILE, classes, "head_weight"),
        (CONCEPTS_FILE, concepts, "concept_weight"),
    ):
        rows = len(state[rows_of]) if rows_of in state else len(names)
        if rows != len(names):
            raise CheckpointError(f"{folder / file_name} holds {len(names)} names, but {rows_of} has {rows} rows")


def _existing(folder: Path, file_name: str) -> Path:
    path = folder / file_name
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {folder} misses {file_name}")
    return path
