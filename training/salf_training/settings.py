"""Settings of a training run, as people write them in YAML."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from salf_contract import Preparation
from salf_training.backbone import BackboneSettings
from salf_training.bottleneck import BottleneckTraining
from salf_training.encoder import EncoderSettings
from salf_training.errors import SettingsError
from salf_training.head import HeadTraining
from salf_training.prompts import CircleSettings

_LOCAL = "local-dir:"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TrainSettings(BaseModel):
    """Everything that turns a backbone, an encoder and pictures into a SALF-CBM. Relative paths start at the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Path = Field(description="image folder: one folder per class")
    held_out: Path = Field(description="image folder with the same classes, for every reported figure")
    concepts: Path = Field(description="text file, one concept a line")
    cache: Path = Field(default=Path(".salf-cache"), description="folder for embeddings; may be large")
    seed: int = 0

    backbone: BackboneSettings
    backbone_weights: Path | None = Field(
        default=None, description="local weights; may hold classifier.weight [K,C] and classifier.bias [K]"
    )
    pretrained: bool = Field(default=False, description="fetch timm's weights from the hub")
    preparation: Preparation = Preparation(height=224, width=224)
    pixel_mean: tuple[float, float, float] = _IMAGENET_MEAN
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = _IMAGENET_STD

    encoder: EncoderSettings
    circles: CircleSettings = CircleSettings()
    similarity_pictures: int = Field(
        default=2000, ge=2, description="training pictures that the bottleneck learns from"
    )
    bottleneck: BottleneckTraining = BottleneckTraining()
    presence_cutoff: float = Field(
        default=-1.0,
        ge=-1,
        le=1,
        description="a concept whose strongest local similarities (mean of the top 0.2 %) stay below this is taken for "
        "absent from the pictures: it keeps its map, but no class may be decided by it; -1 lets all decide",
    )
    head: HeadTraining = HeadTraining()


def read_settings(path: Path) -> TrainSettings:
    """Read a YAML file; relative paths in it are taken from its own folder.

    Raises:
        SettingsError: no file, no YAML, or a key that is unknown, missing or of the wrong kind.
    """
    if not path.is_file():
        raise SettingsError(f"the settings file {path} does not exist")
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold settings by name, e.g. `train: data/train`")
    try:
        settings = TrainSettings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path} cannot be used: {problems}") from error
    names = ("train", "held_out", "concepts", "cache", "backbone_weights")
    found = {name: getattr(settings, name) for name in names}
    update: dict[str, Any] = {name: path.parent / value for name, value in found.items() if value is not None}
    return settings.model_copy(update={**update, "encoder": _encoder_beside(path.parent, settings.encoder)})


def _encoder_beside(folder: Path, encoder: EncoderSettings) -> EncoderSettings:
    """The encoder's local files, taken from the settings file's folder."""
    update: dict[str, Any] = {}
    if encoder.model.startswith(_LOCAL):
        update["model"] = f"{_LOCAL}{folder / encoder.model.removeprefix(_LOCAL)}"
    if encoder.weights is not None and (folder / encoder.weights).is_file():
        update["weights"] = str(folder / encoder.weights)
    if encoder.merges is not None:
        update["merges"] = folder / encoder.merges
    return encoder.model_copy(update=update)
