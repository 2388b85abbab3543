"""timm networks up to their last feature map, whatever order of axes they work in.

Three kinds: convolutional ones give [B,C,h,w]; some (Swin and its like) work channels-last and say so in `output_fmt`;
transformers give tokens, whose patches timm itself puts back into a map (`forward_intermediates`), class and register
tokens left out.
"""

from functools import partial
from typing import Any

import timm
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import VGG
from torch import Tensor, nn

from salf_training.feature_source import FeatureSource

_GRID_ARGUMENT = "dynamic_img_size"


def timm_source(name: str, options: dict[str, Any], *, stage: int | None, pretrained: bool) -> FeatureSource:
    """Build a timm network that ends at a feature map.

    Args:
        name: timm's.
        options: keyword arguments of timm.create_model.
        stage: index in timm's feature_info, counted from the input; None: the last map, after the network's last norm.
        pretrained: fetch weights from the hub.

    Raises:
        Whatever timm raises for names, options and stages it does not know.
    """
    if stage is not None:
        network = _create(name, {**options, "features_only": True, "out_indices": (stage,)}, pretrained=pretrained)
        channels = int(network.feature_info.channels()[0])
        read = _first_channels_last if _is_channels_last(network) else _first
        return FeatureSource(network, read, channels)
    network = _create(name, {"num_classes": 0, "global_pool": "", **options}, pretrained=pretrained)
    if hasattr(network, "num_prefix_tokens") or _pools(network):
        return FeatureSource(network, _last_intermediate)
    if _is_channels_last(network):
        return FeatureSource(network, _channels_last, int(network.num_features))
    if isinstance(network, VGG):  # whose classifier starts with a convolution over the whole map
        return FeatureSource(network, _before_head, int(network.num_features))
    return FeatureSource(network, _map_or_tokens)


def with_own_positions(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose absolute position embedding suits the network's own grid of patches.

    Files are made at one picture size; a network built with the option `img_size` may have another grid.
    """
    network = getattr(network, "model", network)  # timm wraps a transformer whose inner stage is wanted
    own = getattr(network, "pos_embed", None)
    given = state.get("pos_embed")
    if not isinstance(own, Tensor) or given is None or own.ndim != 3 or given.ndim != 3 or own.shape == given.shape:
        return state
    if own.shape[2] != given.shape[2]:
        return state
    embedded: Any = network
    in_front = 0 if getattr(network, "no_embed_class", False) else int(embedded.num_prefix_tokens)
    size = list(embedded.patch_embed.grid_size)
    return {**state, "pos_embed": resample_abs_pos_embed(given, size, num_prefix_tokens=in_front)}


def _create(name: str, options: dict[str, Any], *, pretrained: bool) -> Any:
    """Build the network; one that can take pictures of any size is told to."""
    # A transformer norms before its pooling or behind it: with the pooling it was made for, its weights fit.
    own_pooling = {key: value for key, value in options.items() if (key, value) != ("global_pool", "")}
    # Only a constructor knows whether it takes the argument; one that does not fails before it has done any work.
    any_size = {_GRID_ARGUMENT: "img_size" not in options, **own_pooling}
    try:
        return timm.create_model(name, pretrained=pretrained, **any_size)
    except TypeError as error:
        if _GRID_ARGUMENT not in str(error):
            raise
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except AssertionError as error:
        if "pool" not in str(error):
            raise
    return timm.create_model(name, pretrained=pretrained, **own_pooling)  # one that cannot do without


def _is_channels_last(network: Any) -> bool:
    return str(getattr(network, "output_fmt", "NCHW")).rpartition(".")[2] == "NHWC"


def _channels_last(network: Any, images: Tensor) -> Tensor:
    features: Tensor = network.forward_features(images).permute(0, 3, 1, 2).contiguous()
    return features


def _pools(network: Any) -> bool:
    """Whether the network was built to pool although it was asked not to."""
    pooling = getattr(network, "global_pool", None) or getattr(getattr(network, "head", None), "global_pool", None)
    kind = pooling if isinstance(pooling, str) else getattr(pooling, "pool_type", "")
    return bool(kind)


def _before_head(network: Any, images: Tensor) -> Tensor:
    features: Tensor = network.forward_features(images)
    return features


def _map_or_tokens(network: nn.Module, images: Tensor) -> Tensor:
    """For networks that do not say what they give: nearly all of them a map, a few (Volo, LeViT) tokens."""
    features = network(images)
    if isinstance(features, Tensor) and features.ndim == 4:
        return features
    return _last_intermediate(network, images)


def _first(network: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = network(images)[0]
    return features


def _first_channels_last(network: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = network(images)[0].permute(0, 3, 1, 2).contiguous()
    return features


def _last_intermediate(network: Any, images: Tensor) -> Tensor:
    last = partial(network.forward_intermediates, images, indices=1, output_fmt="NCHW", intermediates_only=True)
    try:
        features: Tensor = last(norm=True)[-1]
    except AssertionError as error:
        if "normalization" not in str(error):
            raise
        features = last(norm=False)[-1]  # a network (Hiera) that norms only what it has pooled
    return features
