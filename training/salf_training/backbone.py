"""Backbones: timm and torchvision networks and people's own, up to the features before pooling."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from salf_training.errors import SettingsError, WeightsError
from salf_training.factory import call_factory, import_factory, is_factory_name, takes
from salf_training.feature_source import FeatureSource, call_network
from salf_training.timm_features import timm_source, with_own_positions
from salf_training.torchvision_features import PREFIX, torchvision_source
from salf_training.weights import read_weights

_FLATTENED = re.compile(r"^([^.]+)_(\d+)\.")
_WRAPPED = "model."
_PARALLEL = "module."
_Options = dict[str, int | float | bool | str | tuple[int, ...]]


class BackboneSettings(BaseModel):
    """Which network gives the features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="timm name, e.g. 'resnet50' or 'vit_base_patch16_224'; 'torchvision:resnet50'; or "
        "'package.module:function', a factory of a network [B,3,H,W] -> [B,C,h,w]"
    )
    options: _Options = Field(default_factory=dict, description="keyword arguments of the network or the factory")
    stage: int | None = Field(
        default=None, description="timm: index in the network's feature_info; None: after the last stage"
    )
    node: str | None = Field(
        default=None, description="torchvision: graph node whose output is the map, e.g. 'layer3'; None: what is pooled"
    )


class Backbone(nn.Module):
    """A network whose forward pass ends at the feature map.

    Input FP32 [B,3,H,W], normalised; output FP32 [B,C,h,w].
    """

    def __init__(self, settings: BackboneSettings, *, pretrained: bool = False) -> None:
        super().__init__()
        self.settings = settings
        source = _source(settings, pretrained=pretrained)
        self.network = source.network
        self._read, self._channels = source.read, source.channels

    def forward(self, images: Tensor) -> Tensor:
        """FP32 [B,3,H,W] -> FP32 [B,C,h,w]."""
        features = self._read(self.network, images)
        if features.ndim != 4:
            raise WeightsError(
                f"the backbone {self.settings.name!r} gives features of shape {tuple(features.shape)}, "
                "expected a map [batch, channels, height, width]"
            )
        if self._channels and features.shape[1] != self._channels:
            raise WeightsError(
                f"the backbone {self.settings.name!r} gives features of shape {tuple(features.shape)}, expected "
                f"{self._channels} channels, and those before height and width"
            )
        return features


def build_backbone(settings: BackboneSettings, *, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """Build a backbone with hub weights, local weights, or fresh ones.

    Args:
        settings: which network.
        pretrained: fetch timm's or torchvision's own weights; a factory with a parameter `pretrained` is told.
        weights: a local .safetensors or .pt/.pth file of the same network; classifier weights in it are ignored.

    Raises:
        WeightsError: unknown name, or weights that do not fit.
        SettingsError: a factory that cannot be used, or settings that do not belong together.
    """
    backbone = Backbone(settings, pretrained=pretrained and weights is None)
    if weights is not None:
        state = with_own_positions(backbone.network, read_weights(weights))
        load_fitting(backbone.network, state, source=str(weights))
    return backbone


def brings_own_weights(settings: BackboneSettings) -> bool:
    """Whether the network is trained without being given weights: a factory that has no parameter `pretrained`.

    Raises:
        SettingsError: a factory that cannot be used.
    """
    if settings.name.startswith(PREFIX) or not is_factory_name(settings.name):
        return False
    return not takes(import_factory(settings.name, returns=nn.Module), "pretrained")


def load_fitting(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that may also hold a classifier, and nothing else that is foreign.

    Raises:
        WeightsError: parameters of the network are missing or have other shapes.
    """
    own = network.state_dict()
    source_of = {name: _name_in(state, name) for name in own}
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
    """(C, h, w) of the features for a picture of this size.

    Raises:
        WeightsError: the network takes no pictures of this size.
    """
    device = next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            _, channels, rows, columns = backbone(torch.zeros(1, 3, height, width, device=device)).shape
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        name = backbone.settings.name if isinstance(backbone, Backbone) else type(backbone).__name__
        raise WeightsError(
            f"the backbone {name!r} takes no pictures of {height} x {width} pixels: {error}; choose another size, or a "
            "network or options that take this one"
        ) from error
    finally:
        backbone.train(was_training)
    return channels, rows, columns


def _source(settings: BackboneSettings, *, pretrained: bool) -> FeatureSource:
    """The network that a name stands for.

    Raises:
        WeightsError: no such network.
        SettingsError: settings that do not belong together, or a factory that cannot be used.
    """
    name, options = settings.name, dict(settings.options)
    from_torchvision = name.startswith(PREFIX)
    if settings.stage is not None and (from_torchvision or is_factory_name(name)):
        raise SettingsError(f"the backbone {name!r} has no numbered stages (those are timm's); leave `stage` out")
    if settings.node is not None and not from_torchvision:
        raise SettingsError(f"the backbone {name!r} has no named nodes (those are torchvision's); leave `node` out")
    if is_factory_name(name) and not from_torchvision:
        return _own_source(name, options, pretrained=pretrained)
    try:
        if from_torchvision:
            return torchvision_source(name.removeprefix(PREFIX), options, node=settings.node, pretrained=pretrained)
        return timm_source(name, options, stage=settings.stage, pretrained=pretrained)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, OSError, KeyError) as error:
        kind = "torchvision" if from_torchvision else "timm"
        raise WeightsError(f"{kind} cannot build the backbone {name!r}: {error}") from error


def _own_source(name: str, options: dict[str, Any], *, pretrained: bool) -> FeatureSource:
    """The network that a user's factory gives."""
    factory = import_factory(name, returns=nn.Module)
    if takes(factory, "pretrained"):
        options["pretrained"] = pretrained
    elif pretrained:
        raise SettingsError(
            f"the factory {name!r} has no parameter `pretrained`, so it cannot be asked for trained weights; give them "
            "as a local file"
        )
    network = call_factory(name, factory, options)
    if not isinstance(network, nn.Module):
        raise SettingsError(f"the factory {name!r} returned a {type(network).__name__}, expected a torch.nn.Module")
    return FeatureSource(network, call_network)


def _name_in(state: Mapping[str, Tensor], name: str) -> str:
    """What a parameter is called in a file of the whole network.

    timm wraps a network whose inner features are wanted as `model`, or names its stages `stages_0`, not `stages.0`.
    Whoever trained on several GPUs (Places365's networks, for one) saved a wrapped network, too.
    """
    unwrapped = name.removeprefix(_WRAPPED)
    plain = (name, unwrapped, _FLATTENED.sub(r"\1.\2.", name))
    candidates = (*plain, *(_PARALLEL + one for one in plain))
    return next((candidate for candidate in candidates if candidate in state), name)
