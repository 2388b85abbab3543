"""Backbones: any timm network, up to the features before pooling."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from salf_training.errors import WeightsError
from salf_training.weights import read_weights

_FLATTENED = re.compile(r"^([^.]+)_(\d+)\.")
_Options = dict[str, int | float | bool | str | tuple[int, ...]]


class BackboneSettings(BaseModel):
    """Which network gives the features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="timm model name, e.g. 'resnet50'")
    options: _Options = Field(default_factory=dict, description="keyword arguments of timm.create_model")
    stage: int | None = Field(default=None, description="index in timm's feature_info; None: after the last stage")


class Backbone(nn.Module):
    """A network whose forward pass ends at the feature map.

    Input FP32 [B,3,H,W], normalised; output FP32 [B,C,h,w].
    """

    def __init__(self, settings: BackboneSettings, *, pretrained: bool = False) -> None:
        super().__init__()
        self.settings = settings
        options: dict[str, Any] = dict(settings.options)
        try:
            if settings.stage is None:
                self.network = timm.create_model(
                    settings.name, pretrained=pretrained, num_classes=0, global_pool="", **options
                )
            else:
                self.network = timm.create_model(
                    settings.name, pretrained=pretrained, features_only=True, out_indices=(settings.stage,), **options
                )
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, OSError) as error:
            raise WeightsError(f"timm cannot build the backbone {settings.name!r}: {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        """FP32 [B,3,H,W] -> FP32 [B,C,h,w]."""
        out = self.network(images)
        features: Tensor = out if self.settings.stage is None else out[0]
        if features.ndim != 4:
            raise WeightsError(
                f"the backbone {self.settings.name!r} gives features of shape {tuple(features.shape)}, "
                "expected a map [batch, channels, height, width]"
            )
        return features


def build_backbone(settings: BackboneSettings, *, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """Build a backbone with hub weights, local weights, or fresh ones.

    Args:
        settings: which network.
        pretrained: fetch timm's own weights from the hub.
        weights: a local .safetensors or .pt/.pth file of the same timm model; classifier weights in it are ignored.

    Raises:
        WeightsError: unknown name, or weights that do not fit.
    """
    backbone = Backbone(settings, pretrained=pretrained and weights is None)
    if weights is not None:
        load_fitting(backbone.network, read_weights(weights), source=str(weights))
    return backbone


def load_fitting(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that may also hold a classifier, and nothing else that is foreign.

    Raises:
        WeightsError: parameters of the network are missing or have other shapes.
    """
    own = network.state_dict()
    # timm names the stages of a network whose inner features are wanted `stages_0`, not `stages.0`, for some networks.
    source_of = {name: name if name in state else _FLATTENED.sub(r"\1.\2.", name) for name in own}
    # Old torch files do not count batches; only training would need it.
    missing = sorted(name for name in own if source_of[name] not in state and not name.endswith("num_batches_tracked"))
    found = {name: state[source] for name, source in source_of.items() if source in state}
    wrong = sorted(name for name, tensor in found.items() if own[name].shape != tensor.shape)
    if missing or wrong:
        first = missing[0] if missing else wrong[0]
        raise WeightsError(
            f"{source} does not fit the network: {len(missing)} of {len(own)} tensors are missing and {len(wrong)} "
            f"have another shape (first: {first}); check that name and options are those it was trained with"
        )
    network.load_state_dict({**own, **found})


def feature_shape(backbone: nn.Module, *, height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the features for a picture of this size."""
    device = next(backbone.parameters()).device
    was_training = backbone.training
    backbone.eval()
    with torch.inference_mode():
        _, channels, rows, columns = backbone(torch.zeros(1, 3, height, width, device=device)).shape
    backbone.train(was_training)
    return channels, rows, columns
