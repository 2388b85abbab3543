"""Where a backbone's feature map comes from: a network, and how its map is read."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class FeatureSource(NamedTuple):
    """A network and how it is called.

    Attributes:
        network: its state dict is the backbone's.
        read: (network, FP32 [B,3,H,W]) -> FP32 [B,C,h,w].
        channels: C, where the network says it; 0 where it does not.
    """

    network: nn.Module
    read: Callable[[nn.Module, Tensor], Tensor]
    channels: int = 0


def call_network(network: nn.Module, images: Tensor) -> Tensor:
    """For networks whose forward pass gives the map."""
    features: Tensor = network(images)
    return features


def tokens_to_map(tokens: Tensor, *, prefix: int, rows: int, columns: int) -> Tensor:
    """Patch tokens as a feature map.

    Args:
        tokens: FP32 [B,prefix+rows*columns,C]; class and register tokens first, then patches row by row.
        prefix: how many tokens to leave out.
        rows: of patches.
        columns: of patches.

    Returns:
        FP32 [B,C,rows,columns].
    """
    features: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    return features
