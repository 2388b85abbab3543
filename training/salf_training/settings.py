"""Settings of a training run, as people write them in YAML."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from salf_contract import Preparation, all_problems
from salf_training.backbone import BackboneSettings
from salf_training.bottleneck import BottleneckTraining
from salf_training.concept_sets.filters import ConceptFilters
from salf_training.encoder import EncoderSettings
from salf_training.errors import SettingsError
from salf_training.head import HeadTraining
from salf_training.model import Pooling
from salf_training.prompts import CircleSettings, PromptSettings

#: Stands for the folder of all data in a settings file that is to run on any machine.
DATA_PLACEHOLDER = "{data}"

_LOCAL = "local-dir:"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ExpectedData(BaseModel):
    """What the data should hold. A dry run plans with it where the data is absent, and compares where it is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: PositiveInt
    held_out: PositiveInt
    classes: PositiveInt
    concepts: PositiveInt


class TrainSettings(BaseModel):
    """Everything that turns a backbone, an encoder and pictures into a SALF-CBM. Relative paths start at the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Path = Field(description="image folder: one folder per class")
    held_out: Path = Field(description="image folder with the same classes, for every reported figure")
    concepts: Path = Field(description="text file, one concept a line")
    class_names: Path | None = Field(
        default=None, description="text file, one name a line in the class folders' order; None: the folders' names"
    )
    cache: Path = Field(default=Path(".salf-cache"), description="folder for embeddings; may be large")
    seed: int = 0
    expected: ExpectedData | None = Field(default=None, description="for `salf train --dry-run`")

    backbone: BackboneSettings
    backbone_weights: Path | None = Field(
        default=None, description="local weights; may hold classifier.weight [K,C] and classifier.bias [K]"
    )
    pretrained: bool = Field(default=False, description="fetch timm's weights from the hub")
    preparation: Preparation = Preparation(height=224, width=224)
    pixel_mean: tuple[float, float, float] = _IMAGENET_MEAN
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = _IMAGENET_STD

    encoder: EncoderSettings
    circles: PromptSettings = CircleSettings()
    similarity_pictures: int = Field(
        default=2000, ge=2, description="training pictures that the bottleneck learns from"
    )
    concept_filters: ConceptFilters | None = Field(
        default=None, description="None keeps the list whole; {} takes the published thresholds"
    )
    bottleneck: BottleneckTraining = BottleneckTraining()
    pooling: Pooling = "average"
    head: HeadTraining = HeadTraining()
    dense_head: bool = Field(default=False, description="a head without a sparsity penalty goes into the checkpoint")
    head_lambda: PositiveFloat | None = Field(
        default=None, description="the elastic net's head of this lambda goes into the checkpoint, not refitted"
    )
    held_table_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="largest table of scores that is held; larger ones go to the cache"
    )

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if self.dense_head and self.head_lambda is not None:
            raise ValueError("dense_head and head_lambda each choose the head; set one of them at most")
        return self


def read_settings(path: Path, *, data: Path | None = None) -> TrainSettings:
    """Read a YAML file; relative paths in it are taken from its own folder.

    Args:
        path: the file.
        data: folder that `{data}` stands for.

    Raises:
        SettingsError: no file, no YAML, a key that is unknown, missing or of the wrong kind, or `{data}` without
            `data`.
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
        settings = TrainSettings.model_validate(_with_data(values, data, path))
    except ValidationError as error:
        raise SettingsError(f"{path} cannot be used: {all_problems(error, whole='settings')}") from error
    names = ("train", "held_out", "concepts", "class_names", "cache", "backbone_weights")
    found = {name: getattr(settings, name) for name in names}
    update: dict[str, Any] = {name: path.parent / value for name, value in found.items() if value is not None}
    return settings.model_copy(update={**update, "encoder": _encoder_beside(path.parent, settings.encoder)})


def write_settings(path: Path, settings: TrainSettings) -> None:
    """Write a YAML file that `read_settings` reads back; what has its default is left out. Paths should be absolute."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def with_head(
    settings: TrainSettings,
    *,
    concepts_per_class: Sequence[int] = (),
    dense: bool = False,
    lam: float | None = None,
) -> TrainSettings:
    """Settings with another choice of the head; without a choice, as they are.

    Args:
        settings: to change.
        concepts_per_class: the first goes into the checkpoint, all are reported in its curve.
        dense: a head without a sparsity penalty goes into the checkpoint.
        lam: the elastic net's head of this lambda goes into the checkpoint.

    Raises:
        SettingsError: a number below 1, or more than one choice.
    """
    chosen = [bool(concepts_per_class), dense, lam is not None]
    if sum(chosen) > 1:
        raise SettingsError("concepts per class, dense and lambda each choose the head; give one of them")
    if not any(chosen):
        return settings
    values: dict[str, Any] = {"dense_head": dense, "head_lambda": lam}
    if concepts_per_class:
        counts = {"concepts_per_class": concepts_per_class[0], "curve": tuple(concepts_per_class)}
        values["head"] = {**settings.head.model_dump(), **counts}
    try:
        return TrainSettings.model_validate({**settings.model_dump(), **values})
    except ValidationError as error:
        raise SettingsError(f"the head cannot be chosen so: {all_problems(error, whole='settings')}") from error


def _with_data(values: Any, data: Path | None, path: Path) -> Any:
    """The same values with `{data}` replaced by the folder, at any depth."""
    if isinstance(values, dict):
        return {key: _with_data(value, data, path) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_data(value, data, path) for value in values]
    if not isinstance(values, str) or DATA_PLACEHOLDER not in values:
        return values
    if data is None:
        raise SettingsError(
            f"{path} names {values!r}, and {DATA_PLACEHOLDER} stands for a folder of this machine: "
            "give it with --data FOLDER or in the environment variable SALF_DATA"
        )
    return values.replace(DATA_PLACEHOLDER, os.fspath(data.absolute()))


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
