"""A published checkpoint and a backbone -> a checkpoint of ours."""

from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import nn

from salf_contract import Preparation, all_problems, first_problem
from salf_training.backbone import BackboneSettings, brings_own_weights, build_backbone, feature_shape
from salf_training.checkpoint import FEATURES_BACKBONE, Checkpoint, ModelCard
from salf_training.errors import CheckpointError, SettingsError, WeightsError
from salf_training.factory import is_factory_name
from salf_training.importers.layouts import ARGUMENTS_FILE, Layout, Published, named_backbone, read_published
from salf_training.model import FeaturesBackbone, SalfModel
from salf_training.torchvision_features import PREFIX as TORCHVISION_PREFIX

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _FeaturesOptions(BaseModel):
    """Options of the backbone `features`: the shape of what the model is asked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt


def import_checkpoint(
    folder: Path,
    *,
    layout: Layout,
    backbone: BackboneSettings | None = None,
    backbone_weights: Path | None = None,
    pretrained: bool = False,
    preparation: Preparation | None = None,
    pixel_mean: tuple[float, float, float] | None = None,
    pixel_std: tuple[float, float, float] | None = None,
    map_size: tuple[int, int] | None = None,
    classes: Path | None = None,
) -> Checkpoint:
    """Turn a published checkpoint into ours.

    The published folders hold no backbone weights and do not say how pictures are prepared: give what the model was
    trained with, or its answers are noise.

    Args:
        folder: the published checkpoint.
        layout: whose code wrote it; decides the pooling.
        backbone: the network that the features come from; None takes the one that args.txt names. The name "features"
            with the options channels, height and width makes a model that is asked about features, not pictures.
        backbone_weights: local file of the backbone's weights.
        pretrained: fetch the backbone's weights from the hub instead.
        preparation: of pictures; None: 224 x 224, the whole height or width.
        pixel_mean: RGB, of pixels in 0..1; None: ImageNet's.
        pixel_std: likewise, positive.
        map_size: (h, w) that features are resized to before the bottleneck (the paper's checkpoint: 12, 12); None
            leaves them as the backbone gives them.
        classes: text file with one class name a line; None takes classes.txt in the folder.

    Raises:
        CheckpointError: a file is missing, of another shape, or contradicts another or the backbone.
        WeightsError: a file cannot be read or holds more than tensors, or the backbone cannot be built.
        SettingsError: a factory or a number that cannot be used, or backbone settings that do not belong together.
    """
    published = read_published(folder, layout, classes=classes)
    size = Preparation(height=224, width=224) if preparation is None else preparation
    if backbone is None:
        chosen, network, shape = _named_backbone(folder, size, pretrained=pretrained, weights=backbone_weights)
    else:
        chosen = backbone
        network, shape = _backbone(chosen, size, pretrained=pretrained, weights=backbone_weights)
    channels = published.concept_weight.shape[1]
    if shape[0] != channels:
        raise CheckpointError(
            f"the bottleneck in {folder} takes features of {channels} channels, but the backbone {chosen.name!r} gives "
            f"{shape[0]}; name the backbone (and its stage) that the model was trained on"
        )
    _check_weights(chosen, network, given=pretrained or backbone_weights is not None)
    mean, std = pixel_mean or _IMAGENET_MEAN, pixel_std or _IMAGENET_STD
    if min(std) <= 0:
        raise SettingsError(f"pixel_std is {std}, expected positive numbers")
    model = _model(published, network, map_size=map_size, pixel_mean=mean, pixel_std=std)
    try:
        card = ModelCard(
            backbone=chosen,
            preparation=size,
            pixel_mean=mean,
            pixel_std=std,
            pooling=published.pooling,
            feature_shape=shape,
            map_size=map_size,
            grid=shape[1:] if map_size is None else map_size,
            concepts_per_class=float(published.head_weight.count_nonzero() / len(published.classes)),
            data={"imported_folder": folder.resolve().name, "imported_layout": layout},
            versions={name: version(name) for name in ("salf", "torch", "timm")},
        )
    except ValidationError as error:
        raise CheckpointError(f"{folder} cannot be imported: {first_problem(error)}") from error
    return Checkpoint(model, card, published.classes, published.concepts)


def _named_backbone(
    folder: Path, size: Preparation, *, pretrained: bool, weights: Path | None
) -> tuple[BackboneSettings, nn.Module, tuple[int, int, int]]:
    """The backbone that the folder itself names. Whoever wrote the folder must not choose code that is run here."""
    name, place = named_backbone(folder), folder / ARGUMENTS_FILE
    if is_factory_name(name) and not name.startswith(TORCHVISION_PREFIX):
        raise CheckpointError(
            f"{place} names the backbone {name!r}, which would run its author's code; if you trust it, say so yourself"
        )
    settings = BackboneSettings(name=name)
    try:
        return settings, *_backbone(settings, size, pretrained=pretrained, weights=weights)
    except (WeightsError, SettingsError) as error:
        raise WeightsError(
            f"{place} names the backbone {name!r}, which cannot be used: {error}; say which backbone the model has"
        ) from error


def _backbone(
    settings: BackboneSettings, size: Preparation, *, pretrained: bool, weights: Path | None
) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network and its (C, h, w)."""
    if settings.name != FEATURES_BACKBONE:
        network = build_backbone(settings, pretrained=pretrained, weights=weights)
        return network, feature_shape(network, height=size.height, width=size.width)
    if pretrained or weights is not None:
        raise WeightsError(f"the backbone {FEATURES_BACKBONE!r} hands features through and has no weights; give none")
    try:
        shape = _FeaturesOptions.model_validate(settings.options)
    except ValidationError as error:
        raise WeightsError(
            f"the backbone {FEATURES_BACKBONE!r} needs the features' channels, height and width as options: "
            f"{all_problems(error)}"
        ) from error
    return FeaturesBackbone(shape.channels), (shape.channels, shape.height, shape.width)


def _check_weights(settings: BackboneSettings, network: nn.Module, *, given: bool) -> None:
    """Refuse a network with random weights."""
    if given or brings_own_weights(settings) or not any(True for _ in network.parameters()):
        return
    raise WeightsError(
        f"the backbone {settings.name!r} has no weights: the published folder holds none, and random ones would make "
        "every answer noise; give its weight file, or have pretrained ones fetched"
    )


def _model(
    published: Published,
    backbone: nn.Module,
    *,
    map_size: tuple[int, int] | None,
    pixel_mean: tuple[float, float, float],
    pixel_std: tuple[float, float, float],
) -> SalfModel:
    m, channels = published.concept_weight.shape
    model = SalfModel(
        backbone,
        channels=channels,
        concepts=m,
        classes=len(published.classes),
        pooling=published.pooling,
        map_size=map_size,
    )
    buffers = {
        "pixel_mean": torch.tensor(pixel_mean),
        "pixel_std": torch.tensor(pixel_std),
        "concept_weight": published.concept_weight,
        "concept_bias": published.concept_bias,
        "score_mean": published.score_mean,
        "score_std": published.score_std,
        "head_weight": published.head_weight,
        "head_bias": published.head_bias,
    }
    for name, values in buffers.items():
        model.get_buffer(name).copy_(values)
    return model.eval()
