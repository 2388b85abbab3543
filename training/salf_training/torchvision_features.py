"""torchvision networks up to the feature map in front of their pooling.

torchvision's networks have no common way to say where their map is, so their graph is traced and cut at the last global
pooling, or at the node that the user names.
"""

import inspect
import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision import ops
from torchvision.models import VisionTransformer, get_model
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from salf_training.errors import WeightsError
from salf_training.feature_source import FeatureSource, tokens_to_map

PREFIX = "torchvision:"
_MAP = "map"
_POOLING_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_POOLING_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
#: What `create_feature_extractor` does not look into, so that the node found is one that it knows.
_LEAVES = [one for _, one in inspect.getmembers(ops, inspect.isclass) if issubclass(one, nn.Module)]
_SPATIAL_AXES = ([2, 3], [-2, -1])


def torchvision_source(name: str, options: dict[str, Any], *, node: str | None, pretrained: bool) -> FeatureSource:
    """Build a torchvision classification network that ends at a feature map.

    Args:
        name: torchvision's, without the prefix.
        options: keyword arguments of the network.
        node: of the traced graph (usually a module's name, e.g. 'layer3'); None: what is pooled last, or for a vision
            transformer its encoder's tokens.
        pretrained: fetch torchvision's default weights.

    Raises:
        WeightsError: nothing is pooled and no node is named.
        Whatever torchvision raises for names, options and nodes it does not know.
    """
    whole = get_model(name, weights="DEFAULT" if pretrained else None, **options).eval()
    if isinstance(whole, VisionTransformer):
        return FeatureSource(_cut(whole, node or "encoder"), _VitReader(whole.patch_size))
    return FeatureSource(_cut(whole, node or _pooled_node(whole, name)), _read_map)


def _cut(network: nn.Module, node: str) -> nn.Module:
    cut: nn.Module = create_feature_extractor(network, {node: _MAP})
    return cut


def _read_map(network: nn.Module, images: Tensor) -> Tensor:
    features: Tensor = network(images)[_MAP]
    return features


class _VitReader:
    """Reads the tokens of torchvision's vision transformer: one class token, then patches row by row."""

    def __init__(self, patch_size: int) -> None:
        self._patch_size = patch_size

    def __call__(self, network: nn.Module, images: Tensor) -> Tensor:
        rows, columns = (side // self._patch_size for side in images.shape[2:])
        return tokens_to_map(network(images)[_MAP], prefix=1, rows=rows, columns=columns)


def _pooled_node(network: nn.Module, name: str) -> str:
    """The node whose output the last global pooling takes; pooling inside blocks comes before it."""
    tracer = NodePathTracer(autowrap_modules=(math, ops), leaf_modules=_LEAVES)
    graph = tracer.trace(network)
    modules = dict(network.named_modules())
    pooling = [node for node in graph.nodes if _is_global_pooling(node, modules)]
    if not pooling:
        raise WeightsError(
            f"torchvision's {name!r} has no pooling to take the features in front of; name a node of its graph with "
            "the setting `node`"
        )
    return str(tracer.node_to_qualname[pooling[-1].args[0]])


def _is_global_pooling(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), _POOLING_MODULES)
    if node.op == "call_function":
        return node.target in _POOLING_FUNCTIONS
    return node.op == "call_method" and node.target == "mean" and _axes(node) in _SPATIAL_AXES


def _axes(node: fx.Node) -> list[Any]:
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return list(axes) if isinstance(axes, (list, tuple)) else [axes]
