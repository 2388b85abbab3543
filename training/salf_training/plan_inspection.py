"""Look at what a settings file names, without training: data, weights, networks and their sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from salf_training.backbone import Backbone, brings_own_weights, build_backbone, feature_shape
from salf_training.encoder import Encoder, EncoderSettings, device_of, quiet_open_clip
from salf_training.encoder_loading import load_encoder, resolve_devices
from salf_training.errors import DataError, TrainingError, WeightsError
from salf_training.factory import is_factory_name
from salf_training.image_folder import read_image_folder, read_names
from salf_training.pipeline import class_names, read_splits
from salf_training.planning import PlannedSizes, bottleneck_held_out
from salf_training.settings import ExpectedData, TrainSettings

_LOCAL = "local-dir:"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        ready: True: can be used. False: training would fail, or the file does not hold what it should. None: nobody
            can tell before it is fetched.
        told: what was found.
    """

    what: str
    ready: bool | None
    told: str


@dataclass(frozen=True)
class PlannedEncoder:
    """Which encoder will be used: the real one if its weights are here, else one of its shape.

    Attributes:
        image_size: (H, W).
        embedding_size: D.
        parameters: 0 for a factory's encoder, which keeps them to itself.
        device: where it computes.
        embed: UINT8 [B,H,W,3] on the device -> [B,D]; for measuring its speed.
    """

    image_size: tuple[int, int]
    embedding_size: int
    parameters: int
    device: torch.device
    embed: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inspection:
    """What was found, the sizes to plan with, and the networks to measure."""

    findings: tuple[Finding, ...]
    sizes: PlannedSizes
    backbone: Backbone
    encoder: PlannedEncoder

    @property
    def ready(self) -> bool:
        """Whether training could start."""
        return all(finding.ready is not False for finding in self.findings)


def inspect(settings: TrainSettings) -> Inspection:
    """Look at data, weights and sizes.

    Raises:
        TrainingError: a network that cannot even be built, or data that is absent and not described under `expected`.
    """
    findings: list[Finding] = []
    counts = _counts(settings, findings)
    backbone = _backbone(settings, findings)
    encoder = _encoder(settings.encoder, findings)
    preparation = settings.preparation
    channels, rows, columns = feature_shape(backbone, height=preparation.height, width=preparation.width)
    findings.append(Finding("features", ready=True, told=f"{channels} x {rows} x {columns} at the input size"))
    chosen = min(settings.similarity_pictures, counts.pictures)
    sizes = PlannedSizes(
        pictures=counts.pictures,
        held_out=counts.held_out,
        classes=counts.classes,
        concepts=counts.concepts,
        similarity_pictures=chosen,
        cells=settings.circles.rows * settings.circles.columns,
        embedding_size=encoder.embedding_size,
        channels=channels,
        positions=rows * columns,
        backbone_parameters=_parameters(backbone),
        encoder_parameters=encoder.parameters,
        bottleneck_batch=settings.bottleneck.batch_size,
        bottleneck_held_out=bottleneck_held_out(chosen, settings.bottleneck.held_out_share),
        held_table_bytes=settings.held_table_bytes,
        pooling=settings.pooling,
    )
    return Inspection(tuple(findings), sizes, backbone, encoder)


def _counts(settings: TrainSettings, findings: list[Finding]) -> ExpectedData:
    """Numbers from the data, or from the settings where there is none."""
    expected = settings.expected
    found: dict[str, int] = {}
    for name, folder in (("pictures", settings.train), ("held_out", settings.held_out)):
        try:
            pictures = read_image_folder(folder)
        except DataError as error:
            findings.append(Finding(name, ready=False, told=_absent(error, name, expected)))
            continue
        found[name], found["classes"] = len(pictures), len(pictures.classes)
        findings.append(_compared(name, len(pictures), expected))
    if {"pictures", "held_out"} <= set(found):
        try:
            splits = read_splits(settings)
            class_names(settings, splits[0].classes)
        except DataError as error:
            findings.append(Finding("classes", ready=False, told=str(error)))
        else:
            findings.append(_compared("classes", found["classes"], expected))
    try:
        found["concepts"] = len(read_names(settings.concepts))
    except DataError as error:
        findings.append(Finding("concepts", ready=False, told=_absent(error, "concepts", expected)))
    else:
        findings.append(_compared("concepts", found["concepts"], expected))
    if expected is not None:
        return expected.model_copy(update=found)
    missing = sorted(set(ExpectedData.model_fields) - set(found))
    if missing:
        raise DataError(
            f"nothing to plan with: {'; '.join(f.told for f in findings if f.ready is False)} "
            f"(or say under `expected` how many there will be: {', '.join(missing)})"
        )
    return ExpectedData(**found)


def _absent(error: DataError, name: str, expected: ExpectedData | None) -> str:
    declared = "" if expected is None else f"; planned with {getattr(expected, name):,}, as the settings say"
    return f"{error}{declared}"


def _compared(name: str, count: int, expected: ExpectedData | None) -> Finding:
    wanted = None if expected is None else getattr(expected, name)
    if wanted in {None, count}:
        return Finding(name, ready=True, told=f"{count:,} found")
    return Finding(name, ready=False, told=f"{count:,} found, but the settings expect {wanted:,}")


def _backbone(settings: TrainSettings, findings: list[Finding]) -> Backbone:
    """With its own weights if they are here; the sizes are the same without."""
    name = settings.backbone.name
    if settings.backbone_weights is not None:
        try:
            backbone = build_backbone(settings.backbone, weights=settings.backbone_weights)
        except WeightsError as error:
            findings.append(Finding("backbone", ready=False, told=str(error)))
        else:
            findings.append(Finding("backbone", ready=True, told=f"{name} with {settings.backbone_weights.name}"))
            return backbone.eval()
    elif brings_own_weights(settings.backbone):
        told = "brings its own weights: leave `pretrained` out" if settings.pretrained else "brings its own weights"
        findings.append(Finding("backbone", ready=not settings.pretrained, told=f"{name} {told}"))
    elif settings.pretrained:
        findings.append(Finding("backbone", ready=None, told=f"{name}; its weights are fetched when training starts"))
    else:
        findings.append(Finding("backbone", ready=False, told=f"{name} has no weights: give backbone_weights"))
    return build_backbone(settings.backbone).eval()


def _encoder(settings: EncoderSettings, findings: list[Finding]) -> PlannedEncoder:
    """The encoder if it is here, else open_clip's architecture of that name with fresh weights."""
    device = resolve_devices(settings.devices)[0]
    is_here = settings.model.startswith(_LOCAL) or (settings.weights is not None and Path(settings.weights).is_file())
    if is_here or is_factory_name(settings.model):
        try:
            encoder = load_encoder(settings, device=device)
        except TrainingError as error:
            if is_factory_name(settings.model):
                raise
            findings.append(Finding("encoder", ready=False, told=str(error)))
        else:
            findings.append(Finding("encoder", ready=True, told=f"{settings.model}, loaded on {device}"))
            network = getattr(encoder, "model", None)
            return _planned(encoder, _parameters(network) if isinstance(network, nn.Module) else 0)
    architecture = settings.model
    if settings.model.startswith(_LOCAL) or open_clip.get_model_config(architecture) is None:
        raise WeightsError(
            f"the encoder {settings.model!r} cannot be planned with: its files are not here, and open_clip knows no "
            "architecture of that name"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if settings.weights in tags:
        told = f"{architecture}; the weights {settings.weights!r} are fetched when training starts"
        findings.append(Finding("encoder", ready=None, told=told))
    elif not is_here:
        told = f"{architecture} has no weights {settings.weights!r}; open_clip knows {', '.join(tags)}, or give a file"
        findings.append(Finding("encoder", ready=False, told=told))
    with quiet_open_clip():
        fresh = open_clip.create_model(architecture, **settings.options).eval().to(device)
    return _planned(_FreshEncoder(fresh, torch.device(device)), _parameters(fresh))


class _FreshEncoder:
    """Implements Encoder's picture side with an open_clip architecture without trained weights."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        size: Any = model.visual.image_size  # type: ignore[union-attr]
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.device = device
        self._model = model

    @torch.inference_mode()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] -> [B,D]; in the precision that training takes by default."""
        precision = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        with torch.autocast(self.device.type, precision):
            embedded: Tensor = self._model.encode_image(pixels.permute(0, 3, 1, 2) / 255)  # type: ignore[operator]
        return embedded


def _planned(encoder: "Encoder | _FreshEncoder", parameters: int) -> PlannedEncoder:
    height, width = encoder.image_size
    device = encoder.device if isinstance(encoder, _FreshEncoder) else device_of(encoder)
    embedded = encoder.embed_images(torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device))
    return PlannedEncoder((height, width), embedded.shape[1], parameters, device, encoder.embed_images)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
